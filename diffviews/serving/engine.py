"""What a worker computes: generations with one resident model, and extractions in a process of their own."""

import functools
import gc
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.registry import get_adapter
from diffviews.core.request import Progress
from diffviews.pipelines.generate import generate
from diffviews.pipelines.models import load_model
from diffviews.pipelines.recipe import GenerationRecipe
from diffviews.pipelines.workspace import Workspace, open_workspace
from diffviews.serving.access import AccessPolicy
from diffviews.serving.extraction import ExtractionProcess
from diffviews.serving.jobs import Job
from diffviews.serving.limits import Limits

logger = logging.getLogger(__name__)

_PREVIEW_SECONDS = 0.5
_OPEN_WORKSPACES = 8


class Engine:
    """Makes the work of jobs; they run one at a time.

    Args:
        profile: tracking profile.
        experiment: where jobs log that name no experiment.
        device: auto, cpu, cuda, cuda:N or mps.
        policy: what remote callers may have opened.
        limits: how large a generation may be.
    """

    def __init__(
        self,
        profile: str | None = None,
        experiment: str | None = None,
        *,
        device: str = "auto",
        policy: AccessPolicy = AccessPolicy(),  # noqa: B008 - immutable
        limits: Limits = Limits(),  # noqa: B008 - immutable
    ) -> None:
        self._profile, self._experiment, self._device = profile, experiment, device
        self._policy, self._limits = policy, limits
        self._open = functools.lru_cache(_OPEN_WORKSPACES)(partial(open_workspace, profile))
        self._resident: tuple[tuple[str, str | None, str], GeneratorAdapter] | None = None

    def workspace(self, experiment: str | None = None) -> Workspace:
        """Return the tracking store, logging to an experiment."""
        return self._open(experiment or self._experiment)

    def generation(self, recipe: GenerationRecipe, experiment: str | None) -> Callable[[Job], str]:
        """Return the work that follows a recipe, after checking what it names.

        Raises:
            ConfigError: if the checkpoint is none that a remote caller may have opened.
            AdapterNotFoundError: if there is no such model. RunNotFoundError: if there is no such layer run.
        """
        get_adapter(recipe.model)
        noted = None
        if recipe.layer_run is not None and recipe.checkpoint is not None:
            noted = self.workspace().catalog.layer(recipe.layer_run).params.get("checkpoint")
        self._policy.check_checkpoint(recipe.checkpoint, noted)
        return partial(self._generate, recipe, experiment)

    def extraction(self, arguments: dict[str, Any], experiment: str | None) -> Callable[[Job], str]:
        """Return the work of an extraction; raises as `generation` does."""
        get_adapter(arguments.get("model", "edm-digits"))
        self._policy.check_checkpoint(arguments.get("checkpoint"))
        self._policy.check_dataset(arguments.get("dataset", "digits"))
        own = {"device": self._device, "profile": self._profile, "experiment": experiment or self._experiment}
        return partial(self._extract, arguments | own)

    def _generate(self, recipe: GenerationRecipe, experiment: str | None, job: Job) -> str:
        adapter = self._adapter(recipe)
        job.check()
        self._limits.check_result(
            recipe.num_samples, recipe.num_steps or adapter.default_steps, adapter.resolution
        )
        shown = 0.0

        def tell(progress: Progress) -> None:
            nonlocal shown
            image = None
            if progress.image is not None and time.monotonic() - shown > _PREVIEW_SECONDS:
                image, shown = adapter.decode(progress.image[:1])[0], time.monotonic()
            job.report(progress.step, progress.total, image)

        return generate(recipe, self.workspace(experiment), adapter=adapter, callback=tell).run_id

    def _extract(self, arguments: dict[str, Any], job: Job) -> str:
        self._free()  # the accelerator's memory belongs to the other process meanwhile
        return ExtractionProcess(arguments, self.workspace(arguments["experiment"])).run(job)

    def _adapter(self, recipe: GenerationRecipe) -> GeneratorAdapter:
        key = (recipe.model, recipe.checkpoint, recipe.precision)
        if self._resident is None or self._resident[0] != key:
            self._free()
            model = load_model(
                recipe.model, recipe.checkpoint, self._device, recipe.precision, self._profile
            )
            self._resident = (key, model)
        return self._resident[1]

    def _free(self) -> None:
        """Let go of the resident model before another needs its memory."""
        if self._resident is not None:
            self._resident = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
