"""Capture: fills one array of activations per (layer, sigma) of a plan, resumable at any moment."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import lightning

from diffviews.adapters.base import GeneratorAdapter
from diffviews.data.activations import ActivationReader, ActivationWriter, estimate_bytes
from diffviews.data.disk import format_bytes, require_disk_space
from diffviews.data.layout import LayerKey
from diffviews.data.samples import SampleSet
from diffviews.lightning.extraction import (
    ExtractionData,
    ExtractionModule,
    block_rows,
    unfinished_blocks,
)
from diffviews.lightning.runner import predict, trainer
from diffviews.lightning.team import Team
from diffviews.noise import format_sigma
from diffviews.pipelines.captured import CapturedArray
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.pipelines.sketch import SPARE, fit_sketches, sketch_path
from diffviews.pipelines.workspace import conditions_of
from diffviews.processing.sketch import Sketch

logger = logging.getLogger(__name__)

@dataclass(frozen=True, slots=True)
class CaptureTask:
    """What every process of a job must know to capture its share; the samples lie in `folder`."""

    folder: Path
    dtypes: Mapping[LayerKey, str]
    """Of the arrays that lack chunks."""
    blocks: Sequence[tuple[float, int]]
    block_rows: int
    batch_size: int
    conditioning: str
    sketches: Mapping[LayerKey, Path] = field(default_factory=dict)
    """Fitted sketches of arrays that hold vectors."""


def array_path(folder: Path, key: LayerKey, dtype: str) -> Path:
    """Return where the array of a (layer, sigma) is written while the extraction runs."""
    return _place(folder, key) / dtype / "activations.zarr"


def _place(folder: Path, key: LayerKey) -> Path:
    layer, sigma = key
    return folder / f"{layer}@{format_sigma(sigma)}"


def capture_activations(
    plan: ExtractionPlan,
    keys: Sequence[LayerKey],
    folder: Path,
    *,
    devices: int = 1,
    progress: bool = True,
    team: Team | None = None,
) -> dict[LayerKey, CapturedArray]:
    """Run the model over the sample set and write the outputs of `keys`, (layer, sigma), under `folder`.

    Chunks that `folder` already holds are kept. A layer with a value outside float16 is captured
    again in float32. With a team, of which this process is the leader, its followers take their shares;
    `folder` must then lie where all of them can write.

    Returns:
        {(layer, sigma): the finished array}.

    Raises:
        DiskSpaceError: if the disk is too small for what is still to be written.
        WorkerError: if a process of a job on several devices failed.
    """
    while keys:
        _announce(plan, folder, _dtypes(plan, folder, keys))
        sketches = _sketches(plan, folder, keys)
        dtypes = _dtypes(plan, folder, keys)
        writers = _writers(plan.adapter, plan.samples, folder, dtypes, sketches)
        _write_known(writers, sketches)
        _run(plan, folder, writers, sketches, devices=devices, progress=progress, team=team)
        overflowed = [key for key, dtype in _dtypes(plan, folder, keys).items() if dtype != dtypes[key]]
        if not overflowed:
            return {key: _finished(plan, key, writer, sketches.get(key)) for key, writer in writers.items()}
        for key in overflowed:
            logger.info("layer %s at sigma %s exceeds float16 and is captured again in float32", *key)
            shutil.rmtree(array_path(folder, key, "float16"), ignore_errors=True)
    return {}


def _activation_dtypes(plan: ExtractionPlan, folder: Path, keys: Sequence[LayerKey]) -> dict[LayerKey, str]:
    """Return the dtype of each layer's activations: the plan's, or float32 for one known not to fit float16."""
    return {key: "float32" if _overflow_note(folder, key).exists() else plan.recipe.dtype for key in keys}


def _dtypes(plan: ExtractionPlan, folder: Path, keys: Sequence[LayerKey]) -> dict[LayerKey, str]:
    """Return the dtype of each array: that of the activations.

    Vectors of no more samples than a sketch is fitted on are the very points of the map, hence float32.
    """
    if plan.recipe.storage == "sketch" and len(plan.samples) < plan.recipe.sketch_samples + SPARE:
        return dict.fromkeys(keys, "float32")
    return _activation_dtypes(plan, folder, keys)


def _overflow_note(folder: Path, key: LayerKey) -> Path:
    """Return the file whose presence says that a layer does not fit float16; a later resume reads it too."""
    return _place(folder, key) / "exceeds-float16"


def _note_overflow(folder: Path, key: LayerKey) -> None:
    note = _overflow_note(folder, key)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()


def _sketches(plan: ExtractionPlan, folder: Path, keys: Sequence[LayerKey]) -> dict[LayerKey, Path]:
    """Return the fitted sketch of each array that is to hold vectors, none when activations are stored whole."""
    if plan.recipe.storage == "full":
        return {}
    for key in fit_sketches(plan, _activation_dtypes(plan, folder, keys), folder):
        _note_overflow(folder, key)
    fit_sketches(plan, _activation_dtypes(plan, folder, keys), folder)
    return {key: sketch_path(folder, key) for key in keys}


def _write_known(writers: Mapping[LayerKey, ActivationWriter], sketches: Mapping[LayerKey, Path]) -> None:
    """Write the vectors of sketches that were fitted on all samples, as the fit gave them."""
    for key, path in sketches.items():
        points, writer = Sketch.load(path).points, writers[key]
        for chunk in range(writer.num_chunks if points is not None else 0):
            if points is not None and not writer.is_done(chunk):
                writer.write(writer.rows_of(chunk).start, points[writer.rows_of(chunk)])


def _finished(
    plan: ExtractionPlan, key: LayerKey, writer: ActivationWriter, sketch: Path | None
) -> CapturedArray:
    digest = writer.finish()
    nonfinite = ActivationReader.open(writer.path, index=writer.index).nonfinite
    return CapturedArray(writer.path, digest, nonfinite, sketch, plan.adapter.get_layer_shapes()[key[0]])


def _run(
    plan: ExtractionPlan,
    folder: Path,
    writers: Mapping[LayerKey, ActivationWriter],
    sketches: Mapping[LayerKey, Path],
    *,
    devices: int,
    progress: bool,
    team: Team | None,
) -> None:
    """Fill the arrays that lack chunks; those that overflow are noted in `folder`."""
    lacking = {key: writer for key, writer in writers.items() if not _is_whole(writer)}
    if not lacking:
        return
    blocks, still = unfinished_blocks(lacking), {key: writer.dtype.name for key, writer in lacking.items()}
    task = CaptureTask(
        folder.absolute(),
        still,
        blocks,
        block_rows(lacking),
        plan.recipe.batch_size,
        plan.recipe.conditioning,
        {key: sketches[key].absolute() for key in lacking if key in sketches},
    )
    if team is None:
        runner = trainer(plan.adapter.device.type, min(devices, len(blocks)), progress)
        _capture(plan.adapter, plan.samples, task, runner, lacking)
        return
    plan.samples.write_parquet(folder / "samples.parquet")
    team.hand_out(task)
    team.together(partial(_capture_share, plan.adapter, plan.samples, team, task, progress))


def follow(adapter: GeneratorAdapter, team: Team) -> None:
    """Capture this process's share of whatever the team's leader hands out, until it dismisses; no MLflow is asked.

    Raises:
        WorkerError: if a process of the team failed.
    """
    for task in team.tasks():
        team.together(partial(_follow, adapter, team, task))


def _follow(adapter: GeneratorAdapter, team: Team, task: CaptureTask) -> None:
    samples = SampleSet.read_parquet(task.folder / "samples.parquet")
    _capture_share(adapter, samples, team, task, progress=False)


def _capture_share(
    adapter: GeneratorAdapter, samples: SampleSet, team: Team, task: CaptureTask, progress: bool
) -> None:
    """Capture the blocks that fall to this process. Each runs alone: one without blocks keeps no other waiting."""
    share = replace(task, blocks=task.blocks[team.rank :: team.size])
    if share.blocks:
        own = 1 if adapter.device.index is None else [adapter.device.index]
        writers = _writers(adapter, samples, task.folder, task.dtypes, task.sketches)
        _capture(adapter, samples, share, trainer(adapter.device.type, own, progress), writers)


def _capture(
    adapter: GeneratorAdapter,
    samples: SampleSet,
    task: CaptureTask,
    runner: lightning.Trainer,
    writers: Mapping[LayerKey, ActivationWriter],
) -> None:
    """Capture the blocks of a task that fall to this process, or to those that `runner` starts."""
    data = ExtractionData(
        samples,
        task.blocks,
        block_rows=task.block_rows,
        batch_size=task.batch_size,
        conditions=conditions_of(samples, task.conditioning),
    )
    module = ExtractionModule(adapter, writers, partial(_note_overflow, task.folder), task.sketches)
    try:
        predict(runner, module, data)
    finally:
        module.abandon()


def _is_whole(writer: ActivationWriter) -> bool:
    return all(writer.is_done(chunk) for chunk in range(writer.num_chunks))


def _writers(
    adapter: GeneratorAdapter,
    samples: SampleSet,
    folder: Path,
    dtypes: Mapping[LayerKey, str],
    sketches: Mapping[LayerKey, Path],
) -> dict[LayerKey, ActivationWriter]:
    """Open the arrays for writing."""
    shapes, model_digest = adapter.get_layer_shapes(), adapter.digest()
    widths = {key: (Sketch.load(path).width,) for key, path in sketches.items()}
    return {
        (layer, sigma): ActivationWriter(
            array_path(folder, (layer, sigma), dtype),
            sample_ids=samples.index,
            layer=layer,
            shape=widths.get((layer, sigma), shapes[layer]),
            dtype=dtype,
            sigma=sigma,
            model_digest=model_digest,
            dataset_digest=samples.digest,
        )
        for (layer, sigma), dtype in dtypes.items()
    }


def _announce(plan: ExtractionPlan, folder: Path, dtypes: Mapping[LayerKey, str]) -> None:
    """Say how much will be written, and refuse when the disk cannot take what is still lacking."""
    size = lacking = 0
    for key, dtype in dtypes.items():
        whole = estimate_bytes(len(plan.samples), {key[0]: plan.stored_shape(key[0])}, dtype)
        size, lacking = size + whole, lacking + max(0, whole - _bytes_below(array_path(folder, key, dtype)))
    logger.info(
        "%d samples × %d layer runs: %s of %s, %s of them still to be written",
        len(plan.samples),
        len(dtypes),
        format_bytes(size),
        "activations" if plan.recipe.storage == "full" else "vectors",
        format_bytes(lacking),
    )
    require_disk_space(folder, lacking)


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
