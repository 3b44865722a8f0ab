"""Ordering what is not extracted yet: further layers or noise levels of the model on show, over the same samples."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, fields
from typing import Any

import panel as pn
import panel_material_ui as pmui

from diffviews.errors import ConfigError, DiffViewsError
from diffviews.noise import format_sigma
from diffviews.processing.map_parameters import MapParameters
from panel_app.cards import quiet
from panel_app.clicks import after_typing
from panel_app.computing.job_bar import JobBar
from panel_app.computing.jobs import JobQueue
from panel_app.computing.studio import Studio
from panel_app.data import OpenMap
from panel_app.generation.fields import field, read_sigma
from panel_app.session import Session


class OrderPanel(pn.viewable.Viewer):
    """Layers, noise levels, button and the job's bar."""

    def __init__(self, session: Session, studio: Studio, queue: JobQueue, **params: Any) -> None:
        super().__init__(**params)
        self.session, self.studio = session, studio
        self._wanted: tuple[str, float] | None = None
        self.layers = pmui.MultiChoice(
            label="Layers",
            searchable=True,
            placeholder="Choose layers",
            chip=True,
            visual_size="small",
            sizing_mode="stretch_width",
            margin=(6, 0),
            description="Hook points of this model; those that are not on this map's list yet come first.",
        )
        self.sigmas = pmui.TextInput(
            label="Noise levels σ",
            description="One or several, such as 0.5, 2; larger is noisier.",
            **field(),
        )
        self.button = pmui.Button(
            label="Extract",
            icon="layers",
            variant="outlined",
            size="small",
            margin=(6, 0),
            sizing_mode="stretch_width",
            on_click=after_typing(self.order),
        )
        self.note = quiet("")
        self.bar = JobBar(queue, on_over=self._enable, on_done=self._done, on_told=session.tell)
        self._layout = pn.Column(
            self.layers, self.sigmas, self.button, self.note, self.bar, sizing_mode="stretch_width", margin=0
        )
        session.param.watch(lambda *_: self.follow(), ["opened", "layers"])
        self.follow()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def follow(self) -> None:
        """Offer the layers of the model on show, those that lack first."""
        opened = self.session.opened
        if opened is None:
            return
        present = {record.layer for record in self.session.layers}
        every = list(opened.facts.layers)
        offered = [layer for layer in every if layer not in present] + [layer for layer in every if layer in present]
        if list(self.layers.options) != offered:
            self.layers.param.update(options=offered, value=[v for v in self.layers.value if v in offered])
        if not self.sigmas.value:
            self.sigmas.value = ", ".join(format_sigma(s) for s in sorted({r.sigma for r in self.session.layers}))
        reason = _impossible(opened)
        lacking = len(set(every) - present)
        self.note.object = f'<p class="muted small">{reason or _told(lacking, len(opened.samples))}</p>'
        self._enable()

    def order(self) -> None:
        """Queue the extraction that is asked for."""
        opened = self.session.opened
        try:
            arguments = arguments_of(
                opened, self.layers.value, read_sigmas(self.sigmas.value), self.session.layers
            )
        except DiffViewsError as error:
            self.session.tell(str(error))
            return
        studio = self.studio
        self._wanted = (arguments["layers"][0], arguments["sigmas"][0])
        self.button.disabled = True
        self.bar.start("Extracting", lambda report: studio.extract(arguments, report))

    def _done(self, run_id: str) -> None:
        self.session.refresh()
        if self._wanted is not None:
            self.session.choose(run_id, *self._wanted)

    def _enable(self) -> None:
        opened = self.session.opened
        self.button.disabled = self.bar.busy or opened is None or bool(_impossible(opened))


def _told(lacking: int, samples: int) -> str:
    others = f"{lacking} layers are not extracted yet. " if lacking else "All layers are extracted; add noise levels. "
    return f"{others}A new extraction of the same {samples:,} samples, logged as a run; it opens when it is done."


def _impossible(opened: OpenMap) -> str:
    """Return why nothing further can be extracted of what is on show, '' where it can."""
    if not opened.layer.params.get("dataset"):
        return "These activations were imported: this host does not know how to make more of them."
    if not opened.facts.layers:
        return "The layers of this model were not noted; extract it anew with `diffviews extract`."
    return ""


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


def arguments_of(
    opened: OpenMap, layers: Sequence[str], sigmas: Sequence[float], present: Collection[Any]
) -> dict[str, Any]:
    """Return the arguments of `extract` for further layers, all else as in the extraction on show.

    Raises:
        ConfigError: if no layer is named, or all that is asked for is there already.
    """
    noted = opened.layer.params
    if not layers:
        raise ConfigError("no layer is chosen; choose one or more under “Layers”")
    there = {(record.layer, record.sigma) for record in present}
    if {(layer, sigma) for layer in layers for sigma in sigmas} <= there:
        raise ConfigError("this extraction holds these layers at these noise levels already; open them in the list")
    arguments = {
        "model": opened.layer.model,
        "checkpoint": noted.get("checkpoint") or None,
        "dataset": noted["dataset"],
        "layers": list(layers),
        "sigmas": list(sigmas),
        "max_samples": len(opened.samples),
        "conditioning": noted.get("conditioning", "auto"),
        "batch_size": int(noted.get("batch_size", 128)),
        "dtype": noted.get("dtype", "float16"),
        "precision": noted.get("precision", "auto"),
        "maps": _maps(noted),
    }
    return arguments


def _maps(noted: Any) -> dict[str, Any]:
    """Return the parameters of an extraction's maps, which its runs hold as text."""
    defaults, read = asdict(MapParameters()), dict[str, Any]()
    for parameter in fields(MapParameters):
        text, default = noted.get(parameter.name), defaults[parameter.name]
        if text is None:
            read[parameter.name] = default
        elif isinstance(default, bool):
            read[parameter.name] = text == "True"
        elif text == "None":
            read[parameter.name] = None
        else:
            read[parameter.name] = type(default)(text)
    return read
