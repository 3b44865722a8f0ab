"""Samplers: generators of steps, made of a denoiser, a start, noise levels and a source of noise.

    x = noise(shape) * sigmas[0]
    for step in heun(denoiser, x, sigmas, noise):
        show(step.denoised)
    images = step.x_next

Whoever walks the steps records them, shows them, or stops between them. The state is float64 as in EDM, on the
CPU where a device has no float64; a schedule with or without its final zero gives the same steps. Errors in the
arguments are raised before the first step.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor

from diffviews.errors import ConfigError
from diffviews.sampling.schedules import with_final_zero
from diffviews.sampling.x0_limit import X0Limit

SamplerName = Literal["heun", "euler", "renoise"]
"""heun and euler follow the probability-flow ODE; renoise predicts x0 and adds noise again."""

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""`denoiser(x, sigma) -> denoised`: x (B, C, H, W), sigma a float64 scalar on the CPU."""

Noise = Callable[[Sequence[int]], Tensor]
"""`noise(shape) -> (B, *shape)` unit Gaussian noise for the samples of the batch, drawn anew each call."""


@dataclass(frozen=True, slots=True)
class Churn:
    """Noise added before each step of the stochastic sampler (Karras et al. 2022, Alg. 2)."""

    amount: float = 0.0
    """S_churn, over the whole schedule; 0 is the deterministic sampler (Alg. 1)."""
    sigma_min: float = 0.0
    """S_min: below it no noise is added."""
    sigma_max: float = math.inf
    """S_max: above it no noise is added."""
    noise: float = 1.0
    """S_noise: factor on the standard deviation of the added noise."""

    def __post_init__(self) -> None:
        if self.amount < 0 or self.noise < 0 or not 0 <= self.sigma_min <= self.sigma_max:
            raise ConfigError(f"{self} must have amount, noise >= 0 and 0 <= sigma_min <= sigma_max")

    @classmethod
    def of(cls, amount: float, sigma_min: float, sigma_max: float | None, noise: float) -> "Churn":
        """Return the churn of S_churn, S_min, S_max (None: no limit) and S_noise."""
        return cls(amount, sigma_min, math.inf if sigma_max is None else sigma_max, noise)

    def gamma(self, sigma: float, num_steps: int) -> float:
        """Return by which share of itself `sigma` is raised before the step."""
        if not self.sigma_min <= sigma <= self.sigma_max:
            return 0.0
        return min(self.amount / num_steps, math.sqrt(2) - 1)

    def raised(self, x: Tensor, sigma: float, num_steps: int, noise: Noise) -> tuple[Tensor, float]:
        """Return x_hat and sigma_hat of Alg. 2, lines 4 to 6.

        One draw is made at every step of a stochastic sampler, used or not, so that a draw
        belongs to its step whatever S_min and S_max are.
        """
        if self.amount == 0:
            return x, sigma
        drawn = _state(noise(x.shape[1:]).to(x.device))
        sigma_hat = sigma * (1 + self.gamma(sigma, num_steps))
        return x + math.sqrt(sigma_hat**2 - sigma**2) * self.noise * drawn, sigma_hat


@dataclass(frozen=True, slots=True)
class SamplerStep:
    """One step of a sampler. x, denoised and x_next are (B, C, H, W) float64."""

    index: int
    """Number of the step, from 0."""
    sigma: float
    """Noise level of the step's first evaluation."""
    x: Tensor
    """Noised input of that evaluation."""
    denoised: Tensor
    """Its result, the estimate of x0."""
    x_next: Tensor
    """Where the step ends: the input of the next step, and after the last one the samples."""


class Sampler(Protocol):
    """What the samplers of this module have in common."""

    def __call__(
        self, denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, *, churn: Churn = Churn(),
        limit: X0Limit | None = None, end: float = 0.0, first: int = 0,
    ) -> Iterator[SamplerStep]:
        """Sample step by step.

        Args:
            denoiser: D(x; sigma).
            x: start, (B, C, H, W), already scaled by the first noise level.
            sigmas: descending noise levels, (S,), with or without a final zero.
            noise: draws for churn and re-noising.
            churn: how much noise is added before each step.
            limit: clips or thresholds each estimate of x0; None: nothing does.
            end: level at which the last step ends, at most the last above 0; a re-noising sampler ends at 0.
            first: step that `x` is the input of. What the steps before it draw is drawn and left, so that from the
                same source of noise the rest is as in a sampling from the start.

        Raises:
            ConfigError: if the noise levels do not descend, or the sampler takes no churn.
        """


def heun(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, *, churn: Churn = Churn(),
    limit: X0Limit | None = None, end: float = 0.0, first: int = 0,
) -> Iterator[SamplerStep]:
    """Sample by Heun's second-order method (Karras et al. 2022, Alg. 1; with churn, Alg. 2); see `Sampler`."""
    x, levels = _state(x), _steps(sigmas, end)
    for index, (sigma, sigma_next) in enumerate(levels):
        x_hat, sigma_hat = churn.raised(x, sigma, len(levels), noise)
        if index < first:
            continue
        denoised = _limited(_denoise(denoiser, x_hat, sigma_hat), limit)
        slope = (x_hat - denoised) / sigma_hat
        x = x_hat + (sigma_next - sigma_hat) * slope
        if sigma_next > 0:
            slope_next = (x - _limited(_denoise(denoiser, x, sigma_next), limit)) / sigma_next
            x = x_hat + (sigma_next - sigma_hat) * (0.5 * slope + 0.5 * slope_next)
        yield SamplerStep(index, sigma_hat, x_hat, denoised, x)


def euler(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, *, churn: Churn = Churn(),
    limit: X0Limit | None = None, end: float = 0.0, first: int = 0,
) -> Iterator[SamplerStep]:
    """Sample by Euler's first-order method: `heun` without the second-order correction; see `Sampler`."""
    x, levels = _state(x), _steps(sigmas, end)
    for index, (sigma, sigma_next) in enumerate(levels):
        x_hat, sigma_hat = churn.raised(x, sigma, len(levels), noise)
        if index < first:
            continue
        estimate = _denoise(denoiser, x_hat, sigma_hat)
        denoised = _limited(estimate, limit)
        origin = estimate if limit is not None and limit.keeps_noise else denoised
        x = denoised + (sigma_next / sigma_hat) * (x_hat - origin)
        yield SamplerStep(index, sigma_hat, x_hat, denoised, x)


def renoise(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, *, churn: Churn = Churn(),
    limit: X0Limit | None = None, end: float = 0.0, first: int = 0,
) -> Iterator[SamplerStep]:
    """Sample by predicting x0 and adding the noise of the next level; the last prediction is the result.

    The few-step sampler of consistency models (Song et al. 2023, Alg. 1) and of DMD2; see `Sampler`.
    """
    if churn.amount:
        raise ConfigError(f"the renoise sampler takes no churn, got amount {churn.amount}; use heun or euler")
    x = _state(x)
    for index, (sigma, sigma_next) in enumerate(_steps(sigmas)):
        if index < first:
            noise(x.shape[1:])
            continue
        denoised = x_next = _limited(_denoise(denoiser, x, sigma), limit)
        if sigma_next > 0:
            x_next = denoised + sigma_next * _state(noise(x.shape[1:]).to(x.device))
        yield SamplerStep(index, sigma, x, denoised, x_next)
        x = x_next


SAMPLERS: dict[SamplerName, Sampler] = {"heun": heun, "euler": euler, "renoise": renoise}
"""Every sampler by its name."""


def samples(steps: Iterator[SamplerStep]) -> Tensor:
    """Walk all steps and return where the last one ends, (B, C, H, W) float64."""
    for step in steps:
        x = step.x_next
    return x


def _steps(sigmas: Tensor, end: float = 0.0) -> list[tuple[float, float]]:
    """Return the noise levels between which each step goes; the last goes to `end`, or is the end."""
    levels = with_final_zero(sigmas).tolist()
    return list(pairwise([*levels[:-1], min(end, levels[-2])]))


def _limited(x0: Tensor, limit: X0Limit | None) -> Tensor:
    return x0 if limit is None else limit(x0)


def _state(x: Tensor) -> Tensor:
    """Return `x` as a sampler keeps it: float64, and on the CPU if it lies on MPS, which has no float64."""
    home = torch.device("cpu") if x.device.type == "mps" else x.device
    return x.to(home).to(torch.float64)


def _denoise(denoiser: Denoiser, x: Tensor, sigma: float) -> Tensor:
    return _state(denoiser(x, torch.tensor(sigma, dtype=torch.float64)))



@dataclass(frozen=True, slots=True)
class GuidedDenoiser:
    """D = D(x; sigma) + g · (D(x; sigma, c) - D(x; sigma)), for a sampler (Ho and Salimans 2022).

    Guidance 1 is the conditional pass alone and 0 the unconditional one alone; each then costs
    one evaluation. The passes run one after the other, the conditional one first.
    """

    conditional: Denoiser | None
    """D(x; sigma, c); None: an unconditional model, which has the other pass only."""
    unconditional: Denoiser
    """D(x; sigma)."""
    guidance_scale: float
    """g."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the guided estimate of x0, (B, C, H, W), in the model's dtype."""
        if self.conditional is None or self.guidance_scale == 0:
            return self.unconditional(x, sigma)
        conditional = self.conditional(x, sigma)
        if self.guidance_scale == 1:
            return conditional
        unconditional = self.unconditional(x, sigma)
        return unconditional + self.guidance_scale * (conditional - unconditional)
