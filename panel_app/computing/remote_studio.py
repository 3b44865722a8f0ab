"""The studio whose generations a worker on another host makes; maps are still computed here."""

from collections.abc import Mapping
from typing import Any

from diffviews.pipelines.embed import embed
from diffviews.pipelines.generate import GenerationOutcome
from diffviews.pipelines.recipe import GenerationRecipe
from diffviews.pipelines.replay import Replay, compare, read_recipe
from diffviews.pipelines.workspace import Workspace
from diffviews.processing.map_parameters import MapParameters
from diffviews.serving.client import WorkerClient
from diffviews.serving.protocol import JobStatus
from diffviews.tracking.schema import MapKind
from panel_app.computing.jobs import Report
from panel_app.computing.studio import NOTHING_GIVEN, GivenCheckpoint


class RemoteStudio:
    """Sends recipes to a worker, which logs to the same tracking store as this host reads."""

    def __init__(
        self,
        client: WorkerClient,
        workspace: Workspace,
        experiment: str | None = None,
        checkpoint: GivenCheckpoint = NOTHING_GIVEN,
    ) -> None:
        """Compute through a worker.

        Args:
            client: of the worker.
            workspace: where runs are read, and maps logged.
            experiment: that generations are logged to; None takes the worker's.
            checkpoint: weights for recipes that name none; the worker must allow them.
        """
        self._client, self._workspace = client, workspace
        self._experiment, self._checkpoint = experiment, checkpoint

    def generate(self, recipe: GenerationRecipe, report: Report) -> GenerationOutcome:
        """Have the worker generate what a recipe says and log it."""

        def tell(job: JobStatus) -> None:
            report(job.step, job.total, job.preview_image(), where(job))

        recipe = self._checkpoint.fill_in(recipe)
        return self._client.generate(recipe, tell, experiment=self._experiment)

    def embed(
        self, layer_run: str, parameters: MapParameters, report: Report, kind: MapKind = MapKind.SINGLE
    ) -> str:
        """Compute a further map on this host and log it."""
        report(0, 0, None)
        return embed(layer_run, parameters, self._workspace, kind=kind).run_id

    def replay(self, run_id: str, report: Report) -> Replay:
        """Have the worker repeat a logged generation, which it logs as a further run, and compare."""
        outcome = self.generate(read_recipe(self._workspace, run_id), report)
        return compare(run_id, self._workspace, outcome.result.images)

    def extract(self, arguments: Mapping[str, Any], report: Report) -> str:
        """Have the worker extract and log it."""

        def tell(job: JobStatus) -> None:
            note = where(job) or ("" if job.total else "loading the model and the samples")
            report(job.step, job.total, None, note)

        return self._client.extract(arguments, tell, experiment=self._experiment)


def where(job: JobStatus) -> str:
    """Return what keeps a job from running, in words; nothing once it runs."""
    if job.state == "waking":
        return "waking the worker"
    if job.state == "queued":
        jobs = "1 job" if job.ahead == 1 else f"{job.ahead} jobs"
        return f"waiting at the worker, {jobs} ahead" if job.ahead else "starting at the worker"
    return ""
