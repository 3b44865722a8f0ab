"""The manifest of a folder: which files it holds, how long they are, and their digests."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffviews.data.files import check_name, sha256_of
from diffviews.errors import ConfigError, CorruptDataError, SchemaVersionError

MANIFEST_VERSION = 1
_DIGESTS_KEPT = 2**16


@dataclass(frozen=True, slots=True)
class FileMark:
    """Size in bytes and SHA-256, 64 hex digits, of one file."""

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "FileMark":
        """Measure a file."""
        return cls(path.stat().st_size, sha256_of(path))

    def matches(self, path: Path) -> bool:
        """Say whether a file is the one marked; it is read once per process, and again when it was written since."""
        found = path.stat()
        known = (found.st_size, found.st_mtime_ns, found.st_ino)
        return found.st_size == self.size and _digest_of(path, known) == self.sha256


@lru_cache(maxsize=_DIGESTS_KEPT)
def _digest_of(path: Path, known: tuple[int, int, int]) -> str:
    """Return a file's SHA-256; `known` is the state of the file that the answer is kept for."""
    return sha256_of(path)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a run, or of a layer that a cache holds, by name; the manifest itself is not among them."""

    owner: str
    """Run id, or the fingerprint of the layer."""
    files: Mapping[str, FileMark]
    about: Mapping[str, Any] = field(default_factory=dict)
    """What the folder holds, where its owner does not say it: of a layer its model, sigma and measures."""

    def __post_init__(self) -> None:
        for name in self.files:
            check_name(name)
        object.__setattr__(self, "files", MappingProxyType(dict(sorted(self.files.items()))))
        object.__setattr__(self, "about", MappingProxyType(dict(self.about)))

    @classmethod
    def of_folder(cls, owner: str, folder: Path, about: Mapping[str, Any] | None = None) -> "Manifest":
        """List the files below a folder, but for those whose names begin with a dot."""
        names = [name for name in files_below(folder) if not name.startswith(".")]
        return cls(owner, {name: FileMark.of(folder / name) for name in names}, about or {})

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(mark.size for mark in self.files.values())

    def to_json(self) -> str:
        """Return its text; equal manifests have equal text."""
        entries = [{"path": name, "size": mark.size, "sha256": mark.sha256} for name, mark in self.files.items()]
        content: dict[str, Any] = {"version": MANIFEST_VERSION, "run_id": self.owner}
        content |= {"about": dict(self.about)} if self.about else {}
        return json.dumps(content | {"files": entries}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "manifest.json") -> "Manifest":
        """Read a manifest; `source` names it in errors. Lists of layers as first written are read as well.

        Raises:
            CorruptDataError: if it is malformed or lists a name outside its folder.
            SchemaVersionError: if its version is newer than this program.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            version = int(content["version"])
            if version > MANIFEST_VERSION:
                raise SchemaVersionError(
                    f"{source} has version {version}, this DiffViews reads {MANIFEST_VERSION}; upgrade it"
                )
            listed = content["files"]
            entries = listed.items() if isinstance(listed, dict) else [(entry["path"], entry) for entry in listed]
            files = {str(name): FileMark(int(mark["size"]), str(mark["sha256"])) for name, mark in entries}
            owner = str(content["run_id"] if "run_id" in content else content["fingerprint"])
            return cls(owner, files, content.get("about", {}))
        except SchemaVersionError:
            raise
        except ConfigError as error:
            raise CorruptDataError(f"{source}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptDataError(f"{source} is not a manifest: {error!r}") from error

    def check(self, name: str, path: Path) -> None:
        """Compare a file with what is listed under a name.

        Raises:
            CorruptDataError: if it is missing or differs.
        """
        if not path.is_file():
            raise CorruptDataError(f"{path} is missing, though the manifest of {self.owner} lists it")
        if not self.files[name].matches(path):
            raise CorruptDataError(f"{path} differs from the manifest of {self.owner}; it is damaged")

    def verify(self, folder: Path) -> None:
        """Compare the files below `folder` with this list; files beyond the list are let be.

        Raises:
            CorruptDataError: naming the first file that is missing or differs.
        """
        for name in self.files:
            self.check(name, folder / name)


def files_below(folder: Path) -> list[str]:
    """Return the names of all files below `folder`, sorted, as POSIX paths relative to it."""
    if not folder.is_dir():
        return []
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
