"""EDM preconditioning of Karras et al. 2022, "Elucidating the Design Space of Diffusion Models"."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffviews.errors import ConfigError, ShapeError


@dataclass(frozen=True, slots=True)
class Coefficients:
    """The scalings of Karras et al. 2022, table 1; each has the shape of the sigma it is for."""

    c_skip: Tensor
    """Share of the noised image that passes by the network."""
    c_out: Tensor
    """Scale of the network's output."""
    c_in: Tensor
    """Scale that gives the network's input unit variance."""
    c_noise: Tensor
    """What the network is told about the noise level."""


def edm_coefficients(sigma: Tensor, sigma_data: float) -> Coefficients:
    """Return the EDM scalings for noise levels `sigma` > 0 and data of deviation `sigma_data`.

    They give the network's input and its training target unit variance and make c_out as small
    as possible (Karras et al. 2022, appendix B.6).
    """
    total = sigma.square() + sigma_data**2
    return Coefficients(
        c_skip=sigma_data**2 / total,
        c_out=sigma * sigma_data / total.sqrt(),
        c_in=total.rsqrt(),
        c_noise=sigma.log() / 4,
    )


class Denoiser(nn.Module):
    """D(x; sigma) = c_skip · x + c_out · F(c_in · x; c_noise), eq. 7 of the paper; a subclass gives the scalings.

    Args:
        network: the raw network F, called as `network(x, noise_labels, class_labels)`. If it puts out more
            channels than the images have, the first ones are the prediction and the others a learned variance.
        sigma_min: smallest noise level the model supports.
        sigma_max: largest noise level the model supports.

    Raises:
        ConfigError: if the noise levels are not 0 <= sigma_min < sigma_max.
    """

    def __init__(self, network: nn.Module, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        if not 0 <= sigma_min < sigma_max:
            raise ConfigError(f"sigma_min {sigma_min} must be at least 0 and below sigma_max {sigma_max}")
        self.model = network
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the scalings for noise levels > 0, each of the shape of `sigma`, float32."""
        raise NotImplementedError

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """Return the levels the network was trained at that are nearest to `sigma`; most know all of them."""
        return sigma

    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """Return the denoised images, (B, C, H, W) float32.

        The network runs in the dtype of its own parameters, everything around it in float32.

        Args:
            x: noised images, (B, C, H, W), data in [-1, 1] before noise.
            sigma: noise level of each image, (B,) or one for all; > 0.
            class_labels: one-hot or mixed classes, (B, K); None: unconditional.

        Raises:
            ShapeError: if there are neither one nor B noise levels.
        """
        x = x.to(torch.float32)
        levels = self._levels(sigma, x)
        c = self.coefficients(levels.reshape(-1, 1, 1, 1))
        dtype = next((p.dtype for p in self.model.parameters()), torch.float32)
        raw = self.model((c.c_in * x).to(dtype), c.c_noise.flatten(), class_labels)
        return c.c_skip * x + c.c_out * raw[:, : x.shape[1]].to(torch.float32)

    @staticmethod
    def _levels(sigma: Tensor | float, x: Tensor) -> Tensor:
        levels = torch.as_tensor(sigma, device=x.device).to(torch.float32).flatten()
        if levels.numel() not in (1, len(x)):
            raise ShapeError(f"{levels.numel()} noise levels for {len(x)} images; give one, or one for each image")
        return levels.expand(len(x))


class EDMPrecond(Denoiser):
    """EDM's own preconditioning.

    Args:
        network: the raw network F.
        sigma_min: smallest noise level the model supports.
        sigma_max: largest noise level the model supports.
        sigma_data: standard deviation of the training data.

    Raises:
        ConfigError: if the noise levels are not 0 <= sigma_min < sigma_max or sigma_data is not > 0.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
        sigma_data: float = 0.5,
    ) -> None:
        super().__init__(network, sigma_min, sigma_max)
        if not 0 < sigma_data < math.inf:
            raise ConfigError(f"sigma_data {sigma_data} must be above 0")
        self.sigma_data = sigma_data

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return `edm_coefficients` for the deviation of the data."""
        return edm_coefficients(sigma, self.sigma_data)


def noise_prediction(sigma: Tensor, c_noise: Tensor) -> Coefficients:
    """Return the scalings of a variance-preserving network that predicts the noise: x0 = x - sigma · F."""
    return Coefficients(torch.ones_like(sigma), -sigma, (sigma.square() + 1).rsqrt(), c_noise)


class VPPrecond(Denoiser):
    """Variance-preserving, sigma(t) = sqrt(exp(beta_d t²/2 + beta_min t) - 1) for t from epsilon_t to 1.

    Args:
        network: the raw network F, which predicts the noise and is told (M - 1) · t.
        beta_d: extent of the noise schedule.
        beta_min: its slope at t = 0.
        M: number of timesteps in the terms of DDPM.
        epsilon_t: smallest t of the training.

    Raises:
        ConfigError: if these give no schedule.
    """

    def __init__(
        self, network: nn.Module, beta_d: float = 19.9, beta_min: float = 0.1, M: float = 1000, epsilon_t: float = 1e-5
    ) -> None:
        if not (0 < beta_d < math.inf and 0 < beta_min < math.inf and M > 1 and 0 < epsilon_t < 1):
            raise ConfigError(f"beta_d {beta_d}, beta_min {beta_min}, M {M}, epsilon_t {epsilon_t} give no VP schedule")
        lowest, highest = (
            math.sqrt(math.expm1(beta_d * t**2 / 2 + beta_min * t)) for t in (epsilon_t, 1.0)
        )  # fmt: skip
        super().__init__(network, lowest, highest)
        self.beta_d, self.beta_min, self.M = beta_d, beta_min, M

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the scalings of table 1, column VP."""
        root = (self.beta_min**2 + 2 * self.beta_d * (1 + sigma.square()).log()).sqrt()
        return noise_prediction(sigma, (self.M - 1) * ((root - self.beta_min) / self.beta_d))


class VEPrecond(Denoiser):
    """Variance-exploding.

    Args:
        network: the raw network F, which predicts the noise, negated, of images that are not scaled.
        sigma_min: smallest noise level the model supports.
        sigma_max: largest noise level the model supports.
    """

    def __init__(self, network: nn.Module, sigma_min: float = 0.02, sigma_max: float = 100.0) -> None:
        super().__init__(network, sigma_min, sigma_max)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the scalings of table 1, column VE."""
        ones = torch.ones_like(sigma)
        return Coefficients(c_skip=ones, c_out=sigma, c_in=ones, c_noise=(sigma / 2).log())


class IDDPMPrecond(Denoiser):
    """The M discrete levels of improved DDPM; the network is told the timestep of the nearest one.

    u_M = 0, u_{j-1}² = (u_j² + 1) / max(abar_{j-1} / abar_j, C_1) - 1, abar_j = sin²(π/2 · j / (M (C_2 + 1))).

    Args:
        network: the raw network F, which predicts the noise in the first half of its channels.
        C_1: least ratio of neighbouring abar.
        C_2: offset of the cosine schedule.
        M: number of levels.

    Raises:
        ConfigError: if these give no schedule.
    """

    u: Tensor

    def __init__(self, network: nn.Module, C_1: float = 0.001, C_2: float = 0.008, M: float = 1000) -> None:
        steps = int(M)
        if not (2 <= steps == M <= MOST_LEVELS and 0 < C_1 < 1 and 0 <= C_2 < math.inf):
            raise ConfigError(f"C_1 {C_1}, C_2 {C_2}, M {M} give no iDDPM schedule of at most {MOST_LEVELS} levels")
        levels = _iddpm_levels(steps, C_1, C_2)
        super().__init__(network, float(levels[-2]), float(levels[0]))
        self.register_buffer("u", levels, persistent=False)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the scalings of table 1, column iDDPM."""
        return noise_prediction(sigma, len(self.u) - 2 - self._nearest(sigma).to(torch.float32))

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """Return the nearest of the M levels, in the dtype and on the device of `sigma`."""
        return self.u[self._nearest(sigma)].to(sigma.device, sigma.dtype)

    def _nearest(self, sigma: Tensor) -> Tensor:
        return (sigma.to(self.u.device, torch.float32)[..., None] - self.u).abs().argmin(-1)


MOST_LEVELS = 100_000
"""Bound on the discrete levels that a configuration may ask for."""


def _iddpm_levels(steps: int, ratio: float, offset: float) -> Tensor:
    """Return u_0 … u_M, (M + 1,) float32, in the precision in which the published models were made."""
    abar = (torch.arange(steps + 1) * (math.pi / 2) / steps / (offset + 1)).sin().square()
    ratios = (abar[:-1] / abar[1:]).clamp(min=ratio)
    levels = torch.zeros(steps + 1)
    for j in range(steps, 0, -1):
        levels[j - 1] = ((levels[j].square() + 1) / ratios[j - 1] - 1).sqrt()
    return levels
