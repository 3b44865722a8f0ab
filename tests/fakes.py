"""Tiny adapters for tests: exact answers, awkward outputs, no training, no files."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from diffviews.adapters import Condition, GeneratorAdapter
from diffviews.sampling.samplers import SamplerName

SPREAD = 0.5
"""Standard deviation of the Gaussian that `GaussianAdapter` denoises."""


def gaussian_denoised(x: Tensor, sigma: Tensor | float, mean: Tensor | float, spread: float = SPREAD) -> Tensor:
    """E[x0 | x] for x0 ~ N(mean, spread²) and x = x0 + sigma · n: the exact denoiser."""
    sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return mean + spread**2 / (spread**2 + sigma**2) * (x - mean)


def gaussian_ode(x: Tensor, sigma: float, sigma_next: float, mean: float, spread: float = SPREAD) -> Tensor:
    """The exact solution of the probability-flow ODE from sigma to sigma_next for that denoiser."""
    return mean + (x - mean) * ((spread**2 + sigma_next**2) / (spread**2 + sigma**2)) ** 0.5


class _Fake(GeneratorAdapter):
    """The abstract part alone, over a dictionary of modules."""

    def __init__(self) -> None:
        self.layers = nn.ModuleDict()
        self.calls: list[dict[str, Any]] = []

    @property
    def model_type(self) -> str:
        return "fake"

    @property
    def resolution(self) -> int:
        return 8

    @property
    def num_classes(self) -> int:
        return 4

    @property
    def hookable_layers(self) -> list[str]:
        return list(self.layers)

    def register_activation_hooks(self, layer_names: list[str], hook_fn: Any) -> Sequence[Any]:
        return [self.layers[name].register_forward_hook(hook_fn) for name in layer_names]

    @classmethod
    def from_checkpoint(cls, checkpoint_path: Any, device: Any = "cuda", **kwargs: Any) -> Self:
        return cls()

    @classmethod
    def get_default_config(cls) -> dict[str, Any]:
        return {"fake": True}


class GaussianAdapter(_Fake):
    """Denoises x0 ~ N(mean of its class, 0.5²) exactly; the unconditional mean is 0.

    Layer 'input' is the noised input, layer 'denoised' the result, so masking 'denoised' with t
    makes t the image. Class c has the mean (c - 1.5) / 4.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers["input"] = nn.Identity()
        self.layers["denoised"] = nn.Identity()

    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        self.calls.append({"x": x, "sigma": sigma, "class_labels": class_labels})
        mean: Tensor | float = 0.0
        if class_labels is not None:
            means = (torch.arange(4, dtype=x.dtype) - 1.5) / 4
            mean = (class_labels.to(x.dtype) @ means).reshape(-1, 1, 1, 1)
        return self.layers["denoised"](gaussian_denoised(self.layers["input"](x), sigma, mean))

    def get_layer_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"input": (3, 8, 8), "denoised": (3, 8, 8)}


class DownOutput(NamedTuple):
    """What a block of the kind used in latent models returns."""

    hidden: Tensor
    skips: tuple[Tensor, ...]


class _Down(nn.Module):
    """Returns its result, and the result again as the last of its skips."""

    def __init__(self, copy_skip: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.copy_skip = copy_skip

    def forward(self, x: Tensor) -> DownOutput:
        hidden = self.conv(x)
        return DownOutput(hidden, (x, hidden.clone() if self.copy_skip else hidden))


class _Tokens(nn.Module):
    """A layer of shape (T, C) that works in place on what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        tokens = hidden.flatten(2).transpose(1, 2)
        return {"sample": self.linear(tokens).add_(1.0)}


class SkipAdapter(_Fake):
    """Layers with tuple and dictionary outputs; the result reads 'down' only through its skip."""

    def __init__(self, copy_skip: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers["down"] = _Down(copy_skip)
        self.layers["tokens"] = _Tokens()
        self.layers["up"] = nn.Conv2d(8, 3, 1)
        for parameter in self.layers.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.layers.requires_grad_(False)

    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        self.calls.append({"x": x, "sigma": sigma, "class_labels": class_labels})
        levels = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        hidden, skips = self.layers["down"](x / (1 + levels**2).sqrt())
        tokens = self.layers["tokens"](hidden)["sample"]
        tokens.mul_(1.5)  # in place, as some networks do
        plane = tokens.transpose(1, 2).unflatten(2, (8, 8))
        shift = 0.0 if class_labels is None else class_labels.argmax(1).reshape(-1, 1, 1, 1) / 10
        return torch.tanh(self.layers["up"](torch.cat([plane, skips[-1]], dim=1)) + shift)

    def get_layer_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"down": (4, 8, 8), "tokens": (64, 4), "up": (3, 8, 8)}


class TextAdapter(GaussianAdapter):
    """Takes prompts instead of classes: a prompt's mean is its number of letters / 10, that of '' is 0.

    Its own schedule is 8, 4, 2, 1 as far as it goes, it samples by Euler, and its start has the
    standard deviation sqrt(1 + sigma²).
    """

    @property
    def num_classes(self) -> int:
        return 0

    @property
    def takes_prompts(self) -> bool:
        return True

    @property
    def default_sampler(self) -> SamplerName:
        return "euler"

    @property
    def default_steps(self) -> int:
        return 2

    def model_sigmas(
        self, num_steps: int, sigma_max: float | None = None, sigma_min: float | None = None
    ) -> Tensor | None:
        return torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)[:num_steps]

    def start_scale(self, sigma_max: float) -> float:
        return float((1 + sigma_max**2) ** 0.5)

    def condition(self, conditions: Sequence[Condition]) -> dict[str, Tensor]:
        if all(condition.prompt is None for condition in conditions):
            return {}
        return {"prompt_embeds": torch.tensor([[float(len(c.prompt or ""))] for c in conditions])}

    def uncondition(self, conditions: Sequence[Condition]) -> dict[str, Tensor]:
        return {"prompt_embeds": torch.tensor([[float(len(c.negative_prompt))] for c in conditions])}

    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        self.calls.append({"x": x, "sigma": sigma, **kwargs})
        mean = kwargs["prompt_embeds"].reshape(-1, 1, 1, 1) / 10 if kwargs else 0.0
        return self.layers["denoised"](gaussian_denoised(self.layers["input"](x), sigma, mean))
