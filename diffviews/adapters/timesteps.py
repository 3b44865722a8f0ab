"""For adapters of networks that know timesteps: their schedule from betas, and x0 from what they return.

    schedule = schedule_of_betas(diffusion.betas, prediction="v_prediction")
    x0 = denoised_by_timesteps(network, x, sigma, schedule, clip=1.0)
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffviews.adapters.diffusion_schedule import DiffusionSchedule, Prediction
from diffviews.errors import ConfigError


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
    return x0 if clip is None else clip_x0(x0, clip)


def clip_x0(x0: Tensor, bound: float = 1.0) -> Tensor:
    """Return x0 within [-bound, bound], as DDPM and DDIM do where they clip their samples.

    Raises:
        ConfigError: if the bound is not above 0.
    """
    if not bound > 0:
        raise ConfigError(f"x0 is clipped to a bound above 0, not {bound}")
    return x0.clamp(-bound, bound)
