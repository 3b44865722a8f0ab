"""Model files in MLflow's registry, by `models:/name/version`."""

import hashlib
import re
import secrets
import shutil
from pathlib import Path

from diffviews.data.files import check_name
from diffviews.data.storage.cache import cache_folder
from diffviews.errors import ConfigError, TrackingError
from diffviews.tracking.connection import Connection
from diffviews.tracking.profiles import Profile, activate, find_profile
from diffviews.tracking.transfers import StoreTransfers

SCHEME = "models:/"
_NAME = r"(?!\.+(?:[/@]|$))[^/@:]{1,250}"
_ADDRESS = re.compile(rf"models:/(?P<name>{_NAME})(?:/(?P<version>[0-9]{{1,9}})|@(?P<alias>[\w-]{{1,250}}))")


def download_model(address: str, profile: Profile | str | None = None, folder: Path | None = None) -> Path:
    """Return a local folder with the files of a registered model version.

    Nothing of it is loaded. A version never changes, so one that is there already is used again.

    Args:
        address: `models:/name/version` or `models:/name@alias`.
        profile: whose registry; None takes the profile of the environment.
        folder: where to keep downloads; None: the cache folder.

    Raises:
        ConfigError: if the address has another form or an artifact's name would lead out of the folder.
        RunNotFoundError: if there is no such version.
        TrackingError: if the registry or its store cannot be reached.
    """
    found = _ADDRESS.fullmatch(address)
    if not found:
        raise ConfigError(f"{address[:200]!r} is no model address; write models:/name/version or models:/name@alias")
    connection = Connection(activate(find_profile(profile)).tracking_uri)
    name, alias = found["name"], found["alias"]
    version = found["version"] or connection.call(lambda client: client.get_model_version_by_alias(name, alias)).version
    source = connection.call(lambda client: client.get_model_version_download_uri(name, version))
    key = hashlib.sha256(f"{connection.tracking_uri}\n{source}\n{version}".encode()).hexdigest()[:16]
    target = (folder or cache_folder() / "models") / key
    if not target.is_dir():
        _download(connection, source, target, address)
    return target


def _download(connection: Connection, source: str, target: Path, address: str) -> None:
    """Fetch every file to a temporary folder beside `target` and give it its name when all are there."""
    way = StoreTransfers(connection, source)
    names = [check_name(name) for name in way.names()]
    if not names:
        raise TrackingError(f"{address} has no files; register it again")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    temporary.mkdir(parents=True)
    try:
        for name in names:
            way.fetch(name, temporary / name)
            if not (temporary / name).resolve().is_relative_to(temporary.resolve()):
                raise TrackingError(f"{address} did not bring its file {name!r}")
        if not target.is_dir():
            temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
