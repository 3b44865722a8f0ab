"""The one contract between DiffViews and a model: `GeneratorAdapter`."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from diffviews.adapters.condition import Condition
from diffviews.adapters.defaults import SamplingDefaults
from diffviews.adapters.hooks import Handle, Hook
from diffviews.errors import ConfigError, ShapeError, unknown_name
from diffviews.sampling.samplers import SamplerName
from diffviews.sampling.x0_limit import X0Limit

Precision = Literal["float32", "float16", "bfloat16"]
"""Floating-point format of a forward pass."""

ClassInput = Literal["one-hot", "index"]
"""How a forward pass takes classes: as rows of one-hot or mixed labels, or as one index a sample."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, ITU-R BT.601."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a sampling by a model's own schedule ends."""

    sigma: float = 0.0
    """Noise level of the result; 0: none."""
    scale: float = 1.0
    """What the result is multiplied by before it is decoded."""


_Forward = TypeVar("_Forward", bound=Callable[..., Tensor])


def single_pass(forward: _Forward) -> _Forward:
    """Mark an adapter's `forward` as one that reaches each hookable layer exactly once, whatever it is given.

    Whoever captures layers may then end the pass after the last of them from the first pass on. An adapter that
    overrides `forward` marks its own, or none.
    """
    forward.single_pass = True  # type: ignore[attr-defined]
    return forward


class GeneratorAdapter(ABC):
    """Wraps one model family so that everything else sees "the denoised x0 at sigma".

    Abstract is what no default can know. An adapter that gives only that works everywhere; the
    rest (ranges, defaults, conversion between images and x0, labels, digest) may be overridden.
    Images are uint8 (N, H, W, 3); x and x0 are (B, C, H, W) float32, data in [-1, 1] before noise;
    sigma is the noise's standard deviation in the same units (Karras et al. 2022).
    """

    @property
    @abstractmethod
    def model_type(self) -> str:
        """Name of the model family, such as 'edm-imagenet-64'."""

    @property
    @abstractmethod
    def resolution(self) -> int:
        """Height and width of the images, pixels."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes; 0 for a model without class labels."""

    @property
    @abstractmethod
    def hookable_layers(self) -> list[str]:
        """Names of the layers that take hooks, in the order of the forward pass."""

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return the denoised x0, (B, C, H, W).

        Where only layers are wanted, an exception of the hook on the last of them ends the pass, so whatever
        this changes outside itself belongs under `finally`.

        Args:
            x: noised inputs, (B, C, H, W) float32.
            sigma: noise level > 0 of each, (B,), or of all, a scalar.
            class_labels: one-hot or mixed classes, (B, K) float32, or where `class_input` is 'index' one class a
                sample, (B,) int64; None: unconditional.
            kwargs: options of this model family alone.
        """

    @abstractmethod
    def register_activation_hooks(self, layer_names: list[str], hook_fn: Hook) -> Sequence[Handle]:
        """Put `hook_fn(module, input, output)` on the named layers and return one handle for each.

        What the hook returns, unless None, must take the place of the layer's output for all
        layers that read it.
        """

    @abstractmethod
    def get_layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the output shape of each hookable layer for one sample, (C, H, W) or (T, C)."""

    @classmethod
    @abstractmethod
    def from_checkpoint(cls, checkpoint_path: Any, device: Any = "cuda", **kwargs: Any) -> Self:
        """Load the model from its weights onto a device, ready for use."""

    @classmethod
    @abstractmethod
    def get_default_config(cls) -> dict[str, Any]:
        """Return the configuration used when a checkpoint brings none."""

    # What follows has working defaults.

    def unlimited(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return `forward` before `x0_limit`, which guidance comes before and a sampler applies in each step."""
        return self.forward(x, sigma, class_labels, **kwargs)

    def tell_level(self, sigma: float) -> None:  # noqa: B027  # most models have nothing to say
        """Log, once, what the model makes of a noise level that it does not know; most know any."""

    x0_limit: X0Limit | None = None
    """Clipping or thresholding of x0; None: there is none."""
    embeds_guidance: bool = False
    """Whether guidance is an input of the network, the keyword argument `guidance` (B,), in place of a second pass."""

    default_steps: int = 18
    """Sampler steps when the user names none."""
    default_guidance: float = 1.0
    """Guidance scale when the user names none; 1 is the conditional model alone."""
    default_sampler: SamplerName = "heun"
    """Sampler when the user names none."""
    takes_prompts: bool = False
    """Whether prompts condition the model."""
    class_input: ClassInput = "one-hot"
    """How `forward` takes classes."""
    null_class: int | None = None
    """Index by which a model of class indices is told that no class is meant; None: it has none."""

    @property
    def config(self) -> dict[str, Any]:
        """The configuration this model was built with."""
        return self.get_default_config()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of x for one sample; latent models override it."""
        return (3, self.resolution, self.resolution)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Smallest and largest noise level of sampling."""
        return (0.002, 80.0)

    @property
    def defaults(self) -> SamplingDefaults:
        """What generations use where a request says nothing: the values above, or those overridden."""
        sigma_min, sigma_max = self.sigma_range
        own = SamplingDefaults(
            sigma_min, sigma_max, self.default_steps, self.default_guidance, self.default_sampler
        )
        return own.changed(**self.overrides)

    @property
    def overrides(self) -> Mapping[str, Any]:
        """What `override_defaults` was given."""
        return self.__dict__.get("_overrides", {})

    def override_defaults(self, **values: Any) -> None:
        """Take other sampling defaults than the model family's: sigma_max, default_steps, ….

        Raises:
            ConfigError: if a name is unknown or a value impossible.
        """
        overrides = {**self.overrides, **values}
        self.defaults.changed(**overrides)
        self.__dict__["_overrides"] = overrides

    def model_sigmas(
        self, num_steps: int, sigma_max: float | None = None, sigma_min: float | None = None
    ) -> Tensor | None:
        """Return noise levels of the model's own discrete schedule, (S,) float64 descending.

        None: it has no such schedule, and Karras et al. 2022, eq. 5 is used.

        Args:
            num_steps: how many levels above 0.
            sigma_max: first level; None: the schedule's own.
            sigma_min: last level above 0; None: the schedule's own.
        """
        return None

    def model_ending(self, num_steps: int) -> Ending:
        """Return how a sampling by the levels of `model_sigmas` ends; most end without noise."""
        return Ending()

    def start_scale(self, sigma_max: float) -> float:
        """Return the standard deviation of a sampler's start; variance-preserving models have sqrt(1 + sigma²)."""
        return sigma_max

    @property
    def precision(self) -> Precision:
        """Floating-point format of the forward pass."""
        return "float32"

    @property
    def layer_aliases(self) -> Mapping[str, str]:
        """Further names of hookable layers, {alias: layer}; hooks take both."""
        return {}

    @property
    def label_dropout(self) -> float | bool:
        """Share of labels or prompts withheld in training; false when no unconditional pass was trained."""
        return False

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name a class: those of `name_classes`, or 'class 7'; None for a model without classes."""
        given: tuple[str, ...] | None = self.__dict__.get("_class_names")
        return given or tuple(f"class {label}" for label in range(self.num_classes)) or None

    def name_classes(self, names: Sequence[str]) -> None:
        """Take the names of the classes, in the order of the labels, as a model folder's `config.json` gives them.

        Raises:
            ConfigError: if there is not one text a class.
        """
        if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(f"class_names {str(names)[:60]!r} is no list of names")
        if len(names) != self.num_classes:
            raise ConfigError(
                f"class_names has {len(names)} names, but model {self.model_type!r} has {self.num_classes} classes"
            )
        self.__dict__["_class_names"] = tuple(names)

    @property
    def device(self) -> torch.device:
        """Where the model's parameters lie; the CPU when it has none."""
        for network in self._networks():
            for tensor in network.parameters():
                return tensor.device
        return torch.device("cpu")

    def to(self, device: Any) -> Self:
        """Move the model's networks to a device."""
        for network in self._networks():
            nn.Module.to(network, device)
        return self

    def eval(self) -> Self:
        """Switch the model's networks to inference."""
        for network in self._networks():
            nn.Module.train(network, False)
        return self

    def _networks(self) -> list[nn.Module]:
        if isinstance(self, nn.Module):
            return [self]
        return [value for value in vars(self).values() if isinstance(value, nn.Module)]

    def encode(self, images: np.ndarray) -> Tensor:
        """Return the x0 of images: uint8 (N, H, W, 3) → (N, C, H, W) float32 in [-1, 1], on the CPU.

        A model of one channel is given the luma of BT.601, as Pillow's mode L.

        Raises:
            ShapeError: if the images are not uint8 or not of the model's resolution.
        """
        expected = (self.resolution, self.resolution, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise ShapeError(
                f"images are {images.dtype} of shape {images.shape}; model {self.model_type!r} takes uint8 "
                f"of shape (N, {', '.join(map(str, expected))}), so resize them first"
            )
        x0 = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(torch.float32)
        if self.input_shape[0] == 1:
            x0 = torch.einsum("nchw,c->nhw", x0, torch.tensor(LUMA)).unsqueeze(1)
        return x0 / 127.5 - 1.0

    def decode(self, x0: Tensor) -> np.ndarray:
        """Return the images of x0: (N, C, H, W) in [-1, 1] → uint8 (N, H, W, 3), rounded and clipped.

        Grey is the same in all three channels.
        """
        grey_levels = (x0.detach().to(torch.float32) * 127.5 + 128.0).clamp(0, 255)
        pixels = grey_levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels

    def make_labels(self, class_ids: Sequence[int]) -> Tensor | None:
        """Return the class labels (B, K) float32 on the model's device; -1 is uniform, 1/K each.

        None for a model without classes.

        Raises:
            ConfigError: if a class is outside -1 … K-1.
        """
        classes = self.num_classes
        if classes == 0:
            return None
        labels = torch.zeros(len(class_ids), classes)
        for row, class_id in enumerate(class_ids):
            if not -1 <= class_id < classes:
                raise ConfigError(
                    f"class {class_id} is not one of 0 … {classes - 1} of model {self.model_type!r}, "
                    "nor -1 for the uniform label"
                )
            if class_id == -1:
                labels[row] = 1.0 / classes
            else:
                labels[row, class_id] = 1.0
        return labels.to(self.device)

    def make_indices(self, class_ids: Sequence[int]) -> Tensor | None:
        """Return the classes as indices, (B,) int64 on the model's device; -1, no class meant, is `null_class`.

        None for a model without classes.

        Raises:
            ConfigError: if a class is outside -1 … K-1, or none is meant and the model cannot be told so.
        """
        labels = self.make_labels(class_ids)  # refuses a class that is none
        if labels is None:
            return None
        if -1 in class_ids and self.null_class is None:
            raise ConfigError(
                f"model {self.model_type!r} takes one class a sample and knows no uniform label; ask for a class, "
                f"0 … {self.num_classes - 1}"
            )
        chosen = [self.null_class if class_id == -1 else class_id for class_id in class_ids]
        return torch.tensor(chosen, dtype=torch.int64, device=self.device)

    def condition(self, conditions: Sequence[Condition]) -> dict[str, Tensor]:
        """Return the keyword arguments of `forward` that condition a batch, each (B, …) on the model's device.

        Raises:
            ConfigError: if a class is not one of the model's, or a prompt is given to a model without text.
        """
        if any(condition.prompt is not None for condition in conditions):
            raise ConfigError(f"model {self.model_type!r} takes no prompts; leave the prompt out")
        classes = [-1 if c.class_id is None else c.class_id for c in conditions]
        labels = self.make_indices(classes) if self.class_input == "index" else self.make_labels(classes)
        return {} if labels is None else {"class_labels": labels}

    def uncondition(self, conditions: Sequence[Condition]) -> dict[str, Tensor]:
        """Return the same for the unconditional pass; text models encode the negative prompts."""
        if self.class_input != "index" or self.null_class is None:
            return {}
        return {"class_labels": torch.full((len(conditions),), self.null_class, device=self.device)}

    def digest(self) -> str:
        """Return the sha256 of model family, configuration, parameters and buffers, computed once."""
        if "_computed_digest" not in self.__dict__:
            config = json.dumps(self.config, sort_keys=True, default=str)
            digest = hashlib.sha256(f"{self.model_type}\n{config}\n".encode())
            for network in self._networks():
                for name, tensor in sorted(network.state_dict().items()):
                    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
            self.__dict__["_computed_digest"] = digest.hexdigest()
        return str(self.__dict__["_computed_digest"])

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(model_type={self.model_type!r}, resolution={self.resolution}, "
            f"num_classes={self.num_classes}, layers={len(self.hookable_layers)})"
        )



def precision_of(dtype: torch.dtype) -> Precision:
    """Return the name of a network's dtype."""
    return next(name for name in get_args(Precision) if getattr(torch, name) == dtype)


def precision_dtype(precision: str, auto: torch.dtype = torch.float32) -> torch.dtype:
    """Return the dtype of a forward pass; 'auto' is what the model takes by itself.

    Raises:
        ConfigError: if the name is none of the known ones.
    """
    if precision == "auto":
        return auto
    if precision not in get_args(Precision):
        raise ConfigError(unknown_name("precision", precision, ("auto", *get_args(Precision))))
    dtype: torch.dtype = getattr(torch, precision)
    return dtype
