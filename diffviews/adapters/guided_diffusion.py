"""The ADM networks of Dhariwal and Nichol 2021 as their own code saves them: guided-diffusion's `.pt` state dicts.

They are the networks of `models/adm_unet.py` under other names, with the channels of the attention in another order,
so their weights are renamed and reordered. A state dict does not tell how many heads its attention has, nor the size
of the images or the noise schedule: those are in the table for the published networks, and must lie beside others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, repeat
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from diffviews.adapters.base import precision_dtype, single_pass
from diffviews.adapters.checkpoint import check_names_and_shapes, read_checkpoint
from diffviews.adapters.diffusion_schedule import DiffusionSchedule
from diffviews.adapters.edm import EDMAdapter
from diffviews.adapters.edm_published import imagenet_names
from diffviews.adapters.guided_diffusion_weights import read_architecture, renamed
from diffviews.adapters.timesteps import schedule_of_betas
from diffviews.device import device_or_best
from diffviews.errors import CheckpointError, ConfigError, unknown_name
from diffviews.models.adm_unet import ADMUNet
from diffviews.models.blocks import BlockStyle
from diffviews.models.preconditioning import Coefficients, Denoiser, noise_prediction
from diffviews.sampling.x0_limit import X0Limit

OPTIONS = (
    "image_size", "noise_schedule", "diffusion_steps", "num_heads", "num_head_channels", "use_new_attention_order",
    "clip_denoised",
)  # fmt: skip
"""What a state dict does not tell, by the names of guided-diffusion's flags."""
_REFUSED = ("predict_xstart", "rescale_timesteps")
"""Flags that change what the network returns or is told, and that no published model has."""


@dataclass(frozen=True, slots=True)
class PublishedADM:
    """One published architecture, and what its state dict does not tell."""

    image_size: int
    """Height and width of its images, pixels."""
    channel_mult: tuple[float, ...]
    """Factors on the channels, one a level."""
    num_blocks: int = 2
    """Residual blocks a level."""
    model_channels: int = 256
    """Base number of channels."""
    num_heads: int = -1
    """Heads of self-attention; -1: one for every 64 channels."""
    use_new_attention_order: bool = False
    """Whether query, key and value are parted before the heads."""
    noise_schedule: str = "linear"
    """Linear or cosine."""

    def options(self) -> dict[str, Any]:
        """Return what the state dict does not tell."""
        heads: dict[str, Any] = {"num_heads": self.num_heads} if self.num_heads > 0 else {"num_head_channels": 64}
        named = ("image_size", "noise_schedule", "use_new_attention_order")
        return {name: getattr(self, name) for name in named} | heads | {"diffusion_steps": 1000, "clip_denoised": True}

    def architecture(self) -> dict[str, Any]:
        """Return what the state dict tells."""
        return {
            "model_channels": self.model_channels,
            "channel_mult": list(self.channel_mult),
            "num_blocks": self.num_blocks,
            "attn_resolutions": [32, 16, 8],
        }


PUBLISHED: Mapping[str, PublishedADM] = {
    "adm-imagenet-64": PublishedADM(
        64, (1, 2, 3, 4), 3, 192, use_new_attention_order=True, noise_schedule="cosine"
    ),
    "adm-imagenet-128": PublishedADM(128, (1, 1, 2, 3, 4), num_heads=4),
    "adm-imagenet-256": PublishedADM(256, (1, 1, 2, 2, 4, 4)),
    "adm-imagenet-512": PublishedADM(512, (0.5, 1, 1, 2, 2, 4, 4)),
}  # fmt: skip
"""The networks by the names of their adapters; LSUN's are that of 256 pixels without classes."""


def noise_schedule(kind: str, steps: int) -> DiffusionSchedule:
    """Return a schedule of guided-diffusion's.

    'linear': beta from 0.1 / T to 20 / T (Ho et al. 2020); 'cosine': Nichol and Dhariwal 2021, eq. 17.

    Raises:
        ConfigError: if the schedule is neither, or of fewer than 2 or more than 100,000 steps.
    """
    if not 2 <= steps <= 100_000:
        raise ConfigError(f"diffusion_steps {steps} must be 2 … 100,000")
    if kind == "linear":
        betas = torch.linspace(0.1 / steps, min(20 / steps, 0.999), steps, dtype=torch.float64)
    elif kind == "cosine":
        time = torch.arange(steps + 1, dtype=torch.float64) / steps
        curve = ((time + 0.008) / 1.008 * math.pi / 2).cos().square()
        betas = (1 - curve[1:] / curve[:-1]).clamp(max=0.999)
    else:
        raise ConfigError(unknown_name("noise_schedule", kind, ("linear", "cosine")))
    return schedule_of_betas(betas)


def spread_timesteps(total: int, count: int) -> Tensor:
    """Return timesteps spread evenly from the last of all to the first, (S,) float64; of one, the last.

    Strides are added up as floats, as guided-diffusion's `space_timesteps` does, so that halves are rounded alike.
    """
    if count == 1:
        return torch.tensor([total - 1], dtype=torch.float64)
    places = accumulate(repeat((total - 1) / (count - 1), count - 1), initial=0.0)
    return torch.tensor([round(place) for place in places], dtype=torch.float64).flip(0)


class TimestepPrecond(Denoiser):
    """A denoiser of a network that predicts the noise and is told the timestep: x0 = x - sigma · F.

    Args:
        network: called as `network(x, timesteps, class_labels)`.
        schedule: noise level of each timestep.
    """

    def __init__(self, network: ADMUNet, schedule: DiffusionSchedule) -> None:
        super().__init__(network, *schedule.sigma_range)
        self.schedule = schedule

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the scalings of a variance-preserving model."""
        return noise_prediction(sigma, self.schedule.timestep_of(sigma))


class ADMAdapter(EDMAdapter):
    """Base of the adapters for guided-diffusion's networks, unconditional or with classes, with a learned variance or
    without (which no sampler here uses)."""

    default_steps = 50
    default_sampler = "euler"
    reads_trained = False
    model: TimestepPrecond

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.x0_limit = X0Limit(1.0) if self._config["clip_denoised"] else None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        names = imagenet_names(self.num_classes)
        return super().class_names if names is None or "_class_names" in self.__dict__ else names

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self.model.sigma_min, self.model.sigma_max

    def model_sigmas(self, num_steps: int, sigma_max: float | None = None, sigma_min: float | None = None) -> Tensor:
        """Return the levels of timesteps spread evenly from the first to the last, as `timestep_respacing` does.

        Raises:
            ConfigError: unless 1 <= num_steps <= T and 0 < sigma_min <= sigma_max.
        """
        schedule = self.model.schedule
        if not 1 <= num_steps <= schedule.num_timesteps:
            raise ConfigError(f"num_steps {num_steps} must be 1 … {schedule.num_timesteps}, the model's timesteps")
        own = spread_timesteps(schedule.num_timesteps, num_steps)
        if sigma_max is None and sigma_min is None:
            return schedule.sigma_at(own)
        return schedule.levels_between(own, sigma_max, sigma_min)

    def start_scale(self, sigma_max: float) -> float:
        return math.hypot(1, sigma_max)

    @single_pass
    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return D(x; sigma, labels), (B, C, H, W) float32, clipped to [-1, 1] as `clip_denoised` says."""
        denoised = self.unlimited(x, sigma, class_labels)
        return denoised if self.x0_limit is None else self.x0_limit(denoised)

    def unlimited(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return it before clipping: guidance acts on the prediction of the noise, and x0 is clipped after it."""
        return self.model(x, sigma, class_labels)

    @classmethod
    def get_default_config(cls) -> dict[str, Any]:
        """Return the configuration of the published network."""
        published = PUBLISHED[cls.name]
        return {**published.architecture(), **published.options(), "img_channels": 3, "label_dim": 1000}

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint_path: str | Path | None,
        device: Any = "cuda",
        *,
        label_dropout: float = 0.0,
        precision: str = "auto",
        **kwargs: Any,
    ) -> Self:
        """Load a state dict of guided-diffusion; nothing in it is run.

        Args:
            checkpoint_path: a `.pt` file, or its tensors as safetensors.
            device: where to put it; 'cuda' on a machine without CUDA falls back with a warning.
            label_dropout: share of labels withheld in its training.
            precision: of the network: float32, which auto is, float16 or bfloat16.
            kwargs: what the file does not tell, by the names of guided-diffusion's flags; such options may also
                stand in `<name>.json` beside it.

        Raises:
            CheckpointError: if the file is missing, damaged or of another network, or does not tell enough.
            ConfigError: if an option is unknown.
        """
        for option in kwargs:
            if option not in OPTIONS:
                raise ConfigError(unknown_name("network option", option, OPTIONS))
        checkpoint = read_checkpoint(checkpoint_path or cls.shipped_weights(), wanted="guided-diffusion")
        what = f"checkpoint {checkpoint.path}"
        try:
            architecture = read_architecture(checkpoint.tensors)
            options = cls._options(architecture, {**checkpoint.config, **kwargs})
            schedule = noise_schedule(str(options["noise_schedule"]), int(options["diffusion_steps"]))
            config = {**architecture, **options, "label_dropout": label_dropout}
            config["attn_resolutions"] = [int(options["image_size"]) >> n for n in architecture["attn_levels"]]
            network = adm_network(config)
        except (ConfigError, TypeError, ValueError) as error:
            raise CheckpointError(f"{what}: {error}") from error
        weights = renamed(checkpoint.tensors, config)
        for name, own in network.named_buffers():
            weights[name] = torch.full(own.shape, 1 / own.numel())
        check_names_and_shapes(what, weights, network.state_dict())
        dtype = precision_dtype(precision)
        network.load_state_dict({name: tensor.to(dtype) for name, tensor in weights.items()}, assign=True)
        denoiser = TimestepPrecond(network.requires_grad_(False), schedule)
        del config["attn_levels"]
        return cls(denoiser, config).to(device_or_best(device)).eval()

    @classmethod
    def _options(cls, architecture: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the state dict does not tell: what was said, else what the published network has.

        Raises:
            ConfigError: if the network is not the published one and something is not said, or cannot be followed.
        """
        refused = [flag for flag in _REFUSED if said.get(flag)]
        if refused:
            raise ConfigError(f"{refused[0]} is not supported; only networks that predict the noise at whole timesteps")
        options, heads = {name: said[name] for name in OPTIONS if name in said}, {"num_heads", "num_head_channels"}
        heads_said = bool(heads & options.keys())
        published, usual = PUBLISHED[cls.name], PUBLISHED[cls.name].options()
        size = int(options.get("image_size", published.image_size))
        found = {name: architecture[name] for name in ("model_channels", "channel_mult", "num_blocks")}
        found["attn_resolutions"] = [size >> level for level in architecture["attn_levels"]]
        if found == published.architecture() and size == published.image_size:
            own = {name: value for name, value in usual.items() if not (heads_said and name in heads)}
            return own | options
        missing = [name for name in ("image_size", "noise_schedule") if name not in options]
        if not heads_said:
            missing.append("num_heads or num_head_channels")
        if missing:
            raise ConfigError(
                f"it holds another network than {cls.name!r} ({_short(found)}), and a state dict does not tell "
                f"{', '.join(missing)}; say so in a JSON file of the same name beside it, as in "
                '{"network": {"image_size": 64, "noise_schedule": "linear", "num_heads": 4}}'
            )
        rest = {"diffusion_steps": 1000, "use_new_attention_order": False, "clip_denoised": True}
        return {**rest, **options}


def adm_network(config: Mapping[str, Any]) -> ADMUNet:
    """Return the network of a whole configuration on the meta device, where its weights take no memory.

    Raises:
        ConfigError: if no network can be made of it.
    """
    heads, head_channels = int(config.get("num_heads", -1)), int(config.get("num_head_channels", -1))
    style = BlockStyle(
        num_heads=heads if head_channels < 1 else None,
        head_channels=max(head_channels, 1),
        scale_shift=bool(config["use_scale_shift_norm"]),
        group_channels=1,
    )
    shared = ("img_channels", "label_dim", "model_channels", "channel_mult", "num_blocks", "attn_resolutions")
    options = {name: config[name] for name in (*shared, "out_channels", "label_dropout")}
    with torch.device("meta"):
        return ADMUNet(int(config["image_size"]), **options, style=style)


def _short(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items())


class ADMImageNet64Adapter(ADMAdapter):
    """ImageNet at 64 pixels, cosine schedule."""

    name = "adm-imagenet-64"


class ADMImageNet128Adapter(ADMAdapter):
    """ImageNet at 128 pixels."""

    name = "adm-imagenet-128"


class ADMImageNet256Adapter(ADMAdapter):
    """ImageNet at 256 pixels with classes or without, and LSUN."""

    name = "adm-imagenet-256"


class ADMImageNet512Adapter(ADMAdapter):
    """ImageNet at 512 pixels."""

    name = "adm-imagenet-512"
