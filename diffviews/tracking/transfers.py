"""How the artifacts of a run travel: straight to its bucket, or through the store that MLflow knows.

The address alone decides. Either way a file arrives whole or not at all, several travel at once, and what fails
in passing is asked for again.
"""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from diffviews.data.disk import named_disk_errors
from diffviews.data.storage.object_store import CONNECTIONS
from diffviews.data.storage.parallel import in_parallel
from diffviews.data.storage.s3_client import parse_s3_address
from diffviews.tracking.connection import Connection

SERVER_CONNECTIONS = 8
"""Files that a tracking server, or a store behind MLflow, passes on at once."""


class Transfers(Protocol):
    """The artifacts of one run in a store; usable from several threads."""

    parallel: int
    """Files that may travel at once."""

    def names(self) -> list[str]:
        """Return the names of all artifacts there, sorted."""

    def exists(self, name: str) -> bool:
        """Say whether there is such an artifact; a store that cannot be asked is an error, not a 'no'."""

    def fetch(self, name: str, target: Path, size: int | None = None) -> None:
        """Write an artifact of `size` bytes to `target`, which is replaced at once when all of it has arrived."""

    def send(self, folder: Path, names: Sequence[str]) -> None:
        """Store the files of `folder` under their names."""


def transfers_for(connection: Connection, artifact_uri: str) -> Transfers:
    """Return the way to the artifacts at an address that is no folder of this machine.

    Raises:
        ConfigError: if an s3:// address is malformed.
        TrackingError: if MLflow knows no such store.
    """
    if artifact_uri.startswith("s3://"):
        return BucketTransfers(connection, artifact_uri)
    return StoreTransfers(connection, artifact_uri)


class BucketTransfers:
    """Artifacts in a bucket, which is asked directly.

    Raises, whatever it is asked:
        StoreError: if the bucket cannot be used, with the remedy.
        DiskSpaceError: if the disk is full.
    """

    parallel = CONNECTIONS

    def __init__(self, connection: Connection, artifact_uri: str) -> None:
        address = parse_s3_address(artifact_uri)
        self._store = connection.bucket(address.bucket)
        self._prefix = f"{address.key.strip('/')}/" if address.key.strip("/") else ""

    def names(self) -> list[str]:
        """Return the names of all artifacts there, sorted."""
        return sorted(found.key.removeprefix(self._prefix) for found in self._store.list(self._prefix))

    def exists(self, name: str) -> bool:
        """Say whether there is such an artifact."""
        return self._store.exists(self._prefix + name)

    def fetch(self, name: str, target: Path, size: int | None = None) -> None:
        """Write an artifact to `target`; a large one that breaks off is gone on with by the next attempt."""
        self._store.get(self._prefix + name, target, size)

    def send(self, folder: Path, names: Sequence[str]) -> None:
        """Store the files of `folder` under their names."""
        in_parallel(
            lambda name: self._store.put(self._prefix + name, folder / name),
            list(names), self.parallel, describe="artifacts",
        )  # fmt: skip


class StoreTransfers:
    """Artifacts wherever MLflow's own client reaches them: at a tracking server, or a store it has a plugin for.

    Raises, whatever it is asked:
        TrackingError: if the store cannot be used, with the remedy.
        DiskSpaceError: if a disk is full.
    """

    parallel = SERVER_CONNECTIONS

    def __init__(self, connection: Connection, artifact_uri: str) -> None:
        self._connection = connection
        self._store = connection.artifact_store(artifact_uri)

    def names(self) -> list[str]:
        """Return the names of all artifacts there, sorted."""
        return sorted(self._below(None))

    def _below(self, folder: str | None) -> Iterator[str]:
        for entry in self._connection.call(lambda _: self._store.list_artifacts(folder)):
            if entry.is_dir:
                yield from self._below(entry.path)
            else:
                yield entry.path

    def exists(self, name: str) -> bool:
        """Say whether there is such an artifact; MLflow's download answers a missing one like a failed one."""
        folder = name.rpartition("/")[0] or None
        listed = self._connection.call(lambda _: self._store.list_artifacts(folder))
        return any(entry.path == name and not entry.is_dir for entry in listed)

    def fetch(self, name: str, target: Path, size: int | None = None) -> None:
        """Write an artifact to `target`."""
        with named_disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".incoming-") as incoming:
                got = self._connection.call(lambda _: self._store.download_artifacts(name, incoming), transfer=True)
                Path(got).replace(target)

    def send(self, folder: Path, names: Sequence[str]) -> None:
        """Store the files of `folder` under their names."""
        with self._connection.limits(transfer=True):  # held once for all, not taken and given back file by file
            in_parallel(partial(self._send_one, folder), list(names), self.parallel, describe="artifacts")

    def _send_one(self, folder: Path, name: str) -> None:
        below = name.rpartition("/")[0] or None
        self._connection.call(lambda _: self._store.log_artifact(str(folder / name), below), transfer=True)
