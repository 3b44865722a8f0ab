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


class EDMPrecond(nn.Module):
    """A denoiser D(x; sigma) = c_skip · x + c_out · F(c_in · x; c_noise), eq. 7 of the paper.

    Args:
        network: the raw network F, called as `network(x, noise_labels, class_labels)`.
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
        super().__init__()
        if not 0 <= sigma_min < sigma_max:
            raise ConfigError(f"sigma_min {sigma_min} must be at least 0 and below sigma_max {sigma_max}")
        if not 0 < sigma_data < math.inf:
            raise ConfigError(f"sigma_data {sigma_data} must be above 0")
        self.model = network
        self.sigma_min, self.sigma_max, self.sigma_data = sigma_min, sigma_max, sigma_data

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
        c = edm_coefficients(levels.reshape(-1, 1, 1, 1), self.sigma_data)
        dtype = next((p.dtype for p in self.model.parameters()), torch.float32)
        raw = self.model((c.c_in * x).to(dtype), c.c_noise.flatten(), class_labels)
        return c.c_skip * x + c.c_out * raw.to(torch.float32)

    @staticmethod
    def _levels(sigma: Tensor | float, x: Tensor) -> Tensor:
        levels = torch.as_tensor(sigma, device=x.device).to(torch.float32).flatten()
        if levels.numel() not in (1, len(x)):
            raise ShapeError(f"{levels.numel()} noise levels for {len(x)} images; give one, or one for each image")
        return levels.expand(len(x))
