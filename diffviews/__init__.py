"""DiffViews: look inside diffusion models, layer by layer, and track what is found with MLflow."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffviews.adapters import GeneratorAdapter, get_adapter, list_adapters, register_adapter

__version__ = "0.1.0"
__all__ = ["GeneratorAdapter", "get_adapter", "list_adapters", "register_adapter"]


def __getattr__(name: str) -> Any:
    """Load the adapter interface, and torch with it, only when a name of it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from diffviews import adapters

    return getattr(adapters, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
