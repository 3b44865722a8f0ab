"""Ordering what is not extracted yet: further layers or noise levels of the model on show, over the same samples."""

import json
from collections.abc import Collection, Sequence
from html import escape
from typing import Any

import panel_material_ui as pmui
import param

from diffviews.data.disk import format_bytes
from diffviews.data.layout import estimate_bytes
from diffviews.errors import ConfigError, DiffViewsError
from diffviews.noise import format_sigma
from diffviews.pipelines.model_runner import Runner
from diffviews.recipes.extraction import ExtractionRecipe, Storage
from diffviews.recipes.options import options_of
from panel_app.cards import quiet
from panel_app.computing.job_bar import JobBar, SessionJobs
from panel_app.fields import Part, field, press, section
from panel_app.generation.values import read_sigma
from panel_app.layer_map import LayerMap
from panel_app.session import Session


class OrderPanel(Part):
    """Layers, noise levels, button and the job's bar."""

    def __init__(self, session: Session, runner: Runner, queue: SessionJobs) -> None:
        self.runner = runner
        self._wanted: tuple[str, float] | None = None
        self._followed: str | None = None
        self.layers = field(
            pmui.MultiChoice, "Layers",
            "Hook points of this model; those that are not on this map's list yet come first.",
            placeholder="Choose layers",
        )  # fmt: skip
        self.sigmas = field(pmui.TextInput, "Noise levels σ", "One or several, such as 0.5, 2; larger is noisier.")
        self.storage = field(
            pmui.Select, "Keep",
            "All activations take disk and serve masks and joint maps at once. A sketch keeps only the few numbers a "
            "sample that maps and neighbours are made of, and captures the samples of a mask anew; it takes no joint "
            "map.", options={"All activations": "full", "A sketch of them": "sketch"}, value="full",
        )  # fmt: skip
        self.button = press("Extract", self.order, typed=True, icon="layers", variant="outlined")
        self.note = quiet("")
        self.bar = JobBar(session, queue, self._done)
        self._layout = section(self.layers, self.sigmas, self.storage, self.button, self.bar, self.note)
        super().__init__(session=session)

    @param.depends("session.map", "session.layers", watch=True, on_init=True)
    def follow(self) -> None:
        """Offer the layers of the model on show, those that lack first."""
        layer_map = self.session.map
        if layer_map is None:
            return
        present = {record.layer for record in self.session.layers}
        every = list(layer_map.facts.layers)
        offered = [layer for layer in every if layer not in present] + [layer for layer in every if layer in present]
        if list(self.layers.options) != offered:
            self.layers.param.update(options=offered, value=[v for v in self.layers.value if v in offered])
        if not self.sigmas.value:
            self.sigmas.value = ", ".join(format_sigma(s) for s in sorted({r.sigma for r in self.session.layers}))
        if self._followed != layer_map.layer.parent_id:
            kept = layer_map.layer.params.get("storage")
            self._followed, self.storage.value = layer_map.layer.parent_id, "sketch" if kept == "sketch" else "full"
        self._tell()
        self._enable()

    @param.depends("layers.value", "sigmas.value", "storage.value", watch=True)
    def _tell(self) -> None:
        """Say what would be ordered, or why nothing can be."""
        layer_map = self.session.map
        if layer_map is None:
            return
        lacking = len(set(layer_map.facts.layers) - {record.layer for record in self.session.layers})
        told = self._impossible(layer_map) or _told(lacking, len(layer_map.samples)) + self._told_size(layer_map)
        self.note.object = f'<p class="muted small">{told}</p>'

    def _told_size(self, layer_map: LayerMap) -> str:
        """Return how much an order of full activations writes, '' for others and while it is not known."""
        shapes = {
            layer: layer_map.facts.layers[layer] for layer in self.layers.value if layer in layer_map.facts.layers
        }
        try:
            levels = len(read_sigmas(self.sigmas.value))
        except ConfigError:  # told when it is ordered
            return ""
        if self.storage.value != "full" or not shapes:
            return ""
        dtype = "float32" if layer_map.layer.params.get("dtype") == "float32" else "float16"
        size = levels * estimate_bytes(len(layer_map.samples), shapes, dtype)
        return f" It writes {format_bytes(size)} of activations."

    def order(self) -> None:
        """Queue the extraction that is asked for."""
        layer_map = self.session.map
        try:
            recipe = recipe_of(
                layer_map, self.layers.value, read_sigmas(self.sigmas.value), self.session.layers, self.storage.value
            )
        except DiffViewsError as error:
            self.session.tell(str(error))
            return
        runner = self.runner
        self._wanted = (recipe.layers[0], recipe.sigmas[0])
        self.bar.start("Extracting", lambda job: runner.extract(recipe, job))

    def _done(self, run_id: str) -> None:
        self.session.refresh()
        if self._wanted is not None:
            self.session.choose(run_id, *self._wanted)

    @param.depends("bar.busy", watch=True)
    def _enable(self) -> None:
        layer_map = self.session.map
        self.button.disabled = self.bar.busy or layer_map is None or bool(self._impossible(layer_map))

    def _impossible(self, layer_map: LayerMap) -> str:
        """Return why nothing further can be extracted of what is on show, '' where it can."""
        record = next((e for e in self.session.extractions if e.run_id == layer_map.layer.parent_id), None)
        kind = str(getattr(record, "kind", ""))
        if kind == "generate-dataset":
            more = f"diffviews extract --dataset run:{escape(layer_map.layer.parent_id)}"
            return f"These activations were captured while their samples were made. <code>{more}</code> captures more."
        if kind == "import":
            return "These activations were imported: this host does not know how to make more of them."
        if not layer_map.layer.params.get("dataset"):
            return "It was not noted what samples these are; extract them anew with <code>diffviews extract</code>."
        if not layer_map.facts.layers:
            return "The layers of this model were not noted; extract it anew with <code>diffviews extract</code>."
        return ""


def _told(lacking: int, samples: int) -> str:
    others = f"{lacking} layers are not extracted yet. " if lacking else "All layers are extracted; add noise levels. "
    if lacking == 1:
        others = "One layer is not extracted yet. "
    return f"{others}A new extraction of the same {samples:,} samples, logged as a run; it opens when it is done."


def read_sigmas(text: str) -> tuple[float, ...]:
    """Read noise levels such as '0.5, 2', ascending.

    Raises:
        ConfigError: if there is none, one is not a positive number, or one is named twice.
    """
    levels = [read_sigma("Noise levels σ", part) for part in (text or "").replace(";", ",").split(",")]
    given = sorted(level for level in levels if level is not None)
    if not given or len(set(given)) < len(given):
        raise ConfigError(f"“Noise levels σ” is {text!r}; write one or more different numbers, such as 0.5, 2")
    return tuple(given)


def recipe_of(
    layer_map: LayerMap,
    layers: Sequence[str],
    sigmas: Sequence[float],
    present: Collection[Any],
    storage: Storage = "full",
) -> ExtractionRecipe:
    """Return the recipe for further layers, all else as in the extraction on show.

    Args:
        layer_map: map on show.
        layers: hook points, in any order.
        sigmas: noise levels.
        present: layer runs of the extraction on show.
        storage: full keeps all activations, sketch the vectors of the maps alone.

    Raises:
        ConfigError: if no layer is named, or all that is asked for is there already.
    """
    noted = layer_map.layer.params
    if not layers:
        raise ConfigError("no layer is chosen; choose one or more under “Layers”")
    there = {(record.layer, record.sigma) for record in present}
    richer = storage == "full" and noted.get("storage") == "sketch"
    if {(layer, sigma) for layer in layers for sigma in sigmas} <= there and not richer:
        raise ConfigError("this extraction holds these layers at these noise levels already; open them in the list")
    noted = {name: text for name, text in layer_map.layer.params.items() if name in _NOTED}
    return ExtractionRecipe.from_values(
        {
            **{name: None if text in ("", "None") else text for name, text in noted.items()},
            "class_map": json.loads(noted.get("class_map") or "null"),
            "model": layer_map.layer.model,
            "layers": list(layers),
            "sigmas": list(sigmas),
            "max_samples": len(layer_map.samples),
            "storage": storage,
        }
    )


_NOTED = {option.name for option in options_of(ExtractionRecipe)} - {"layers", "sigmas", "max_samples"}
"""What an extraction's params hold of its recipe, as text."""
