"""Sketch mode: scaler and PCA fitted on some samples, so that of all others only their vectors need be kept.

Whole activations are in memory only, for the samples fitted on and those held out to measure the loss,
and of no more layers at once than `MEMORY` holds.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch

from diffviews.data.activation_reader import count_nonfinite
from diffviews.data.disk import format_bytes
from diffviews.data.layout import LayerKey
from diffviews.errors import ConfigError
from diffviews.lightning.process_group import ALONE, ProcessGroup
from diffviews.noise import format_sigma
from diffviews.pipelines.capture.layer_array import place_of
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.processing.blocks import ActivationSource
from diffviews.processing.sketch import fit_sketch

logger = logging.getLogger(__name__)

MEMORY = 1 << 30
"""Bytes of activations that are held at once to fit on; layers that exceed it together take a pass each."""

HELD_OUT = 256
"""Samples whose whole activations are compared with their vectors."""

SPARE = 32
"""With fewer samples than this beyond those to fit on, the sketch is fitted on all."""


@dataclass(frozen=True, slots=True)
class FitRows:
    """Which rows of the sample set one layer's sketch is fitted on, and which are held out."""

    fit: np.ndarray
    """(n,) int64, ascending."""
    held_out: np.ndarray
    """(h,) int64, ascending; empty when `fit` are all."""

    @property
    def rows(self) -> np.ndarray:
        """Both, in the order in which their activations are kept."""
        return np.concatenate([self.fit, self.held_out])


def choose_rows(sample_ids: Sequence[str], count: int, capacity: int) -> FitRows:
    """Return the rows to fit on: all, or as many as wanted and as memory holds, drawn by the samples' ids.

    Args:
        sample_ids: ids of the sample set.
        count: rows wanted.
        capacity: rows that fit in memory.
    """
    total = len(sample_ids)
    if total < count + SPARE and total <= capacity:
        return FitRows(np.arange(total), np.arange(0))
    held_out = min(HELD_OUT, min(total, capacity) // 4)
    fit = max(0, min(count, capacity - held_out, total - held_out))
    lots = [hashlib.blake2b(f"sketch\x1f{sample_id}".encode(), digest_size=8).digest() for sample_id in sample_ids]
    drawn = np.array(sorted(range(total), key=lots.__getitem__), dtype=np.int64)
    return FitRows(np.sort(drawn[:fit]), np.sort(drawn[fit : fit + held_out]))


def sketch_path(folder: Path, key: LayerKey) -> Path:
    """Return where the fitted sketch of a (layer, sigma) lies while the extraction runs."""
    return place_of(folder, key) / "fitted-sketch.safetensors"


def fit_sketches(
    plan: ExtractionPlan, dtypes: Mapping[LayerKey, str], folder: Path, group: ProcessGroup = ALONE
) -> set[LayerKey]:
    """Fit the sketches that `folder` lacks; each is fitted by one process, and used by all.

    Args:
        plan: the extraction.
        dtypes: in which the activations fitted on are held.
        folder: where the sketches are put.
        group: the processes that share the work.

    Returns:
        The layers that have a value beyond float16 and were not fitted, of those that fell to this process.

    Raises:
        ConfigError: if too few rows of a layer fit in memory.
        CorruptDataError: if an activation is NaN or infinite; counted, and the samples named.
    """
    lacking = group.from_first(lambda: [key for key in dtypes if not sketch_path(folder, key).exists()])
    passes = [
        _Fit(plan, sigma, rows, {layer: dtypes[layer, sigma] for layer in rows})
        for sigma in plan.recipe.sigmas
        for rows in _groups(plan, {layer: dtypes[layer, at] for layer, at in lacking if at == sigma})
    ]
    return {key for one in group.share(passes) for key in one.run(folder)}


def _groups(plan: ExtractionPlan, dtypes: Mapping[str, str]) -> Iterator[dict[str, FitRows]]:
    """Yield layers whose activations are held together, with the rows of each."""
    shapes = plan.adapter.get_layer_shapes()
    known: dict[int, FitRows] = {}
    group: dict[str, FitRows] = {}
    held = 0
    for layer, dtype in dtypes.items():
        row_bytes = prod(shapes[layer]) * np.dtype(dtype).itemsize
        capacity = min(MEMORY // row_bytes, plan.recipe.sketch_samples + HELD_OUT)
        if capacity not in known:
            known[capacity] = choose_rows(plan.samples.sample_ids, plan.recipe.sketch_samples, capacity)
        rows = known[capacity]
        _check_enough(layer, rows, plan, row_bytes)
        size = len(rows.rows) * row_bytes
        if group and held + size > MEMORY:
            yield group
            group, held = {}, 0
        group[layer], held = rows, held + size
    if group:
        yield group


def _check_enough(layer: str, rows: FitRows, plan: ExtractionPlan, row_bytes: int) -> None:
    wanted = plan.recipe.maps.pca_components or 0
    if len(rows.held_out) and len(rows.fit) <= 2 * wanted:
        raise ConfigError(
            f"layer {layer!r} has {format_bytes(row_bytes)} a sample, so that {format_bytes(MEMORY)} hold "
            f"{len(rows.fit)} samples to fit a sketch on, but {wanted} components need more than {2 * wanted}; take "
            "fewer pca_components or a deeper layer"
        )


@dataclass(frozen=True, slots=True)
class _Fit:
    """One pass over the rows to fit on, for some layers at one sigma."""

    plan: ExtractionPlan
    sigma: float
    rows: Mapping[str, FitRows]
    dtypes: Mapping[str, str]

    def run(self, folder: Path) -> set[LayerKey]:
        activations = {}
        shapes = self.plan.adapter.get_layer_shapes()
        for layer, rows in self.rows.items():
            activations[layer] = np.empty((len(rows.rows), *shapes[layer]), self.dtypes[layer])
        logger.info("fitting sketches of %d layers at sigma %s", len(activations), format_sigma(self.sigma))
        overflowed = self._fill(activations)
        for layer in list(activations):
            values = activations.pop(layer)
            if layer not in overflowed:
                self._write(sketch_path(folder, (layer, self.sigma)), self.rows[layer], values)
        return {(layer, self.sigma) for layer in overflowed}

    def _fill(self, activations: Mapping[str, np.ndarray]) -> set[str]:
        """Capture the rows; return the layers whose values do not fit."""
        plan, overflowed = self.plan, set()
        place = {layer: _places(rows, len(plan.samples)) for layer, rows in self.rows.items()}
        wanted = np.unique(np.concatenate([rows.rows for rows in self.rows.values()]))
        for start in range(0, len(wanted), plan.recipe.batch_size):
            batch = wanted[start : start + plan.recipe.batch_size]

            def keep(layer: str, own: torch.Tensor, batch: np.ndarray = batch) -> None:
                places = place[layer][batch]
                rows = own.detach()[torch.from_numpy(places >= 0).to(own.device)]
                target = activations[layer]
                narrow = rows.to(getattr(torch, target.dtype.name)).cpu().numpy()
                target[places[places >= 0]] = narrow
                if count_nonfinite(narrow) and count_nonfinite(narrow) > int((~torch.isfinite(rows)).sum()):
                    overflowed.add(layer)

            plan.capture_rows(self.sigma, list(self.rows), batch, keep)
        return overflowed

    def _write(self, path: Path, rows: FitRows, values: np.ndarray) -> None:
        fit, held_out = values[: len(rows.fit)], values[len(rows.fit) :]
        whole = not len(held_out)
        classes = self.plan.samples.class_labels[rows.held_out]
        try:
            sketch = fit_sketch(
                fit,
                self.plan.recipe.maps,
                held_out=None if whole else held_out,
                held_out_classes=None if whole else classes,
            )
        except FloatingPointError:
            ids = self.plan.samples.sample_ids
            ActivationSource(values).require_finite([ids[row] for row in rows.rows.tolist()])
            raise
        path.parent.mkdir(parents=True, exist_ok=True)
        sketch.save(path)


def _places(rows: FitRows, total: int) -> np.ndarray:
    place = np.full(total, -1, dtype=np.int64)
    place[rows.rows] = np.arange(len(rows.rows))
    return place
