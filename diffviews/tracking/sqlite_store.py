"""A SQLite tracking store: its schema is made once, whoever comes first."""

import contextlib
import sqlite3
from pathlib import Path

from filelock import FileLock, Timeout

from diffviews.errors import TrackingError
from diffviews.tracking.connection import sqlite_path

_LOCK_SECONDS = 120


def prepare_sqlite(tracking_uri: str, artifact_root: str | None) -> None:
    """Make the database, its schema and its folder when they are not there yet.

    MLflow's first migration races between processes and cannot be taken up half-way, so it runs
    under a file lock on a database of another name, which is renamed when whole. The write-ahead
    log lets readers and a writer work at the same time.

    Raises:
        TrackingError: if the file is no database or cannot be made, or the lock stays taken.
    """
    path = sqlite_path(tracking_uri)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=_LOCK_SECONDS, thread_local=False):
            if not _has_schema(path):
                _make_schema(path, artifact_root or str(path.parent / "mlartifacts"))
    except Timeout as error:
        raise TrackingError(
            f"another process has been preparing {path} for {_LOCK_SECONDS} s; end it, then try again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise TrackingError(
            f"{path} cannot be used as tracking database ({error}); move it away or choose another profile"
        ) from error
    except OSError as error:
        raise TrackingError(f"the tracking database {path} cannot be made: {error}") from error


def _has_schema(path: Path) -> bool:
    """Tell whether the database is one that `_make_schema` has seen through to the end."""
    if not path.is_file():
        return False
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        journal = database.execute("PRAGMA journal_mode").fetchone()[0]
    return {"alembic_version", "experiments"} <= tables and journal == "wal"


def _make_schema(path: Path, artifact_root: str) -> None:
    if path.exists():  # made by MLflow itself, or by an older version of it
        _migrate(path, artifact_root)
        return
    unfinished = path.with_name(f"{path.name}.unfinished")
    for leftover in path.parent.glob(f"{unfinished.name}*"):
        leftover.unlink()
    _migrate(unfinished, artifact_root)
    unfinished.replace(path)


def _migrate(path: Path, artifact_root: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import SQLAlchemyError

    try:
        # The artifact root matters here only: MLflow's experiment 0 keeps the one it is made with.
        SqlAlchemyStore(f"sqlite:///{path}", artifact_root).engine.dispose()
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise TrackingError(
            f"the tracking database {path} cannot be used: {reason}; move it away, upgrade it "
            "(mlflow db upgrade, after a backup) or choose another profile"
        ) from error
    with (
        contextlib.closing(sqlite3.connect(path, timeout=5)) as database,
        contextlib.suppress(sqlite3.OperationalError),  # in use just now: the next one switches
    ):
        database.execute("PRAGMA journal_mode = WAL")
