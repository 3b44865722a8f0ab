"""Samplers: pure functions of a denoiser, a start, noise levels and a source of noise.

    x = noise(shape) * sigmas[0]
    images = heun(denoiser, x, sigmas, noise)

The state is float64 as in EDM, on the CPU where a device has no float64; a schedule with or without its
final zero gives the same steps. An exception raised by a callback ends the sampling.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffviews.core.schedules import with_final_zero
from diffviews.errors import ConfigError

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


@dataclass(frozen=True, slots=True)
class SamplerStep:
    """What a callback sees, once a step, after the step's first evaluation."""

    index: int
    """Number of the step, from 0."""
    num_steps: int
    """How many there are."""
    sigma: float
    """Noise level of the evaluation."""
    x: Tensor
    """Its noised input, (B, C, H, W)."""
    denoised: Tensor
    """Its result, the estimate of x0, (B, C, H, W)."""


Callback = Callable[[SamplerStep], None]
StepStart = Callable[[int], None]
"""Called with a step's number before any evaluation of that step."""


def _state(x: Tensor) -> Tensor:
    """Return `x` as a sampler keeps it: float64, and on the CPU if it lies on MPS, which has no float64."""
    home = torch.device("cpu") if x.device.type == "mps" else x.device
    return x.to(home).to(torch.float64)


class _Steps:
    """The walk that all samplers share: where each step starts and ends, and who is told."""

    def __init__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        callback: Callback | None,
        on_start: StepStart | None,
    ) -> None:
        self._denoiser, self._callback, self._on_start = denoiser, callback, on_start
        self._levels: list[float] = with_final_zero(sigmas).tolist()
        self.num_steps = len(self._levels) - 1
        self.x = _state(x)

    def __iter__(self) -> Iterator[tuple[int, float, float]]:
        for index in range(self.num_steps):
            if self._on_start is not None:
                self._on_start(index)
            yield index, self._levels[index], self._levels[index + 1]

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        return _state(self._denoiser(x, torch.tensor(sigma, dtype=torch.float64)))

    def first_evaluation(self, index: int, x: Tensor, sigma: float) -> Tensor:
        denoised = self.denoise(x, sigma)
        if self._callback is not None:
            self._callback(SamplerStep(index, self.num_steps, sigma, x, denoised))
        return denoised

    def churned(self, sigma: float, churn: Churn, noise: Noise) -> tuple[Tensor, float]:
        """Return x_hat and sigma_hat of Alg. 2, lines 4 to 6.

        One draw is made at every step of a stochastic sampler, used or not, so that a draw
        belongs to its step whatever S_min and S_max are.
        """
        if churn.amount == 0:
            return self.x, sigma
        drawn = _state(noise(self.x.shape[1:]).to(self.x.device))
        raised = sigma * (1 + churn.gamma(sigma, self.num_steps))
        return self.x + math.sqrt(raised**2 - sigma**2) * churn.noise * drawn, raised


def heun(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: Noise,
    *,
    churn: Churn = Churn(),
    callback: Callback | None = None,
    on_start: StepStart | None = None,
) -> Tensor:
    """Sample by Heun's second-order method (Karras et al. 2022, Alg. 1; with churn, Alg. 2).

    Args:
        denoiser: D(x; sigma).
        x: start, (B, C, H, W), already scaled by the first noise level.
        sigmas: descending noise levels, (S,), with or without a final zero.
        noise: draws for the churn.
        churn: how much noise is added before each step.
        callback: sees each step's first evaluation.
        on_start: is told the number of each step before its evaluations.

    Returns:
        The samples, (B, C, H, W) float64.

    Raises:
        ConfigError: if the noise levels do not descend.
    """
    steps = _Steps(denoiser, x, sigmas, callback, on_start)
    for index, sigma, sigma_next in steps:
        x_hat, sigma_hat = steps.churned(sigma, churn, noise)
        slope = (x_hat - steps.first_evaluation(index, x_hat, sigma_hat)) / sigma_hat
        steps.x = x_hat + (sigma_next - sigma_hat) * slope
        if sigma_next > 0:
            slope_next = (steps.x - steps.denoise(steps.x, sigma_next)) / sigma_next
            steps.x = x_hat + (sigma_next - sigma_hat) * (0.5 * slope + 0.5 * slope_next)
    return steps.x


def euler(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: Noise,
    *,
    churn: Churn = Churn(),
    callback: Callback | None = None,
    on_start: StepStart | None = None,
) -> Tensor:
    """Sample by Euler's first-order method: Alg. 1 and 2 without the second-order correction.

    Arguments, result and errors are those of `heun`.
    """
    steps = _Steps(denoiser, x, sigmas, callback, on_start)
    for index, sigma, sigma_next in steps:
        x_hat, sigma_hat = steps.churned(sigma, churn, noise)
        denoised = steps.first_evaluation(index, x_hat, sigma_hat)
        steps.x = denoised + (sigma_next / sigma_hat) * (x_hat - denoised)
    return steps.x


def renoise(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: Noise,
    *,
    churn: Churn = Churn(),
    callback: Callback | None = None,
    on_start: StepStart | None = None,
) -> Tensor:
    """Sample by predicting x0 and adding the noise of the next level; the last prediction is the result.

    The few-step sampler of consistency models (Song et al. 2023, Alg. 1) and of DMD2. Arguments
    and result are those of `heun`.

    Raises:
        ConfigError: if the noise levels do not descend, or churn is asked for.
    """
    if churn.amount:
        raise ConfigError(f"the renoise sampler takes no churn, got amount {churn.amount}; use heun or euler")
    steps = _Steps(denoiser, x, sigmas, callback, on_start)
    for index, sigma, sigma_next in steps:
        steps.x = steps.first_evaluation(index, steps.x, sigma)
        if sigma_next > 0:
            drawn = noise(steps.x.shape[1:]).to(steps.x.device)
            steps.x = steps.x + sigma_next * _state(drawn)
    return steps.x
