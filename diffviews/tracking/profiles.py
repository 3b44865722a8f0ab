"""Profiles: where runs are tracked and where their artifacts lie.

A profile is a TOML file in `mlruns_config`, which is at the top of a clone and inside `diffviews` in a wheel. It is
chosen by name or path, else by `DIFFVIEWS_PROFILE`, else it is `local`; `MLFLOW_TRACKING_URI` wins over its tracking
address.
"""

import contextlib
import os
import re
import sqlite3
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from diffviews.data.storage.s3_client import R2_HOST, S3Address, parse_s3_address
from diffviews.errors import ConfigError, TrackingError, unknown_name
from diffviews.tracking.connection import absolute_uri, is_sqlite, redact, sqlite_path

DEFAULT_PROFILE = "local"
DEFAULT_EXPERIMENT = "diffviews"
ENDPOINT = "MLFLOW_S3_ENDPOINT_URL"
R2_KEYS = {"AWS_ACCESS_KEY_ID": "R2_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY": "R2_SECRET_ACCESS_KEY"}
R2_SETTINGS = {
    "AWS_DEFAULT_REGION": "auto",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
"""What boto3 must find set before it loads: newer defaults add checksums that R2 does not know."""
_LOCK_SECONDS = 120
_SECRET_WORDS = ("KEY", "SECRET", "TOKEN", "PASSWORD")
_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)(?::-([^}]*))?\}")


@dataclass(frozen=True, slots=True)
class Profile:
    """One tracking set-up.

    Attributes:
        name: as the user chose it.
        tracking_uri: address of the tracking store, absolute when it is a file.
        artifact_root: folder or address below which artifacts of new experiments lie; None
            leaves it to the server.
        experiment: name of the experiment that jobs log to.
        environment: variable that MLflow reads → variable that holds its value, for secrets.
        settings: variable that MLflow or boto3 reads → its value, which may hold ${NAME}; no secrets.
    """

    name: str
    tracking_uri: str
    artifact_root: str | None = None
    experiment: str = DEFAULT_EXPERIMENT
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise ConfigError(f"profile {self.name!r}: the experiment needs a name")
        object.__setattr__(self, "tracking_uri", absolute_uri(self.tracking_uri))
        if self.artifact_root is not None and self.artifact_root.startswith("r2://"):
            self._spell_out_r2(parse_s3_address(self.artifact_root))
        elif self.artifact_root is not None and "://" not in self.artifact_root:
            object.__setattr__(self, "artifact_root", str(Path(self.artifact_root).absolute()))

    def _spell_out_r2(self, address: S3Address) -> None:
        """Write r2:// as s3:// with an endpoint: MLflow asks an r2:// bucket for its location, which R2 may refuse."""
        host = f"{address.account or '${R2_ACCOUNT_ID}'}.{R2_HOST}"
        object.__setattr__(self, "artifact_root", f"s3://{address.bucket}/{address.key}")
        object.__setattr__(self, "environment", {**R2_KEYS, **self.environment})
        object.__setattr__(self, "settings", {**R2_SETTINGS, ENDPOINT: f"https://{host}", **self.settings})


def profile_folder() -> Path:
    """Return where the profiles that ship with DiffViews lie."""
    package = Path(__file__).parents[1]
    installed = package / "mlruns_config"
    return installed if installed.is_dir() else package.parent / "mlruns_config"


def profile_names() -> list[str]:
    """Return the names of the profiles that ship with DiffViews."""
    return sorted(path.stem for path in profile_folder().glob("*.toml"))


def load_profile(name: str | None = None) -> Profile:
    """Read the profile `name`, which may also be the path of a .toml file.

    Without a name it is `DIFFVIEWS_PROFILE`, then 'local'. `MLFLOW_TRACKING_URI`, where set,
    replaces the profile's tracking address, and with it the artifact root unless that is a bucket.

    Raises:
        ConfigError: if the profile is unknown, malformed, or holds a secret.
    """
    name = name or os.environ.get("DIFFVIEWS_PROFILE") or DEFAULT_PROFILE
    profile = _read(name)
    override = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not override or absolute_uri(override) == profile.tracking_uri:
        return profile
    own_root = default_artifact_root(override)
    if profile.artifact_root is not None and "://" in profile.artifact_root:
        own_root = profile.artifact_root  # a bucket does not move with the address that tracks it
    return Profile(name, override, own_root, profile.experiment, profile.environment, profile.settings)


def find_profile(profile: Profile | str | None) -> Profile:
    """Return a profile, given by itself, its name, or a bare tracking address; None takes `load_profile()`."""
    if isinstance(profile, Profile):
        return profile
    return profile_of(profile) if profile is not None and "://" in profile else load_profile(profile)


def profile_of(tracking_uri: str, experiment: str = DEFAULT_EXPERIMENT) -> Profile:
    """Return the profile of a bare tracking address."""
    return Profile("address", tracking_uri, default_artifact_root(tracking_uri), experiment)


def default_artifact_root(tracking_uri: str) -> str | None:
    """Return where artifacts lie when only the tracking address is known: beside a SQLite file."""
    if not is_sqlite(tracking_uri):
        return None
    database = sqlite_path(absolute_uri(tracking_uri))
    return str(database.parent / "mlartifacts") if database is not None else None


def activate(profile: Profile) -> Profile:
    """Make a profile ready for use and return it.

    A SQLite store gets its schema and its folder, once, under a file lock. Variables that the
    profile's `environment` maps or its `settings` hold are set for this process where they are not set
    yet, so that MLflow and the programs this process starts find them.

    Raises:
        ConfigError: if a variable that a setting needs is not set.
        TrackingError: if the store cannot be made or is not of this MLflow's schema.
    """
    for target, source in profile.environment.items():
        if not os.environ.get(target) and os.environ.get(source):
            os.environ[target] = os.environ[source]
    for target, text in profile.settings.items():
        if not os.environ.get(target):
            os.environ[target] = _expanded(profile.name, text)
    if is_sqlite(profile.tracking_uri):
        prepare_sqlite(profile.tracking_uri, profile.artifact_root)
    return profile


def _read(name: str) -> Profile:
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"profile {name!r}: there is no such file")
        text = path.read_text(encoding="utf-8")
    elif name in profile_names():
        text = (profile_folder() / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise ConfigError(unknown_name("profile", name, profile_names()) + "; a path ending in .toml works too")
    try:
        return _parsed(name, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"profile {name!r} is not valid TOML: {error}") from error


def _parsed(name: str, content: dict[str, Any]) -> Profile:
    tables = ("environment", "settings")
    known = ("tracking_uri", "artifact_root", "experiment", *tables)
    for key, value in content.items():
        if key not in known:
            raise ConfigError(f"profile {name!r}: " + unknown_name("key", key, known))
        if not isinstance(value, dict if key in tables else str):
            raise ConfigError(f"profile {name!r}: {key} must be {'a table' if key in tables else 'text'}")
    if "tracking_uri" not in content:
        raise ConfigError(f"profile {name!r} lacks tracking_uri")
    environment = content.get("environment", {})
    for target, source in environment.items():
        if not (isinstance(source, str) and re.fullmatch(r"[A-Z][A-Z0-9_]*", source)):
            raise ConfigError(f"profile {name!r}: {target} must name an environment variable, not hold a value")
    settings = content.get("settings", {})
    for target, value in settings.items():
        if not isinstance(value, str) or any(word in target for word in _SECRET_WORDS):
            raise ConfigError(f"profile {name!r}: {target} is no setting; text is, and secrets belong to [environment]")
    if urlsplit(content["tracking_uri"]).password:
        raise ConfigError(
            f"profile {name!r}: {redact(content['tracking_uri'])} holds a password; "
            "write ${NAME} and set that environment variable instead"
        )
    text = {key: _expanded(name, content[key]) for key in known[:3] if key in content}
    return Profile(name, environment=environment, settings=settings, **text)


def _expanded(profile: str, text: str) -> str:
    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1]) or match[2]
        if found is None:
            raise ConfigError(f"profile {profile!r} needs the environment variable {match[1]}, which is not set")
        return found

    return _VARIABLE.sub(value, text)


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
