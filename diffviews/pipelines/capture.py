"""Capture: fills one array of activations per (layer, sigma) of a plan, resumable at any moment."""

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import lightning

from diffviews.adapters.base import GeneratorAdapter
from diffviews.data.activations import ActivationReader, ActivationWriter, estimate_bytes
from diffviews.data.disk import format_bytes, require_disk_space
from diffviews.data.samples import SampleSet
from diffviews.lightning.extraction import (
    ExtractionData,
    ExtractionModule,
    LayerKey,
    block_rows,
    unfinished_blocks,
)
from diffviews.lightning.runner import predict, trainer
from diffviews.lightning.team import Team
from diffviews.noise import format_sigma
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.pipelines.workspace import conditions_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CapturedArray:
    """One finished array of activations."""

    path: Path
    """Zarr v3 array, a folder."""
    digest: str
    nonfinite: int
    """NaN and infinite values among it."""


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
        dtypes = _dtypes(plan, folder, keys)
        _announce(plan, folder, dtypes)
        _run(plan, folder, dtypes, devices=devices, progress=progress, team=team)
        overflowed = [key for key, dtype in _dtypes(plan, folder, keys).items() if dtype != dtypes[key]]
        if not overflowed:
            return {key: _finished(plan, folder, key, dtype) for key, dtype in dtypes.items()}
        for key in overflowed:
            logger.info("layer %s at sigma %s exceeds float16 and is captured again in float32", *key)
            shutil.rmtree(array_path(folder, key, "float16"), ignore_errors=True)
    return {}


def _dtypes(plan: ExtractionPlan, folder: Path, keys: Sequence[LayerKey]) -> dict[LayerKey, str]:
    """Return the dtype of each array: the plan's, or float32 for a layer known not to fit float16."""
    return {key: "float32" if _overflow_note(folder, key).exists() else plan.dtype for key in keys}


def _overflow_note(folder: Path, key: LayerKey) -> Path:
    """Return the file whose presence says that a layer does not fit float16; a later resume reads it too."""
    return _place(folder, key) / "exceeds-float16"


def _note_overflow(folder: Path, key: LayerKey) -> None:
    _overflow_note(folder, key).touch()


def _finished(plan: ExtractionPlan, folder: Path, key: LayerKey, dtype: str) -> CapturedArray:
    digest = _opener(plan.adapter, plan.samples, folder, key, dtype)().finish()
    path = array_path(folder, key, dtype)
    return CapturedArray(path, digest, ActivationReader.open(path).nonfinite)


def _run(
    plan: ExtractionPlan,
    folder: Path,
    dtypes: Mapping[LayerKey, str],
    *,
    devices: int,
    progress: bool,
    team: Team | None,
) -> None:
    """Fill the arrays that lack chunks; those that overflow are noted in `folder`."""
    openers = {key: _opener(plan.adapter, plan.samples, folder, key, dtype) for key, dtype in dtypes.items()}
    lacking = {key: writer for key, opener in openers.items() if not _is_whole(writer := opener())}
    if not lacking:
        return
    blocks, still = unfinished_blocks(lacking), {key: dtypes[key] for key in lacking}
    task = CaptureTask(folder.absolute(), still, blocks, block_rows(lacking), plan.batch_size, plan.conditioning)
    if team is None:
        runner = trainer(plan.adapter.device.type, min(devices, len(blocks)), progress)
        _capture(plan.adapter, plan.samples, task, runner)
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
        _capture(adapter, samples, share, trainer(adapter.device.type, own, progress))


def _capture(adapter: GeneratorAdapter, samples: SampleSet, task: CaptureTask, runner: lightning.Trainer) -> None:
    """Capture the blocks of a task that fall to this process, or to those that `runner` starts."""
    data = ExtractionData(
        samples,
        task.blocks,
        block_rows=task.block_rows,
        batch_size=task.batch_size,
        conditions=conditions_of(samples, task.conditioning),
    )
    openers = {key: _opener(adapter, samples, task.folder, key, dtype) for key, dtype in task.dtypes.items()}
    predict(runner, ExtractionModule(adapter, openers, on_overflow=partial(_note_overflow, task.folder)), data)


def _is_whole(writer: ActivationWriter) -> bool:
    return all(writer.is_done(chunk) for chunk in range(writer.num_chunks))


def _opener(
    adapter: GeneratorAdapter, samples: SampleSet, folder: Path, key: LayerKey, dtype: str
) -> Callable[[], ActivationWriter]:
    """Return what opens an array for writing, in this process or another."""
    layer, sigma = key
    return partial(
        ActivationWriter,
        array_path(folder, key, dtype),
        sample_ids=samples.sample_ids,
        layer=layer,
        shape=adapter.get_layer_shapes()[layer],
        dtype=dtype,
        sigma=sigma,
        model_digest=adapter.digest(),
        dataset_digest=samples.digest,
    )


def _announce(plan: ExtractionPlan, folder: Path, dtypes: Mapping[LayerKey, str]) -> None:
    """Say how much will be written, and refuse when the disk cannot take what is still lacking."""
    shapes, size, lacking = plan.adapter.get_layer_shapes(), 0, 0
    for key, dtype in dtypes.items():
        whole = estimate_bytes(len(plan.samples), {key[0]: shapes[key[0]]}, dtype)
        size, lacking = size + whole, lacking + max(0, whole - _bytes_below(array_path(folder, key, dtype)))
    logger.info(
        "%d samples × %d layer runs: %s of activations, %s of them still to be written",
        len(plan.samples),
        len(dtypes),
        format_bytes(size),
        format_bytes(lacking),
    )
    require_disk_space(folder, lacking)


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def link_tree(source: Path, target: Path) -> None:
    """Make `target` a second name of the files below the folder `source`; copies them where links are not to be had."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(source, target)
