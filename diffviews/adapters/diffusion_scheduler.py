"""A scheduler of diffusers as what the rest of DiffViews needs of it: its noise levels, its timesteps, its limit of x0.

Levels are computed by diffusers' own class, so they are its own for every spacing and option. Classes are an
allow-list, and every key of a configuration is followed, named as not followed, or refused.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffviews.adapters.diffusion_folder import diffusion_package
from diffviews.errors import CheckpointError, ConfigError
from diffviews.sampling.x0_limit import X0Limit

DDIM_KIND = ("DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler")
"""Schedulers of the same levels and the same x0, whose deterministic steps are DDIM's."""

FEW_STEP = ("LCMScheduler", "TCDScheduler")
"""Schedulers of consistency models, which predict x0 and add noise again."""

SCHEDULERS = (
    *DDIM_KIND, *FEW_STEP, "PNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler",
)  # fmt: skip
"""Every scheduler that is known: those of variance-preserving models with whole timesteps."""

SAMPLERS_OF = {"DDIMScheduler": "euler", "EulerDiscreteScheduler": "euler", "LCMScheduler": "renoise"}
"""Schedulers whose steps one of our samplers takes exactly."""

LEVELS_OF = {"DPMSolverSDEScheduler": "HeunDiscreteScheduler"}
"""Schedulers with the same levels as another, which needs no further package."""

FOLLOWED = frozenset((
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr",
    "prediction_type", "timestep_spacing", "steps_offset", "interpolation_type", "use_karras_sigmas",
    "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "lambda_min_clipped", "sigma_min", "sigma_max",
    "final_sigmas_type", "set_alpha_to_one", "original_inference_steps", "clip_sample", "clip_sample_range",
    "thresholding", "dynamic_thresholding_ratio", "sample_max_value",
))  # fmt: skip
"""Keys that the levels, the prediction and the limit of x0 follow."""

SOLVER = frozenset((
    "solver_order", "algorithm_type", "solver_type", "lower_order_final", "euler_at_final", "skip_prk_steps",
    "variance_type", "predict_x0", "disable_corrector", "solver_p", "predictor_order", "corrector_order", "tau_func",
    "noise_sampler_seed", "timestep_scaling",
))  # fmt: skip
"""Keys of how a scheduler steps between its levels, which here the sampler decides."""

PLAIN: Mapping[str, tuple[Any, ...]] = {
    "use_flow_sigmas": (False, None), "use_dynamic_shifting": (False, None), "shift_terminal": (None,),
    "timestep_type": ("discrete",),
}  # fmt: skip
"""Keys of other kinds of model, and the values that leave them out."""

IDLE = frozenset(("flow_shift", "time_shift_type"))
"""Keys that only act together with those of other kinds of model."""

STRIDES = {
    "linspace": "its steps of equal length, which with linspace spacing miss the next level, are not",
    "trailing": "its steps of equal length, which miss the next level unless they divide the training's, are not",
}
"""What is not followed of DDIM's and PNDM's steps, by spacing: they end at t - T // S, wherever the next one begins."""

MOST_TIMESTEPS = 100_000
"""More training timesteps than any model has; beyond it a configuration is refused before tables are made."""

LEAST_SCALING = 1.0
"""Least `timestep_scaling` at which what a consistency model's output skips is below a thousandth of it."""


class Spaced(NamedTuple):
    """What a scheduler does in some number of steps."""

    timesteps: Tensor
    """(S,) float64 descending: what the network is told at each level."""
    sigmas: Tensor | None
    """(S,) float64 level of each; None: those of the timesteps."""
    end: float
    """Level of the result; 0: without noise."""


@dataclass(frozen=True, slots=True)
class FolderScheduler:
    """The scheduler that a `scheduler_config.json` describes."""

    kind: str
    """Class of diffusers."""
    options: Mapping[str, Any]
    """Its keyword arguments."""
    notices: tuple[str, ...] = ()
    """What is not followed, a part of a sentence each."""
    _made: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)
    """The scheduler of diffusers, once it is made, which for some takes half a second."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "FolderScheduler":
        """Return the scheduler of a configuration, whose class is DDIM's where it names none.

        Raises:
            CheckpointError: if its class is not known, or not named where it matters, or a key has a value that no
                model here has.
            ConfigError: if diffusers is missing.
        """
        kind = str(config.get("_class_name") or DDIM_KIND[0])
        if kind not in SCHEDULERS:
            raise CheckpointError(
                f"scheduler {kind} is not that of a variance-preserving model with whole timesteps; known are: "
                f"{', '.join(SCHEDULERS)}"
            )
        given = {key: value for key, value in config.items() if not key.startswith("_")}
        defaults = _defaults(kind)
        _check_values(kind, given, defaults)
        # A null stands for the default, but for switches, which it turns off.
        options = {
            key: value
            for key, value in given.items()
            if key in defaults and (value is not None or isinstance(defaults[key], bool))
        }
        if named := next((key for key in given if key not in defaults), None) if "_class_name" not in config else None:
            raise CheckpointError(f"the scheduler's configuration names no _class_name; {kind} has no key {named!r}")
        spacing = str(options.get("timestep_spacing") or defaults.get("timestep_spacing"))
        strides = spacing in STRIDES and kind in (*DDIM_KIND, "PNDMScheduler")
        notices = [STRIDES[spacing]] if strides else []
        return cls(kind, options, (*_not_followed(kind, given, defaults), *notices))

    def new(self) -> Any:
        """Return a scheduler of diffusers; setting its timesteps leaves others of this method alone.

        Raises:
            CheckpointError: if diffusers refuses the configuration.
        """
        if not self._made:
            self._made.append(self._make())
        return copy(self._made[0])

    def _make(self) -> Any:
        options = {key: value for key, value in self.options.items() if key != "noise_sampler_seed"}
        if self.kind == "PNDMScheduler":
            options["skip_prk_steps"] = True  # its levels without those of the Runge-Kutta stages between them
        try:
            return _class_of(self.kind)(**options)
        except (ValueError, TypeError, NotImplementedError, RuntimeError, OverflowError) as error:
            told = {key: value for key, value in options.items() if isinstance(value, str | bool | int | float)}
            raise CheckpointError(f"diffusers makes no {self.kind} of {told}: {error}") from error

    def spaced(self, num_steps: int) -> Spaced:
        """Return timesteps and levels of a sampling.

        Raises:
            ConfigError: if the scheduler has none for so many steps.
        """
        scheduler = self.new()
        try:
            scheduler.set_timesteps(num_steps)
        except (ValueError, IndexError, RuntimeError, ZeroDivisionError) as error:
            raise ConfigError(f"scheduler {self.kind} takes no {num_steps} steps: {error}") from error
        timesteps = torch.as_tensor(scheduler.timesteps).double()
        if not hasattr(scheduler, "sigmas"):
            return Spaced(timesteps.unique().flip(0), None, self._end(scheduler))
        # Second-order schedulers have every level twice, and between them the timesteps of their stages.
        sigmas = scheduler.sigmas.double()
        levels = sigmas[:-1][:: scheduler.order]
        count = int((levels > 0).sum())
        if count > len(timesteps[:: scheduler.order]):
            raise ConfigError(
                f"scheduler {self.kind} has more noise levels than timesteps, which is not followed; leave "
                "interpolation_type at 'linear'"
            )
        return Spaced(timesteps[:: scheduler.order][:count], levels[:count], float(sigmas[-1]))

    def _end(self, scheduler: Any) -> float:
        final = getattr(scheduler, "final_alpha_cumprod", None)
        if final is None or self.kind in FEW_STEP:
            return 0.0
        return float(((1 - final) / final) ** 0.5)

    @property
    def has_levels(self) -> bool:
        """Whether it has levels of its own, beside those of its timesteps."""
        return hasattr(self.new(), "sigmas")

    @property
    def keeps_variance(self) -> bool:
        """Whether its samples are scaled by 1 / sqrt(1 + sigma²), or as in EDM."""
        return float(self.new().init_noise_sigma) == 1.0

    @property
    def starts_from_noise(self) -> bool:
        """Whether it starts from sigma times noise, and not from a deviation of sqrt(1 + sigma²) as a noised sample."""
        return not self.keeps_variance and self.new().config.timestep_spacing != "leading"

    @property
    def limit(self) -> X0Limit | None:
        """What it does to x0 in each step; None: nothing.

        Raises:
            CheckpointError: if the limits are impossible.
        """
        if self.kind == "TCDScheduler":
            return None  # its step has no use for these keys
        config, keeps_noise = self.new().config, self.kind in DDIM_KIND
        try:
            if config.get("thresholding"):
                ratio, largest = float(config.dynamic_thresholding_ratio), float(config.sample_max_value)
                return X0Limit(None, ratio, largest, keeps_noise)
            if config.get("clip_sample"):
                return X0Limit(float(config.clip_sample_range), keeps_noise=keeps_noise)
        except (ConfigError, TypeError, ValueError) as error:
            raise CheckpointError(f"the limit of x0 of scheduler {self.kind} cannot be followed: {error}") from error
        return None


def _class_of(kind: str) -> Any:
    return getattr(diffusion_package("diffusers"), LEVELS_OF.get(kind, kind))


def _defaults(kind: str) -> dict[str, Any]:
    """Return the keys of a scheduler and their defaults."""
    parameters = list(signature(_class_of(kind).__init__).parameters.values())[1:]
    defaults = {parameter.name: parameter.default for parameter in parameters}
    if kind in LEVELS_OF:
        return {key: value for key, value in defaults.items() if "clip" not in key} | {"noise_sampler_seed": None}
    return defaults


def scheduler_keys(config: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys of a configuration's scheduler, none of a scheduler that is not known."""
    kind = str(config.get("_class_name") or DDIM_KIND[0])
    return frozenset(_defaults(kind)) if kind in SCHEDULERS else frozenset()


def _check_values(kind: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse values by which results would be others than here.

    Raises:
        CheckpointError: naming the key.
    """
    total = given.get("num_train_timesteps", defaults["num_train_timesteps"])
    if not isinstance(total, int) or not 2 <= total <= MOST_TIMESTEPS:
        raise CheckpointError(f"the scheduler's num_train_timesteps {total!r} is not one of 2 … {MOST_TIMESTEPS}")
    for key, value in given.items():
        if key in PLAIN and value not in PLAIN[key]:
            raise CheckpointError(
                f"the scheduler's {key} {value!r} is that of another kind of model than a variance-preserving one "
                "with whole timesteps"
            )
        known = key in FOLLOWED or key in SOLVER or key in PLAIN or key in IDLE
        if key in defaults and not known and value != defaults[key]:
            raise CheckpointError(f"the scheduler's {key} {value!r} is not known here; leave it at {defaults[key]!r}")
    scaling = given.get("timestep_scaling", LEAST_SCALING)
    if kind in FEW_STEP and not (isinstance(scaling, int | float) and scaling >= LEAST_SCALING):
        raise CheckpointError(
            f"the scheduler's timestep_scaling {scaling!r} is not at least {LEAST_SCALING:g}: more than a thousandth "
            "of its output would be its input, which is not followed"
        )


def _not_followed(kind: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what of a configuration has no effect here, a part of a sentence each."""
    solver = sorted(key for key in given if key in SOLVER and key in defaults)
    strange = sorted(key for key in given if key not in defaults)
    told = []
    if kind not in SAMPLERS_OF or solver:
        keys = f" ({', '.join(solver)})" if solver else ""
        told.append(f"how it steps between them{keys} is not: steps are those of the sampler")
    if strange:
        told.append(f"{', '.join(strange)} {'is' if len(strange) == 1 else 'are'} no key of it")
    return tuple(told)
