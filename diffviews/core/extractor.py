"""Extraction: capturing layers' activations, and the legacy files they are kept in."""

import json
import zlib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Conditioning, conditioning_rows
from diffviews.adapters.hooks import (
    Handle,
    Hook,
    attach_hooks,
    check_layers,
    detach_hooks,
    known_layers,
    primary_tensor,
)
from diffviews.core.session import InterventionSession, Keep, copy_of
from diffviews.data.files import write_atomically
from diffviews.errors import ConfigError, CorruptDataError, SelectionError, ShapeError
from diffviews.noise import sample_noise

StrPath = str | PathLike[str]

CAPTURE_BATCH = 64
"""Samples in one forward pass of `mean_activations`."""


@torch.no_grad()
def capture(
    adapter: GeneratorAdapter,
    x0: Tensor,
    sample_ids: Sequence[str],
    conditioning: Conditioning,
    sigma: float,
    layers: Sequence[str],
    keep: Keep = copy_of,
) -> dict[str, Any]:
    """Return layers' activations for samples at a noise level, from one forward pass.

    The input is x0 + sigma · noise(sample_id), the same noise at every sigma and for every layer.
    Nothing stays on the adapter afterwards.

    Args:
        adapter: the model.
        x0: samples, (B, C, H, W) float32, data in [-1, 1].
        sample_ids: their ids, which fix their noise.
        conditioning: what `adapter.condition` gave for them; empty for an unconditional pass.
        sigma: noise level > 0.
        layers: layers to capture.
        keep: what is kept of a layer's output, called while the model runs; the default is a copy.

    Returns:
        {layer: (B, *layer_shape)} on the model's device, in the layer's own dtype; or what `keep` returned.

    Raises:
        LayerNotFoundError: if the adapter has no such layer.
        ShapeError: if there is not one id for each sample.
    """
    if len(sample_ids) != len(x0):
        raise ShapeError(f"{len(sample_ids)} sample ids for {len(x0)} samples; give one for each")
    noise = sample_noise(sample_ids, x0.shape[1:])
    noised = (x0.to("cpu", torch.float32) + sigma * noise).to(adapter.device)
    levels = torch.full((len(x0),), sigma, dtype=torch.float32, device=adapter.device)
    given = {name: values.to(adapter.device) for name, values in conditioning.items()}
    with InterventionSession(adapter, record_layers=layers, keep=keep) as session, session.evaluation(0, sigma):
        adapter.forward(noised, levels, **given)
    return dict(session.natural)


def mean_activations(
    adapter: GeneratorAdapter,
    x0: Tensor,
    sample_ids: Sequence[str],
    conditioning: Conditioning,
    sigma: float,
    layers: Sequence[str],
) -> dict[str, Tensor]:
    """Return the mean over the samples of what `capture` returns, {layer: (1, *layer_shape)} float32."""
    sums: dict[str, Tensor] = {}
    for start in range(0, len(x0), CAPTURE_BATCH):
        rows = slice(start, start + CAPTURE_BATCH)
        given = conditioning_rows(conditioning, rows)
        captured = capture(adapter, x0[rows], sample_ids[rows], given, sigma, layers)
        for layer, values in captured.items():
            part = values.to(torch.float32).sum(dim=0, keepdim=True)
            sums[layer] = sums[layer] + part if layer in sums else part
    return {layer: total / len(x0) for layer, total in sums.items()}


class ActivationExtractor:
    """Keeps what chosen layers put out in the last forward pass.

        with ActivationExtractor(adapter, ["midblock"]) as extractor:
            adapter.forward(x, sigma, labels)
        activations = extractor.get_activations()       # {"midblock": (B, C, H, W)}

    Args:
        adapter: the model.
        layers: layers to capture; None: all.

    Raises:
        LayerNotFoundError: if the adapter has no such layer.
    """

    def __init__(self, adapter: GeneratorAdapter, layers: Sequence[str] | None = None) -> None:
        self.adapter = adapter
        self.layers = list(adapter.hookable_layers if layers is None else layers)
        check_layers(known_layers(adapter), self.layers)
        self.activations: dict[str, Tensor] = {}
        self._handles: list[Handle] = []

    def register_hooks(self) -> None:
        """Start capturing; a second call changes nothing."""
        if not self._handles:
            self._handles = attach_hooks(self.adapter, {layer: self._make_hook(layer) for layer in self.layers})

    def remove_hooks(self) -> None:
        """Stop capturing; what was captured stays."""
        detach_hooks(self._handles)
        self._handles = []

    def _make_hook(self, layer: str) -> Hook:
        def keep(module: Any, inputs: Any, output: Any) -> None:
            self.activations[layer] = primary_tensor(output).detach().to("cpu", copy=True)

        return keep

    def clear(self) -> None:
        """Forget what was captured."""
        self.activations.clear()

    def get_activations(self) -> dict[str, Tensor]:
        """Return {layer: (B, *layer_shape)} on the CPU."""
        return dict(self.activations)

    def save(self, output_path: StrPath, metadata: Mapping[str, Any] | None = None) -> Path:
        """Write `<output_path>.npz`, one array (B, D) a layer, and the metadata as `.json` beside it.

        Raises:
            ConfigError: if nothing was captured.
        """
        if not self.activations:
            raise ConfigError("nothing was captured yet; run a forward pass while the hooks are registered")
        return save_activations(output_path, self.activations, metadata)

    def __enter__(self) -> Self:
        self.register_hooks()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove_hooks()


def save_activations(
    output_path: StrPath, activations: Mapping[str, Any], metadata: Mapping[str, Any] | None = None
) -> Path:
    """Write activations as an uncompressed .npz, one array (N, D) a layer; return its path."""
    path = _with_suffix(output_path, ".npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {layer: _rows(values) for layer, values in activations.items()}
    write_atomically(path, lambda file: np.savez(file, **arrays))
    if metadata is not None:
        text = json.dumps(dict(metadata), indent=2)
        write_atomically(path.with_suffix(".json"), lambda file: file.write(text.encode()))
    return path


def _with_suffix(path: StrPath, suffix: str) -> Path:
    """Return the path with its ending, adding it rather than cutting 'sigma_0.5' at the point."""
    path = Path(path)
    return path if path.suffix == suffix else path.with_name(path.name + suffix)


def _rows(values: Any) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return array.reshape(len(array), -1)


def flatten_activations(activations: Mapping[str, Any]) -> np.ndarray:
    """Return one row a sample, (N, D): the layers one after the other, in sorted order.

    Raises:
        SelectionError: if there is no layer.
        ShapeError: if the layers have different numbers of samples.
    """
    if not activations:
        raise SelectionError("there are no activations to flatten; name at least one layer")
    counts = {layer: len(values) for layer, values in activations.items()}
    if len(set(counts.values())) > 1:
        raise ShapeError(f"the layers hold different numbers of samples: {counts}")
    return np.concatenate([_rows(activations[layer]) for layer in sorted(activations)], axis=1)


def load_activations(activation_path: StrPath) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save` wrote, by its path with or without `.npz`.

    Returns:
        {layer: (N, D)} and the metadata, empty when there is none.

    Raises:
        FileNotFoundError: if there is no such file.
        CorruptDataError: if it is truncated or holds anything but arrays, naming it.
    """
    path = _with_suffix(activation_path, ".npz")
    arrays = read_npz(path)
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return arrays, {}
    return arrays, _read_json(beside)


def read_npz(path: Path, layers: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file, all or some of them; never unpickles.

    Raises:
        LayerNotFoundError: if it has no such array.
        CorruptDataError: if it cannot be read, naming it.
    """
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise CorruptDataError(f"{path} is one array, not an .npz file of arrays by layer")
        with opened:
            check_layers(opened.files, layers or ())
            return {name: opened[name] for name in (opened.files if layers is None else layers)}
    except CorruptDataError:
        raise
    except (BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise CorruptDataError(f"{path} is truncated or not an .npz file of plain arrays: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CorruptDataError(f"{path} is not a JSON object: {error}") from error


def convert_to_fast_format(
    npz_path: StrPath, output_path: StrPath | None = None, layers: Sequence[str] | None = None
) -> Path:
    """Join the layers of an .npz into one .npy that can be memory-mapped.

    Beside it `<name>.npy.json` names the layers, in the sorted order of their columns, and the
    shape of each.

    Args:
        npz_path: file to convert.
        output_path: file to write; None: the same name with `.npy`.
        layers: layers to keep; None: all.

    Returns:
        Path of the .npy, (N, D) float32.

    Raises:
        LayerNotFoundError: if the file has no such layer.
        CorruptDataError: if the file cannot be read.
    """
    source = Path(npz_path)
    target = source.with_suffix(".npy") if output_path is None else _with_suffix(output_path, ".npy")
    arrays = read_npz(source, layers)
    matrix = flatten_activations(arrays).astype(np.float32, copy=False)
    info = {
        "layers": sorted(arrays),
        "shapes": {layer: list(arrays[layer].shape) for layer in sorted(arrays)},
        "num_samples": matrix.shape[0],
        "total_features": matrix.shape[1],
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda file: np.save(file, matrix, allow_pickle=False))
    text = json.dumps(info, indent=2)
    write_atomically(target.with_name(target.name + ".json"), lambda file: file.write(text.encode()))
    return target


def load_fast_activations(npy_path: StrPath, mmap_mode: Literal["r", "r+", "w+", "c"] | None = "r") -> np.ndarray:
    """Open the matrix (N, D) that `convert_to_fast_format` wrote, memory-mapped unless None.

    Raises:
        CorruptDataError: if the file is truncated or no plain array, naming it.
    """
    path = _with_suffix(npy_path, ".npy")
    try:
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CorruptDataError(f"{path} is truncated or not a plain array: {error}") from error
