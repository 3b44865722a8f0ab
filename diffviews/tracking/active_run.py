"""A run being written: params, metrics, images and artifacts, and how it ends."""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock

from diffviews.data.disk import named_disk_errors
from diffviews.errors import CancelledError, ConfigError, DiffViewsError, RunNotFoundError, TrackingError
from diffviews.tracking.connection import Connection, redact
from diffviews.tracking.schema import Kind, RunTags, Tag
from diffviews.tracking.staging import StagedArtifacts

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, Run, RunTag

    from diffviews.data.samples import SampleSet

logger = logging.getLogger(__name__)

MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
_METRICS_PER_BATCH = 1000
_PARAMS_PER_BATCH = 100
_MAX_DATASET_DIGEST = 36


class ActiveRun(StagedArtifacts):
    """A RUNNING run, made by `Tracker.start` or `Tracker.resume`; usable from several threads.

    As a context manager it ends the run: FINISHED when the block ends, after all staged artifacts
    and then the manifest are logged; KILLED on Ctrl-C or a cancelled job; FAILED, with the reason
    in the tag `diffviews.error`, on any other exception, which goes on to the caller.

    Artifacts are written to the folder `staging` and become visible together, on `publish` or at
    the end. A process that is killed leaves the run RUNNING and `staging` as it is.

    Attributes:
        run_id: MLflow's id.
        experiment_id: MLflow's id of its experiment.
        artifact_uri: where its artifacts lie.
        kind: what it is.
        tags: what it is about.
    """

    def __init__(
        self, connection: Connection, run: "Run", tags: RunTags, lock: FileLock, *, opened_elsewhere: bool
    ) -> None:
        super().__init__(connection, run.info.run_id, run.info.artifact_uri)
        self.experiment_id: str = run.info.experiment_id
        self.kind = Kind(run.data.tags[Tag.KIND])
        self.tags = tags
        self._writer_lock = lock
        self._opened_elsewhere = opened_elsewhere
        self._lock = threading.RLock()
        self._params: dict[str, str] = dict(run.data.params)
        self._monitoring = contextlib.ExitStack()

    def log_params(self, params: Mapping[str, object], *, tags: Mapping[str, str] | None = None) -> None:
        """Log parameters, and tags with them; the same value twice is no error.

        In a run that `mlflow run` opened, MLflow has logged what the user typed. Where a value
        differs from that, it is logged as `resolved.<name>`.

        Raises:
            ConfigError: if a value is longer than 6,000 characters, or a logged one would change.
        """
        from mlflow.entities import Param, RunTag

        with self._lock:
            fresh = self._fresh_params(params)
            told = [RunTag(name, _checked("tag", name, value, MAX_TAG_LENGTH)) for name, value in (tags or {}).items()]
            batches = list(_batches([Param(name, text) for name, text in fresh.items()], _PARAMS_PER_BATCH))
            for number, batch in enumerate(batches or ([[]] if told else [])):
                self._log_batch(params=batch, tags=told if number == 0 else ())
            self._params.update(fresh)

    def _fresh_params(self, params: Mapping[str, object]) -> dict[str, str]:
        fresh = {}
        for name, value in params.items():
            text = _checked("param", name, value, MAX_PARAM_LENGTH)
            logged = self._params.get(name, text)
            if logged != text and self._opened_elsewhere:
                name = f"resolved.{name}"
                logged = self._params.get(name, text)
            if logged != text:
                raise ConfigError(f"param {name!r} is logged as {logged[:100]!r} and cannot become {text[:100]!r}")
            if name not in self._params:
                fresh[name] = text
        return fresh

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log one value per key, all in as few requests as possible; NaN stays NaN."""
        self._log_metrics((key, value, step or 0) for key, value in metrics.items())

    def log_metric_series(self, key: str, values: Iterable[float], *, first_step: int = 0) -> None:
        """Log a whole curve; value i is at step `first_step` + i."""
        self._log_metrics((key, value, step) for step, value in enumerate(values, first_step))

    def _log_metrics(self, values: Iterable[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, float(value), now, step) for key, value, step in values]
        for batch in _batches(metrics, _METRICS_PER_BATCH):
            self._log_batch(metrics=batch)

    def set_tag(self, name: str, value: object) -> None:
        """Set or change one tag.

        Raises:
            ConfigError: if the value is longer than 8,000 characters.
        """
        from mlflow.entities import RunTag

        self._log_batch(tags=[RunTag(name, _checked("tag", name, value, MAX_TAG_LENGTH))])

    def _log_batch(
        self,
        *,
        metrics: "Sequence[Metric]" = (),
        params: "Sequence[Param]" = (),
        tags: "Sequence[RunTag]" = (),
    ) -> None:
        self._connection.call(lambda client: client.log_batch(self.run_id, metrics, params, tags, synchronous=True))

    def log_input(self, samples: "SampleSet", *, name: str, source: str, context: str = "extraction") -> None:
        """Name the sample set that the run works on, as an MLflow dataset.

        Args:
            samples: the set; its digest and its number of samples are logged.
            name: what the MLflow UI shows.
            source: notation it was opened by, for example 'digits' or 'folder:/data/flowers'.
            context: what it is used for.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name[:500],
            digest=samples.digest[:_MAX_DATASET_DIGEST],
            source_type="diffviews",
            source=json.dumps({"source": source, "digest": samples.digest}),
            profile=json.dumps({"num_rows": len(samples)}),
        )
        logged = DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
        self._connection.call(lambda client: client.log_inputs(self.run_id, datasets=[logged]))

    def log_text(self, text: str, path: str) -> None:
        """Stage `text`, in UTF-8, as the artifact `path`."""
        self.log_artifact_bytes(text.encode(), path)

    def log_json(self, content: Any, path: str) -> None:
        """Stage `content` as JSON, which knows no NaN, as the artifact `path`."""
        self.log_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", path)

    def log_table(self, table: Any, path: str) -> None:
        """Stage a DataFrame or a mapping of columns as the .csv or .parquet artifact `path`."""
        import pandas as pd

        from diffviews.data.parquet import write_table

        if not path.endswith((".csv", ".parquet")):
            raise ConfigError(f"table {path!r} must be named .csv or .parquet")
        frame, target = pd.DataFrame(table), self.stage(path)
        with named_disk_errors(target):
            if path.endswith(".csv"):
                frame.to_csv(target, index=False)
            else:
                write_table(frame, target)

    def log_image(self, key: str, png: bytes, *, step: int = 0) -> None:
        """Show a picture under `key` in the MLflow UI's image grid, at once.

        The same key in each run of an experiment lets the grid line the pictures up. The two files
        that MLflow makes of it lie outside the manifest.
        """
        from PIL import Image

        with Image.open(BytesIO(png)) as opened:
            picture = opened.convert("RGB")
        self._connection.call(
            lambda client: client.log_image(self.run_id, picture, key=key, step=step, synchronous=True),
            transfer=True,
        )

    def finish(self) -> None:
        """Log everything staged, then the manifest, then end the run FINISHED."""
        with self._lock:
            self.set_tag(Tag.MANIFEST, self._publish_manifest())
            self._terminate("FINISHED")

    def fail(self, reason: str, *, status: str = "FAILED") -> None:
        """End the run FAILED or KILLED with `reason`; what is staged stays for `Tracker.resume`."""
        with self._lock:
            reason = redact(" ".join(reason.split()))
            self.set_tag(Tag.ERROR, reason if len(reason) <= 1000 else f"{reason[:999]}…")
            self._terminate(status)

    def _terminate(self, status: str) -> None:
        self._monitoring.close()
        self._connection.call(lambda client: client.set_terminated(self.run_id, status=status))
        self._close(finished=status == "FINISHED")
        self._writer_lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and not self._ended:
                self._end_with(error)
            elif not self._ended:
                try:
                    self.finish()
                except (DiffViewsError, OSError, KeyboardInterrupt) as trouble:
                    self._end_with(trouble)
                    raise
        finally:
            self._monitoring.close()
            self._writer_lock.release()

    def _end_with(self, error: BaseException) -> None:
        stopped = isinstance(error, KeyboardInterrupt | CancelledError)
        reason = str(error) if isinstance(error, DiffViewsError) else f"{type(error).__name__}: {error}"
        if isinstance(error, KeyboardInterrupt):
            reason = "interrupted by the user"
        try:
            self.fail(reason, status="KILLED" if stopped else "FAILED")
        except (TrackingError, RunNotFoundError) as trouble:  # must not hide the error that ended the job
            logger.warning("run %s stays RUNNING: %s; staged files are in %s", self.run_id, trouble, self.staging)

    def monitor_system(self) -> None:
        """Log CPU, memory, disk and GPU use every ten seconds until the run ends.

        Without the package psutil a warning takes its place.
        """
        try:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
        except ImportError:
            logger.warning("system metrics are off: install psutil to have them")
            return
        self._monitoring.enter_context(self._connection.limits())  # its thread asks the server too
        monitor = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=self._connection.tracking_uri)
        monitor.start()
        self._monitoring.callback(monitor.finish)


def check_params(params: Mapping[str, object]) -> None:
    """Refuse parameters that MLflow would cut.

    Raises:
        ConfigError: if a value is longer than 6,000 characters.
    """
    for name, value in params.items():
        _checked("param", name, value, MAX_PARAM_LENGTH)


def _checked(what: str, name: str, value: object, limit: int) -> str:
    text = str(value)
    if len(text) > limit:
        raise ConfigError(
            f"{what} {name!r} has {len(text):,} characters, MLflow keeps {limit:,}; log it as an artifact with log_text"
        )
    return text


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
