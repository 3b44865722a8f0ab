"""How the artifacts of a run travel: straight to its bucket, or through the store that MLflow knows.

The address alone decides. Either way a file arrives whole or not at all, several travel at once, and what fails
in passing is asked for again.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffviews.data.disk import named_disk_errors
from diffviews.data.storage.object_store import CONNECTIONS
from diffviews.data.storage.parallel import in_parallel
from diffviews.data.storage.s3_client import parse_s3_address
from diffviews.tracking.connection import Connection

SERVER_CONNECTIONS = 8
"""Files that a tracking server, or a store behind MLflow, passes on at once."""


class Transfers(ABC):
    """The artifacts of one run in a store; usable from several threads.

    Raises, whatever it is asked:
        StoreError, TrackingError: if the store cannot be used, with the remedy; it is an error, not a 'no'.
        DiskSpaceError: if a disk is full.
    """

    parallel: int
    """Files that may travel at once."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of all artifacts there, sorted."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Say whether there is such an artifact."""

    @abstractmethod
    def fetch(self, name: str, target: Path, size: int | None = None) -> None:
        """Write an artifact of `size` bytes to `target`, which is replaced at once when all of it has arrived."""

    @abstractmethod
    def put(self, name: str, file: Path) -> None:
        """Store a file as an artifact."""

    def send(self, folder: Path, names: Sequence[str]) -> None:
        """Store the files of `folder` under their names."""
        in_parallel(lambda name: self.put(name, folder / name), list(names), self.parallel, describe="artifacts")


def transfers_for(connection: Connection, artifact_uri: str) -> Transfers:
    """Return the way to the artifacts at an address that is no folder of this machine.

    Raises:
        ConfigError: if an s3:// address is malformed.
        TrackingError: if MLflow knows no such store.
    """
    if artifact_uri.startswith("s3://"):
        return BucketTransfers(connection, artifact_uri)
    return StoreTransfers(connection, artifact_uri)


class BucketTransfers(Transfers):
    """Artifacts in a bucket, which is asked directly; a large one that breaks off is gone on with."""

    parallel = CONNECTIONS

    def __init__(self, connection: Connection, artifact_uri: str) -> None:
        address = parse_s3_address(artifact_uri)
        self._store = connection.bucket(address.bucket)
        self._prefix = f"{address.key.strip('/')}/" if address.key.strip("/") else ""

    def names(self) -> list[str]:
        return sorted(found.key.removeprefix(self._prefix) for found in self._store.list(self._prefix))

    def exists(self, name: str) -> bool:
        return self._store.exists(self._prefix + name)

    def fetch(self, name: str, target: Path, size: int | None = None) -> None:
        self._store.get(self._prefix + name, target, size)

    def put(self, name: str, file: Path) -> None:
        self._store.put(self._prefix + name, file)


class StoreTransfers(Transfers):
    """Artifacts wherever MLflow's own client reaches them: at a tracking server, or a store it has a plugin for."""

    parallel = SERVER_CONNECTIONS

    def __init__(self, connection: Connection, artifact_uri: str) -> None:
        self._connection = connection
        self._store = connection.artifact_store(artifact_uri)

    def _list(self, folder: str | None) -> list[Any]:
        return list(self._connection.call(lambda _: self._store.list_artifacts(folder)))

    def names(self) -> list[str]:
        folders, found = [""], list[str]()
        while folders:
            for entry in self._list(folders.pop() or None):
                (folders if entry.is_dir else found).append(entry.path)
        return sorted(found)

    def exists(self, name: str) -> bool:  # MLflow's download answers a missing one like a failed one
        listed = self._list(name.rpartition("/")[0] or None)
        return any(entry.path == name and not entry.is_dir for entry in listed)

    def fetch(self, name: str, target: Path, size: int | None = None) -> None:
        with named_disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".incoming-") as incoming:
                got = self._connection.call(lambda _: self._store.download_artifacts(name, incoming), transfer=True)
                Path(got).replace(target)

    def put(self, name: str, file: Path) -> None:
        below = name.rpartition("/")[0] or None
        self._connection.call(lambda _: self._store.log_artifact(str(file), below), transfer=True)

    def send(self, folder: Path, names: Sequence[str]) -> None:
        with self._connection.limits(transfer=True):  # held once for all, not taken and given back file by file
            super().send(folder, names)
