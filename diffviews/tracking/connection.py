"""The connection to one tracking store: requests bounded in time, and failures in words."""

import contextlib
import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from diffviews.data.storage.object_store import ObjectStore
from diffviews.data.storage.s3_client import S3Address
from diffviews.data.storage.store_errors import explained
from diffviews.errors import ConfigError, DiskSpaceError, RunNotFoundError, TrackingError

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

T = TypeVar("T")

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_USER_INFO = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*@")
# RemoteDisconnected: the server closed a kept-alive connection at the moment it was used again.
_NOT_ARRIVED = ("NewConnectionError", "Connection refused", "RemoteDisconnected")
_UNREACHABLE = (*_NOT_ARRIVED, "NameResolutionError", "Max retries exceeded")
_TOO_SLOW = ("timed out", "timeout")
_DISK_FULL = ("No space left on device", "database or disk is full")
_OVERLOADED = ("too many 429", "too many 502", "too many 503", "database is locked")
_LOST_RACE = ('unique constraint "datasets', "UNIQUE constraint failed: datasets")
"""Two runs name a new data set at once: MLflow undoes the slower one's transaction, and finds the row the next time."""
# A file may be sent or fetched twice, so here a request that broke on its way is repeated as well.
_BROKEN_TRANSFER = (
    *_TOO_SLOW, "Connection aborted", "Connection reset", "Connection broken", "IncompleteRead", "too many 500",
    "too many 504", "500 Server Error", "502 Server Error", "503 Server Error", "504 Server Error",
)  # fmt: skip
_TRANSFER_ATTEMPTS = 5


def redact(text: str) -> str:
    """Return `text` with the user and password of every address in it hidden."""
    return _USER_INFO.sub("***@", text)


def is_sqlite(uri: str) -> bool:
    """Tell whether a tracking address names a SQLite database."""
    return uri.startswith("sqlite:")


def sqlite_path(uri: str) -> Path | None:
    """Return the database file of a SQLite address, None for one in memory."""
    path = uri.partition("///")[2].partition("?")[0]
    return None if path in ("", ":memory:") else Path(path)


def absolute_uri(uri: str) -> str:
    """Return a tracking address that means the same from every folder.

    Raises:
        ConfigError: if it is not a database or a server; MLflow's old file store is refused.
    """
    scheme = uri.partition(":")[0]
    if scheme in ("http", "https") and urlsplit(uri).hostname:
        return uri.rstrip("/")
    if is_sqlite(uri) and "///" in uri:
        path = sqlite_path(uri)
        return uri if path is None else f"sqlite:///{path.absolute()}"
    if scheme.partition("+")[0] in ("postgresql", "mysql", "mssql") and "://" in uri:
        return uri
    raise ConfigError(
        f"tracking address {redact(uri)!r} is neither a server (http://…) nor a database (sqlite:///…, "
        "postgresql://…); MLflow's old folder store is not supported, use sqlite:///mlflow.db"
    )


def check_run_id(run_id: str) -> str:
    """Return `run_id` when it has the form of one, fit for filters and file names.

    Raises:
        RunNotFoundError: if it cannot be the id of any run.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise RunNotFoundError(f"{run_id!r} is not a run id; ids are letters, digits, '-' and '_'")
    return run_id


class ScopedDefaults:
    """Environment values that hold only while someone is inside, whatever thread it is.

    MLflow takes its time limits from the environment alone. A value that the user has set is
    left as it is; of several values in use at once the largest holds.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: dict[str, list[int]] = {}

    @contextlib.contextmanager
    def __call__(self, values: Mapping[str, int]) -> Iterator[None]:
        """Set `values` where the user has not, and take them back on leaving."""
        with self._lock:
            mine = {k: v for k, v in values.items() if k in self._active or k not in os.environ}
            for key, value in mine.items():
                self._active.setdefault(key, []).append(value)
                os.environ[key] = str(max(self._active[key]))
        try:
            yield
        finally:
            with self._lock:
                for key, value in mine.items():
                    self._active[key].remove(value)
                    if self._active[key]:
                        os.environ[key] = str(max(self._active[key]))
                    else:
                        del self._active[key]
                        os.environ.pop(key, None)


mlflow_defaults = ScopedDefaults()


class Connection:
    """One tracking store; usable from several threads.

    Args:
        tracking_uri: its address.
        timeout: seconds that a request may wait for an answer; `MLFLOW_HTTP_REQUEST_TIMEOUT` wins.
        transfer_timeout: the same while a file is sent or fetched.
        patience: seconds for which a refused connection or a locked database is tried again.
    """

    def __init__(
        self, tracking_uri: str, *, timeout: int = 12, transfer_timeout: int = 120, patience: float = 8.0
    ) -> None:
        self.tracking_uri = absolute_uri(tracking_uri)
        self._timeout = timeout
        self._transfer_timeout = transfer_timeout
        self._patience = patience
        self._client: MlflowClient | None = None
        self._buckets: dict[str, ObjectStore] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Connection({redact(self.tracking_uri)!r})"

    def call(self, operation: Callable[["MlflowClient"], T], *, transfer: bool = False) -> T:
        """Run `operation` on the client and return its answer.

        What never reached the store is tried again for `patience` seconds; what may have reached
        it is not, so that nothing is done twice. A `transfer` of a file, which may be done twice, is
        tried again whatever broke it, five times at least.

        Raises:
            RunNotFoundError: if the store does not know the run.
            DiskSpaceError: if a disk is full.
            TrackingError: if the store is down, slow or refuses, with its address and the remedy.
        """
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        deadline = time.monotonic() + self._patience
        signs = _NOT_ARRIVED + _OVERLOADED + _LOST_RACE + (_BROKEN_TRANSFER if transfer else ())
        attempts_left, pause = _TRANSFER_ATTEMPTS if transfer else 1, 0.2
        with self.limits(transfer=transfer):
            while True:
                try:
                    with explained():
                        return operation(self._ready_client())
                except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
                    attempts_left -= 1
                    too_late = attempts_left <= 0 and time.monotonic() + pause > deadline
                    if too_late or not _says(error, signs):
                        raise self._explained(error) from error
                    logger.info("tracking store %s: trying again in %.1f s", redact(self.tracking_uri), pause)
                time.sleep(pause)
                pause *= 2

    def bucket(self, name: str) -> ObjectStore:
        """Return the bucket in which runs of this store keep their artifacts; its keys are full ones."""
        with self._lock:
            if name not in self._buckets:
                self._buckets[name] = ObjectStore(S3Address("s3", name, ""))
            return self._buckets[name]

    def artifact_store(self, artifact_uri: str) -> "ArtifactRepository":
        """Return MLflow's access to the artifacts at `artifact_uri`; use it within `call`.

        The client's own download answers every failure with "not found", which hides a server that is down.
        """

        def find(_: "MlflowClient") -> "ArtifactRepository":
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            return get_artifact_repository(artifact_uri, tracking_uri=self.tracking_uri)

        return self.call(find)

    def limits(self, *, transfer: bool = False) -> contextlib.AbstractContextManager[None]:
        """Hold MLflow to this connection's time limits, and to silence, within the block."""
        return mlflow_defaults(
            {
                "MLFLOW_HTTP_REQUEST_TIMEOUT": self._transfer_timeout if transfer else self._timeout,
                "MLFLOW_HTTP_REQUEST_MAX_RETRIES": 0,
                "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": 1,
                "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": 0,
            }
        )

    def _ready_client(self) -> "MlflowClient":
        with self._lock:
            if self._client is None:
                from mlflow.tracking import MlflowClient

                self._client = MlflowClient(self.tracking_uri, registry_uri=self.tracking_uri)
            return self._client

    def _explained(self, error: Exception) -> Exception:
        """Return the typed error that says what happened, where, and what to do about it."""
        where = f"tracking store {redact(self.tracking_uri)}"
        reason = redact(str(error).strip().split("\n", 1)[0])[:400]
        if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
            return RunNotFoundError(f"{where}: {reason}")
        if getattr(error, "errno", None) == errno.ENOSPC or _says(error, _DISK_FULL):
            return DiskSpaceError(f"{where}: the disk is full ({reason}); free some space, then try again")
        if is_sqlite(self.tracking_uri):
            return TrackingError(f"{where} failed: {reason}; {self._sqlite_remedy(error)}")
        if _says(error, _TOO_SLOW):
            limit = os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", self._timeout)
            return TrackingError(
                f"{where} did not answer within {limit} s; see whether the server is overloaded, "
                "or set MLFLOW_HTTP_REQUEST_TIMEOUT to more seconds"
            )
        if _says(error, _OVERLOADED):
            return TrackingError(
                f"{where} answers that it cannot serve; see that its database runs and the server's log, then try again"
            )
        if _says(error, _UNREACHABLE):
            return TrackingError(
                f"{where} cannot be reached; start it (mlflow server), or name one that runs by "
                "MLFLOW_TRACKING_URI or --profile"
            )
        return TrackingError(
            f"{where} failed: {reason}; see the server's log, and the credentials in "
            "MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN"
        )

    def _sqlite_remedy(self, error: Exception) -> str:
        if _says(error, ("out-of-date database schema",)):
            return "back the database up, then run mlflow db upgrade on it"
        if _says(error, _OVERLOADED):
            return "too many write at once; let them write through a tracking server (profile server)"
        return f"see that {sqlite_path(self.tracking_uri)} is a readable MLflow database, or choose another profile"


def _says(error: Exception, signs: tuple[str, ...]) -> bool:
    """Tell whether an error, or one that led to it, has one of `signs` in its text.

    MLflow wraps whatever happened beneath it into one class and keeps the words alone.
    """
    link: BaseException | None = error
    while link is not None:
        if any(sign in str(link) for sign in signs):
            return True
        link = link.__cause__ or link.__context__
    return False
