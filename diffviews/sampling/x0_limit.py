"""What a sampler does to an estimate of x0 before it steps on: clipping, and dynamic thresholding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffviews.errors import ConfigError


@dataclass(frozen=True, slots=True)
class X0Limit:
    """x0 clipped to [-clip, clip], or thresholded by its own distribution (Saharia et al. 2022, sec. 2.3).

    Thresholding clips each sample to [-s, s] and divides it by s, the `ratio` quantile of its absolute values,
    kept between 1 and `largest`.
    """

    clip: float | None = None
    """Largest absolute value of x0; None: dynamic thresholding."""
    ratio: float = 0.995
    """Share of a sample's values that s leaves alone."""
    largest: float = 1.0
    """Largest s; 1 is plain clipping."""
    keeps_noise: bool = False
    """Whether a step goes along the noise of x0 as it was, as DDIM does (Song et al. 2021), or of x0 as it is now."""

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"x0 cannot be clipped to ±{self.clip}; give a number above 0")
        if not 0 < self.ratio <= 1 or not self.largest >= 1:
            raise ConfigError(
                f"dynamic thresholding takes a ratio above 0 and up to 1 and a largest value of at least 1, not "
                f"{self.ratio} and {self.largest}"
            )

    def __call__(self, x0: Tensor) -> Tensor:
        """Return x0 within the limit, (B, C, H, W), of the same dtype."""
        if self.clip is not None:
            return x0.clamp(-self.clip, self.clip)
        values = x0.flatten(1) if x0.dtype == torch.float64 else x0.flatten(1).float()
        s = values.abs().quantile(self.ratio, dim=1, keepdim=True).clamp(1, self.largest)
        return (values.clamp(-s, s) / s).reshape(x0.shape).to(x0.dtype)
