"""The artifacts of a run, read from any store and compared with the run's manifest."""

import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from diffviews.data.files import check_name
from diffviews.data.storage.cache import Cache
from diffviews.data.storage.manifest import FileMark, Manifest, files_below
from diffviews.data.storage.parallel import in_parallel
from diffviews.errors import ConfigError, CorruptDataError, RunNotFoundError, SchemaVersionError
from diffviews.tracking.connection import Connection, check_run_id
from diffviews.tracking.transfers import Transfers, transfers_for

MANIFEST = "manifest.json"


def local_folder(artifact_uri: str) -> Path | None:
    """Return the folder that an artifact address names on this machine, None for a server or bucket."""
    address = urlsplit(artifact_uri)
    if address.scheme == "":
        return Path(artifact_uri)
    if address.scheme == "file" and address.netloc in ("", "localhost"):
        return Path(unquote(address.path))
    return None


class ArtifactFolder:
    """The artifacts of one run, read only: in place from a folder, else fetched file by file.

    Every file is compared with the manifest once per process, and again when it was written since. What a store
    sends is kept in the cache, from which it may vanish later: whoever asks again gets it again. Usable from several
    threads.

    Args:
        run_id: the run.
        artifact_uri: where its artifacts lie, as MLflow says.
        connection: store of the run; needed unless the artifacts lie in a folder.
        cache: folder in which downloads are kept instead of `cache_folder()`.
        finished: the run is FINISHED, so that its manifest, once fetched, is the last one.
        manifest: the manifest, where it is known already.
        sealed: SHA-256 of the manifest, as the run's tag says.
    """

    def __init__(
        self,
        run_id: str,
        artifact_uri: str,
        connection: Connection | None = None,
        *,
        cache: Path | None = None,
        finished: bool = False,
        manifest: Manifest | None = None,
        sealed: str | None = None,
    ) -> None:
        self.run_id = check_run_id(run_id)
        self.root = local_folder(artifact_uri)
        self._artifact_uri = artifact_uri
        self._connection = connection
        self._finished = finished
        self._cache = Cache(cache)
        self._transfers: Transfers | None = None
        self._lock = threading.Lock()
        self._manifest = manifest
        self._sealed = sealed

    def manifest(self) -> Manifest | None:
        """Return the run's manifest, None while it has none, which means it is not finished."""
        with self._lock:
            if self._manifest is None:
                self._manifest = self._read_manifest()
            return self._manifest

    def names(self) -> tuple[str, ...]:
        """Return the names of all artifacts listed in the manifest, or found in the folder."""
        manifest = self.manifest()
        if manifest is not None:
            return tuple(manifest.files)
        return tuple(files_below(self.root)) if self.root is not None else ()

    def path(self, name: str) -> Path:
        """Return a local file with the artifact's content; it must not be written to.

        Raises:
            ConfigError: if the name is not allowed.
            RunNotFoundError: if the run has no such artifact.
            CorruptDataError: if the file differs from the manifest.
            TrackingError: if the server cannot be used.
        """
        found = self._find(check_name(name))
        if found is None:
            raise RunNotFoundError(f"run {self.run_id} has no artifact {name!r}")
        return found

    def fetch(self, name: str) -> bytes | None:
        """Return the artifact's bytes, None when there is no such artifact.

        Fit for `ActivationReader`, which asks for the chunks of `activations.zarr` one by one.
        """
        found = self._find(check_name(name))
        try:
            return None if found is None else found.read_bytes()
        except FileNotFoundError:  # evicted by another process just now
            again = self._find(name)
            return None if again is None else again.read_bytes()

    def gather(self, names: Iterable[str]) -> None:
        """Fetch those of these artifacts that are not on this machine yet, several at once; raises as `path`."""
        if self.root is None:
            in_parallel(self.path, list(names), self._way().parallel, describe="artifacts")
        else:
            for name in names:
                self.path(name)

    def fetcher(self, prefix: str) -> Callable[[str], bytes | None]:
        """Return `fetch` for the names below `prefix`, for example 'activations.zarr'."""
        check_name(prefix)
        return lambda name: self.fetch(f"{prefix}/{name}")

    def verify(self) -> None:
        """Compare every artifact with the manifest.

        Raises:
            CorruptDataError: if there is no manifest, or naming the file that is missing or differs.
        """
        manifest = self.manifest()
        if manifest is None:
            raise CorruptDataError(f"run {self.run_id} has no {MANIFEST}; it did not finish")
        if self.root is not None:
            manifest.verify(self.root)
        else:
            self.gather(manifest.files)

    def _find(self, name: str) -> Path | None:
        if self.root is not None:
            found = self.root / name
            if not found.is_file():
                return None
            if not found.resolve().is_relative_to(self.root.resolve()):
                raise ConfigError(f"artifact {name!r} of run {self.run_id} is a link that leads out of the run")
            listed = self.manifest()
            if listed is not None and name in listed.files:
                listed.check(name, found)
            return found
        manifest = self.manifest()
        if manifest is None or name == MANIFEST:
            return self._download(name) if self._way().exists(name) else None
        entry = manifest.files.get(name)
        if entry is None:
            return None
        cached = self._cache.use(self.run_id, name)
        return cached if cached is not None and entry.matches(cached) else self._fetched(name, entry)

    def _fetched(self, name: str, entry: FileMark) -> Path:
        """Fetch an artifact and compare it with the manifest."""
        self._cache.make_room(entry.size)
        got = self._download(name, entry.size)
        if not entry.matches(got):
            size = got.stat().st_size
            got.unlink(missing_ok=True)
            raise CorruptDataError(
                f"artifact {name!r} of run {self.run_id} arrived with {size} bytes and another digest than its "
                f"manifest says ({entry.size} bytes); it is damaged on the server"
            )
        return got

    def _read_manifest(self) -> Manifest | None:
        source = f"{MANIFEST} of run {self.run_id}"
        if self.root is not None:
            path = self.root / MANIFEST
            return self._parsed(path.read_bytes(), source) if path.is_file() else None
        kept = self._cache.use(self.run_id, MANIFEST) if self._finished else None
        if kept is None:
            if not self._way().exists(MANIFEST):
                return None
            kept = self._download(MANIFEST)
        try:
            return self._parsed(kept.read_bytes(), source)
        except (CorruptDataError, SchemaVersionError):
            kept.unlink(missing_ok=True)
            raise
        finally:
            if not self._finished:
                kept.unlink(missing_ok=True)

    def _parsed(self, content: bytes, source: str) -> Manifest:
        """Read a manifest; the run's tag says its digest, and it says whose it is."""
        if self._sealed is not None and hashlib.sha256(content).hexdigest() != self._sealed:
            raise CorruptDataError(f"{source} has another digest than the run's tag says; it was changed or is damaged")
        manifest = Manifest.from_json(content, source)
        if manifest.owner != self.run_id:
            raise CorruptDataError(f"{source} is that of {manifest.owner}; the artifacts are not this run's")
        return manifest

    def _download(self, name: str, size: int | None = None) -> Path:
        target = self._cache.place(self.run_id, name)
        self._way().fetch(name, target, size)
        return target

    def _way(self) -> Transfers:
        if self._connection is None:
            raise ConfigError(f"the artifacts of run {self.run_id} lie on a server; give its connection")
        if self._transfers is None:
            self._transfers = transfers_for(self._connection, self._artifact_uri)
        return self._transfers
