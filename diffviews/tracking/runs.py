"""Starting, resuming and re-using runs, always by id and never by MLflow's global active run."""

import contextlib
import getpass
import logging
import os
import re
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from filelock import FileLock

from diffviews.data.storage.cache import check_fingerprint
from diffviews.errors import TrackingError
from diffviews.tracking.active_run import ActiveRun, check_params
from diffviews.tracking.connection import Connection, check_run_id
from diffviews.tracking.notes import NOTE, Note
from diffviews.tracking.profiles import Profile, activate, find_profile
from diffviews.tracking.records import ui_path
from diffviews.tracking.schema import Kind, RunTags, Tag
from diffviews.tracking.staging import lock_writing, refuse_elsewhere, work_folder, writer_name

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)


class Tracker:
    """Writes the runs of one job, or several, to one experiment; usable from several threads.

    ```
    tracker = Tracker()
    with tracker.start("extract", "edm-digits on digits", RunTags(model="edm-digits")) as job:
        with tracker.start("layer", "midblock at 2", RunTags(layer="midblock", sigma=2.0), parent=job) as run:
            run.log_metrics({"trustworthiness": 0.99})
    ```

    Args:
        profile: a profile, the name of one, or a tracking address; None takes `load_profile()`.
        experiment: name of the experiment. Without it `MLFLOW_EXPERIMENT_ID`, then
            `MLFLOW_EXPERIMENT_NAME`, then the profile's decides.

    Raises:
        ConfigError: if the profile or the address is malformed.
        TrackingError: if the store cannot be prepared.
    """

    def __init__(self, profile: Profile | str | None = None, experiment: str | None = None) -> None:
        self.profile = activate(find_profile(profile))
        self.connection = Connection(self.profile.tracking_uri)
        self._experiment = experiment
        self._experiment_id: str | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Self], tuple[Profile, str | None]]:
        """Open the store anew in the process that this is sent to."""
        return type(self), (self.profile, self._experiment)

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment, which is made when it does not exist."""
        with self._lock:
            if self._experiment_id is None:
                self._experiment_id = self._resolved_experiment()
            return self._experiment_id

    def start(
        self,
        kind: Kind | str,
        name: str,
        tags: RunTags,
        *,
        parent: ActiveRun | None = None,
        params: Mapping[str, object] | None = None,
        note: Note | None = None,
        system_metrics: bool = False,
        on_the_way: bool = False,
    ) -> ActiveRun:
        """Start a run; use it as a context manager.

        Under `mlflow run` the first run without a parent is the one that MLflow has opened.

        Args:
            kind: what it is.
            name: what the MLflow UI shows; nothing finds a run by it.
            tags: what it is about; a child takes model and dataset from its parent where absent.
            parent: run of the job that this one belongs to.
            params: parameters to log at once.
            note: what its description says.
            system_metrics: log CPU, memory and GPU use, for long jobs.
            on_the_way: another job needs its result; that job takes the run `mlflow run` opened.

        Raises:
            ConfigError: if a tag or parameter is impossible; no run is made then.
            TrackingError: if the store cannot be used.
        """
        tags = tags.filled_from(parent.tags) if parent is not None else tags
        written = tags.as_tags(kind)
        check_params(params or {})
        opened = self._opened_run() if parent is None and not on_the_way else None
        run = self._adopted(opened, name, written) if opened else self._created(name, written, parent)
        lock = lock_writing(run.info.run_id, work_folder(run.info.run_id, run.info.artifact_uri))
        active = ActiveRun(self.connection, run, tags, lock, opened_elsewhere=opened is not None)
        with contextlib.ExitStack() as on_failure:
            on_failure.push(active)  # an error here ends the run with its reason
            active.log_params(params or {}, tags={} if note is None else {NOTE: note.text(active.run_id)})
            if system_metrics:
                active.monitor_system()
            on_failure.pop_all()
        return active

    def resume(self, run_id: str, *, take_over: bool = False) -> ActiveRun:
        """Open a run that did not finish, with what its last writer had staged and published.

        Args:
            run_id: the run.
            take_over: write it even though its tag names a writer on another machine.

        Raises:
            RunNotFoundError: if there is no such run.
            TrackingError: if it is finished, or someone else is writing it.
            SchemaVersionError: if it was logged by a newer DiffViews.
        """
        check_run_id(run_id)
        run = self.connection.call(lambda client: client.get_run(run_id))
        with contextlib.ExitStack() as on_failure:
            lock = lock_writing(run_id, work_folder(run_id, run.info.artifact_uri))
            on_failure.callback(lock.release)
            run = self.connection.call(lambda client: client.get_run(run_id))  # as it is now that we hold it
            if run.info.status == "FINISHED":
                raise TrackingError(f"run {run_id} is finished and its result never changes; start a new run")
            if not take_over:
                refuse_elsewhere(run_id, run.data.tags.get(Tag.WRITER), run.info.status)
            active = self._reopened(run, lock)
            on_failure.pop_all()
        return active

    def _reopened(self, run: "Run", lock: FileLock) -> ActiveRun:
        tags, run_id = RunTags.from_tags(run.data.tags), run.info.run_id

        def reopen(client: "MlflowClient") -> None:
            client.set_tag(run_id, Tag.WRITER, writer_name())
            client.update_run(run_id, status="RUNNING")
            if Tag.ERROR in run.data.tags:
                client.delete_tag(run_id, Tag.ERROR)

        self.connection.call(reopen)
        by_project = run.data.tags.get("mlflow.source.type") == "PROJECT"
        active = ActiveRun(self.connection, run, tags, lock, opened_elsewhere=by_project)
        active.read_back()
        return active

    def find_finished(self, fingerprint: str) -> str | None:
        """Return the newest FINISHED run of the experiment with this fingerprint, if there is one."""
        return self._newest(fingerprint, "attributes.status = 'FINISHED'")

    def find_unfinished(self, fingerprint: str) -> str | None:
        """Return the newest run with this fingerprint that can be resumed, if there is one."""
        return self._newest(fingerprint, "attributes.status != 'FINISHED'")

    def mark_reused(self, run_id: str) -> None:
        """Say that the job's result is that of `run_id`, which had the same fingerprint.

        The run that `mlflow run` opened, if it did, ends FINISHED with the tag
        `diffviews.reused_run`, and is listed nowhere, since it carries no kind.
        """
        check_run_id(run_id)
        opened = self._opened_run()
        if opened is None:
            return
        opened_id = opened.info.run_id

        def end(client: "MlflowClient") -> None:
            client.set_tag(opened_id, Tag.REUSED_RUN, run_id)
            client.set_terminated(opened_id, status="FINISHED")

        self.connection.call(end)

    def ui_path(self, run_id: str) -> str:
        """Return the run's place in the MLflow UI, below the server's address."""
        return ui_path(self.experiment_id, check_run_id(run_id))

    def _opened_run(self) -> "Run | None":
        """Return the run that `mlflow run` opened for this process while no job has taken it."""
        run_id = os.environ.get("MLFLOW_RUN_ID", "").strip()
        if not run_id:
            return None
        run = self.connection.call(lambda client: client.get_run(check_run_id(run_id)))
        untouched = Tag.KIND not in run.data.tags and Tag.REUSED_RUN not in run.data.tags
        return run if untouched and run.info.status == "RUNNING" else None

    def _adopted(self, opened: "Run", name: str, tags: dict[str, str]) -> "Run":
        from mlflow.entities import RunTag

        run_id = opened.info.run_id
        entities = [RunTag(key, value) for key, value in (tags | {Tag.WRITER: writer_name()}).items()]

        def adopt(client: "MlflowClient") -> "Run":
            client.log_batch(run_id, tags=entities, synchronous=True)
            client.update_run(run_id, name=name)
            return client.get_run(run_id)

        return self.connection.call(adopt)

    def _created(self, name: str, tags: dict[str, str], parent: ActiveRun | None) -> "Run":
        experiment_id = parent.experiment_id if parent is not None else self.experiment_id
        if parent is not None:
            tags = tags | {Tag.PARENT: parent.run_id}
        tags = _origin() | tags | {Tag.WRITER: writer_name()}
        return self.connection.call(lambda client: client.create_run(experiment_id, tags=tags, run_name=name))

    def _newest(self, fingerprint: str, condition: str) -> str | None:
        found = self.connection.call(
            lambda client: client.search_runs(
                [self.experiment_id],
                f"tags.`{Tag.FINGERPRINT}` = '{check_fingerprint(fingerprint)}' and {condition}",
                max_results=1,
                order_by=["attributes.start_time DESC"],
            )
        )
        return found[0].info.run_id if found else None

    def _resolved_experiment(self) -> str:
        from_environment = os.environ.get("MLFLOW_EXPERIMENT_ID", "").strip()
        if self._experiment is None and from_environment:
            experiment = self.connection.call(lambda client: client.get_experiment(from_environment))
            return str(experiment.experiment_id)
        name = self._experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.profile.experiment
        return self.connection.call(lambda client: self._experiment_named(client, name))

    def _experiment_named(self, client: "MlflowClient", name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=self._artifact_location(name)))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = client.get_experiment_by_name(name)  # another process was quicker
        if found is None or found.lifecycle_stage != "active":
            raise TrackingError(
                f"experiment {name!r} is deleted; restore it (mlflow experiments restore) or name another"
            )
        return str(found.experiment_id)

    def _artifact_location(self, experiment: str) -> str | None:
        root = self.profile.artifact_root
        folder = re.sub(r"[^A-Za-z0-9._-]+", "-", experiment).strip(".") or "experiment"
        return f"{root.rstrip('/')}/{folder}" if root is not None else None


def _origin() -> dict[str, str]:
    """Return the tags by which the MLflow UI shows who and what made a run."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container without a user database
        user = "unknown"
    return {"mlflow.user": user, "mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
