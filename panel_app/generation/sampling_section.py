"""The form's section on sampling: sampler, schedule, noise levels, guidance, churn and seed."""

import math
from dataclasses import dataclass
from typing import Any

import panel as pn
import panel_material_ui as pmui

from diffviews.errors import ConfigError
from diffviews.noise import format_sigma
from diffviews.recipes.generation import GenerationRecipe
from diffviews.recipes.sampling import Sampling
from panel_app.cards import quiet
from panel_app.generation.fields import field, read_sigma, slider
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


class SamplingSection(pn.viewable.Viewer):
    """Fields on sampling; `recipe_fields()` reads them."""

    def __init__(self, first: FirstValues = MODELS_OWN, **params: Any) -> None:
        super().__init__(**params)
        self._facts: ModelFacts | None = None
        self._first = first
        self._build_levels()
        self._build_noise()
        self._build_churn()
        levels = pn.Row(self.sigma_max, pn.Spacer(width=10), self.sigma_min, sizing_mode="stretch_width", margin=0)
        steps = pn.Row(self.steps, pn.Spacer(width=10), self.rho, sizing_mode="stretch_width", margin=0)
        self._layout = pn.Column(
            self.sampler, self.schedule, steps, levels, self.guidance, self.noise, self.seeded, self.seed,
            self._churn, sizing_mode="stretch_width", margin=(0, 2),
        )  # fmt: skip
        self.seeded.param.watch(lambda *_: self._adapt(), "value")
        self.sampler.param.watch(lambda *_: self._adapt(), "value")
        self.schedule.param.watch(lambda *_: self._adapt(), "value")
        self.s_churn.param.watch(lambda *_: self._adapt(), "value")
        self.follow(ModelFacts())

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def _build_levels(self) -> None:
        self.sampler = pmui.Select(
            label="Sampler",
            value=OWN,
            options={"Model's own": OWN, **{text: name for name, text in _SAMPLERS.items()}},
            description="Heun and Euler follow the probability flow; re-noising predicts the image and noises it anew.",
            **field(),
        )
        self.schedule = pmui.Select(
            label="Schedule",
            value="auto",
            options={
                "Model's own where it has one": "auto",
                "Karras et al. 2022, eq. 5": "karras",
                "Model's own, evenly in timestep": "model",
            },
            description="How the noise levels between the first and the last are spaced.",
            **field(),
        )
        self.steps = pmui.IntInput(
            label="Steps",
            value=18,
            start=1,
            end=512,
            description="Sampler steps from the largest σ to the smallest.",
            **field(),
        )
        self.rho = pmui.FloatInput(
            label="Curvature ρ",
            value=7.0,
            start=0.1,
            end=100.0,
            step=0.5,
            description="ρ of Karras et al. 2022, eq. 5: larger spends more of the steps at small noise levels.",
            **field(),
        )
        self.sigma_max = pmui.TextInput(
            label="σ from", description="Largest noise level; empty takes the model's.", **field()
        )
        self.sigma_min = pmui.TextInput(
            label="σ to", description="Smallest noise level; empty takes the model's.", **field()
        )

    def _build_noise(self) -> None:
        self.guidance = pmui.FloatSlider(label="Guidance", start=0, end=5, step=0.1, value=1.0, **slider())
        self.noise = pmui.Select(
            label="Noise",
            value="stochastic",
            options={
                "Drawn per step": "stochastic",
                "Fixed (seed 42 unless set)": "fixed",
                "None at all": "zero",
            },
            description="The noise that images start from, and that is added between steps; without any, all images "
            "start alike.",
            **field(),
        )
        self.seeded = pmui.Switch(
            label="Fixed seed",
            value=True,
            size="small",
            margin=(4, 0),
            description="The same seed gives the same images.",
        )
        self.seed = pmui.IntInput(
            label="Seed", value=0, start=0, description="Sample i starts from the noise of (seed, i).", **field()
        )

    def _build_churn(self) -> None:
        """Karras et al. 2022, Alg. 2."""
        self.s_churn = pmui.FloatInput(
            label="Churn",
            value=0.0,
            start=0.0,
            step=5.0,
            description="S_churn of Karras et al. 2022, Alg. 2: fresh noise over all steps, which the sampler then "
            "removes; it corrects errors and varies detail. 0 adds none; EDM used 40 for ImageNet-64.",
            **field(),
        )
        self.s_min = pmui.FloatInput(
            label="Churn from σ",
            value=0.0,
            start=0.0,
            step=0.05,
            description="S_min: no noise is added below this noise level.",
            **field(),
        )
        self.s_max = pmui.TextInput(
            label="Churn up to σ", placeholder="no limit", description="S_max: no noise is added above it.", **field()
        )
        self.s_noise = pmui.FloatInput(
            label="Churn strength",
            value=1.0,
            start=0.0,
            step=0.001,
            description="S_noise: factor on the added noise; slightly above 1, as 1.003, keeps detail.",
            **field(),
        )
        self._no_churn = quiet("The re-noising sampler adds noise of its own and takes no churn.")
        self._churn = pn.Column(
            pn.Row(self.s_churn, pn.Spacer(width=10), self.s_noise, sizing_mode="stretch_width", margin=0),
            pn.Row(self.s_min, pn.Spacer(width=10), self.s_max, sizing_mode="stretch_width", margin=0),
            self._no_churn,
            sizing_mode="stretch_width",
            margin=0,
        )

    def _adapt(self) -> None:
        """Offer only what has an effect."""
        self.seed.disabled = not self.seeded.value
        self.rho.disabled = self.schedule.value == "model"
        self.s_churn.disabled = self._no_churn.visible = self._renoises
        for further in (self.s_min, self.s_max, self.s_noise):
            further.disabled = self._renoises or not self.s_churn.value

    @property
    def _renoises(self) -> bool:
        own = self._facts.default_sampler if self._facts is not None else None
        return (own if self.sampler.value == OWN else self.sampler.value) == "renoise"

    def follow(self, facts: ModelFacts) -> None:
        """Take over the defaults of another model; those of the same model never overwrite what was set."""
        if facts == self._facts:
            return
        self._facts = facts
        own = _SAMPLERS.get(facts.default_sampler or "")
        options = {f"Model's own: {own}" if own else "Model's own": OWN, **{t: name for name, t in _SAMPLERS.items()}}
        self.sampler.param.update(options=options, value=OWN)
        steps = self._first.num_steps or facts.default_steps
        self.steps.param.update(end=max(self.steps.end, steps), value=steps)
        guidance = facts.default_guidance if self._first.guidance_scale is None else self._first.guidance_scale
        end = max(5.0, float(math.ceil(2 * facts.default_guidance)), float(math.ceil(guidance)))
        what = "prompt" if facts.takes_prompts else "class"
        self.guidance.param.update(
            end=end,
            value=guidance,
            description=f"0 ignores the {what}, 1 is plain conditional, more exaggerates the {what}. "
            f"The model's own is {facts.default_guidance:g}.",
        )
        for widget, level in ((self.sigma_max, facts.sigma_max), (self.sigma_min, facts.sigma_min)):
            widget.placeholder = "model's own" if level is None else f"model's own, {short_sigma(level)}"
        self._adapt()

    def recipe_fields(self) -> dict[str, Any]:
        """Return the recipe's fields on sampling.

        Raises:
            ConfigError: if a noise level is none.
        """
        sampling = {
            "sampler": None if self.sampler.value == OWN else self.sampler.value,
            "schedule": self.schedule.value,
            "num_steps": self.steps.value or None,
            "sigma_max": read_sigma("σ from", self.sigma_max.value),
            "sigma_min": read_sigma("σ to", self.sigma_min.value),
            "rho": float(self.rho.value or 7.0),
            "guidance_scale": float(self.guidance.value),
            "noise_mode": self.noise.value,
            **self._churn_fields(),
        }
        seed = int(self.seed.value or 0) if self.seeded.value else None
        return {"seed": seed, "sampling": Sampling(**sampling)}

    def load(self, recipe: GenerationRecipe) -> None:
        """Show what a recipe says; where it leaves something to the model, show the model's own."""
        facts, sampling = self._facts or ModelFacts(), recipe.sampling
        guidance = facts.default_guidance if sampling.guidance_scale is None else sampling.guidance_scale
        self.sampler.value = sampling.sampler or OWN
        self.schedule.value = sampling.schedule
        self.steps.value = sampling.num_steps or facts.default_steps
        self.rho.value = sampling.rho
        self.sigma_max.value, self.sigma_min.value = _text_of(sampling.sigma_max), _text_of(sampling.sigma_min)
        self.guidance.param.update(end=max(self.guidance.end, math.ceil(guidance)), value=guidance)
        self.noise.value = sampling.noise_mode
        self.seeded.value = recipe.seed is not None
        self.seed.value = recipe.seed or 0
        self.s_churn.value, self.s_min.value, self.s_noise.value = sampling.s_churn, sampling.s_min, sampling.s_noise
        self.s_max.value = _text_of(sampling.s_max)

    def _churn_fields(self) -> dict[str, Any]:
        if self._renoises or not self.s_churn.value:
            return {}
        least, greatest = float(self.s_min.value or 0), read_sigma("Churn up to σ", self.s_max.value)
        if greatest is not None and greatest < least:
            raise ConfigError(f"churn is asked from σ {least:g} up to {greatest:g}; the second must not be smaller")
        return {
            "s_churn": float(self.s_churn.value),
            "s_min": least,
            "s_max": greatest,
            "s_noise": float(1.0 if self.s_noise.value is None else self.s_noise.value),
        }


def _text_of(sigma: float | None) -> str:
    return "" if sigma is None else format_sigma(sigma)
