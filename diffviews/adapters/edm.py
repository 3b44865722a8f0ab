"""Adapter for class-conditional ADM U-Nets with EDM preconditioning (Karras et al. 2022)."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter, Precision, precision_dtype, precision_of, single_pass
from diffviews.adapters.checkpoint import NetworkCheckpoint, check_names_and_shapes, read_checkpoint
from diffviews.adapters.hooks import Handle, Hook, HookMixin, check_layers
from diffviews.device import device_or_best
from diffviews.errors import CheckpointError, ConfigError, unknown_name
from diffviews.models.adm_unet import ADMUNet
from diffviews.models.preconditioning import EDMPrecond
from diffviews.noise import NoiseSource
from diffviews.sampling.samplers import Churn, heun, samples
from diffviews.sampling.schedules import karras_sigmas

NETWORK_OPTIONS = (
    "img_resolution", "img_channels", "label_dim", "model_channels", "channel_mult",
    "channel_mult_emb", "num_blocks", "attn_resolutions", "dropout", "label_dropout",
)  # fmt: skip
PRECONDITIONING_OPTIONS = ("sigma_min", "sigma_max", "sigma_data")


class EDMAdapter(HookMixin, GeneratorAdapter):
    """Base of the EDM adapters; a subclass names the model and its default configuration.

    Args:
        model: preconditioned network, D(x; sigma) of eq. 7.
        config: the configuration it was built with.
    """

    name = "edm"
    """Registered name, and `model_type`."""
    sample_steps = 18
    """Steps of `sample` when the caller names none."""

    def __init__(self, model: EDMPrecond, config: Mapping[str, Any] | None = None) -> None:
        self.model = model
        self._network: ADMUNet = model.model  # type: ignore[assignment]
        self._config = {**self.get_default_config(), **(config or {})}
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
        known = (*NETWORK_OPTIONS, *PRECONDITIONING_OPTIONS)
        for option in kwargs:
            if option not in known:
                raise ConfigError(unknown_name("network option", option, known))
        checkpoint = read_checkpoint(checkpoint_path or cls.shipped_weights())
        config = {**cls.get_default_config(), **checkpoint.config, **kwargs}
        if label_dropout:
            config["label_dropout"] = label_dropout
        network = _build(checkpoint, config, precision_dtype(precision))
        return cls(network, config).to(device_or_best(device)).eval()

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
            Images (N, C, H, W) float32, clipped to [-1, 1], and class ids (N,) int64.
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
        return images.to(torch.float32).clamp(-1, 1), torch.tensor(classes)


def _class_ids(class_label: int | None, num_classes: int, random: NoiseSource) -> Sequence[int]:
    drawn = random.integers(max(num_classes, 1)).tolist()
    if class_label is None and num_classes:
        return drawn
    return [-1 if class_label is None else class_label] * len(drawn)


def _build(checkpoint: NetworkCheckpoint, config: Mapping[str, Any], dtype: torch.dtype) -> EDMPrecond:
    """Return the network with its weights, built without drawing random numbers."""
    options = {key: config[key] for key in NETWORK_OPTIONS if key in config}
    scaling = {key: float(config[key]) for key in PRECONDITIONING_OPTIONS if key in config}
    try:
        with torch.device("meta"):
            network = ADMUNet(**options)
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"the configuration of checkpoint {checkpoint.path} is wrong: {error}") from error
    check_names_and_shapes(f"checkpoint {checkpoint.path}", checkpoint.tensors, network.state_dict())
    weights = {name: tensor.to(dtype) for name, tensor in checkpoint.tensors.items()}
    network.load_state_dict(weights, assign=True)
    return EDMPrecond(network, **scaling).requires_grad_(False)
