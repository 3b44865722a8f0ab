"""The form's section on sampling: sampler, schedule, noise levels, guidance, churn and seed."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import panel_material_ui as pmui

from panel_app.cards import quiet
from panel_app.fields import Part, field, row, section, switch
from panel_app.generation.form_model import FormModel
from panel_app.generation.values import read_sigma, write_sigma
from panel_app.model_facts import ModelFacts
from panel_app.points import short_sigma

_SAMPLERS = {"heun": "Heun, 2nd order", "euler": "Euler", "renoise": "Re-noising"}
OWN = "own"
"""Value of “the model's own” in the sampler's selector, which cannot hold None."""


@dataclass(frozen=True, slots=True)
class FirstValues:
    """What the form says before anybody has set it; None takes the model's own."""

    num_steps: int | None = None
    guidance_scale: float | None = None


MODELS_OWN = FirstValues()
"""The model's own of everything."""


class SamplingSection(Part):
    """Fields on sampling."""

    def __init__(self, model: FormModel, first: FirstValues = MODELS_OWN) -> None:
        super().__init__()
        self._model, self._first = model, first
        self._facts: ModelFacts | None = None
        plain = ModelFacts()
        model.param.update(num_steps=plain.default_steps, guidance_scale=plain.default_guidance)
        self._build_levels()
        self._build_noise()
        self._build_churn()
        self._layout = section(
            self.sampler, self.schedule, row(self.steps, self.rho, gap=10), row(self.sigma_max, self.sigma_min, gap=10),
            self.guidance, self.noise, self.seeded, self.seed, row(self.s_churn, self.s_noise, gap=10),
            row(self.s_min, self.s_max, gap=10), self._no_churn, margin=(0, 2),
        )  # fmt: skip
        for widget in (self.seeded, self.sampler, self.schedule, self.s_churn):
            widget.param.watch(lambda *_: self._adapt(), "value")
        self.follow(plain)

    def _build_levels(self) -> None:
        make = self._model.field
        self.sampler = make(
            "sampler", pmui.Select, "Sampler",
            "Heun and Euler follow the probability flow; re-noising predicts the image and noises it anew.",
            options=_samplers(None), read=lambda value: None if value == OWN else value, write=lambda v: v or OWN,
        )  # fmt: skip
        self.schedule = make(
            "schedule", pmui.Select, "Schedule", "How the noise levels between the first and the last are spaced.",
            options={
                "Model's own where it has one": "auto",
                "Karras et al. 2022, eq. 5": "karras",
                "Model's own, evenly in timestep": "model",
            },
        )  # fmt: skip
        self.steps = make(
            "num_steps", pmui.IntInput, "Steps", "Sampler steps from the largest σ to the smallest.", start=1, end=512
        )
        self.rho = make(
            "rho", pmui.FloatInput, "Curvature ρ",
            "ρ of Karras et al. 2022, eq. 5: larger spends more of the steps at small noise levels.",
            start=0.1, end=100.0, step=0.5,
        )  # fmt: skip
        self.sigma_max = self._sigma("sigma_max", "σ from", "Largest noise level; empty takes the model's.")
        self.sigma_min = self._sigma("sigma_min", "σ to", "Smallest noise level; empty takes the model's.")

    def _sigma(self, name: str, label: str, help: str, **looks: Any) -> Any:
        read = partial(read_sigma, label)
        return self._model.field(name, pmui.TextInput, label, help, read=read, write=write_sigma, **looks)

    def _build_noise(self) -> None:
        make = self._model.field
        self.guidance = make("guidance_scale", pmui.FloatSlider, "Guidance", start=0, end=5, step=0.1)
        self.noise = make(
            "noise_mode", pmui.Select, "Noise",
            "The noise that images start from, and that is added between steps; without any, all images start alike.",
            options={"Drawn per step": "stochastic", "Fixed (seed 42 unless set)": "fixed", "None at all": "zero"},
        )  # fmt: skip
        self.seeded = switch("Fixed seed", True, "The same seed gives the same images.")
        self.seed = field(pmui.IntInput, "Seed", "Sample i starts from the noise of (seed, i).", value=0, start=0)
        self._model.bind(
            "seed", self.seeded, self.seed,
            read=lambda seeded, seed: int(seed or 0) if seeded else None,
            write=lambda seed: (seed is not None, seed or 0),
        )  # fmt: skip

    def _build_churn(self) -> None:
        """Karras et al. 2022, Alg. 2."""
        make = self._model.field
        self.s_churn = make(
            "s_churn", pmui.FloatInput, "Churn",
            "S_churn of Karras et al. 2022, Alg. 2: fresh noise over all steps, which the sampler then removes; it "
            "corrects errors and varies detail. 0 adds none; EDM used 40 for ImageNet-64.", start=0.0, step=5.0,
        )  # fmt: skip
        self.s_min = make(
            "s_min", pmui.FloatInput, "Churn from σ", "S_min: no noise is added below this noise level.", start=0.0,
            step=0.05,
        )  # fmt: skip
        self.s_max = self._sigma("s_max", "Churn up to σ", "S_max: no noise is added above it.", placeholder="no limit")
        self.s_noise = make(
            "s_noise", pmui.FloatInput, "Churn strength",
            "S_noise: factor on the added noise; slightly above 1, as 1.003, keeps detail.", start=0.0, step=0.001,
        )  # fmt: skip
        self._no_churn = quiet("The re-noising sampler adds noise of its own and takes no churn.")

    @property
    def idle(self) -> Collection[str]:
        """Fields that have no effect as the others are set."""
        return () if self.s_churn.value and not self._renoises else ("s_churn", "s_min", "s_max", "s_noise")

    def _adapt(self) -> None:
        """Offer only what has an effect."""
        self.seed.disabled = not self.seeded.value
        self.rho.disabled = self.schedule.value == "model"
        self.s_churn.disabled = self._no_churn.visible = self._renoises
        self.s_min.disabled = self.s_max.disabled = self.s_noise.disabled = bool(self.idle)

    @property
    def _renoises(self) -> bool:
        own = self._facts.default_sampler if self._facts is not None else None
        return (own if self.sampler.value == OWN else self.sampler.value) == "renoise"

    def follow(self, facts: ModelFacts) -> None:
        """Take over the defaults of another model; those of the same model never overwrite what was set."""
        if facts == self._facts:
            return
        self._facts = facts
        steps = self._first.num_steps or facts.default_steps
        guidance = facts.default_guidance if self._first.guidance_scale is None else self._first.guidance_scale
        what = "prompt" if facts.takes_prompts else "class"
        self.sampler.param.update(options=_samplers(facts.default_sampler), value=OWN)
        self.guidance.param.update(
            end=max(5.0, float(math.ceil(2 * facts.default_guidance)), float(math.ceil(guidance))),
            description=f"0 ignores the {what}, 1 is plain conditional, more exaggerates the {what}. "
            f"The model's own is {facts.default_guidance:g}.",
        )
        self._model.param.update(num_steps=steps, guidance_scale=guidance)
        for widget, level in ((self.sigma_max, facts.sigma_max), (self.sigma_min, facts.sigma_min)):
            widget.placeholder = "model's own" if level is None else f"model's own, {short_sigma(level)}"
        self._adapt()


def _samplers(own: str | None) -> dict[str, str]:
    """Return the samplers by text, the model's own first."""
    first = f"Model's own: {_SAMPLERS[own]}" if own in _SAMPLERS else "Model's own"
    return {first: OWN, **{text: name for name, text in _SAMPLERS.items()}}
