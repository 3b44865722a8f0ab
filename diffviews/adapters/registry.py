"""Names of adapters: those built in, those registered in code, those of installed plug-ins."""

import logging
import threading
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from os import PathLike
from typing import Any, TypeVar

from diffviews.adapters.base import GeneratorAdapter
from diffviews.device import resolve_device
from diffviews.errors import AdapterNotFoundError, ConfigError, unknown_name

ENTRY_POINT_GROUP = "diffviews.adapters"
"""Entry-point group by which a third-party package offers adapters: `name = "module:Class"`."""

BUILT_IN = {
    "adm-imagenet-64": "diffviews.adapters.guided_diffusion:ADMImageNet64Adapter",
    "adm-imagenet-128": "diffviews.adapters.guided_diffusion:ADMImageNet128Adapter",
    "adm-imagenet-256": "diffviews.adapters.guided_diffusion:ADMImageNet256Adapter",
    "adm-imagenet-512": "diffviews.adapters.guided_diffusion:ADMImageNet512Adapter",
    "ddpm": "diffviews.adapters.diffusers_ddpm:DDPMAdapter",
    "dmd2-imagenet-64": "diffviews.adapters.dmd2:DMD2ImageNetAdapter",
    "dmd2-sd-v1.5": "diffviews.adapters.dmd2:DMD2StableDiffusionAdapter",
    "dmd2-sdxl-1step": "diffviews.adapters.dmd2:DMD2OneStepAdapter",
    "dmd2-sdxl-4step": "diffviews.adapters.dmd2:DMD2FourStepAdapter",
    "edm": "diffviews.adapters.edm_published:OwnEDMAdapter",
    "edm-afhqv2-64": "diffviews.adapters.edm_published:EDMAFHQv2Adapter",
    "edm-cifar10": "diffviews.adapters.edm_published:EDMCifar10Adapter",
    "edm-digits": "diffviews.adapters.edm_digits:EDMDigitsAdapter",
    "edm-ffhq-64": "diffviews.adapters.edm_published:EDMFFHQAdapter",
    "edm-imagenet-64": "diffviews.adapters.edm_imagenet:EDMImageNetAdapter",
    "edm2-imagenet-512": "diffviews.adapters.edm2_latent:LatentEDM2Adapter",
    "edm2-imagenet-64": "diffviews.adapters.edm_published:EDM2ImageNetAdapter",
    "sd-v1.5": "diffviews.adapters.stable_diffusion:StableDiffusionAdapter",
    "sdxl": "diffviews.adapters.stable_diffusion:StableDiffusionXLAdapter",
}
"""Adapters of this package, imported when first asked for."""

_log = logging.getLogger(__name__)
_AdapterClass = TypeVar("_AdapterClass", bound=type[GeneratorAdapter])


class _Registry:
    """Adapter classes by name, and why a plug-in could not be loaded."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._classes: dict[str, type[GeneratorAdapter]] = {}
        self._broken: dict[str, str] = {}
        self._withdrawn: set[str] = set()

    def register(self, name: str, cls: type[GeneratorAdapter]) -> None:
        """Register an adapter class under `name`; raises as `register_adapter` does."""
        if not (isinstance(cls, type) and issubclass(cls, GeneratorAdapter)):
            raise TypeError(f"adapter {name!r}: {cls!r} is not a subclass of GeneratorAdapter")
        with self._lock:
            taken = self._classes.get(name) or self._built_in(name)
            if taken is not None and not _same_class(taken, cls):
                raise ConfigError(
                    f"adapter name {name!r} is taken by {taken.__module__}.{taken.__qualname__}; "
                    "choose another name or call unregister_adapter first"
                )
            self._classes[name] = cls
            self._withdrawn.discard(name)

    def unregister(self, name: str) -> type[GeneratorAdapter] | None:
        """Withdraw a name, built in or not, until it is registered again; return its class or None."""
        with self._lock:
            removed = self.find(name)
            self._classes.pop(name, None)
            self._withdrawn.add(name)
            return removed

    def find(self, name: str) -> type[GeneratorAdapter] | None:
        with self._lock:
            return self._classes.get(name) or self._built_in(name)

    def _built_in(self, name: str) -> type[GeneratorAdapter] | None:
        """Import a built-in adapter's class; its own decorator registers it."""
        if name in self._withdrawn or name not in BUILT_IN or name in self._classes:
            return self._classes.get(name)
        module, _, attribute = BUILT_IN[name].partition(":")
        cls = getattr(import_module(module), attribute)
        return self._classes.setdefault(name, cls)

    def discover(self) -> list[str]:
        """Load the adapters of installed plug-ins and return the names of all, sorted.

        A plug-in that cannot be loaded is named in a logged warning and left out.
        """
        for point in entry_points(group=ENTRY_POINT_GROUP):
            with self._lock:
                if point.name not in self._withdrawn and self.find(point.name) is None:
                    self._load(point)
        with self._lock:
            return sorted(self._classes.keys() | (BUILT_IN.keys() - self._withdrawn))

    def _load(self, point: EntryPoint) -> None:
        try:
            self.register(point.name, point.load())
            self._broken.pop(point.name, None)
        except Exception as error:  # noqa: BLE001 - a plug-in's import may fail in any way; the rest must live
            reason = f"{type(error).__name__}: {error}"
            if self._broken.get(point.name) != reason:
                _log.warning("adapter plug-in %r (%s) cannot be loaded: %s", point.name, point.value, reason)
            self._broken[point.name] = reason

    def reason_missing(self, name: str) -> str:
        with self._lock:
            reason = self._broken.get(name)
        return f"adapter {name!r} is installed, but its plug-in cannot be loaded: {reason}" if reason else ""


def _same_class(a: type, b: type) -> bool:
    """Whether `b` is `a`, or `a` defined once more, as when a notebook cell runs again."""
    return a is b or (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)


_REGISTRY = _Registry()
register_adapter_class, unregister_adapter = _REGISTRY.register, _REGISTRY.unregister
discover_adapters = list_adapters = _REGISTRY.discover


def register_adapter(name: str) -> Callable[[_AdapterClass], _AdapterClass]:
    """Return a class decorator that registers an adapter under `name`.

    Raises:
        ConfigError: if another class has this name.
        TypeError: if the class is no GeneratorAdapter.
    """

    def decorate(cls: _AdapterClass) -> _AdapterClass:
        _REGISTRY.register(name, cls)
        return cls

    return decorate


def get_adapter(name: str) -> type[GeneratorAdapter]:
    """Return the adapter class of this name.

    Raises:
        AdapterNotFoundError: if there is none, with the nearest names.
    """
    cls = _REGISTRY.find(name)
    if cls is None:
        known = discover_adapters()
        cls = _REGISTRY.find(name)
        if cls is None:
            raise AdapterNotFoundError(_REGISTRY.reason_missing(name) or unknown_name("adapter", name, known))
    return cls


def load_adapter(
    name: str, checkpoint: str | PathLike[str] | None = None, device: str = "auto", **kwargs: Any
) -> GeneratorAdapter:
    """Return the adapter of this name with its weights loaded, in inference mode.

    Args:
        name: registered name, such as 'edm-digits'.
        checkpoint: weights to load; None takes those the adapter ships with.
        device: 'auto' takes CUDA, then MPS, then the CPU.
        kwargs: options of the adapter's `from_checkpoint`.

    Raises:
        AdapterNotFoundError: if no adapter has this name.
        CheckpointError: if the weights are missing, damaged or of another model.
        ConfigError: if the device is not there.
    """
    cls = get_adapter(name)
    return cls.from_checkpoint(checkpoint, device=str(resolve_device(device)), **kwargs).eval()
