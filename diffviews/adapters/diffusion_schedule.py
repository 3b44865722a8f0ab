"""The discrete noise schedule of a variance-preserving diffusion model, in EDM's sigma.

Such a model sees x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) n. Divided by sqrt(abar_t) that is x0 + sigma n with
sigma_t = sqrt((1 - abar_t) / abar_t), so every timestep is a noise level and the rest of DiffViews needs no other.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from diffviews.errors import CheckpointError, ConfigError

Prediction = Literal["epsilon", "v_prediction", "sample"]
"""What the network returns: the noise, v = alpha n - sigma_vp x0 (Salimans and Ho 2022, app. D), or x0 itself."""

Spacing = Literal["leading", "linspace", "trailing"]
"""How few timesteps are spread over all (Lin et al. 2024, table 2)."""

LINSPACE_SCHEDULERS = (
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
"""Schedulers of diffusers that space linearly when their configuration does not say; the others lead."""

LATENT_BETAS = ("LCMScheduler",)
"""Schedulers of diffusers whose betas, when not said, are those of latent diffusion."""

ZERO_SNR_ABAR = 2.0**-24
"""abar of the last timestep after rescaling to zero terminal SNR: near 0, so that its sigma, 4096, is finite."""

SNAP = 1e-3
"""A timestep nearer than this to a whole one is that one; float32 sigmas are off by less."""


@dataclass(frozen=True, slots=True, eq=False)
class DiffusionSchedule:
    """Noise levels of all training timesteps, and how sampling picks among them."""

    sigmas: Tensor
    """(T,) float64 ascending: sigma of timesteps 0 … T-1."""
    prediction: Prediction = "epsilon"
    """What the network returns."""
    spacing: Spacing = "leading"
    """How `timesteps` spreads few steps over all."""
    steps_offset: int = 0
    """Added to timesteps of leading spacing."""
    karras: bool = False
    """Whether sampling takes Karras et al. 2022, eq. 5, between the spacing's ends."""
    _log_sigmas: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "DiffusionSchedule":
        """Return the schedule that a diffusers `scheduler_config.json` describes.

        Raises:
            CheckpointError: if it describes another kind of schedule, naming what.
        """
        kind = str(config.get("_class_name", ""))
        if "FlowMatch" in kind or kind.startswith("EDM") or config.get("timestep_type") == "continuous":
            raise CheckpointError(f"scheduler {kind} is not that of a variance-preserving model with whole timesteps")
        prediction = _choice(config, "prediction_type", "epsilon", get_args(Prediction))
        spaced = "linspace" if kind in LINSPACE_SCHEDULERS else "leading"
        spacing = _choice(config, "timestep_spacing", spaced, get_args(Spacing))
        return cls(
            sigmas=_sigmas(_betas(config, kind), bool(config.get("rescale_betas_zero_snr"))),
            prediction=cast(Prediction, prediction),
            spacing=cast(Spacing, spacing),
            steps_offset=int(config.get("steps_offset") or 0),
            karras=bool(config.get("use_karras_sigmas")),
        )

    @property
    def num_timesteps(self) -> int:
        """T, how many timesteps the model was trained with."""
        return len(self.sigmas)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Noise levels of the first and the last timestep."""
        return float(self.sigmas[0]), float(self.sigmas[-1])

    def sigma_at(self, timesteps: Tensor | float) -> Tensor:
        """Return sigma of timesteps, fractional ones interpolated in log sigma; float64, of the same shape."""
        t = torch.as_tensor(timesteps, dtype=torch.float64).clamp(0, self.num_timesteps - 1)
        below = t.floor().long().clamp(max=self.num_timesteps - 2)
        logs, share = self.sigmas.log(), t - below
        between = (logs[below] * (1 - share) + logs[below + 1] * share).exp()
        return torch.where(t == t.round(), self.sigmas[t.round().long()], between)

    def timestep_of(self, sigma: Tensor) -> Tensor:
        """Return the timestep of noise levels, the inverse of `sigma_at`; those outside get the nearest end.

        Args:
            sigma: any shape, > 0.

        Returns:
            The same shape, float32 on the same device; exactly whole at the schedule's own levels.
        """
        home = torch.device("cpu") if sigma.device.type == "mps" else sigma.device
        logs = self._logs(home)
        wanted = sigma.to(home, torch.float64).log().clamp(logs[0], logs[-1]).contiguous()
        above = torch.searchsorted(logs, wanted).clamp(1, self.num_timesteps - 1)
        low, high = logs[above - 1], logs[above]
        t = above - 1 + (wanted - low) / (high - low)
        whole = t.round()
        return torch.where((t - whole).abs() < SNAP, whole, t).to(sigma.device, torch.float32)

    def _logs(self, device: torch.device) -> Tensor:
        if device not in self._log_sigmas:
            self._log_sigmas[device] = self.sigmas.log().to(device)
        return self._log_sigmas[device]

    def timesteps(self, num_steps: int) -> Tensor:
        """Return `num_steps` timesteps by the model's own spacing, (S,) float64 descending.

        Raises:
            ConfigError: unless 1 <= num_steps <= T.
        """
        total = self.num_timesteps
        if not 1 <= num_steps <= total:
            raise ConfigError(f"num_steps {num_steps} must be 1 … {total}, the timesteps the model was trained with")
        steps = torch.arange(num_steps, dtype=torch.float64)
        if self.spacing == "linspace":
            chosen = torch.linspace(0, total - 1, num_steps, dtype=torch.float64).flip(0)
        elif self.spacing == "trailing":
            chosen = (total - steps * (total / num_steps)).round() - 1
        else:
            chosen = (steps * (total // num_steps)).flip(0) + self.steps_offset
        return chosen.clamp(0, total - 1)

    def levels(self, num_steps: int, sigma_max: float | None = None, sigma_min: float | None = None) -> Tensor:
        """Return the noise levels of a sampling, (S,) float64 descending, without a final zero.

        Given ends are kept within the model's range and the steps between them are even in timestep.

        Args:
            num_steps: how many.
            sigma_max: first level; None: that of the model's own spacing.
            sigma_min: last level; None: that of the model's own spacing.

        Raises:
            ConfigError: unless 1 <= num_steps <= T and 0 < sigma_min <= sigma_max < infinity.
        """
        own = self.timesteps(num_steps)
        if sigma_max is None and sigma_min is None:
            levels = self.sigma_at(own)
            return _karras(levels) if self.karras and num_steps > 1 else levels
        return self.levels_between(own, sigma_max, sigma_min)

    def levels_between(self, own: Tensor, sigma_max: float | None, sigma_min: float | None) -> Tensor:
        """Return as many levels as there are `own` timesteps, even in timestep, whose ends are given or own.

        Raises:
            ConfigError: unless 0 < sigma_min <= sigma_max < infinity.
        """
        if not 0 < (sigma_min or 1e-9) <= (math.inf if sigma_max is None else sigma_max):
            raise ConfigError(f"sigma_min {sigma_min} and sigma_max {sigma_max} are not 0 < sigma_min <= sigma_max")
        lowest, highest = self.sigma_range
        first = self.sigma_at(own[0]).item() if sigma_max is None else min(max(sigma_max, lowest), highest)
        last = self.sigma_at(own[-1]).item() if sigma_min is None else min(max(sigma_min, lowest), highest)
        # A range given only from above may lie below the schedule's own end; it then stays where it starts.
        last = min(last, first) if sigma_min is None else last
        first = max(first, last)
        ends = self.timestep_of(torch.tensor([first, last], dtype=torch.float64)).double()
        levels = self.sigma_at(torch.linspace(float(ends[0]), float(ends[1]), len(own), dtype=torch.float64))
        levels[-1], levels[0] = last, first
        return levels

    def denoised(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Return x0 from what the network returned.

        Args:
            output: the network's output for x / sqrt(1 + sigma²), (B, C, H, W).
            x: noised input, x0 + sigma n, (B, C, H, W).
            sigma: (B, 1, 1, 1) or a scalar.
        """
        if self.prediction == "sample":
            return output
        if self.prediction == "epsilon":
            return x - sigma * output
        scale = 1 + sigma**2
        return x / scale - sigma / scale.sqrt() * output


def _choice(config: Mapping[str, Any], name: str, default: str, options: tuple[str, ...]) -> str:
    value = config.get(name) or default
    if value not in options:
        raise CheckpointError(f"the scheduler's {name} {value!r} is not one of: {', '.join(options)}")
    return str(value)


def _betas(config: Mapping[str, Any], kind: str) -> Tensor:
    """Return the betas, (T,) float32: the precision in which diffusers makes them."""
    latent = kind in LATENT_BETAS
    total = int(config.get("num_train_timesteps") or 1000)
    start = float(config.get("beta_start") or (0.00085 if latent else 0.0001))
    end = float(config.get("beta_end") or (0.012 if latent else 0.02))
    named = config.get("beta_schedule") or ("scaled_linear" if latent else "linear")
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float32)
    elif named == "linear":
        betas = torch.linspace(start, end, total, dtype=torch.float32)
    elif named == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, total, dtype=torch.float32) ** 2
    elif named == "squaredcos_cap_v2":
        betas = _cosine_betas(total)
    else:
        raise CheckpointError(
            f"the scheduler's beta_schedule {named!r} is not one of: linear, scaled_linear, squaredcos_cap_v2, "
            "nor are trained_betas given"
        )
    if betas.ndim != 1 or len(betas) < 2 or not bool(((betas > 0) & (betas < 1)).all()):
        raise CheckpointError("the scheduler's betas must be at least two numbers between 0 and 1")
    return betas


def _cosine_betas(total: int) -> Tensor:
    """Return the betas of the cosine schedule (Nichol and Dhariwal 2021, eq. 17)."""

    def abar(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    steps = [min(1 - abar((i + 1) / total) / abar(i / total), 0.999) for i in range(total)]
    return torch.tensor(steps, dtype=torch.float32)


def _sigmas(betas: Tensor, zero_snr: bool) -> Tensor:
    abar = (1 - betas).cumprod(0)
    if zero_snr:
        abar = _rescaled_to_zero_snr(abar)
    return ((1 - abar) / abar).double().sqrt()


def _rescaled_to_zero_snr(abar: Tensor) -> Tensor:
    """Return abar shifted and scaled so that the last timestep is pure noise (Lin et al. 2024, Alg. 1)."""
    root = abar.sqrt()
    rescaled = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    # Where the level before is already nearer to pure noise than that, the last stays above it.
    rescaled[-1] = ZERO_SNR_ABAR if rescaled[-2] > ZERO_SNR_ABAR else rescaled[-2] / 4
    return rescaled


def _karras(levels: Tensor, rho: float = 7.0) -> Tensor:
    """Return as many levels between the same ends, spaced by Karras et al. 2022, eq. 5."""
    first, last = float(levels[0]) ** (1 / rho), float(levels[-1]) ** (1 / rho)
    between = torch.linspace(first, last, len(levels), dtype=torch.float64) ** rho
    between[0], between[-1] = levels[0], levels[-1]
    return between
