"""What every adapter over a U-Net of diffusers has: a schedule of timesteps, a precision, and hook points, which are
whole blocks, and below them single resnets and attentions."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffviews.adapters.base import Ending, GeneratorAdapter, Precision, precision_dtype, precision_of, single_pass
from diffviews.adapters.diffusion_schedule import DiffusionSchedule
from diffviews.adapters.hooks import Handle, Hook, HookMixin, check_layers, known_layers, primary_tensor
from diffviews.errors import CheckpointError
from diffviews.sampling.samplers import SamplerName


class DiffusersUNetAdapter(HookMixin, GeneratorAdapter):
    """Base of the adapters over diffusers' U-Nets; a subclass names the model and what conditions it.

    The network is given x / sqrt(1 + sigma²) and the timestep of sigma, in its own precision; x, sigma and
    the result are float32 and in EDM's units.

    Args:
        unet: UNet2DConditionModel or UNet2DModel, in the precision of the forward pass.
        schedule: noise levels of the training timesteps.
        config: configurations of the model's parts, as JSON has them.
    """

    name: ClassVar[str]
    """Registered name, and `model_type`."""
    family: ClassVar[str]
    """Model whose pipelines of diffusers it takes."""
    follows_scheduler: ClassVar[bool] = True
    """Whether levels and sampler are those of the folder's scheduler; a student has its own."""
    default_steps = 50
    default_sampler: SamplerName = "euler"

    def __init__(self, unet: Any, schedule: DiffusionSchedule, config: Mapping[str, Any]) -> None:
        self.unet: Any = unet
        self.schedule = schedule
        self._config = dict(config)
        self._points = unet_hook_points(unet)
        self._size = _sample_size(unet.config)
        self._shapes: dict[str, tuple[int, ...]] | None = None
        scheduler = schedule.scheduler
        self.x0_limit = None if scheduler is None else scheduler.limit
        if self.follows_scheduler and scheduler is not None and scheduler.kind == "LCMScheduler":
            self.default_sampler, self.default_steps = "renoise", FEW_STEPS

    @property
    def model_type(self) -> str:
        return self.name

    @property
    def num_classes(self) -> int:
        return 0

    @property
    def hookable_layers(self) -> list[str]:
        return list(self._points)

    @property
    def layer_aliases(self) -> Mapping[str, str]:
        return {alias: layer for alias, layer in H_SPACE.items() if layer in self._points}

    @property
    def config(self) -> dict[str, Any]:
        return dict(self._config)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (int(self.unet.config.in_channels), self._size, self._size)

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self.schedule.sigma_range

    @property
    def precision(self) -> Precision:
        return precision_of(self.unet.dtype)

    def model_sigmas(self, num_steps: int, sigma_max: float | None = None, sigma_min: float | None = None) -> Tensor:
        """Return the levels that the model's own scheduler would take, (S,) float64 descending.

        Raises:
            ConfigError: if there are no such levels.
        """
        return self.schedule.levels(num_steps, sigma_max, sigma_min)

    def start_scale(self, sigma_max: float) -> float:
        scheduler = self.schedule.scheduler if self.follows_scheduler else None
        return sigma_max if scheduler is not None and scheduler.starts_from_noise else math.hypot(1, sigma_max)

    def model_ending(self, num_steps: int) -> Ending:
        return self.schedule.ending(num_steps)

    @single_pass
    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return the denoised x0, (B, C, H, W) float32, within the limit that the folder's scheduler sets it."""
        x0 = self.unlimited(x, sigma, class_labels, **kwargs)
        return x0 if self.x0_limit is None else self.x0_limit(x0)

    def _denoised(self, x: Tensor, sigma: Tensor | float, **unet_arguments: Any) -> Tensor:
        """Return x0 from one pass of the network, (B, C, H, W) float32.

        Args:
            x: noised inputs x0 + sigma n, (B, C, H, W).
            sigma: noise level > 0 of each, (B,), or of all.
            unet_arguments: what else the network is given.
        """
        x = x.to(torch.float32)
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(len(x))
        if not isinstance(sigma, Tensor) or sigma.device.type == "cpu":  # reading another device's would wait for it
            for level in torch.as_tensor(sigma).aminmax():
                self.tell_level(float(level))
        shaped = levels.reshape(-1, 1, 1, 1)
        scaled = (x / (1 + shaped**2).sqrt()).to(self.unet.dtype)
        output = self.unet(scaled, self.schedule.timestep_of(levels), **unet_arguments, return_dict=False)[0]
        # Of a network with a learned variance the first half is the prediction (Nichol and Dhariwal 2021).
        return self.schedule.denoised(output[:, : x.shape[1]].to(torch.float32), x, shaped)

    def tell_level(self, sigma: float) -> None:
        self.schedule.tell_outside(sigma, "so the network is told the nearest end's timestep")

    def register_activation_hooks(self, layer_names: list[str], hook_fn: Hook) -> list[Handle]:
        """Hook the named layers; what replaces a block's output reaches its copy among the skips as well."""
        check_layers(known_layers(self), layer_names)
        paths = [self._points[self.layer_aliases.get(layer, layer)] for layer in layer_names]
        return self.hook_modules(self.unet, paths, hook_fn)

    def get_layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the layers' shapes; the first call makes one pass on the meta device, which takes no memory."""
        if self._shapes is None:
            self._shapes = measured_shapes(self.unet, self._points, self._run_shadow)
        return dict(self._shapes)

    def _run_shadow(self, unet: nn.Module) -> None:
        """Make one forward pass of the network's shadow with a batch of 1."""
        x = torch.empty(1, *self.input_shape, device="meta")
        unet(x, torch.empty(1, device="meta"), **self._shadow_arguments(), return_dict=False)

    def _shadow_arguments(self) -> dict[str, Any]:
        """Return on the meta device what else the network is given for one sample."""
        return {}


def network_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a forward pass; auto is float16 on CUDA and float32 elsewhere.

    Raises:
        ConfigError: if it is none of the known ones.
    """
    return precision_dtype(precision, torch.float16 if device.type == "cuda" else torch.float32)


def _sample_size(config: Any) -> int:
    """Return height and width of what the U-Net takes.

    Raises:
        CheckpointError: if it is not square, or the U-Net is of a kind not known here.
    """
    size = config.sample_size
    if isinstance(size, (list, tuple)) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int):
        raise CheckpointError(f"the U-Net's sample_size is {size!r}; only square inputs of a known size are supported")
    if config.time_embedding_type != "positional":
        raise CheckpointError(
            f"the U-Net's time embedding ({config.time_embedding_type}) is not the plain positional one of timesteps"
        )
    if config.class_embed_type is not None:
        raise CheckpointError(
            f"the U-Net's class_embed_type {config.class_embed_type!r} is not supported; of classes, only "
            "num_class_embeds of a pixel model are"
        )
    if config.out_channels not in (config.in_channels, 2 * config.in_channels):
        raise CheckpointError(
            f"the U-Net maps {config.in_channels} channels to {config.out_channels}; models for inpainting and the "
            "like are not supported"
        )
    return size


FEW_STEPS = 4
"""Steps of a latent consistency model when the user names none, as in diffusers."""

H_SPACE = {"h_space": "mid_block"}
"""The name that the literature gives to the bottleneck's output (Kwon et al. 2023)."""


def unet_hook_points(unet: nn.Module) -> dict[str, str]:
    """Return {layer: path of its module}, in the order in which the forward pass makes the outputs.

    A block follows its parts, since its output is made last: `down_block_0_resnet_0,
    down_block_0_attention_0, …, down_block_0, …, mid_block, …, up_block_3`.
    """
    points: dict[str, str] = {}
    for number, block in enumerate(unet.get_submodule("down_blocks").children()):
        points.update(_block_points(block, f"down_block_{number}", f"down_blocks.{number}"))
    middle = getattr(unet, "mid_block", None)
    if middle is not None:
        points.update(_block_points(middle, "mid_block", "mid_block"))
    for number, block in enumerate(unet.get_submodule("up_blocks").children()):
        points.update(_block_points(block, f"up_block_{number}", f"up_blocks.{number}"))
    return points


def _block_points(block: nn.Module, layer: str, path: str) -> Iterator[tuple[str, str]]:
    # Down and up blocks run resnet i, then attention i; the middle has one resnet more, which runs last.
    resnets = list(getattr(block, "resnets", ()))
    attentions = list(getattr(block, "attentions", ()))
    for number, (resnet, attention) in enumerate(zip_longest(resnets, attentions)):
        if resnet is not None:
            yield f"{layer}_resnet_{number}", f"{path}.resnets.{number}"
        if attention is not None:
            yield f"{layer}_attention_{number}", f"{path}.attentions.{number}"
    yield layer, path


def measured_shapes(
    unet: nn.Module, points: Mapping[str, str], run: Callable[[nn.Module], Any]
) -> dict[str, tuple[int, ...]]:
    """Return each hook point's output shape for one sample, (C, H, W), without any memory for weights.

    Args:
        unet: a diffusers network; only its configuration is used.
        points: {layer: path of its module}.
        run: makes one forward pass of a network on the meta device with a batch of 1.
    """
    with torch.device("meta"):
        shadow = type(unet).from_config(dict(unet.config))  # type: ignore[attr-defined, arg-type]
    shapes: dict[str, tuple[int, ...]] = {}

    def note(layer: str) -> Callable[[Any, Any, Any], None]:
        return lambda module, inputs, output: shapes.__setitem__(layer, tuple(primary_tensor(output).shape[1:]))

    for layer, path in points.items():
        shadow.get_submodule(path).register_forward_hook(note(layer))
    with torch.no_grad():
        run(shadow)
    return {layer: shapes[layer] for layer in points}
