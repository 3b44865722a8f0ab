"""The `doctor` command: does everything around a job work, and if not, what to do about it."""

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diffviews.data.disk import format_bytes
from diffviews.data.r2_cache import DATA, missing_credentials, shared_bucket, shared_bucket_address
from diffviews.data.storage.cache import cache_folder
from diffviews.data.storage.object_store import ObjectStore
from diffviews.device import resolve_device
from diffviews.errors import ConfigError, DiffViewsError
from diffviews.processing.umap_backend import get_backend_name
from diffviews.tracking.catalog import Catalog
from diffviews.tracking.connection import redact
from diffviews.tracking.profiles import Profile, activate, load_profile

MIN_FREE = 2 * 10**9
"""Bytes of disk below which a job is likely to fail."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    works: bool
    says: str
    """What was found; the remedy where it does not work."""
    needed: bool = True
    """Whether jobs cannot do without it."""

    def __str__(self) -> str:
        mark = "ok     " if self.works else "FAILED " if self.needed else "absent "
        return f"{mark} {self.name:<14} {self.says}"


def doctor(profile: str | None = None, bucket: str | None = None) -> None:
    """Check the object store with a real round trip, credentials, disk, GPU and tracking, each with its remedy.

    Args:
        profile: tracking profile of mlruns_config.
        bucket: name or address of the team's bucket; null takes R2_BUCKET_NAME, else diffviews.

    Raises:
        ConfigError: naming what is needed and does not work.
    """
    findings = []
    for finding in examine(profile, bucket):
        sys.stdout.write(f"{finding}\n")
        findings.append(finding)
    failed = [finding.name for finding in findings if finding.needed and not finding.works]
    if failed:
        raise ConfigError(f"{', '.join(failed)}: needed and not working; the lines above say what to do")


def examine(profile: str | None = None, bucket: str | None = None) -> Iterator[Finding]:
    """Yield what is found, one thing after the other."""
    chosen = None
    try:
        chosen = activate(load_profile(profile))
        place = chosen.artifact_root or "the server"
        yield Finding("profile", True, f"{chosen.name}: runs at {redact(chosen.tracking_uri)}, artifacts at {place}")
    except (DiffViewsError, OSError) as error:
        yield Finding("profile", False, redact(str(error)))
    if chosen is not None:
        yield _tried("tracking", partial(_tracking, chosen))
    yield from _buckets(chosen, bucket)
    yield _tried("disk", lambda: _disk(cache_folder()))
    yield _tried("working folder", lambda: _disk(Path.cwd()))
    yield _gpu()


def _tried(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except (DiffViewsError, OSError) as error:
        return Finding(name, False, redact(str(error)))


def _tracking(profile: Profile) -> str:
    experiments = Catalog(profile).experiments()
    return f"{redact(profile.tracking_uri)} answers; {len(experiments)} experiments"


def _buckets(profile: Profile | None, bucket: str | None) -> Iterator[Finding]:
    """Yield a round trip through each bucket that is configured: the runs' artifacts and the team's."""
    root = (profile.artifact_root if profile else None) or ""
    if root.startswith("s3://"):
        yield _tried("credentials", _same_keys)
        yield _tried("artifacts", lambda: round_trip(ObjectStore(root)))
    missing = missing_credentials(bucket)
    if not missing:
        yield _tried("team bucket", lambda: round_trip(shared_bucket(bucket), DATA))
        return
    begun = bucket is not None or any(os.environ.get(name) for name in ("R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY"))
    says = f"{shared_bucket_address(bucket)}: set {', '.join(missing)}; everything local works without it"
    yield Finding("team bucket", False, says, needed=begun)


def _same_keys() -> str:
    """Compare the keys that MLflow reads with R2's own, by name and never by value."""
    pairs = (("AWS_ACCESS_KEY_ID", "R2_ACCESS_KEY_ID"), ("AWS_SECRET_ACCESS_KEY", "R2_SECRET_ACCESS_KEY"))
    for used, own in pairs:
        if os.environ.get(own) and os.environ.get(used) != os.environ[own]:
            raise ConfigError(f"{used} is set to something else than {own} and wins for artifacts; unset it")
    set_names = [used for used, _ in pairs if os.environ.get(used)]
    return f"{', '.join(set_names)} set" if set_names else "from boto3's own configuration"


def round_trip(store: ObjectStore, prefix: str = "") -> str:
    """Put, get, list and delete one small object; return a sentence.

    Raises:
        StoreError: if one of the four fails.
        ConfigError: if what comes back is not what was sent.
    """
    folder = f"{prefix}/doctor" if prefix else "doctor"
    key, content = f"{folder}/{secrets.token_hex(8)}", secrets.token_bytes(4096)
    store.put(key, content)
    try:
        with tempfile.TemporaryDirectory() as place:
            back = store.get(key, Path(place) / "back").read_bytes()
        if back != content:
            raise ConfigError(f"{store.address}{key} comes back changed; see what lies between here and the store")
        if key not in [found.key for found in store.list(f"{folder}/")]:
            raise ConfigError(f"{store.address} does not list what it holds; the keys need the right to list")
    finally:
        store.delete(key)
    if store.exists(key):
        raise ConfigError(f"{store.address} keeps what was deleted; the keys need the right to delete")
    return f"{store.address} at {store.endpoint}: put, get, list and delete work"


def _disk(folder: Path) -> str:
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        raise ConfigError(f"{folder} cannot be written; set DIFFVIEWS_CACHE_DIR, or work in another folder")
    if free < MIN_FREE:
        raise ConfigError(f"{folder} has {format_bytes(free)} free; make room, or set DIFFVIEWS_CACHE_DIR elsewhere")
    return f"{folder}: {format_bytes(free)} free"


def _gpu() -> Finding:
    device = resolve_device("auto")
    backend = get_backend_name()
    if device.type == "cpu":
        return Finding(
            "GPU", False, f"none found: jobs run on the CPU; maps by {backend}. With one, check its driver and that "
            "torch was built for it", needed=False,
        )  # fmt: skip
    return Finding("GPU", True, f"{device}; maps by {backend}", needed=False)
