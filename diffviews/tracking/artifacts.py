"""The artifacts of a run: their names, the manifest that lists them, and reading them from any store."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from diffviews.data.storage.downloads import Downloads
from diffviews.data.storage.parallel import in_parallel
from diffviews.errors import ConfigError, CorruptDataError, RunNotFoundError, SchemaVersionError
from diffviews.tracking.connection import Connection, check_run_id
from diffviews.tracking.transfers import Transfers, transfers_for

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1


def check_artifact_name(name: str) -> str:
    """Return an artifact's name when it is a plain relative POSIX path that stays inside its run.

    Raises:
        ConfigError: for an absolute path, '..', a backslash, a drive, or a control character.
    """
    parts = name.split("/")
    if (
        not name
        or len(name) > 1000
        or any(part in ("", ".", "..") for part in parts)
        or "\\" in name
        or ":" in parts[0]
        or not name.isprintable()
    ):
        raise ConfigError(
            f"artifact name {name[:200]!r} is not allowed; use a relative path such as 'map/points.parquet' "
            "without '..', '\\', ':' or control characters"
        )
    return name


def local_folder(artifact_uri: str) -> Path | None:
    """Return the folder that an artifact address names on this machine, None for a server or bucket."""
    address = urlsplit(artifact_uri)
    if address.scheme == "":
        return Path(artifact_uri)
    if address.scheme == "file" and address.netloc in ("", "localhost"):
        return Path(unquote(address.path))
    return None


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One file of a run: its size in bytes and its SHA-256 as 64 hex digits."""

    size: int
    sha256: str

    @classmethod
    def of_file(cls, path: Path) -> "ManifestEntry":
        """Measure the file at `path`."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(file.tell(), digest)

    def matches(self, path: Path) -> bool:
        """Tell whether the file at `path` is the one listed."""
        return path.stat().st_size == self.size and self.of_file(path) == self


@dataclass(frozen=True, slots=True)
class Manifest:
    """Every file that a finished run holds, by name; `manifest.json` lists all but itself."""

    run_id: str
    files: Mapping[str, ManifestEntry]

    def __post_init__(self) -> None:
        for name in self.files:
            check_artifact_name(name)
        object.__setattr__(self, "files", MappingProxyType(dict(sorted(self.files.items()))))

    @classmethod
    def of_folder(cls, run_id: str, folder: Path) -> "Manifest":
        """List the files below `folder`."""
        return cls(run_id, {name: ManifestEntry.of_file(folder / name) for name in files_below(folder)})

    def to_json(self) -> str:
        """Return the text of `manifest.json`; equal manifests have equal text."""
        entries = [{"path": n, "size": e.size, "sha256": e.sha256} for n, e in self.files.items()]
        content = {"version": MANIFEST_VERSION, "run_id": self.run_id, "files": entries}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str = MANIFEST) -> "Manifest":
        """Read `manifest.json`; `source` names it in errors.

        Raises:
            CorruptDataError: if it is malformed or lists a name outside the run.
            SchemaVersionError: if its version is newer than this program.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            version = int(content["version"])
            files = {str(e["path"]): ManifestEntry(int(e["size"]), str(e["sha256"])) for e in content["files"]}
            run_id = str(content["run_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(f"{source} is not a manifest: {error!r}") from error
        if version > MANIFEST_VERSION:
            raise SchemaVersionError(
                f"{source} has version {version}, this DiffViews reads {MANIFEST_VERSION}; upgrade it"
            )
        try:
            return cls(run_id, files)
        except ConfigError as error:
            raise CorruptDataError(f"{source}: {error}") from error

    def verify(self, folder: Path) -> None:
        """Compare the files below `folder` with this list; files beyond the list are let be.

        Raises:
            CorruptDataError: naming the first file that is missing or differs.
        """
        for name, entry in self.files.items():
            path = folder / name
            if not path.is_file():
                raise CorruptDataError(f"{path} is missing, though the manifest of run {self.run_id} lists it")
            if not entry.matches(path):
                raise CorruptDataError(f"{path} differs from the manifest of run {self.run_id}; it is damaged")


def files_below(folder: Path) -> list[str]:
    """Return the names of all files below `folder`, sorted, as POSIX paths relative to it."""
    if not folder.is_dir():
        return []
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class ArtifactFolder:
    """The artifacts of one run, read only: in place from a folder, else fetched file by file.

    What a store sends is compared with the manifest and kept among the `Downloads`, from which it may
    vanish later: whoever asks again gets it again. Usable from several threads.

    Args:
        run_id: the run.
        artifact_uri: where its artifacts lie, as MLflow says.
        connection: store of the run; needed unless the artifacts lie in a folder.
        cache: folder in which downloads are kept instead of `cache_folder()`.
        finished: the run is FINISHED, so that its manifest, once fetched, is the last one.
    """

    def __init__(
        self,
        run_id: str,
        artifact_uri: str,
        connection: Connection | None = None,
        *,
        cache: Path | None = None,
        finished: bool = False,
    ) -> None:
        self.run_id = check_run_id(run_id)
        self.root = local_folder(artifact_uri)
        self._artifact_uri = artifact_uri
        self._connection = connection
        self._finished = finished
        self._downloads = Downloads(cache and cache / "runs")
        self._transfers: Transfers | None = None
        self._lock = threading.Lock()
        self._manifest: Manifest | None = None
        self._verified: set[str] = set()

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
            CorruptDataError: if what the server sent differs from the manifest.
            TrackingError: if the server cannot be used.
        """
        found = self._find(check_artifact_name(name))
        if found is None:
            raise RunNotFoundError(f"run {self.run_id} has no artifact {name!r}")
        return found

    def fetch(self, name: str) -> bytes | None:
        """Return the artifact's bytes, None when there is no such artifact.

        Fit for `ActivationReader`, which asks for the chunks of `activations.zarr` one by one.
        """
        found = self._find(check_artifact_name(name))
        try:
            return None if found is None else found.read_bytes()
        except FileNotFoundError:  # evicted by another process just now
            again = self._find(name)
            return None if again is None else again.read_bytes()

    def gather(self, names: Iterable[str]) -> None:
        """Fetch those of these artifacts that are not on this machine yet, several at once; raises as `path`."""
        if self.root is None:
            in_parallel(self.path, list(names), self._way().parallel, describe="artifacts")

    def fetcher(self, prefix: str) -> Callable[[str], bytes | None]:
        """Return `fetch` for the names below `prefix`, for example 'activations.zarr'."""
        check_artifact_name(prefix)
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
            return found
        manifest = self.manifest()
        if manifest is None or name == MANIFEST:
            return self._download(name) if self._way().exists(name) else None
        entry = manifest.files.get(name)
        if entry is None:
            return None
        cached = self._downloads.use(self.run_id, name)
        if cached is None or not (name in self._verified or entry.matches(cached)):
            cached = self._fetched(name, entry)
        self._verified.add(name)
        return cached

    def _fetched(self, name: str, entry: ManifestEntry) -> Path:
        """Fetch an artifact and compare it with the manifest."""
        self._downloads.make_room(entry.size)
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
            return Manifest.from_json(path.read_bytes(), source) if path.is_file() else None
        kept = self._downloads.use(self.run_id, MANIFEST) if self._finished else None
        if kept is None:
            if not self._way().exists(MANIFEST):
                return None
            kept = self._download(MANIFEST)
        try:
            return Manifest.from_json(kept.read_bytes(), source)
        except (CorruptDataError, SchemaVersionError):
            kept.unlink(missing_ok=True)
            raise
        finally:
            if not self._finished:
                kept.unlink(missing_ok=True)

    def _download(self, name: str, size: int | None = None) -> Path:
        target = self._downloads.place(self.run_id, name)
        self._way().fetch(name, target, size)
        return target

    def _way(self) -> Transfers:
        if self._connection is None:
            raise ConfigError(f"the artifacts of run {self.run_id} lie on a server; give its connection")
        if self._transfers is None:
            self._transfers = transfers_for(self._connection, self._artifact_uri)
        return self._transfers


def move_into(staged: Path, names: Iterable[str], folder: Path) -> None:
    """Move files of `staged` to the same names below `folder`, each at once."""
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (staged / name).replace(target)
