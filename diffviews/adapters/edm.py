"""Adapters for the networks of EDM and EDM2 (Karras et al. 2022, 2024): ADM, DDPM++, NCSN++ and magnitude-preserving,
with classes or without, in colour or grey."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter, Precision, precision_dtype, precision_of, single_pass
from diffviews.adapters.checkpoint import NetworkCheckpoint, check_names_and_shapes, read_checkpoint
from diffviews.adapters.edm_networks import (
    NETWORKS,
    PRECONDITIONERS,
    classes_of,
    merged_config,
    options_of,
    parameters_of,
)
from diffviews.adapters.hooks import Handle, Hook, HookMixin, check_layers
from diffviews.device import device_or_best
from diffviews.errors import CheckpointError, ConfigError, unknown_name
from diffviews.models.blocks import ADM_STYLE, BlockStyle
from diffviews.models.preconditioning import Denoiser, IDDPMPrecond
from diffviews.models.unet import HookedUNet
from diffviews.noise import NoiseSource
from diffviews.sampling.samplers import Churn, heun, samples
from diffviews.sampling.schedules import karras_sigmas

LATENT_CHANNELS = 4
"""Channels of the latents of Stability AI's VAE; images have 1 or 3."""
_FLOAT32_BUFFERS = ("freqs", "phases")
"""Buffers that stay in float32 in a network of half precision."""


class EDMAdapter(HookMixin, GeneratorAdapter):
    """Base of the EDM adapters; a subclass names the model and its default configuration.

    Args:
        model: preconditioned network, D(x; sigma) of eq. 7.
        config: the whole configuration it was built with; None: the default one.
    """

    name = "edm"
    """Registered name, and `model_type`."""
    sample_steps = 18
    """Steps of `sample` when the caller names none."""
    reads_trained = True
    """Whether it reads the networks that the job `train` makes."""

    def __init__(self, model: Denoiser, config: Mapping[str, Any] | None = None) -> None:
        self.model = model
        self._network: HookedUNet = model.model  # type: ignore[assignment]
        self._config = dict(config or self.get_default_config())
        if self._config.get("class_names"):
            self.name_classes(self._config["class_names"])

    @property
    def model_type(self) -> str:
        return self.name

    @property
    def resolution(self) -> int:
        return self._network.img_resolution

    @property
    def num_classes(self) -> int:
        return self._network.label_dim

    @property
    def hookable_layers(self) -> list[str]:
        return list(self._network.hook_points)

    @property
    def config(self) -> dict[str, Any]:
        return dict(self._config)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self._network.img_channels, self.resolution, self.resolution)

    @property
    def sigma_range(self) -> tuple[float, float]:
        lowest, highest = super().sigma_range
        return max(lowest, self.model.sigma_min), min(highest, self.model.sigma_max)

    def model_sigmas(
        self, num_steps: int, sigma_max: float | None = None, sigma_min: float | None = None
    ) -> Tensor | None:
        """Return the levels of Karras et al. 2022, eq. 5, as near as a network of discrete levels knows them.

        None: the network knows all levels.
        """
        lowest, highest = self.sigma_range
        highest = highest if sigma_max is None else sigma_max
        exact = karras_sigmas(num_steps, highest, min(lowest, highest) if sigma_min is None else sigma_min)
        rounded = self.model.round_sigma(exact)
        return None if rounded is exact else rounded

    @property
    def precision(self) -> Precision:
        return precision_of(next(self._network.parameters()).dtype)

    @property
    def label_dropout(self) -> float:
        return float(self._config.get("label_dropout", 0.0))

    def _networks(self) -> list[torch.nn.Module]:
        return [self.model]

    @single_pass
    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return D(x; sigma, labels), (B, C, H, W) float32; other options are not used."""
        return self.model(x, sigma, class_labels)

    def register_activation_hooks(self, layer_names: list[str], hook_fn: Hook) -> list[Handle]:
        """Hook the named blocks; what replaces an encoder block's output reaches its skip as well."""
        points = self._network.hook_points
        check_layers(points, layer_names)
        return self.hook_modules(self._network, [points[layer] for layer in layer_names], hook_fn)

    def get_layer_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._network.layer_shapes())

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
        """Load a checkpoint; nothing in it is run.

        Args:
            checkpoint_path: a safetensors file, a pickle of EDM, a state dict of torch, or a folder with one
                of them in it; None takes the weights that ship with the package, if any.
            device: where to put it; 'cuda' on a machine without CUDA falls back with a warning.
            label_dropout: share of labels withheld in its training; 0: as its configuration says.
            precision: of the network: float32, which auto is, float16 or bfloat16.
            kwargs: network options that override the checkpoint's configuration.

        Raises:
            CheckpointError: if the file is missing, damaged or of another network.
            ConfigError: if an option is unknown.
        """
        checkpoint = read_checkpoint(checkpoint_path or cls.shipped_weights())
        try:
            config = merged_config(cls.get_default_config(), checkpoint.config, kwargs)
            known = options_of(config)
        except ConfigError as error:
            raise CheckpointError(f"checkpoint {checkpoint.path}: {error}") from error
        for option in kwargs:
            if option not in known:
                raise ConfigError(unknown_name("network option", option, known))
        if label_dropout:
            config["label_dropout"] = label_dropout
        cls._check_channels(checkpoint.path, config.get("img_channels", 3))
        model = denoiser_of(checkpoint, config, precision_dtype(precision))
        return cls(model, config).to(device_or_best(device)).eval()

    @classmethod
    def _check_channels(cls, path: Path, channels: Any) -> None:
        """Refuse a network whose input is no image.

        Raises:
            CheckpointError: saying what it may be.
        """
        if channels not in (1, 3):
            raise CheckpointError(
                f"checkpoint {path} takes {channels} channels, which are no image's but likely a VAE's latents; "
                "grey and RGB networks open here, EDM2's of ImageNet at 512 pixels as adapter 'edm2-imagenet-512'"
            )

    @classmethod
    def shipped_weights(cls) -> Path:
        """Return the checkpoint that comes with the package.

        Raises:
            CheckpointError: if none does.
        """
        raise CheckpointError(
            f"adapter {cls.name!r} ships no weights; give a checkpoint (`diffviews checkpoints` lists public ones)"
        )

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        class_label: int | None = None,
        num_steps: int | None = None,
        sigma_max: float = 80.0,
        sigma_min: float = 0.002,
        rho: float = 7.0,
        S_churn: float = 40.0,
        S_min: float = 0.05,
        S_max: float = 50.0,
        S_noise: float = 1.003,
        device: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """Sample by the stochastic Heun method (Karras et al. 2022, Alg. 2) from a fresh seed.

        Args:
            num_samples: how many images.
            class_label: class of all of them; -1: uniform; None: a random class each.
            num_steps: sampler steps; None: `sample_steps`.
            sigma_max: first noise level.
            sigma_min: last noise level above 0.
            rho: curvature of the schedule, eq. 5.
            S_churn: noise added over all steps, S_churn / num_steps a step.
            S_min: least noise level at which noise is added.
            S_max: greatest noise level at which noise is added.
            S_noise: factor on the added noise.
            device: move the model there first; None leaves it where it is.

        Returns:
            Images (N, C, H, W) float32, clipped to [-1, 1] unless they are latents, and class ids (N,) int64.
        """
        if device is not None:
            self.to(device_or_best(device))
        seed, indices = secrets.randbits(48), range(num_samples)
        classes = _class_ids(class_label, self.num_classes, NoiseSource(seed, indices, stream="label"))
        labels = self.make_labels(classes)
        noise = NoiseSource(seed, indices)
        x = noise.normal(self.input_shape).to(self.device) * sigma_max
        sigmas = karras_sigmas(num_steps or self.sample_steps, sigma_max, sigma_min, rho)
        churn = Churn(S_churn, S_min, S_max, S_noise)

        def denoiser(noised: Tensor, sigma: Tensor) -> Tensor:
            return self.forward(noised.to(torch.float32).to(self.device), sigma.to(torch.float32), labels)

        images = samples(heun(denoiser, x, sigmas, noise.normal, churn=churn))
        images = images.to(torch.float32)
        return images if self.input_shape[0] == LATENT_CHANNELS else images.clamp(-1, 1), torch.tensor(classes)


def _class_ids(class_label: int | None, num_classes: int, random: NoiseSource) -> Sequence[int]:
    drawn = random.integers(max(num_classes, 1)).tolist()
    if class_label is None and num_classes:
        return drawn
    return [-1 if class_label is None else class_label] * len(drawn)


def denoiser_of(checkpoint: NetworkCheckpoint, config: Mapping[str, Any], dtype: torch.dtype) -> Denoiser:
    """Return the denoiser of a checkpoint, built without drawing random numbers.

    Args:
        checkpoint: the network's weights.
        config: its whole configuration.
        dtype: of the network.

    Raises:
        CheckpointError: if the weights do not fit the configuration, or no network can be made of it.
    """
    what = f"checkpoint {checkpoint.path}"
    weights = dict(checkpoint.tensors)
    levels = weights.pop("u", None)
    try:
        precond, _ = classes_of(config)
        scaling = {name: float(config[name]) for name in parameters_of(PRECONDITIONERS[precond]) if name in config}
        network = network_of(config, BlockStyle(narrow_attention=_has_narrow_attention(weights)))
        denoiser = PRECONDITIONERS[precond](network, **scaling)
    except (TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"the configuration of {what} is wrong: {error}") from error
    check_names_and_shapes(what, weights, network.state_dict())
    network.load_state_dict({name: _cast(name, tensor, dtype) for name, tensor in weights.items()}, assign=True)
    if isinstance(denoiser, IDDPMPrecond) and levels is not None and not _close(levels, denoiser.u):
        raise CheckpointError(f"{what} has noise levels other than those of its configuration")
    return denoiser.requires_grad_(False)


def network_of(config: Mapping[str, Any], style: BlockStyle = ADM_STYLE) -> HookedUNet:
    """Return the network of a configuration on the meta device, where its weights take no memory.

    Args:
        config: its options, and which network it is.
        style: of the blocks of an ADM network.

    Raises:
        ConfigError: if no network can be made of it.
        TypeError, ValueError: if an option is of another type.
    """
    precond, kind = classes_of(config)
    options = {name: config[name] for name in parameters_of(NETWORKS[kind]) if name in config}
    if kind == "DhariwalUNet":
        options["style"] = style
    if precond == "iDDPMPrecond":
        options["out_channels"] = 2 * config.get("img_channels", 3)
    with torch.device("meta"):
        return NETWORKS[kind](**options)


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(torch.float32 if name.rpartition(".")[2] in _FLOAT32_BUFFERS else dtype)


def _close(levels: Tensor, own: Tensor) -> bool:
    return levels.shape == own.shape and torch.allclose(levels.to(own), own, rtol=1e-3)


def _has_narrow_attention(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether layers too narrow for a head of 64 channels have attention, as in networks trained here."""
    least = ADM_STYLE.head_channels
    return any(name.endswith(".qkv.weight") and tensor.shape[1] < least for name, tensor in tensors.items())
