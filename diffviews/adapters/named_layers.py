"""Adapters whose layers are modules of their network, which torch's own hooks reach."""

from abc import abstractmethod
from collections.abc import Mapping

from torch import nn

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.hooks import Handle, Hook, measured_layer_shapes


class NamedLayers(GeneratorAdapter):
    """An adapter that says which modules are its layers; names, hooks and shapes follow from that."""

    @property
    @abstractmethod
    def layer_modules(self) -> Mapping[str, nn.Module]:
        """The modules by name, in the order of the forward pass; each returns what later modules read of it."""

    @property
    def hookable_layers(self) -> list[str]:
        """Names of the modules."""
        return list(self.layer_modules)

    def register_activation_hooks(self, layer_names: list[str], hook_fn: Hook) -> list[Handle]:
        """Put torch's forward hook on each module."""
        modules = self.layer_modules
        return [modules[name].register_forward_hook(hook_fn) for name in layer_names]

    def get_layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes that one pass over zeros has, which is made once."""
        if "_measured_shapes" not in self.__dict__:
            self.__dict__["_measured_shapes"] = measured_layer_shapes(self)
        return dict(self.__dict__["_measured_shapes"])
