"""Forward hooks: reading and replacing what a layer passes on, whatever the form of its output.

handles = attach_hooks(adapter, {"midblock": hook})     # all of them or none
value = primary_tensor(output)                          # what a hook looks at
return replace_primary(output, value * 0)               # what later layers then read
detach_hooks(handles)
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from diffviews.errors import ConfigError, LayerNotFoundError, ShapeError, unknown_name

Hook = Callable[[Any, Any, Any], Any]
"""A torch forward hook `(module, input, output)`; what it returns, unless None, replaces the output."""


class Handle(Protocol):
    """What `register_activation_hooks` returns for each hook."""

    def remove(self) -> None:
        """Take the hook off its module."""


class Hookable(Protocol):
    """The part of an adapter that hooks need."""

    @property
    def hookable_layers(self) -> Sequence[str]:
        """Names of the layers that take hooks."""

    def register_activation_hooks(self, layer_names: list[str], hook_fn: Hook) -> Sequence[Handle]:
        """Hook the named layers."""


def primary_tensor(output: Any) -> Tensor:
    """Return the tensor that stands for a layer's output: the first one found, depth first.

    Raises:
        ShapeError: if the output holds no tensor.
    """
    found = _first_tensor(output)
    if found is None:
        raise ShapeError(f"a layer returned a {type(output).__name__} without a tensor; it cannot be hooked")
    return found


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    return next((t for part in _parts(output) if (t := _first_tensor(part)) is not None), None)


def _parts(output: Any) -> Iterable[Any]:
    if isinstance(output, Mapping):
        return output.values()
    if isinstance(output, (tuple, list)):
        return output
    if _is_record(output):
        return [getattr(output, field.name) for field in dataclasses.fields(output)]
    return ()


def _is_record(output: Any) -> bool:
    return dataclasses.is_dataclass(output) and not isinstance(output, type)


def replace_primary(output: Any, new: Tensor) -> Any:
    """Return `output` with `new` in every place that holds its primary tensor.

    A block that returns its result and, beside it, the skips for the decoder holds the result
    twice; a replacement that reached only the first place would leak the old value (spec [S5.2]).
    A place counts as a copy when it is the same tensor, shares its memory, or equals it.
    """
    return _swap(output, primary_tensor(output), new)


def _swap(output: Any, old: Tensor, new: Tensor) -> Any:
    if isinstance(output, Tensor):
        return new if _is_copy(output, old) else output
    if _is_record(output):
        names = [field.name for field in dataclasses.fields(output) if field.init]
        return dataclasses.replace(output, **{name: _swap(getattr(output, name), old, new) for name in names})
    if isinstance(output, Mapping):
        return type(output)({key: _swap(part, old, new) for key, part in output.items()})  # type: ignore[call-arg]
    if isinstance(output, (tuple, list)):
        parts = [_swap(part, old, new) for part in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    return output


def _is_copy(tensor: Tensor, old: Tensor) -> bool:
    if tensor is old:
        return True
    if (tensor.shape, tensor.dtype, tensor.device) != (old.shape, old.dtype, old.device):
        return False
    return (tensor.data_ptr(), tensor.stride()) == (old.data_ptr(), old.stride()) or torch.equal(tensor, old)


def fit_batch(value: Tensor, like: Tensor, layer: str) -> Tensor:
    """Return `value` for the batch of `like`: its device and dtype, one row serving every sample.

    Args:
        value: (1, *shape) or (B, *shape).
        like: a layer's own output, (B, *shape).
        layer: its name, for the error.

    Raises:
        ShapeError: if the shapes differ, naming both.
    """
    if value.shape[1:] != like.shape[1:] or value.shape[0] not in (1, like.shape[0]):
        raise ShapeError(
            f"the value for layer {layer!r} has shape {tuple(value.shape)}, but the layer's output has shape "
            f"{tuple(like.shape)}; give (1, {', '.join(map(str, like.shape[1:]))})"
        )
    return value.to(like.device, like.dtype).expand_as(like)


def check_finite(value: Tensor, layer: str) -> None:
    """Refuse a replacement that is not a number somewhere, since it would spoil all later layers.

    Raises:
        ConfigError: with the count of NaN or infinite values.
    """
    bad = value.numel() - int(torch.isfinite(value).sum())
    if bad:
        raise ConfigError(
            f"the value for layer {layer!r} holds {bad} NaN or infinite values of {value.numel()}; "
            "leave out the samples that have them"
        )


def check_layers(known: Iterable[str], wanted: Iterable[str]) -> None:
    """Refuse the first of the `wanted` layers that is not among the `known` ones.

    Raises:
        LayerNotFoundError: naming it and the nearest names.
    """
    names = list(known)
    for layer in wanted:
        if layer not in names:
            raise LayerNotFoundError(unknown_name("layer", layer, names))


def known_layers(adapter: Hookable) -> list[str]:
    """Return every name by which a layer of the adapter may be called, aliases last."""
    return [*adapter.hookable_layers, *getattr(adapter, "layer_aliases", ())]


def attach_hooks(adapter: Hookable, hooks: Mapping[str, Hook]) -> list[Handle]:
    """Register one hook a layer, all of them or, when any registration fails, none.

    Raises:
        LayerNotFoundError: if the adapter has no layer of such a name.
    """
    check_layers(known_layers(adapter), hooks)
    handles: list[Handle] = []
    try:
        for layer, hook in hooks.items():
            handles.extend(adapter.register_activation_hooks([layer], hook))
    except BaseException:
        detach_hooks(handles)
        raise
    return handles


def detach_hooks(handles: Iterable[Handle]) -> None:
    """Remove hooks from their modules; a hook that is gone already is no error."""
    for handle in handles:
        handle.remove()


def measured_layer_shapes(adapter: Any) -> dict[str, tuple[int, ...]]:
    """Return the output shape of each hookable layer for one sample, from one unconditional pass over zeros.

    Raises:
        LayerNotFoundError: if the pass does not reach a layer.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def measure(layer: str) -> Hook:
        return lambda module, inputs, output: shapes.__setitem__(layer, tuple(primary_tensor(output).shape[1:]))

    handles = attach_hooks(adapter, {layer: measure(layer) for layer in adapter.hookable_layers})
    try:
        with torch.no_grad():
            adapter.forward(torch.zeros(1, *adapter.input_shape, device=adapter.device), 1.0)
    finally:
        detach_hooks(handles)
    for layer in adapter.hookable_layers:
        if layer not in shapes:
            raise LayerNotFoundError(f"layer {layer!r} is not reached in a forward pass; leave it out")
    return {layer: shapes[layer] for layer in adapter.hookable_layers}


def extraction_hook(kept: dict[str, Tensor], layer: str) -> Hook:
    """Return a hook that keeps a layer's output in `kept`, detached and copied to the CPU."""

    def extract(module: Any, inputs: Any, output: Any) -> None:
        kept[layer] = primary_tensor(output).detach().to("cpu", copy=True)

    return extract


def mask_hook(masks: Mapping[str, Tensor], layer: str) -> Hook:
    """Return a hook that puts the mask that `masks` then holds for a layer, if any, in place of its output."""

    def replace(module: Any, inputs: Any, output: Any) -> Any:
        mask = masks.get(layer)
        if mask is None:
            return output
        return replace_primary(output, fit_batch(mask, primary_tensor(output), layer).clone())

    return replace


class HookedLayers:
    """Hooks on layers that are on while its `with` block runs, or between its two methods."""

    def __init__(self) -> None:
        self._handles: list[Handle] = []

    def register_hooks(self) -> None:
        """Put the hooks on."""
        raise NotImplementedError

    def remove_hooks(self) -> None:
        """Take the hooks off; what they captured or were given stays."""
        detach_hooks(self._handles)
        self._handles = []

    def __enter__(self) -> Self:
        self.register_hooks()
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove_hooks()


class HookMixin:
    """Keeps an adapter's hooks, captured activations and masks in one place.

        class MyAdapter(HookMixin, GeneratorAdapter):
            def register_activation_hooks(self, layer_names, hook_fn):
                handles = [self.layer(name).register_forward_hook(hook_fn) for name in layer_names]
                for handle in handles:
                    self.add_handle(handle)
                return handles

    State is made on first use, so a subclass need not call `__init__`.
    """

    def _hook_state(self) -> "_HookState":
        return self.__dict__.setdefault("_hooks_of_adapter", _HookState())

    def add_handle(self, handle: Handle) -> None:
        """Track a hook for `remove_hooks`; hooks removed elsewhere in the meantime are forgotten."""
        state = self._hook_state()
        state.handles = [*filter(_is_attached, state.handles), handle]

    def remove_hooks(self) -> None:
        """Remove every tracked hook."""
        state = self._hook_state()
        detach_hooks(state.handles)
        state.handles = []

    def hook_modules(self, network: nn.Module, paths: Iterable[str], hook_fn: Hook) -> list[Handle]:
        """Put a hook on submodules of a network and track it."""
        handles: list[Handle] = []
        for path in paths:
            handles.append(network.get_submodule(path).register_forward_hook(hook_fn))
            self.add_handle(handles[-1])
        return handles

    @property
    def num_hooks(self) -> int:
        """Number of tracked hooks that are still on their modules."""
        return sum(map(_is_attached, self._hook_state().handles))

    def set_mask(self, layer_name: str, value: Tensor) -> None:
        """Keep a mask (1, *shape) for a layer.

        Raises:
            ConfigError: if it holds NaN or infinite values.
        """
        check_finite(value, layer_name)
        self._hook_state().masks[layer_name] = value

    def get_mask(self, layer_name: str) -> Tensor | None:
        """Return the mask kept for a layer, or None."""
        return self._hook_state().masks.get(layer_name)

    def clear_mask(self, layer_name: str) -> None:
        """Forget the mask of a layer, if there is one."""
        self._hook_state().masks.pop(layer_name, None)

    def clear_masks(self) -> None:
        """Forget all masks."""
        self._hook_state().masks.clear()

    def get_activations(self) -> dict[str, Tensor]:
        """Return what the extraction hooks saw last, {layer: (B, *shape)} on the CPU."""
        return dict(self._hook_state().activations)

    def get_activation(self, layer_name: str) -> Tensor | None:
        """Return what the extraction hook of one layer saw last, or None."""
        return self._hook_state().activations.get(layer_name)

    def clear_activations(self) -> None:
        """Forget all captured activations."""
        self._hook_state().activations.clear()

    def make_extraction_hook(self, layer_name: str) -> Hook:
        """Return a hook that keeps a layer's output, detached and copied to the CPU."""
        return extraction_hook(self._hook_state().activations, layer_name)

    def make_mask_hook(self, layer_name: str, mask: Tensor) -> Hook:
        """Return a hook that puts `mask`, (1, *shape) or (B, *shape), in place of a layer's output."""
        check_finite(mask, layer_name)
        return mask_hook({layer_name: mask}, layer_name)


@dataclasses.dataclass(slots=True)
class _HookState:
    handles: list[Handle] = dataclasses.field(default_factory=list)
    masks: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    activations: dict[str, Tensor] = dataclasses.field(default_factory=dict)


def _is_attached(handle: Handle) -> bool:
    """Whether a hook is still on its module; handles not of torch's kind count as attached."""
    reference = getattr(handle, "hooks_dict_ref", None)
    if reference is None:
        return True
    hooks = reference()
    return hooks is not None and getattr(handle, "id", math.nan) in hooks
