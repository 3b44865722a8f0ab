"""For adapters of networks that know times: timesteps by betas, or a continuous time by its scales of data and noise.

    schedule = schedule_of_betas(diffusion.betas, prediction="v_prediction")
    x0 = denoised_by_timesteps(network, x, sigma, schedule, clip=1.0)

    t, alpha = time_of_sigma(sigma, scales, like=x)    # scales(t) is (alpha, sigma_t) of x_t = alpha x0 + sigma_t n
    x0 = denoise(alpha * x, t)
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffviews.adapters.diffusion_schedule import DiffusionSchedule, Prediction
from diffviews.errors import ConfigError
from diffviews.sampling.x0_limit import X0Limit

BISECTIONS = 53
"""Halvings of the range of times, one for each bit of float64."""


def schedule_of_betas(betas: Tensor | Sequence[float], prediction: Prediction = "epsilon") -> DiffusionSchedule:
    """Return the schedule of a variance-preserving model: sigma_t = sqrt((1 - abar_t) / abar_t) of every timestep.

    Args:
        betas: variance added at timesteps 0 … T-1, (T,), each in (0, 1).
        prediction: what the network returns: epsilon (the noise), v_prediction or sample (x0).

    Raises:
        ConfigError: if there are fewer than two, or one is impossible.
    """
    values = torch.as_tensor(betas, dtype=torch.float64).cpu()
    if values.ndim != 1 or len(values) < 2 or not bool(((values > 0) & (values < 1)).all()):
        raise ConfigError(f"betas of shape {tuple(values.shape)} must be two or more numbers between 0 and 1")
    abar = (1 - values).cumprod(0)
    return DiffusionSchedule(sigmas=((1 - abar) / abar).sqrt(), prediction=prediction)


def denoised_by_timesteps(
    network: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigma: Tensor | float,
    schedule: DiffusionSchedule,
    *,
    clip: float | None = None,
) -> Tensor:
    """Return x0 of noised inputs by a network that takes `x / sqrt(1 + sigma²)` and a timestep.

    Args:
        network: `network(x_t, t)` with x_t (B, C, H, W) and t (B,) float32, whole at the schedule's own levels; it
            returns what `schedule.prediction` says.
        x: x0 + sigma · noise, (B, C, H, W) float32.
        sigma: noise level > 0, a scalar or (B,).
        schedule: of the network.
        clip: bound of |x0|, as models with clipped samples have it; None: no bound.
    """
    levels = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(len(x))
    column = levels.reshape(-1, 1, 1, 1)
    output = network(x / (1 + column**2).sqrt(), schedule.timestep_of(levels))
    x0 = schedule.denoised(output, x, column)
    return x0 if clip is None else X0Limit(clip)(x0)


def time_of_sigma(
    sigma: Tensor | float, scales: Callable[[Tensor], tuple[Tensor, Tensor]], *, like: Tensor,
    clean: float = 0.0, noisy: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the time t at which x_t = alpha x0 + sigma_t n has the noise level sigma = sigma_t / alpha, and alpha.

    Found by bisection, to the last bit of float64: any schedule will do whose level rises from `clean` to `noisy`.
    Levels outside of it get the nearer end.

    Args:
        sigma: noise level > 0, a scalar or (B,).
        scales: `scales(t)` returns alpha and sigma_t, each (B,), of times (B,) float64.
        like: x0 + sigma · noise, (B, C, H, W); `alpha * like` is x_t.
        clean: time of the least noise, such as 1 for flows that end in data at 1.
        noisy: time of the most.

    Returns:
        t, (B,) float64 (float32 on MPS, which has no float64), and alpha, (B, 1, 1, 1) of the dtype of `like`.
    """
    levels = torch.as_tensor(sigma).to("cpu", torch.float64).expand(len(like))
    low, high = torch.zeros_like(levels), torch.ones_like(levels)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        alpha, noise = scales(clean + (noisy - clean) * middle)
        above = noise > levels * alpha
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    t = clean + (noisy - clean) * (low + high) / 2
    alpha, _ = scales(t)
    precise = torch.float32 if like.device.type == "mps" else torch.float64
    return t.to(like.device, precise), alpha.to(like.device, like.dtype).reshape(-1, *[1] * (like.ndim - 1))
