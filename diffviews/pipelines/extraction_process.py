"""An extraction as a program of its own: what it holds is freed with it, and it can be ended at any moment.

The program reads its order as one line of JSON and ends, as on Ctrl-C, when its input is closed, so
that it does not outlive who started it, who reads how far it is from the runs it logs.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from typing import IO, Any

from diffviews.errors import DiffViewsError
from diffviews.pipelines.job_queue import Job, JobFailedError
from diffviews.pipelines.workspace import Workspace, open_workspace
from diffviews.recipes import Execution, ExtractionRecipe
from diffviews.tracking.schema import Kind, Tag
from diffviews.tracking.staging import writer_name

logger = logging.getLogger(__name__)

WORKER_TOKEN = "DIFFVIEWS_WORKER_TOKEN"
"""Variable that holds a worker's bearer token, of which an extraction is not told."""
_POLL_SECONDS = 0.2
_PROGRESS_SECONDS = 2.0
_END_SECONDS = 30.0


class ExtractionProcess:
    """One extraction in another process, started by `run`.

    Args:
        recipe: what is extracted.
        execution: how.
        workspace: the store that it logs to.
    """

    def __init__(self, recipe: ExtractionRecipe, execution: Execution, workspace: Workspace) -> None:
        self._recipe, self._execution, self._workspace = recipe, execution, workspace
        self._started = int(time.time() * 1000)

    def run(self, job: Job) -> str:
        """Extract, telling the job how far it is, and return the run's id.

        Raises:
            JobFailedError: with the reason.
            CancelledError, QueueStoppedError: if the job is to end.
        """
        kept = {name: value for name, value in os.environ.items() if name != WORKER_TOKEN}
        program = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=kept, start_new_session=True,
        )  # fmt: skip
        try:
            self._send(program)
            self._follow(program, job)
        except DiffViewsError as ending:
            _end(program)
            self._close_runs(program.pid, str(ending))
            raise
        answer = _answer_of(program)
        if "run_id" in answer:
            return str(answer["run_id"])
        reason = str(answer.get("error") or f"the extraction ended with exit status {program.returncode}")
        self._close_runs(program.pid, reason)
        raise JobFailedError(reason)

    def _send(self, program: "subprocess.Popen[bytes]") -> None:
        assert program.stdin is not None
        order = {
            "recipe": asdict(self._recipe),
            "execution": asdict(self._execution),
            "profile": self._workspace.profile.name,
            "experiment": self._workspace.experiment,
        }
        with contextlib.suppress(BrokenPipeError):  # it has ended already; its exit status says so
            program.stdin.write(json.dumps(order).encode() + b"\n")
            program.stdin.flush()

    def _follow(self, program: "subprocess.Popen[bytes]", job: Job) -> None:
        job.report(0, 0, note="loading the model and the samples")
        asked = time.monotonic()
        while program.poll() is None:
            job.check()
            if time.monotonic() - asked > _PROGRESS_SECONDS:
                with contextlib.suppress(DiffViewsError):  # the store is busy: the bar waits, the job goes on
                    self._tell(program.pid, job)
                asked = time.monotonic()
            time.sleep(_POLL_SECONDS)

    def _tell(self, process: int, job: Job) -> None:
        runs = self._runs_of(process)
        for run in runs:
            if run.data.tags.get(Tag.KIND) == Kind.EXTRACT:
                sigmas = run.data.params.get("sigmas", "").split(",")
                own = [child for child in runs if child.data.tags.get(Tag.PARENT) == run.info.run_id]
                done = [child for child in own if child.info.status == "FINISHED"]
                job.run_id = run.info.run_id
                job.report(len(done), int(run.data.params.get("layers", 0)) * len(sigmas))

    def _runs_of(self, process: int) -> list[Any]:
        """Return MLflow's runs that the process has written since it was started."""
        tracker = self._workspace.tracker
        host = writer_name().rpartition(":")[0]
        condition = f"tags.`{Tag.WRITER}` = '{host}:{process}' and attributes.start_time >= {self._started}"
        return list(tracker.connection.call(lambda client: client.search_runs([tracker.experiment_id], condition)))

    def _close_runs(self, process: int, reason: str) -> None:
        """End with a reason the runs that the process could not end itself, or ended as interrupted."""
        try:
            for run in self._runs_of(process):
                if run.info.status in ("RUNNING", "KILLED"):
                    run_id = run.info.run_id
                    call = self._workspace.tracker.connection.call
                    call(lambda client, run_id=run_id: client.set_tag(run_id, Tag.ERROR, reason[:1000]))  # type: ignore[misc]
                    call(lambda client, run_id=run_id: client.set_terminated(run_id, "FAILED"))  # type: ignore[misc]
        except DiffViewsError as trouble:  # must not hide why the job ended
            logger.warning("runs of the extraction stay as they are: %s", trouble)


def _end(program: "subprocess.Popen[bytes]") -> None:
    """Close the program's input, at which it ends its runs; kill it when it does not."""
    try:
        program.communicate(timeout=_END_SECONDS)
    except subprocess.TimeoutExpired:
        program.kill()
        program.communicate()


def _answer_of(program: "subprocess.Popen[bytes]") -> dict[str, Any]:
    try:
        answer = json.loads(program.communicate()[0])
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def main() -> None:
    """Run one extraction: the order comes by the input, the answer goes to the output."""
    from diffviews.pipelines.extract import extract  # brings Lightning, which whoever starts this does without

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print belongs in the log
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with, args=(sys.stdin,), daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        recipe = ExtractionRecipe.from_values(order["recipe"])
        workspace = open_workspace(order["profile"], order["experiment"])
        answer = {"run_id": extract(recipe, workspace, Execution(**order["execution"])).run_id}
    except DiffViewsError as error:
        answer = {"error": str(error)}
    except KeyboardInterrupt:
        sys.exit(130)
    with answers:
        json.dump(answer, answers)


def _end_with(stream: IO[str]) -> None:
    """Interrupt this process once nobody holds the other end of `stream`."""
    stream.read()
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    main()
