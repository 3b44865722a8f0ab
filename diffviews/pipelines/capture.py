"""Capture: fills one array of activations per (layer, sigma) of a plan, resumable at any moment."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning

from diffviews.data.activations import ActivationWriter, estimate_bytes
from diffviews.data.disk import format_bytes, require_disk_space
from diffviews.lightning.extraction import ExtractionData, ExtractionModule, LayerKey
from diffviews.noise import format_sigma
from diffviews.pipelines.plan import ExtractionPlan

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CapturedArray:
    """One finished array of activations."""

    path: Path
    """Zarr v3 array, a folder."""
    digest: str
    nonfinite: int
    """NaN and infinite values among it."""


def array_path(folder: Path, key: LayerKey) -> Path:
    """Return where the array of a (layer, sigma) is written while the extraction runs."""
    layer, sigma = key
    return folder / f"{layer}@{format_sigma(sigma)}" / "activations.zarr"


def capture_activations(
    plan: ExtractionPlan, keys: Sequence[LayerKey], folder: Path, *, devices: int = 1, progress: bool = True
) -> dict[LayerKey, CapturedArray]:
    """Run the model over the sample set and write the outputs of `keys`, (layer, sigma), under `folder`.

    Chunks that `folder` already holds are kept. A layer with a value outside float16 is captured
    again in float32.

    Returns:
        {(layer, sigma): the finished array}.

    Raises:
        DiskSpaceError: if the disk is too small for what is still to be written.
    """
    if not keys:
        return {}
    wide = {key for key in keys if (array_path(folder, key).parent / "float32").exists()}
    while True:
        writers = {key: _writer(plan, folder, key, "float32" if key in wide else plan.dtype) for key in keys}
        _announce(plan, folder, writers)
        overflowed = _run(plan, writers, devices, progress)
        if not overflowed:
            return {
                key: CapturedArray(array_path(folder, key), writer.finish(), writer.nonfinite)
                for key, writer in writers.items()
            }
        for key in overflowed:
            logger.info("layer %s at sigma %s exceeds float16 and is captured again in float32", *key)
            _restart_in_float32(array_path(folder, key))
        wide |= overflowed


def _run(
    plan: ExtractionPlan, writers: Mapping[LayerKey, ActivationWriter], devices: int, progress: bool
) -> set[LayerKey]:
    """Fill what is missing; return the keys whose values do not fit their dtype."""
    data = ExtractionData(plan.samples, writers, batch_size=plan.batch_size, class_ids=plan.class_ids)
    module = ExtractionModule(plan.adapter, writers)
    if data.unfinished_blocks():
        trainer(plan.adapter.device.type, devices, progress).predict(module, data, return_predictions=False)
    return module.overflowed


def trainer(accelerator: str, devices: int = 1, progress: bool = True) -> lightning.Trainer:
    """Return the Lightning trainer that every job runs on: no logger, no checkpoints, no output folder."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(accelerator, accelerator),
        devices=devices,
        strategy="auto" if devices == 1 else "ddp_spawn",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        use_distributed_sampler=False,
    )


def _writer(plan: ExtractionPlan, folder: Path, key: LayerKey, dtype: str) -> ActivationWriter:
    layer, sigma = key
    return ActivationWriter(
        array_path(folder, key),
        sample_ids=plan.samples.sample_ids,
        layer=layer,
        shape=plan.adapter.get_layer_shapes()[layer],
        dtype=dtype,
        sigma=sigma,
        model_digest=plan.adapter.digest(),
        dataset_digest=plan.samples.digest,
    )


def _restart_in_float32(path: Path) -> None:
    """Drop an array that overflowed and leave a note for a later resume."""
    shutil.rmtree(path)
    (path.parent / "float32").touch()


def _announce(plan: ExtractionPlan, folder: Path, writers: Mapping[LayerKey, ActivationWriter]) -> None:
    shapes = plan.adapter.get_layer_shapes()
    size = sum(estimate_bytes(len(plan.samples), {layer: shapes[layer]}, plan.dtype) for layer, _ in writers)
    logger.info(
        "%d samples × %d layer runs: %s of activations before compression",
        len(plan.samples),
        len(writers),
        format_bytes(size),
    )
    require_disk_space(folder, size)
