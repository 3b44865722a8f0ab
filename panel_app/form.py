"""The form that makes a recipe of what a visitor selects and sets."""

import math
from html import escape
from typing import Any

import panel as pn
import panel_material_ui as pmui

from diffviews.errors import ConfigError, SelectionError
from diffviews.pipelines.recipe import GenerationRecipe
from panel_app.cards import hint, thumbnail_strip
from panel_app.session import Session
from panel_app.theme import PANE_CSS

UNIFORM, RANDOM = -1, None


def _field(**params: Any) -> dict[str, Any]:
    return {"size": "small", "sizing_mode": "stretch_width", "margin": (5, 0), **params}


class GenerationForm(pn.viewable.Viewer):
    """Every choice of a generation; `recipe()` reads it."""

    def __init__(self, session: Session, **params: Any) -> None:
        super().__init__(**params)
        self.session = session
        self._average = pn.pane.HTML("", stylesheets=[PANE_CSS], sizing_mode="stretch_width", margin=(12, 0, 8, 0))
        self._build_main()
        self._build_mask()
        self._build_sampling()
        self.mode.param.watch(lambda *_: self._adapt(), "value")
        self.seeded.param.watch(lambda *_: self._adapt(), "value")
        self.steps.param.watch(lambda *_: self._follow_steps(), "value")
        more = pmui.Accordion(
            ("Mask", self._mask),
            ("Sampling", self._sampling),
            elevation=0,
            disable_gutters=True,
            toggle=False,
            sizing_mode="stretch_width",
            margin=(4, 0),
            title_variant="subtitle2",
        )
        self._layout = pn.Column(self._average, self._main, more, sizing_mode="stretch_width", margin=0)
        session.state.param.watch(lambda *_: self.follow(), "selection")
        session.param.watch(lambda *_: self.follow(), "opened")
        self.follow()
        self._adapt()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def _build_main(self) -> None:
        self.wanted = pmui.Select(
            label="Class to ask for",
            value=UNIFORM,
            options={"Uniform: all classes alike": UNIFORM},
            description="The label the model is given. With the uniform label, only the mask can decide the class.",
            **_field(),
        )
        self.count = pmui.IntSlider(
            label="Samples",
            start=1,
            end=16,
            value=4,
            description="How many images to make; each starts from noise of its own.",
            **_field(margin=(8, 8)),
        )
        self.include = pmui.Switch(
            label="Include the selected sample in the average",
            value=True,
            size="small",
            margin=(2, 0),
            description="Otherwise only its neighbours are averaged.",
        )
        self.include.param.watch(lambda *_: self.follow(), "value")
        self._main = pn.Column(self.wanted, self.count, self.include, sizing_mode="stretch_width", margin=0)

    def _build_mask(self) -> None:
        self.mode = pmui.Select(
            label="How the average acts",
            value="replace",
            options={"Replaces the layer's output": "replace", "Mixes with it": "interpolate", "Steers it": "add"},
            description="Replace: the average alone. Mix: (1 − strength) own + strength × average. "
            "Steer: own + strength × (average of the selected − average of all).",
            **_field(),
        )
        self.strength = pmui.FloatSlider(
            label="Strength",
            start=0,
            end=1,
            step=0.05,
            value=1.0,
            description="How strongly the average acts.",
            **_field(margin=(8, 8)),
        )
        self.target = pmui.Select(
            label="Average taken",
            value="fixed",
            options={"At this map's noise level": "fixed", "Anew at every step's noise level": "matched"},
            description="Fixed: as captured at this σ. Matched: the same samples are captured again at each step's σ.",
            **_field(),
        )
        self.window = pmui.IntRangeSlider(
            label="Masked steps",
            start=1,
            end=18,
            value=(1, 18),
            description="Sampler steps at which the mask acts: early ones decide the layout, late ones the detail.",
            **_field(margin=(8, 8)),
        )
        self.layers = pmui.MultiChoice(
            label="Masked layers",
            searchable=True,
            placeholder="This layer",
            chip=True,
            description="Layers to replace at once, each by its own average; empty masks the layer on show.",
            visual_size="small",
            sizing_mode="stretch_width",
            margin=(5, 0),
        )
        self.passes = pmui.Select(
            label="Acts on",
            value="both",
            options={"Both passes": "both", "Conditional pass": "conditional", "Unconditional pass": "unconditional"},
            description="Guidance runs the model twice, with the class and without; this says which pass is masked.",
            **_field(),
        )
        self._mask = pn.Column(
            self.mode,
            self.strength,
            self.target,
            self.window,
            self.layers,
            self.passes,
            sizing_mode="stretch_width",
            margin=(0, 2),
        )

    def _build_sampling(self) -> None:
        self.sampler = pmui.Select(
            label="Sampler",
            value="heun",
            options={"Heun, 2nd order": "heun", "Euler": "euler", "Re-noising": "renoise"},
            description="Heun and Euler follow the probability flow; re-noising predicts the image and noises it anew.",
            **_field(),
        )
        self.steps = pmui.IntInput(
            label="Steps",
            value=18,
            start=1,
            end=512,
            description="Sampler steps from the largest σ to the smallest.",
            **_field(),
        )
        self.sigma_max = pmui.TextInput(
            label="σ from",
            placeholder="model's own",
            description="Largest noise level; empty takes the model's.",
            **_field(),
        )
        self.sigma_min = pmui.TextInput(
            label="σ to",
            placeholder="model's own",
            description="Smallest noise level; empty takes the model's.",
            **_field(),
        )
        self.guidance = pmui.FloatSlider(
            label="Guidance",
            start=0,
            end=5,
            step=0.1,
            value=1.0,
            description="0 ignores the class, 1 is plain conditional, more exaggerates the class.",
            **_field(margin=(8, 8)),
        )
        self.noise = pmui.Select(
            label="Noise",
            value="stochastic",
            options={
                "Drawn per step": "stochastic",
                "Fixed (seed 42 unless set)": "fixed",
                "None after the start": "zero",
            },
            description="Noise added between steps of the re-noising sampler, and how it is drawn.",
            **_field(),
        )
        self.seeded = pmui.Switch(
            label="Fixed seed",
            value=True,
            size="small",
            margin=(4, 0),
            description="The same seed gives the same images.",
        )
        self.seed = pmui.IntInput(
            label="Seed", value=0, start=0, description="Sample i starts from the noise of (seed, i).", **_field()
        )
        self._sampling = pn.Column(
            self.sampler,
            self.steps,
            pn.Row(self.sigma_max, pn.Spacer(width=10), self.sigma_min, sizing_mode="stretch_width", margin=0),
            self.guidance,
            self.noise,
            self.seeded,
            self.seed,
            sizing_mode="stretch_width",
            margin=(0, 2),
        )

    def _adapt(self) -> None:
        """Offer only what has an effect."""
        mode = self.mode.value
        self.strength.disabled = mode == "replace"
        end = 4.0 if mode == "add" else 1.0
        self.strength.param.update(end=end, value=min(self.strength.value, end))
        self.target.disabled = mode == "add"
        if mode == "add":
            self.target.value = "fixed"
        self.seed.disabled = not self.seeded.value

    def follow(self) -> None:
        """Offer the classes and layers of what is on show, and show what would be averaged."""
        opened = self.session.opened
        if opened is None:
            return
        classes = {
            f"{label}: {name}" if name and name != str(label) else str(label): label
            for label, name in opened.samples.classes.items()
        }
        options = {"Uniform: all classes alike": UNIFORM, "Random per sample": RANDOM, **classes}
        if dict(self.wanted.options) != options:
            keep = self.wanted.value if self.wanted.value in options.values() else UNIFORM
            self.wanted.param.update(options=options, value=keep)
        layers = list(dict.fromkeys(r.layer for r in self.session.layers if r.sigma == opened.layer.sigma))
        if list(self.layers.options) != layers:
            self.layers.param.update(options=layers, value=[v for v in self.layers.value if v in layers])
        self.include.visible = bool(self.session.state.selection.neighbours)
        self._show_average()

    def _show_average(self) -> None:
        averaged = self.averaged()
        if not averaged:
            self._average.object = hint(
                "Select a point to mask this layer with its average; without one, nothing is masked."
            )
            return
        opened = self.session.opened
        samples = "1 sample" if len(averaged) == 1 else f"the average of {len(averaged)} samples"
        self._average.object = (
            f'<p style="margin-bottom:8px">Masks <b>{escape(opened.layer.layer)}</b> with {samples}</p>'
            + thumbnail_strip(opened.thumbnails(averaged[:12] + averaged[12:13]), limit=12)
        )

    def averaged(self) -> tuple[str, ...]:
        """Return the samples to average, those on this map only."""
        opened, chosen = self.session.opened, self.session.state.selection
        if opened is None:
            return ()
        members = chosen.members if self.include.value or not chosen.neighbours else chosen.neighbours
        return tuple(s for s in members if s in opened.row_of)

    def _follow_steps(self) -> None:
        """Let the window of masked steps span the steps there are; a window over all of them stays so."""
        steps, (first, last) = max(int(self.steps.value or 1), 1), self.window.value
        everything = (first, last) == (1, self.window.end)
        value = (1, steps) if everything else (min(first, steps), min(last, steps))
        self.window.param.update(end=max(steps, 2), value=value, disabled=steps < 2)

    def _masked_window(self) -> tuple[int, int] | None:
        first, last = self.window.value
        return None if (first, last) == (1, self.window.end) or self.window.disabled else (first - 1, last)

    def recipe(self) -> GenerationRecipe:
        """Return what the form asks for.

        Raises:
            DiffViewsError: if its fields contradict each other.
        """
        opened = self.session.opened
        if opened is None:
            raise SelectionError("open a layer first; generations are drawn on its map")
        averaged, mode = self.averaged(), self.mode.value
        own = opened.map_run != opened.layer.run_id
        return GenerationRecipe(
            model=opened.layer.model,
            checkpoint=opened.layer.params.get("checkpoint") or None,
            layer_run=opened.layer.run_id,
            map_run=opened.map_run if own else None,
            sample_ids=averaged,
            layers=tuple(self.layers.value) if averaged else (),
            target=self.target.value,
            mode=mode,
            strength=float(self.strength.value),
            window=self._masked_window() if averaged else None,
            passes=self.passes.value,
            class_label=self.wanted.value,
            num_samples=int(self.count.value),
            seed=int(self.seed.value or 0) if self.seeded.value else None,
            sampler=self.sampler.value,
            num_steps=self.steps.value or None,
            sigma_max=_sigma("σ from", self.sigma_max.value),
            sigma_min=_sigma("σ to", self.sigma_min.value),
            guidance_scale=float(self.guidance.value),
            noise_mode=self.noise.value,
        )


def _sigma(name: str, text: str) -> float | None:
    """Read a noise level from a text field; empty is None.

    Raises:
        ConfigError: if it is not a positive number.
    """
    if not (text or "").strip():
        return None
    try:
        sigma = float(text)
    except ValueError as error:
        raise ConfigError(f"“{name}” is {text!r}; write a number such as 80, or leave it empty") from error
    if not (math.isfinite(sigma) and sigma > 0):
        raise ConfigError(f"“{name}” is {text}; a noise level must be a positive number")
    return sigma
