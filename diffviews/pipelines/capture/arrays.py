"""Filling one array of activations per (layer, sigma) of a plan, resumable at any moment, by one process or several."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from diffviews.data.activations import ActivationWriter
from diffviews.data.disk import format_bytes, require_disk_space
from diffviews.data.known_rows import KnownRows
from diffviews.data.layout import LayerKey, estimate_bytes
from diffviews.lightning.extraction import ExtractionModule, batches_of, block_rows, unfinished_blocks
from diffviews.lightning.process_group import ALONE, ProcessGroup
from diffviews.lightning.runner import predict
from diffviews.pipelines.capture.layer_array import LayerArray, array_path, overflow_note
from diffviews.pipelines.capture.sketches import SPARE, fit_sketches, sketch_path
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.processing.sketch import Sketch

logger = logging.getLogger(__name__)


def capture_activations(
    plan: ExtractionPlan,
    keys: Sequence[LayerKey],
    folder: Path,
    *,
    group: ProcessGroup = ALONE,
    progress: bool = True,
    known: Mapping[LayerKey, KnownRows] | None = None,
) -> dict[LayerKey, LayerArray]:
    """Run the model over the sample set and write the outputs of `keys`, (layer, sigma), under `folder`.

    Chunks that `folder` already holds are kept. A layer with a value outside float16 is captured
    again in float32. Rows that `known` holds are copied, and the model runs on the others only. Every process of
    the group gives the same plan and keys, and takes its share of the blocks; all of them write in `folder`.

    Returns:
        {(layer, sigma): the finished array}.

    Raises:
        DiskSpaceError: if the disk is too small for what is still to be written.
        WorkerError: if another process failed.
    """
    if not keys:
        return {}
    group.from_first(lambda: _announce(plan, folder, _dtypes(plan, folder, keys)))
    sketches = _sketches(plan, folder, keys, group)
    dtypes = group.from_first(lambda: _dtypes(plan, folder, keys))
    opened = _writers(plan, folder, dtypes, sketches) if group.leads else {}
    # Settled by one: who looked for himself would see what the others have written meanwhile.
    lacking, blocks = group.from_first(lambda: _lacking(opened, sketches))
    writers, own = opened or _writers(plan, folder, dtypes, sketches), group.share(blocks)
    if own:
        filled = {key: writers[key] for key in lacking}
        _fill(plan, folder, own, filled, sketches, known or {}, progress=progress and group.leads)
    group.wait()
    if group.from_first(lambda: _remove_overflowed(plan, folder, dtypes)):
        return capture_activations(plan, keys, folder, group=group, progress=progress, known=known)
    for key in group.share(keys):
        writers[key].finish()
    group.wait()
    shapes = plan.adapter.get_layer_shapes()
    return {key: LayerArray(writers[key].path, sketches.get(key), shapes[key[0]]) for key in keys}


def _remove_overflowed(plan: ExtractionPlan, folder: Path, dtypes: Mapping[LayerKey, str]) -> bool:
    """Remove the arrays that a value does not fit, to be captured in float32; say whether there are any."""
    now = _dtypes(plan, folder, list(dtypes))
    overflowed = [key for key in dtypes if now[key] != dtypes[key]]
    for key in overflowed:
        logger.info("layer %s at sigma %s exceeds float16 and is captured again in float32", *key)
        shutil.rmtree(array_path(folder, key, dtypes[key]), ignore_errors=True)
    return bool(overflowed)


def _activation_dtypes(plan: ExtractionPlan, folder: Path, keys: Sequence[LayerKey]) -> dict[LayerKey, str]:
    """Return the dtype of each layer's activations: the plan's, or float32 for one known not to fit float16."""
    return {key: "float32" if overflow_note(folder, key).exists() else plan.recipe.dtype for key in keys}


def _dtypes(plan: ExtractionPlan, folder: Path, keys: Sequence[LayerKey]) -> dict[LayerKey, str]:
    """Return the dtype of each array: that of the activations.

    Vectors of no more samples than a sketch is fitted on are the very points of the map, hence float32.
    """
    if plan.recipe.storage == "sketch" and len(plan.samples) < plan.recipe.sketch_samples + SPARE:
        return dict.fromkeys(keys, "float32")
    return _activation_dtypes(plan, folder, keys)


def _note_overflow(folder: Path, key: LayerKey) -> None:
    note = overflow_note(folder, key)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()


def _sketches(
    plan: ExtractionPlan, folder: Path, keys: Sequence[LayerKey], group: ProcessGroup
) -> dict[LayerKey, Path]:
    """Return the fitted sketch of each array that is to hold vectors, none when activations are stored whole."""
    if plan.recipe.storage == "full":
        return {}
    for _ in range(2):  # those that do not fit float16 are fitted again, in float32
        dtypes = group.from_first(lambda: _activation_dtypes(plan, folder, keys))
        for key in fit_sketches(plan, dtypes, folder, group):
            _note_overflow(folder, key)
        group.wait()
    return {key: sketch_path(folder, key) for key in keys}


def _lacking(
    writers: Mapping[LayerKey, ActivationWriter], sketches: Mapping[LayerKey, Path]
) -> tuple[list[LayerKey], list[tuple[float, int]]]:
    """Return the arrays that lack chunks and the blocks that hold these, after writing what the sketches know."""
    for key, path in sketches.items():
        points, writer = Sketch.load(path).points, writers[key]
        for chunk in range(writer.num_chunks if points is not None else 0):  # it was fitted on all samples
            if points is not None and not writer.is_done(chunk):
                writer.write(writer.rows_of(chunk).start, points[writer.rows_of(chunk)])
    lacking = {key: w for key, w in writers.items() if not w.has(0, w.shape[0])}
    return list(lacking), unfinished_blocks(lacking) if lacking else []


def _fill(
    plan: ExtractionPlan,
    folder: Path,
    blocks: Sequence[tuple[float, int]],
    writers: Mapping[LayerKey, ActivationWriter],
    sketches: Mapping[LayerKey, Path],
    known: Mapping[LayerKey, KnownRows],
    *,
    progress: bool,
) -> None:
    """Capture some blocks of the arrays that lack chunks; those that overflow are noted in `folder`."""
    rows, device = block_rows(writers), plan.adapter.device
    useful = {key: known[key] for key, writer in writers.items() if key in known and known[key].fits(writer.dtype)}
    there = {sigma: _known_at(sigma, writers, useful) for _, sigma in writers}
    batches = batches_of(blocks, len(plan.samples), block_rows=rows, batch_size=plan.recipe.batch_size, known=there)
    fitted = {key: sketches[key] for key in writers if key in sketches}
    module = ExtractionModule(plan.capture_rows, device, writers, partial(_note_overflow, folder), fitted, useful)
    try:
        predict(module, batches, device, progress=progress)
    finally:
        module.abandon()


def _known_at(
    sigma: float, writers: Mapping[LayerKey, ActivationWriter], known: Mapping[LayerKey, KnownRows]
) -> np.ndarray | None:
    """Return which rows all arrays of a noise level find elsewhere, (N,) bool, None: none."""
    keys = [key for key in writers if key[1] == sigma]
    if not all(key in known for key in keys):
        return None
    return np.all([known[key].source >= 0 for key in keys], axis=0)


def _writers(
    plan: ExtractionPlan, folder: Path, dtypes: Mapping[LayerKey, str], sketches: Mapping[LayerKey, Path]
) -> dict[LayerKey, ActivationWriter]:
    """Open the arrays for writing."""
    shapes, model_digest = plan.adapter.get_layer_shapes(), plan.adapter.digest()
    widths = {key: (Sketch.load(path).width,) for key, path in sketches.items()}
    return {
        (layer, sigma): ActivationWriter(
            array_path(folder, (layer, sigma), dtype),
            sample_ids=plan.samples.index,
            layer=layer,
            shape=widths.get((layer, sigma), shapes[layer]),
            dtype=dtype,
            sigma=sigma,
            model_digest=model_digest,
            dataset_digest=plan.samples.digest,
        )
        for (layer, sigma), dtype in dtypes.items()
    }


def _announce(plan: ExtractionPlan, folder: Path, dtypes: Mapping[LayerKey, str]) -> None:
    """Say how much will be written, and refuse when the disk cannot take what is still lacking."""
    size = lacking = 0
    for key, dtype in dtypes.items():
        whole = estimate_bytes(len(plan.samples), {key[0]: plan.stored_shape(key[0])}, dtype)
        there = sum(path.stat().st_size for path in array_path(folder, key, dtype).rglob("*") if path.is_file())
        size, lacking = size + whole, lacking + max(0, whole - there)
    logger.info(
        "%d samples × %d layer runs: %s of %s, %s of them still to be written",
        len(plan.samples),
        len(dtypes),
        format_bytes(size),
        "activations" if plan.recipe.storage == "full" else "vectors",
        format_bytes(lacking),
    )
    require_disk_space(folder, lacking)
