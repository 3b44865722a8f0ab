"""Adapters: one model family each, all answering with the denoised image at a noise level."""

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Condition
from diffviews.adapters.hooks import HookMixin
from diffviews.adapters.registry import (
    discover_adapters,
    get_adapter,
    list_adapters,
    load_adapter,
    register_adapter,
    register_adapter_class,
    unregister_adapter,
)
