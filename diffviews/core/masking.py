"""Masks: fixed values in place of layers' outputs, and how they are made from stored activations."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.hooks import HookedLayers, attach_hooks, check_finite, mask_hook
from diffviews.core.activation_files import StrPath, read_npz
from diffviews.data.layout import LayerLayout
from diffviews.errors import SelectionError, ShapeError


class ActivationMasker(HookedLayers):
    """Puts fixed values in place of layers' outputs while its hooks are registered.

        masker = ActivationMasker(adapter)
        masker.set_mask("midblock", average)            # (1, C, H, W), serves any batch
        with masker:
            adapter.forward(x, sigma, labels)

    Args:
        adapter: the model.
    """

    def __init__(self, adapter: GeneratorAdapter) -> None:
        super().__init__()
        self.adapter = adapter
        self.masks: dict[str, Tensor] = {}
        self._registered: tuple[str, ...] = ()

    def set_mask(self, layer_name: str, activation: Tensor) -> None:
        """Set a layer's mask, (1, *layer_shape), or (B, *layer_shape) for batches of B alone.

        Raises:
            ConfigError: if it holds NaN or infinite values.
        """
        check_finite(activation, layer_name)
        self.masks[layer_name] = activation.detach().cpu()

    def clear_mask(self, layer_name: str) -> None:
        """Forget a layer's mask, if there is one."""
        self.masks.pop(layer_name, None)

    def clear_masks(self) -> None:
        """Forget all masks."""
        self.masks.clear()

    def register_hooks(self, layers: Sequence[str] | None = None) -> None:
        """Start masking; hooks of an earlier call are replaced.

        Args:
            layers: layers to hook; None: those that have a mask now. A hooked layer without a
                mask passes its own output on.

        Raises:
            LayerNotFoundError: if the adapter has no such layer; nothing is hooked then.
        """
        self.remove_hooks()
        names = tuple(self.masks if layers is None else layers)
        self._handles = attach_hooks(self.adapter, {name: mask_hook(self.masks, name) for name in names})
        self._registered = names

    def remove_hooks(self) -> None:
        """Stop masking; the masks stay set."""
        super().remove_hooks()
        self._registered = ()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Take the hooks off for the time of a `with` block and put them back afterwards."""
        names = self._registered
        self.remove_hooks()
        try:
            yield
        finally:
            if names:
                self.register_hooks(names)


def load_activation_from_npz(npz_path: StrPath, layer_name: str) -> Tensor:
    """Read one layer from an .npz file: (N, D) as `ActivationExtractor.save` wrote it; (D,) gets N = 1.

    Raises:
        LayerNotFoundError: if the file has no such layer.
        CorruptDataError: if the file cannot be read.
    """
    activation = torch.from_numpy(read_npz(Path(npz_path), [layer_name])[layer_name])
    return activation.unsqueeze(0) if activation.ndim == 1 else activation


def unflatten_activation(flat_activation: Any, target_shape: Sequence[int]) -> Tensor:
    """Give flat activations, (D,) or (B, D), a layer's shape back: (1 or B, *target_shape).

    Raises:
        ShapeError: if D is not the size of the shape.
    """
    flat = torch.as_tensor(flat_activation)
    rows = flat.unsqueeze(0) if flat.ndim == 1 else flat.flatten(1)
    size = int(np.prod(target_shape))
    if rows.shape[1] != size:
        raise ShapeError(
            f"an activation of shape {tuple(flat.shape)} has {rows.shape[1]} values a sample, but a layer "
            f"of shape {tuple(target_shape)} has {size}"
        )
    return rows.reshape(-1, *target_shape)


def compute_mask_dict(
    activations: Any,
    neighbor_indices: Sequence[int] | np.ndarray,
    layer_shapes: Mapping[str, Sequence[int]],
    layers: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Return the mean of chosen rows for each layer, as masks.

    Args:
        activations: (N, D) array or tensor, the layers one after the other in sorted order, as
            `flatten_activations` makes it; it may be memory-mapped.
        neighbor_indices: rows to average.
        layer_shapes: shape of *every* layer in `activations`; offsets count all of them, in
            sorted order, whichever are asked for.
        layers: layers to make masks for; None: all.

    Returns:
        {layer: (1, *layer_shape) float32}.

    Raises:
        LayerNotFoundError: if `layer_shapes` has no such layer, with the nearest names.
        SelectionError: if no row is chosen, one is chosen twice or does not exist, or holds NaN.
        ShapeError: if D is not the sum of the layers' sizes.
    """
    layout = LayerLayout.from_shapes(layer_shapes)
    if activations.ndim != 2 or activations.shape[1] != layout.size:
        raise ShapeError(
            f"activations have shape {tuple(activations.shape)}, but the layers' shapes add up to "
            f"(N, {layout.size}); give the shapes of all layers that the activations hold"
        )
    rows = _check_rows(neighbor_indices, len(activations))
    return {
        name: _mean(activations[rows, layout.span(name)], name).reshape(1, *layout.shape(name))
        for name in (layout.names if layers is None else layers)
    }


def _check_rows(indices: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    rows = np.asarray(indices)
    if rows.size == 0:
        raise SelectionError("no samples are selected; select at least one to average")
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise SelectionError(f"rows must be a list of integers, not {rows.dtype} of shape {rows.shape}")
    outside = rows[(rows < 0) | (rows >= count)]
    if outside.size:
        raise SelectionError(f"row {outside[0]} is not one of 0 … {count - 1}")
    if len(np.unique(rows)) < rows.size:
        raise SelectionError(f"rows {rows.tolist()} name a sample more than once; name each once")
    return rows


def _mean(values: Any, layer: str) -> Tensor:
    selected = torch.as_tensor(values).to("cpu", torch.float64)
    bad = int((~torch.isfinite(selected)).any(dim=1).sum())
    if bad:
        raise SelectionError(
            f"{bad} of {len(selected)} selected samples hold NaN or infinite values in layer {layer!r}; select others"
        )
    return selected.mean(dim=0).to(torch.float32)
