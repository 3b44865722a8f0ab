"""The discrete noise schedule of a variance-preserving diffusion model, in EDM's sigma.

Such a model sees x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) n. Divided by sqrt(abar_t) that is x0 + sigma n with
sigma_t = sqrt((1 - abar_t) / abar_t), so every timestep is a noise level and the rest of DiffViews needs no other.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from diffviews.adapters.base import Ending
from diffviews.adapters.diffusion_scheduler import FolderScheduler, Spaced
from diffviews.errors import CheckpointError, ConfigError

_log = logging.getLogger(__name__)

Prediction = Literal["epsilon", "v_prediction", "sample"]
"""What the network returns: the noise, v = alpha n - sigma_vp x0 (Salimans and Ho 2022, app. D), or x0 itself."""

Spacing = Literal["leading", "linspace", "trailing"]
"""How few timesteps are spread over all (Lin et al. 2024, table 2)."""

Reading = Literal["log", "linear", "rounded", "floored"]
"""How a level between two timesteps is told to the network: interpolated in log sigma or in sigma; in log sigma, and
then as the nearest whole timestep or the one below."""

ZERO_SNR_ABAR = 2.0**-24
"""abar of the last timestep after rescaling to zero terminal SNR: near 0, so that its sigma, 4096, is finite."""

SNAP = 1e-3
"""A timestep nearer than this to a whole one is that one; float32 sigmas are off by less."""

PROBED_STEPS = 7
"""Steps by which the reading of a scheduler is told; with linear spacing their timesteps are not whole."""


@dataclass(frozen=True, slots=True, eq=False)
class DiffusionSchedule:
    """Noise levels of all training timesteps, and how sampling picks among them."""

    sigmas: Tensor
    """(T,) float64 ascending: sigma of timesteps 0 … T-1."""
    prediction: Prediction = "epsilon"
    """What the network returns."""
    scheduler: FolderScheduler | None = None
    """Scheduler whose levels sampling takes; None: timesteps evenly from 0 up to below T."""
    reading: Reading = "log"
    """How levels between timesteps are read."""
    _tables: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)
    _told: set[str] = field(default_factory=set, init=False, repr=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "DiffusionSchedule":
        """Return the schedule that a diffusers `scheduler_config.json` describes.

        Raises:
            CheckpointError: if it describes another kind of schedule, naming what.
            ConfigError: if diffusers is missing.
        """
        prediction = _choice(config, "prediction_type", "epsilon", get_args(Prediction))
        _choice(config, "timestep_spacing", "leading", get_args(Spacing))
        scheduler = FolderScheduler.from_config(config)
        made = scheduler.new()
        schedule = cls(_rising(made.alphas_cumprod), cast(Prediction, prediction), scheduler)
        if schedule.num_timesteps != made.config.num_train_timesteps:
            raise CheckpointError(
                f"the scheduler has {schedule.num_timesteps} trained_betas for {made.config.num_train_timesteps} "
                "num_train_timesteps; there must be one for each"
            )
        return schedule._read_as_by(scheduler)

    def _read_as_by(self, scheduler: FolderScheduler) -> "DiffusionSchedule":
        """Return the schedule with the reading by which the network is told what diffusers tells it.

        Raises:
            CheckpointError: if by none it is.
        """
        try:
            spaced = scheduler.spaced(min(PROBED_STEPS, self.num_timesteps)) if scheduler.has_levels else None
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
        if spaced is None or spaced.sigmas is None:
            return self
        readings = [DiffusionSchedule(self.sigmas, self.prediction, scheduler, name) for name in get_args(Reading)]
        errors = [math.inf]
        if spaced.sigmas.shape == spaced.timesteps.shape:  # not so with log-linear interpolation
            errors = [float((r.timestep_of(spaced.sigmas) - spaced.timesteps).abs().mean()) for r in readings]
        if min(errors) > 1:
            raise CheckpointError(
                f"scheduler {scheduler.kind} tells the network timesteps that are not those of its noise levels, which "
                "is not followed; leave interpolation_type at 'linear'"
            )
        return readings[errors.index(min(errors))]

    @property
    def num_timesteps(self) -> int:
        """T, how many timesteps the model was trained with."""
        return len(self.sigmas)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Noise levels of the first and the last timestep."""
        return float(self.sigmas[0]), float(self.sigmas[-1])

    def sigma_at(self, timesteps: Tensor | float) -> Tensor:
        """Return sigma of timesteps, fractional ones interpolated; float64, of the same shape."""
        t = torch.as_tensor(timesteps, dtype=torch.float64).clamp(0, self.num_timesteps - 1)
        below = t.floor().long().clamp(max=self.num_timesteps - 2)
        table, share = self._table(torch.device("cpu")), t - below
        between = table[below] * (1 - share) + table[below + 1] * share
        between = between if self.reading == "linear" else between.exp()
        return torch.where(t == t.round(), self.sigmas[t.round().long()], between)

    def timestep_of(self, sigma: Tensor) -> Tensor:
        """Return the timestep of noise levels, the inverse of `sigma_at`; those outside get the nearest end.

        Args:
            sigma: any shape, > 0.

        Returns:
            The same shape, float32 on the same device; exactly whole at the schedule's own levels.
        """
        home = torch.device("cpu") if sigma.device.type == "mps" else sigma.device
        table = self._table(home)
        wanted = sigma.to(home, torch.float64)
        wanted = (wanted if self.reading == "linear" else wanted.log()).clamp(table[0], table[-1]).contiguous()
        above = torch.searchsorted(table, wanted).clamp(1, self.num_timesteps - 1)
        low, high = table[above - 1], table[above]
        t = above - 1 + (wanted - low) / (high - low)
        whole = t.round()
        t = torch.where((t - whole).abs() < SNAP, whole, t)
        t = {"rounded": whole, "floored": t.floor()}.get(self.reading, t)
        return t.to(sigma.device, torch.float32)

    def _table(self, device: torch.device) -> Tensor:
        """Return what is interpolated: sigmas or their logarithms, (T,) float64."""
        if device not in self._tables:
            self._tables[device] = (self.sigmas if self.reading == "linear" else self.sigmas.log()).to(device)
        return self._tables[device]

    def spaced(self, num_steps: int) -> Spaced:
        """Return timesteps and levels by the model's own spacing.

        Raises:
            ConfigError: unless 1 <= num_steps <= T, and the scheduler takes so many.
        """
        total = self.num_timesteps
        if not 1 <= num_steps <= total:
            raise ConfigError(f"num_steps {num_steps} must be 1 … {total}, the timesteps the model was trained with")
        if self.scheduler is None:
            return Spaced((torch.arange(num_steps, dtype=torch.float64) * (total // num_steps)).flip(0), None, 0.0)
        return self.scheduler.spaced(num_steps)

    def timesteps(self, num_steps: int) -> Tensor:
        """Return the timesteps of a sampling, (S,) float64 descending; see `spaced`."""
        return self.spaced(num_steps).timesteps.clamp(0, self.num_timesteps - 1)

    def ending(self, num_steps: int) -> Ending:
        """Return at which level a sampling of the scheduler ends, and how its result is scaled."""
        end = self.spaced(num_steps).end
        keeps = self.scheduler is not None and self.scheduler.keeps_variance
        return Ending(end, (1 + end**2) ** -0.5 if keeps else 1.0)

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
        spaced = self.spaced(num_steps)
        levels = self.sigma_at(spaced.timesteps) if spaced.sigmas is None else spaced.sigmas
        if sigma_max is None and sigma_min is None:
            return levels
        return self.levels_between(self.timestep_of(levels).double(), sigma_max, sigma_min)

    def levels_between(self, own: Tensor, sigma_max: float | None, sigma_min: float | None) -> Tensor:
        """Return as many levels as there are `own` timesteps, even in timestep, whose ends are given or own.

        Raises:
            ConfigError: unless 0 < sigma_min <= sigma_max < infinity.
        """
        if not 0 < (sigma_min or 1e-9) <= (math.inf if sigma_max is None else sigma_max):
            raise ConfigError(f"sigma_min {sigma_min} and sigma_max {sigma_max} are not 0 < sigma_min <= sigma_max")
        lowest, highest = self.sigma_range
        for sigma in (sigma_max, sigma_min):
            if sigma is not None:
                self.tell_outside(sigma, "so sampling takes the nearest end")
        first = self.sigma_at(own[0]).item() if sigma_max is None else min(max(sigma_max, lowest), highest)
        last = self.sigma_at(own[-1]).item() if sigma_min is None else min(max(sigma_min, lowest), highest)
        # A range given only from above may lie below the schedule's own end; it then stays where it starts.
        last = min(last, first) if sigma_min is None else last
        first = max(first, last)
        ends = self.timestep_of(torch.tensor([first, last], dtype=torch.float64)).double()
        levels = self.sigma_at(torch.linspace(float(ends[0]), float(ends[1]), len(own), dtype=torch.float64))
        levels[-1], levels[0] = last, first
        return levels

    def tell_not_followed(self, folder: Path) -> None:
        """Log what of the scheduler's configuration has no effect here."""
        if self.scheduler is not None and self.scheduler.notices:
            kind, notices = self.scheduler.kind, "; ".join(self.scheduler.notices)
            _log.warning("checkpoint %s: the noise levels of its %s are followed; %s", folder, kind, notices)

    def tell_outside(self, sigma: float, what: str) -> None:
        """Log once that a level is outside of the model's range, and what is made of that."""
        lowest, highest = self.sigma_range
        if lowest * (1 - SNAP) <= sigma <= highest * (1 + SNAP) or what in self._told:
            return
        self._told.add(what)
        _log.warning("sigma %g is outside of the model's noise levels, %.4g … %.4g, %s", sigma, lowest, highest, what)

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


def _rising(abar: Tensor) -> Tensor:
    """Return sigma of each timestep, (T,) float64, finite and rising.

    With zero terminal SNR (Lin et al. 2024, Alg. 1) the last is infinite, and becomes the larger of that of
    `ZERO_SNR_ABAR` and twice the one before; or diffusers has set it to that of `ZERO_SNR_ABAR`, and levels before it
    that are higher are lowered.

    Raises:
        CheckpointError: if these are no cumulative products of 1 - beta.
    """
    falling = abar.ndim == 1 and len(abar) > 1 and bool(((abar > 0) & (abar < 1))[:-1].all())
    falling = falling and bool((abar[:-1].diff() < 0).all())
    if not falling or not (0 < abar[-1] < abar[-2] or float(abar[-1]) in (0.0, ZERO_SNR_ABAR)):
        raise CheckpointError("the scheduler's betas must be at least two numbers between 0 and 1")
    sigmas = ((1 - abar) / abar).double().sqrt()
    if abar[-1] == 0:
        sigmas[-1] = max((1 / ZERO_SNR_ABAR - 1) ** 0.5, 2 * float(sigmas[-2]))
    lower = int((sigmas < sigmas[-1]).sum())
    first, last = sigmas[[lower - 1, -1]].log().tolist()
    sigmas[lower:-1] = torch.linspace(first, last, len(sigmas) - lower + 1, dtype=torch.float64)[1:-1].exp()
    return sigmas
