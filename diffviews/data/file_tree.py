"""Files below a folder or in a zip archive, by relative path; nothing is unpacked and no link leads out."""

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from diffviews.errors import CorruptDataError, SampleSetError

MAX_FILE_BYTES = 512 * 2**20
"""A larger file is no image of a sample set; in an archive it may be a few kilobytes that unpack to it."""

_LITTER = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "icon\r"})
"""What file managers leave behind, beside names that begin with a dot."""


_KINDS = {
    ".parquet": "parquet:<file>", ".arrow": "hf:<file>",
    **dict.fromkeys((".tar", ".gz", ".tgz", ".bz2", ".xz"), "tar:<file>"),
}  # fmt: skip
"""What reads files of other endings."""


class FileTree(Protocol):
    """Files by relative path."""

    @property
    def place(self) -> str:
        """Path that errors name."""
        ...

    def names(self) -> list[str]:
        """Return the path of every file that is not hidden, '/' between its parts, sorted by parts."""
        ...

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        ...


def open_tree(location: str, kind: str = "folder") -> FileTree:
    """Return the folder or zip archive at a path, or a folder within an archive, `images.zip/train`.

    Raises:
        SampleSetError: if there is none.
        CorruptDataError: if the archive is damaged.
    """
    path = Path(location)
    if location and path.is_dir():
        return Folder(path)
    for archive in (path, *path.parents):
        if location and archive.is_file():
            if not zipfile.is_zipfile(archive):
                other = _KINDS.get(archive.suffix.lower(), f"{kind}:<path of a folder or zip>")
                raise SampleSetError(f"{archive} is a file and no zip archive; write {other}")
            inner = path.relative_to(archive).as_posix()
            return Archive(archive, "" if inner == "." else f"{inner}/")
    raise SampleSetError(f"folder {location!r} does not exist; write {kind}:<path of a folder or zip>")


def is_hidden(name: str) -> bool:
    """Say whether a path is of a hidden file, or below a hidden folder."""
    return any(part.startswith(".") or part.lower() in _LITTER for part in name.split("/"))


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on this machine."""

    root: Path

    @property
    def place(self) -> str:
        """The folder's path."""
        return str(self.root)

    def names(self) -> list[str]:
        """Return the files below it; links are followed as long as they stay inside.

        Raises:
            SampleSetError: if a link leads out of the folder, or a folder's link into itself.
        """
        return sorted(self._below(self.root, self.root.resolve(), ()), key=_parts)

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        path = self.root / name
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise CorruptDataError(f"file {path} has more than {MAX_FILE_BYTES // 2**20} MiB; that is no image")
            return path.read_bytes()
        except OSError as error:
            raise CorruptDataError(f"image {path} cannot be read: {error.strerror}") from error

    def _below(self, folder: Path, inside: Path, above: tuple[Path, ...]) -> Iterator[str]:
        own = folder.resolve()
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if is_hidden(entry.name):
                    continue
                path = Path(entry.path)
                if entry.is_symlink() and not path.resolve().is_relative_to(inside):
                    raise SampleSetError(f"{path} is a link that leads out of {self.root}; copy the images instead")
                if entry.is_dir():
                    if path.resolve() in (*above, own):
                        raise SampleSetError(
                            f"{path} is a link to a folder that it lies in, whose images would count twice; remove it"
                        )
                    yield from self._below(path, inside, (*above, own))
                elif entry.is_file():
                    yield path.relative_to(self.root).as_posix()
                elif entry.is_symlink():
                    raise SampleSetError(f"{path} is a link to nothing; remove it")


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip archive, read in place, or a folder in it."""

    path: Path
    prefix: str = ""
    """Of the names that belong to it, '' or ending in '/'."""

    @property
    def place(self) -> str:
        """The archive's path, and the folder in it."""
        return str(self.path / self.prefix) if self.prefix else str(self.path)

    def names(self) -> list[str]:
        """Return the files in it.

        Raises:
            CorruptDataError: if it is no whole archive.
        """
        found = (name.removeprefix(self.prefix) for name in self._members() if name.startswith(self.prefix))
        return sorted((name for name in found if not is_hidden(name)), key=_parts)

    def read(self, name: str) -> bytes:
        """Return a file's content, whose checksum must be right."""
        archive = _opened(self.path, os.getpid())
        try:
            info = archive.getinfo(self._members()[self.prefix + name])
            if info.file_size > MAX_FILE_BYTES:
                raise CorruptDataError(f"{name} in {self.path} unpacks to {info.file_size:,} bytes; that is no image")
            return archive.read(info)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, LookupError, RuntimeError) as error:
            raise CorruptDataError(f"{name} in {self.path} cannot be read: {error}") from error


    def _members(self) -> dict[str, str]:
        return _named_members(self.path, os.getpid())


@dataclass(frozen=True, slots=True)
class TreeImages:
    """Images of a tree, as `diffviews.data.encoded` reads them."""

    tree: FileTree
    names: tuple[str, ...]

    def read(self, numbers: Sequence[int]) -> list[bytes]:
        """Return the bytes of these images' files."""
        return [self.tree.read(self.names[number]) for number in numbers]

    def name(self, number: int) -> str:
        """Return an image's path."""
        return f"{self.tree.place}/{self.names[number]}"


@lru_cache(8)
def _opened(path: Path, process: int) -> zipfile.ZipFile:
    """Return an open archive, one for each process since they must not share a place in the file."""
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CorruptDataError(f"the archive {path} is damaged: {error}") from error


@lru_cache(8)
def _named_members(path: Path, process: int) -> dict[str, str]:
    """Return {path as folders have it: name in the archive} of its files: some write './a/b' or 'a\\b'."""
    files = (info for info in _opened(path, process).infolist() if not info.is_dir() and not _is_link(info))
    return {info.filename.replace("\\", "/").removeprefix("./"): info.filename for info in files}


def _is_link(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)


def _parts(name: str) -> list[str]:
    return name.split("/")
