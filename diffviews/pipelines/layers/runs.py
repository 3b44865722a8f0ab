"""Layer runs: the MLflow runs that hold the layers of one job, one a layer and noise level; their parent's inputs, and
the making of them, which worker processes of this machine may share."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeVar

import pandas as pd
import torch
from tqdm import tqdm

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Condition
from diffviews.data.layout import LayerKey
from diffviews.data.samples import SampleSet
from diffviews.data.shapes import factor_columns
from diffviews.errors import WorkerError
from diffviews.lightning.process_group import ALONE, ProcessGroup
from diffviews.noise import format_sigma
from diffviews.pipelines.capture.layer_array import LayerArray
from diffviews.pipelines.layers.measured_map import map_title
from diffviews.pipelines.models import describe
from diffviews.pipelines.workspace import Workspace
from diffviews.processing.blocks import HELD_AT_ONCE, num_threads
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.text_clusters import cluster_prompts
from diffviews.processing.umap_backend import cuda_is_allowed
from diffviews.recipes import Recipe
from diffviews.recipes.extraction import without_class_measures
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.catalog import LayerRecord
from diffviews.tracking.notes import Note, code
from diffviews.tracking.schema import MapKind, RunTags

R = TypeVar("R")
Workers = Literal["auto"] | int
Further = Callable[[LayerKey, LayerArray], Mapping[str, float]]
"""Takes (layer, sigma) and its array, returns measures besides those of the map, such as its control rate."""

PROMPT_BATCH = 64
"""Prompts in one pass of the text encoder."""
LITTLE = 4_000
"""Samples of all maps together below which starting workers (seconds, for importing UMAP) costs more than it gains."""


def log_inputs(
    parent: ActiveRun, adapter: GeneratorAdapter, samples: SampleSet, recipe: Recipe, *, dataset: str
) -> None:
    """Publish config.json, model.json, samples.parquet, for prompts or factors columns.parquet; log the data set."""
    parent.log_text(recipe.to_json(), "config.json")
    parent.log_json(describe(adapter), "model.json")
    samples.write_parquet(parent.stage("samples.parquet"))
    known = [found for found in (_prompt_columns(adapter, samples), factor_columns(samples)) if found is not None]
    if known:
        columns = pd.concat([pd.DataFrame({"sample_id": list(samples.sample_ids)}), *known], axis=1)
        parent.log_table(columns, "columns.parquet")
    parent.log_input(samples, name=dataset, source=dataset)
    parent.publish()


def _prompt_columns(adapter: GeneratorAdapter, samples: SampleSet) -> pd.DataFrame | None:
    """Return the column prompt_cluster, or None where a sample or the model has no prompt."""
    prompts = [prompt for prompt in samples.prompts if prompt is not None]
    if not adapter.takes_prompts or len(prompts) < len(samples):
        return None
    starts = range(0, len(prompts), PROMPT_BATCH)
    parts = [_embedding(adapter, prompts[start : start + PROMPT_BATCH]) for start in starts]
    clusters = cluster_prompts(torch.cat(parts).numpy(), prompts)
    return pd.DataFrame({"prompt_cluster": clusters})


@torch.no_grad()
def _embedding(adapter: GeneratorAdapter, prompts: list[str]) -> torch.Tensor:
    """Return one vector a prompt: its pooled embedding where the model has one, else the mean over its tokens."""
    given = adapter.condition([Condition(prompt=prompt) for prompt in prompts])
    pooled = given.get("pooled_prompt_embeds")
    return (given["prompt_embeds"].mean(dim=1) if pooled is None else pooled).float().cpu()


@dataclass(frozen=True, slots=True)
class LayerRuns:
    """The layer runs of one job's parent run: those an earlier attempt has logged, and those to come.

    Raises:
        TrackingError: if the store cannot be used.
    """

    workspace: Workspace
    parent: ActiveRun
    samples: SampleSet
    maps: MapParameters
    command: Callable[[str, float], str]
    """Takes layer and sigma, returns the command that makes their run alone."""
    order: Sequence[str]
    """All layers of the model, in the network's order."""
    fingerprint: Callable[[str, float], str]
    """Takes layer and sigma, returns the digest of everything that determines their run."""
    conditioning: str = "none"
    """Under which the model ran."""
    rows: str | None = None
    """Digest by which a larger or smaller set finds the rows again; None: of no use to any."""
    logged: dict[LayerKey, LayerRecord] = field(init=False)
    """{(layer, sigma): its run}, of those that are finished."""
    _begun: dict[LayerKey, str] = field(init=False)

    def __post_init__(self) -> None:
        found = self.workspace.catalog.layers(self.parent.run_id, unfinished=True)
        known = {(record.layer, record.sigma): record for record in found}
        object.__setattr__(self, "logged", {key: r for key, r in known.items() if r.is_finished})
        object.__setattr__(self, "_begun", {key: r.run_id for key, r in known.items() if not r.is_finished})

    def log(self, key: LayerKey, array: LayerArray) -> None:
        """Log one (layer, sigma) as a child run, mapped and measured unless it is, and remove the array."""
        if not array.is_whole:
            title = map_title(self.parent.tags.model or "", *key)
            array.finish(array.made(self.samples, self.maps, title, self.conditioning))
        with self._child(key) as run:
            array.log(run)
        array.remove()
        self.logged[key] = self.workspace.catalog.layer(run.run_id)

    def log_whole(self, arrays: Mapping[LayerKey, LayerArray]) -> None:
        """Log those arrays that are mapped and measured and have no layer run yet."""
        for key, array in arrays.items():
            if key not in self.logged and array.is_whole:
                self.log(key, array)

    def _child(self, key: LayerKey) -> ActiveRun:
        """Start the layer run of `key`, or go on with the one that an earlier attempt has begun."""
        tracker, (layer, sigma) = self.workspace.tracker, key
        params = {"layer": layer, "sigma": format_sigma(sigma)}  # what all share is the parent's
        if key in self._begun:
            run = tracker.resume(self._begun[key])
            run.log_params(params)
            return run
        tags = RunTags(
            fingerprint=self.fingerprint(*key),
            layer=layer,
            layer_index=self.order.index(layer),
            sigma=sigma,
            source_run=self.parent.run_id,
            map=MapKind.SINGLE,
            rows=self.rows,
        )
        name = f"{layer} σ {format_sigma(sigma)}"
        return tracker.start("layer", name, tags, parent=self.parent, params=params, note=self._note(key))

    def _note(self, key: LayerKey) -> Note:
        (layer, sigma), about = key, self.parent.tags
        samples = f"{len(self.samples):,} samples of {code(about.dataset or '')}"
        told = f"{code(layer)} of {code(about.model or '')} at σ {format_sigma(sigma)}, over {samples}"
        sentence = f"{told}: activations, map and measures. {without_class_measures(self.conditioning)}"
        return Note(sentence.rstrip(), self.command(*key))


def make_results(
    arrays: Mapping[LayerKey, LayerArray],
    samples: SampleSet,
    maps: MapParameters,
    model: str,
    *,
    conditioning: str = "none",
    group: ProcessGroup = ALONE,
    workers: Workers = 1,
    further: Further | None = None,
    runs: LayerRuns | None = None,
) -> None:
    """Map and measure arrays: each process of the group takes its share, and its workers share that.

    Args:
        arrays: {(layer, sigma): its array}, the same in every process.
        samples: the sample set.
        maps: parameters of each map.
        model: name of the model, for the pictures.
        conditioning: under which it ran.
        group: processes that share the arrays.
        workers: processes of this machine that make maps; with several, this process only hands them out.
        further: measures that this process adds to each.
        runs: where this process logs each as soon as it is whole; None leaves it to another.

    Raises:
        WorkerError: if another process failed.
    """
    lacking = group.from_first(lambda: [key for key, array in arrays.items() if not array.is_whole])
    count = choose_workers(workers, len(lacking), len(samples), group)
    own = group.share(lacking)
    if count > 1:  # the widest first, so that no worker is left alone with a long one
        own.sort(key=lambda key: arrays[key].width, reverse=True)
    given = samples if count == 1 else samples.without_images()
    jobs = [partial(arrays[key].made, given, maps, map_title(model, *key), conditioning) for key in own]
    bar = tqdm(total=len(own), desc="maps", unit="layer", disable=None if group.leads else True)
    with bar, in_processes(jobs, count) as all_made:
        for key, made in zip(own, all_made, strict=True):
            arrays[key].finish(made, further(key, arrays[key]) if further is not None else {})
            bar.update()
            if runs is not None:
                runs.log_whole(arrays)
    group.wait()
    if runs is not None:
        runs.log_whole(arrays)


def choose_workers(workers: Workers, maps: int, samples: int, group: ProcessGroup) -> int:
    """Return how many processes make the maps that fall to one process of a group.

    Args:
        workers: how many on this machine; auto takes its cores as far as memory goes, or one where there is little
            to do or a GPU does it.
        maps: how many there are to make, by the whole group.
        samples: of each map.
        group: whose processes on this machine share its cores.
    """
    own = -(-maps // group.size)
    if workers != "auto":
        return max(1, min(own, workers // group.local_size))
    if own * samples < LITTLE or cuda_is_allowed():
        return 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else HELD_AT_ONCE
    return max(1, min(own, min(num_threads(), memory // HELD_AT_ONCE) // group.local_size))


@contextmanager
def in_processes(jobs: Sequence[Callable[[], R]], workers: int) -> Iterator[Iterator[R]]:
    """Give what each job returns, in their order, while `workers` processes do them; with one, this process does.

    The cores are shared out among the workers: a job has as many threads as there are for each. Leaving the
    block early, as on Ctrl-C, ends the workers.

    Raises:
        WorkerError: if a worker is gone, for lack of memory or by a signal.
    """
    if workers == 1 or len(jobs) < 2:
        yield (job() for job in jobs)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("loky", inner_max_num_threads=max(1, num_threads() // workers), idle_worker_timeout=10):
        parallel = Parallel(n_jobs=workers, return_as="generator", batch_size=1, pre_dispatch=workers)
        results = parallel(delayed(job)() for job in jobs)
    try:
        yield results
    except BrokenExecutor as error:
        raise WorkerError(
            f"one of {workers} worker processes is gone, perhaps for lack of memory; what is written is kept: go on "
            "with --resume and fewer workers"
        ) from error
    finally:
        results.close()
