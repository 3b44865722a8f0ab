"""The runner whose generations and extractions a worker on another host makes; maps are still computed here."""

from diffviews.pipelines.embed import embed
from diffviews.pipelines.generate import LoggedGeneration
from diffviews.pipelines.job_queue import Job
from diffviews.pipelines.model_runner import DefaultCheckpoint
from diffviews.pipelines.replay import Replay, compare, read_recipe
from diffviews.pipelines.workspace import Workspace
from diffviews.recipes import EmbeddingRecipe, ExtractionRecipe, GenerationRecipe
from diffviews.serving.client import Watch, WorkerClient
from diffviews.serving.protocol import JobStatus


class RemoteRunner:
    """Sends recipes to a worker, which logs to the same tracking store as this host reads.

    Args:
        client: of the worker.
        workspace: where runs are read, and maps logged.
        experiment: that generations and extractions are logged to; None takes the worker's.
        checkpoint: weights for recipes that name none; the worker must allow them.
    """

    def __init__(
        self,
        client: WorkerClient,
        workspace: Workspace,
        experiment: str | None = None,
        checkpoint: DefaultCheckpoint = DefaultCheckpoint(),  # noqa: B008 - immutable
    ) -> None:
        self._client, self._workspace = client, workspace
        self._experiment, self._checkpoint = experiment, checkpoint

    def generate(self, recipe: GenerationRecipe, job: Job) -> LoggedGeneration:
        """Have the worker generate what a recipe says and log it."""
        return self._client.generate(
            self._checkpoint.fill_in(recipe), _reporting(job), experiment=self._experiment
        )

    def replay(self, run_id: str, job: Job) -> Replay:
        """Have the worker repeat a logged generation, which it logs as a further run, and compare."""
        made = self.generate(read_recipe(self._workspace, run_id), job)
        return compare(run_id, self._workspace, made.result.images)

    def embed(self, recipe: EmbeddingRecipe, job: Job) -> str:
        """Compute a further map on this host and log it."""
        job.report(0, 0)
        return embed(recipe, self._workspace).run_id

    def extract(self, recipe: ExtractionRecipe, job: Job) -> str:
        """Have the worker extract and log it."""
        return self._client.extract(recipe, _reporting(job), experiment=self._experiment)


def _reporting(job: Job) -> Watch:
    """Return what tells a job of this process how its twin at the worker is."""
    return lambda there: job.report(there.step, there.total, there.preview_image(), where(there) or there.note)


def where(job: JobStatus) -> str:
    """Return what keeps a job from running, in words; nothing once it runs."""
    if job.state == "waking":
        return "waking the worker"
    if job.state == "queued":
        jobs = "1 job" if job.ahead == 1 else f"{job.ahead} jobs"
        return f"waiting at the worker, {jobs} ahead" if job.ahead else "starting at the worker"
    return ""
