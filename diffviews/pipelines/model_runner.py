"""Computes with one resident model: generations, replays, maps, and extractions in a process of their own.

The worker has one runner and the dashboard that computes by itself has one; a `JobQueue` brings them one job at a time.
"""

import functools
import gc
import threading
import time
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.request import Progress, ProgressCallback
from diffviews.pipelines.embed import embed
from diffviews.pipelines.extraction_process import ExtractionProcess
from diffviews.pipelines.generate import LoggedGeneration, generate
from diffviews.pipelines.job_queue import Job
from diffviews.pipelines.models import load_model
from diffviews.pipelines.replay import Replay, read_recipe, replay
from diffviews.pipelines.workspace import Workspace
from diffviews.recipes import EmbeddingRecipe, Execution, ExtractionRecipe, GenerationRecipe
from diffviews.tracking.runs import Tracker

_PREVIEW_SECONDS = 0.25
_OPEN_EXPERIMENTS = 8


class Runner(Protocol):
    """What the dashboard has computed and logged: here by `ModelRunner`, or by a worker that is asked."""

    def generate(self, recipe: GenerationRecipe, job: Job) -> LoggedGeneration:
        """Generate what a recipe says and log it."""

    def replay(self, run_id: str, job: Job) -> Replay:
        """Repeat a logged generation and compare it."""

    def embed(self, recipe: EmbeddingRecipe, job: Job) -> str:
        """Compute a further map and return its run id."""

    def extract(self, recipe: ExtractionRecipe, job: Job) -> str:
        """Extract what a recipe says and return the run's id."""


@dataclass(frozen=True, slots=True)
class DefaultCheckpoint:
    """Weights for recipes that name none."""

    address: str | None = None
    """File, folder or address; None leaves recipes as they are."""
    model: str | None = None
    """Adapter that they are of; None: any."""

    def fill_in(self, recipe: GenerationRecipe) -> GenerationRecipe:
        """Return the recipe with these weights, if it is one of their model that names none."""
        if recipe.checkpoint or self.model not in (None, recipe.model):
            return recipe
        return replace(recipe, checkpoint=self.address)


class ModelRunner:
    """Runs jobs on this host's device; at most one model is resident, and none while an extraction runs.

    Args:
        workspace: where runs are read and logged.
        device: auto, cpu, cuda, cuda:N or mps.
        checkpoint: weights for recipes that name none.
    """

    def __init__(
        self,
        workspace: Workspace,
        device: str = "auto",
        checkpoint: DefaultCheckpoint = DefaultCheckpoint(),
    ) -> None:
        self.workspace = workspace
        self._device, self._checkpoint = device, checkpoint
        self._logging_to = functools.lru_cache(_OPEN_EXPERIMENTS)(self._open)
        self._resident: tuple[tuple[object, ...], GeneratorAdapter] | None = None
        self._lock = threading.Lock()

    def generate(
        self, recipe: GenerationRecipe, job: Job, *, experiment: str | None = None
    ) -> LoggedGeneration:
        """Generate what a recipe says and log it, to the workspace's experiment if none is named."""
        recipe = self._checkpoint.fill_in(recipe)
        adapter = self.load(recipe)
        job.check()
        return generate(recipe, self._logging_to(experiment), adapter=adapter, callback=_reporting(job, adapter))

    def replay(self, run_id: str, job: Job) -> Replay:
        """Repeat a logged generation and compare; nothing is logged."""
        adapter = self.load(read_recipe(self.workspace, run_id))
        return replay(run_id, self.workspace, adapter=adapter, callback=_reporting(job, adapter))

    def embed(self, recipe: EmbeddingRecipe, job: Job) -> str:
        """Compute a further map and log it; returns its run id."""
        job.report(0, 0)
        return embed(recipe, self.workspace).run_id

    def extract(
        self,
        recipe: ExtractionRecipe,
        job: Job,
        *,
        execution: Execution = Execution(),
        experiment: str | None = None,
    ) -> str:
        """Extract in a process of its own, which has the device to itself, and return the run's id.

        Raises:
            JobFailedError: with the reason. CancelledError, QueueStoppedError: if the job is to end.
        """
        self.free()
        execution = replace(execution, device=self._device)
        return ExtractionProcess(recipe, execution, self._logging_to(experiment)).run(job)

    def load(self, recipe: GenerationRecipe) -> GeneratorAdapter:
        """Return a recipe's model, resident from now on; another one is freed before: two large ones rarely fit."""
        key = (recipe.model, recipe.checkpoint, recipe.precision, recipe.adapter_partial)
        with self._lock:
            if self._resident is None or self._resident[0] != key:
                self._free()
                self._resident = key, load_model(recipe, self.workspace, self._device)
            return self._resident[1]

    def free(self) -> None:
        """Let go of the resident model and hand the device's memory back."""
        with self._lock:
            self._free()

    def _free(self) -> None:
        if self._resident is None:
            return
        self._resident = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        elif torch.backends.mps.is_available():
            torch.mps.empty_cache()

    def _open(self, experiment: str | None) -> Workspace:
        if experiment is None:
            return self.workspace
        return replace(self.workspace, tracker=Tracker(self.workspace.catalog.profile, experiment))


def _reporting(job: Job, adapter: GeneratorAdapter) -> ProgressCallback:
    """Return what tells a job of each step, and now and then of how its first image looks."""
    shown = 0.0

    def report(progress: Progress) -> None:
        nonlocal shown
        image = None
        if progress.image is not None and time.monotonic() - shown > _PREVIEW_SECONDS:
            image, shown = adapter.decode(progress.image[:1])[0], time.monotonic()
        job.report(progress.step, progress.total, image)

    return report
