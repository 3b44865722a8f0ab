"""Noise schedules: pure functions that return descending noise levels."""

import math

import torch
from torch import Tensor

from diffviews.errors import ConfigError


def karras_sigmas(num_steps: int, sigma_max: float, sigma_min: float, rho: float = 7.0) -> Tensor:
    """Return the noise levels of Karras et al. 2022, eq. 5, without a final zero.

    sigma_i = (sigma_max^(1/rho) + i / (num_steps - 1) · (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho;
    one step is [sigma_max]. The two ends are exact.

    Returns:
        (num_steps,) float64, descending.

    Raises:
        ConfigError: unless num_steps >= 1, rho > 0 and 0 < sigma_min <= sigma_max < infinity.
    """
    if num_steps < 1:
        raise ConfigError(f"num_steps {num_steps} must be at least 1")
    if not (0 < sigma_min <= sigma_max < math.inf):
        raise ConfigError(f"sigma_min {sigma_min} and sigma_max {sigma_max} are not 0 < sigma_min <= sigma_max")
    if not 0 < rho < math.inf:
        raise ConfigError(f"rho {rho} must be above 0")
    if num_steps == 1:
        return torch.tensor([sigma_max], dtype=torch.float64)
    position = torch.arange(num_steps, dtype=torch.float64) / (num_steps - 1)
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = (first + position * (last - first)) ** rho
    sigmas[0], sigmas[-1] = sigma_max, sigma_min
    return sigmas


def with_final_zero(sigmas: Tensor) -> Tensor:
    """Return a schedule that ends at sigma 0, (S + 1,) float64; one that does already stays as it is.

    Samplers step from each level to the next, so a schedule without its zero would lose its last
    step and return an image that still carries the noise of sigma_min.

    Raises:
        ConfigError: if the levels are not finite, at least one above 0, and descending.
    """
    levels = torch.as_tensor(sigmas, dtype=torch.float64, device="cpu").flatten()
    if len(levels) == 0 or levels[-1] != 0:
        levels = torch.cat([levels, levels.new_zeros(1)])
    falls = bool((levels[:-1] >= levels[1:]).all()) and bool((levels[:-1] > 0).all())
    if len(levels) < 2 or not falls or not torch.isfinite(levels).all():
        raise ConfigError(f"sigmas {torch.as_tensor(sigmas).tolist()} must be finite, above 0 and descending")
    return levels
