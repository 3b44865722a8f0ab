"""What a worker does for remote callers: it checks what they name, queues it, and finds what came of it.

Of its disk and the network they may have opened only what its owner named.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from diffviews.adapters.registry import get_adapter
from diffviews.data.checkpoint_catalog import PREFIX, catalogue, find_checkpoint
from diffviews.data.storage.fetch import is_remote
from diffviews.errors import ConfigError, unknown_name
from diffviews.judges.registry import BUILT_IN
from diffviews.pipelines.job_queue import Job, JobNotFoundError, JobQueue
from diffviews.pipelines.model_runner import ModelRunner
from diffviews.recipes import Execution, ExtractionRecipe, GenerationRecipe
from diffviews.serving.requests import Limits
from diffviews.tracking.artifacts import ArtifactFolder
from diffviews.tracking.models import SCHEME


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Checkpoints and data sets that a worker opens for others."""

    checkpoints: tuple[str, ...] = ()
    """Patterns (`*`, `?`) of further checkpoints: absolute paths or addresses."""
    datasets: tuple[str, ...] = ()
    """Patterns of further data sets, for example `folder:/data/*`."""

    def check_checkpoint(self, checkpoint: str | None, noted: str | None = None) -> None:
        """Refuse a checkpoint that is neither public, registered, noted on the layer run nor allowed.

        Args:
            checkpoint: as asked for; None is the model's own.
            noted: what the parameters of the layer run name.

        Raises:
            ConfigError: saying what is allowed.
        """
        if checkpoint is None or (noted and checkpoint == noted):
            return
        if checkpoint.startswith(SCHEME) or _is_public(checkpoint) or _matches(checkpoint, self.checkpoints):
            return
        public = [entry.name for entry in catalogue()]
        near = unknown_name("catalogue checkpoint", checkpoint, public) if "/" not in checkpoint else ""
        raise ConfigError(
            f"checkpoint {checkpoint[:200]!r} is not opened for a remote caller; take models:/name/version, a name of "
            "the catalogue, the checkpoint of the layer run, or start the worker with --allow_checkpoints"
            + (f" ({near})" if near else "")
        )

    def check_dataset(self, dataset: str) -> None:
        """Refuse a data set that is neither shipped, logged nor allowed.

        Raises:
            ConfigError: saying what is allowed.
        """
        kind, _, place = dataset.partition(":")
        if dataset == "digits" or kind == "run":
            return
        if any(
            pattern.partition(":")[0] == kind and _matches(place, (pattern.partition(":")[2],))
            for pattern in self.datasets
        ):
            return
        raise ConfigError(
            f"dataset {dataset[:200]!r} is not opened for a remote caller; take digits or run:<id>, or start the "
            "worker with --allow_datasets"
        )

    def check_judge(self, judge: str | None) -> None:
        """Refuse a judge of a folder, or a plug-in's of anything, that is not allowed as a checkpoint.

        Raises:
            ConfigError: saying what is allowed.
        """
        kind, _, place = (judge or "").partition(":")
        opens = place and (kind == "clip" or kind not in BUILT_IN)
        if judge is not None and opens and not _matches(place, self.checkpoints):
            raise ConfigError(
                f"judge {judge[:200]!r} is not opened for a remote caller; take another, or start the worker with "
                "--allow_checkpoints"
            )


class Service:
    """A worker's parts: what computes, what orders it, how much it takes, and what it opens for others.

    Args:
        runner: does the work.
        limits: of requests and of the queue.
        policy: what callers may have opened.
    """

    def __init__(
        self,
        runner: ModelRunner,
        limits: Limits = Limits(),  # noqa: B008 - immutable
        policy: AccessPolicy = AccessPolicy(),
    ) -> None:
        self.runner, self.limits, self._policy = runner, limits, policy
        self.queue = JobQueue(
            limits.waiting_jobs, kept=limits.kept_jobs, kept_seconds=limits.kept_seconds, host="worker"
        )

    def generate(self, recipe: GenerationRecipe, experiment: str | None, job_id: str | None) -> Job:
        """Queue a generation.

        Raises:
            ConfigError: if the checkpoint is none that a remote caller may have opened.
            AdapterNotFoundError: if there is no such model. RunNotFoundError: if there is no such layer run.
            QueueFullError, QueueStoppedError: if no further job is taken.
        """
        get_adapter(recipe.model)
        noted = None
        if recipe.layer_run is not None and recipe.checkpoint is not None:
            noted = self.runner.workspace.catalog.layer(recipe.layer_run).params.get("checkpoint")
        self._policy.check_checkpoint(recipe.checkpoint, noted)
        self._policy.check_judge(recipe.judge)

        def work(job: Job) -> str:
            adapter = self.runner.load(recipe)
            steps = recipe.sampling.num_steps or adapter.default_steps
            self.limits.check_result(recipe.num_samples, steps, adapter.resolution)
            return self.runner.generate(recipe, job, experiment=experiment).run_id

        return self.queue.submit("generate", work, job_id)

    def extract(
        self, recipe: ExtractionRecipe, execution: Execution, experiment: str | None, job_id: str | None
    ) -> Job:
        """Queue an extraction; raises as `generate` does."""
        get_adapter(recipe.model)
        self._policy.check_checkpoint(recipe.checkpoint)
        self._policy.check_dataset(recipe.dataset)
        self._policy.check_judge(recipe.judge)
        self._policy.check_judge(recipe.second_judge)

        def work(job: Job) -> str:
            return self.runner.extract(recipe, job, execution=execution, experiment=experiment)

        return self.queue.submit("extract", work, job_id)

    def files(self, job_id: str) -> ArtifactFolder:
        """Return the artifacts of a job that has finished.

        Raises:
            JobNotFoundError: if there is no such job. ConfigError: if it has not finished.
        """
        job = self.queue.find(job_id)
        if job.state != "finished" or job.run_id is None:
            raise ConfigError(f"job {job_id} is {job.state}; what it made is there once it has finished")
        return self.runner.workspace.folder(job.run_id)

    def file(self, job_id: str, name: str) -> Path:
        """Return the file of one artifact of a finished job, by a name that its manifest holds."""
        folder = self.files(job_id)
        if name not in folder.names():
            raise JobNotFoundError(unknown_name("file", name[:200], folder.names()))
        return folder.path(name)


def _is_public(checkpoint: str) -> bool:
    """Tell whether it is a name of the catalogue, and not that of a file in the worker's folder."""
    return find_checkpoint(checkpoint) is not None and (
        checkpoint.startswith(PREFIX) or not Path(checkpoint).exists()
    )


def _matches(place: str, patterns: Sequence[str]) -> bool:
    """Tell whether a place matches a pattern; a path does by what it leads to, links and `..` resolved."""
    if is_remote(place):
        return ".." not in place.split("/") and any(fnmatchcase(place, pattern) for pattern in patterns)
    found = str(Path(place).resolve())
    return any(fnmatchcase(found, pattern) for pattern in patterns)
