"""The source `tar:<path>`: WebDataset, samples as files of one name in tar archives, read in place.

Files `000017.jpg`, `000017.cls` and `000017.txt` are one sample: its image, class and prompt; `000017.json` may hold
the same as fields. Several archives are a folder, or numbered in braces: `tar:train-{0000..0009}.tar`. An archive of
images in folders by class is read as such a folder.
"""

import atexit
import bz2
import gzip
import json
import logging
import lzma
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from diffviews.data.class_order import SampleClasses
from diffviews.data.columns import TableLayout
from diffviews.data.disk import named_disk_errors
from diffviews.data.encoded import open_pictures
from diffviews.data.file_tree import MAX_FILE_BYTES, is_hidden
from diffviews.data.folder_classes import folder_classes
from diffviews.data.pictures import image_suffixes
from diffviews.data.samples import SampleSet, stratified_rows
from diffviews.errors import CorruptDataError, DiskSpaceError, SampleSetError

logger = logging.getLogger(__name__)

_MOST_TEXT = 2**20
"""Bytes of one sample's class, prompt or fields that are read."""
_MOST_TIMES, _MOST_SMALL = 20, 2**30
"""A compressed archive may unpack to so many times its size, or to so many bytes more: images hardly shrink."""
_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_COMPRESSED: Mapping[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}


@dataclass(frozen=True, slots=True)
class Member:
    """Where one file of an archive lies."""

    archive: Path
    name: str
    offset: int
    size: int

    def read(self, most: int = MAX_FILE_BYTES) -> bytes:
        """Return its content."""
        if self.size > most:
            raise CorruptDataError(f"{self.name} in {self.archive} has {self.size:,} bytes, of which {most:,} are read")
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise CorruptDataError(f"{self.archive} is cut short at {self.name}; copy it again")
        return data


@dataclass(frozen=True, slots=True)
class MemberImages:
    """Images in archives, as `diffviews.data.encoded` reads them."""

    members: tuple[Member, ...]

    def read(self, numbers: Sequence[int]) -> list[bytes]:
        """Return the bytes of these images' files."""
        return [self.members[number].read() for number in numbers]

    def name(self, number: int) -> str:
        """Return an image's name and archive."""
        return f"{self.members[number].name} in {self.members[number].archive}"


def tar_samples(location: str, max_samples: int | None, resolution: int | None) -> SampleSet:
    """Return the samples of WebDataset archives, in their order; ids are the names without ending.

    The class is that of `.cls`, or of a field of `.json`, or the folder in the archive; the prompt that of `.txt`.
    Compressed archives are unpacked first, to a temporary file. `x.tar/train` is a folder in an archive.

    Raises:
        SampleSetError: if there is no archive or no image.
        CorruptDataError: if an archive is cut short or damaged; it is named.
    """
    archives, inner = _archives(location)
    samples = _samples(archives, inner)
    images = [(key, parts) for key, parts in samples.items() if _image_of(parts) is not None]
    if not images:
        raise SampleSetError(f"tar:{location} holds no image ({', '.join(sorted(image_suffixes()))})")
    if len(images) < len(samples):
        without = next(key for key, parts in samples.items() if _image_of(parts) is None)
        logger.info("%d samples of tar:%s have no image: %s, …", len(samples) - len(images), location, without)
    columns = [_fields(parts) for _, parts in images]
    names = list(dict.fromkeys(name for row in columns for name in row))
    table: dict[str, list[Any]] = {name: [row.get(name) for row in columns] for name in names}
    table["image"], table["sample_id"] = [None] * len(images), [key for key, _ in images]
    layout = TableLayout.of(f"tar:{location}", list(table), ["image"])
    members = tuple(member for _, parts in images if (member := _image_of(parts)) is not None)
    classes = layout.classes(table) or _by_folder([member.name for member in members], location, inner)
    frame = layout.frame(table, classes, archives[0].stem)
    rows = np.arange(len(frame))
    if max_samples is not None:
        rows = stratified_rows([None] * len(rows) if classes is None else classes.labels, max_samples)
        frame = frame.iloc[rows].reset_index(drop=True)
    pictures = open_pictures(MemberImages(members), rows, resolution)
    return SampleSet(frame, pictures, "own" if classes is None else classes.order)


def _archives(location: str) -> tuple[list[Path], str]:
    """Return the archives that a location names: one, those of a folder, or those numbered in braces.

    And the folder in an archive, '' or ending in '/'.
    """
    path, inner = Path(location), ""
    if location and path.is_dir():
        names = (file for ending in _ENDINGS for file in path.rglob(f"*{ending}"))
        found = sorted(file for file in names if not is_hidden(file.relative_to(path).as_posix()))
    else:
        archive = next((above for above in path.parents if above.is_file()), None)
        inner = f"{path.relative_to(archive).as_posix()}/" if archive else ""
        found = [Path(name) for name in _expanded(str(archive or path))] if location else []
    absent = [file for file in found if not file.is_file()]
    if not found or absent:
        missing = str(absent[0]) if absent else location
        raise SampleSetError(f"there is no tar archive at {missing!r}; write tar:<file or folder>")
    return found, inner


def _expanded(location: str) -> Iterator[str]:
    """Yield the names that braces stand for: 'a-{00..02}.tar' is three."""
    braces = re.search(r"\{([0-9]+)\.\.([0-9]+)\}", location)
    if braces is None:
        yield location
        return
    first, last = braces.groups()
    if int(last) - int(first) > 100_000:
        raise SampleSetError(f"{location} names more than 100,000 archives")
    for number in range(int(first), int(last) + 1):
        yield f"{location[: braces.start()]}{number:0{len(first)}d}{location[braces.end() :]}"


def _samples(archives: Sequence[Path], inner: str) -> dict[str, dict[str, Member]]:
    """Return {key: {ending: file}} of all archives, in order.

    Keys that archives share, as numbers in shards are by many writers, have the archive's name in front.
    """
    by_archive = {archive: _keyed(archive, inner) for archive in archives}
    keys = [key for found in by_archive.values() for key in found]
    if len(set(keys)) == len(keys):
        return {key: parts for found in by_archive.values() for key, parts in found.items()}
    if len({archive.name for archive in archives}) < len(archives):
        raise SampleSetError(f"{archives[0].name} occurs in several folders, with the same names in it; rename one")
    return {
        f"{archive.name.split('.')[0]}/{key}": parts
        for archive, found in by_archive.items()
        for key, parts in found.items()
    }


def _keyed(archive: Path, inner: str) -> dict[str, dict[str, Member]]:
    """Return {key: {ending: file}} of one archive."""
    found: dict[str, dict[str, Member]] = {}
    for member in _members(archive):
        if not member.name.startswith(inner):
            continue
        folder, _, base = member.name.removeprefix(inner).rpartition("/")
        stem, _, ending = base.partition(".")
        parts = found.setdefault(f"{folder}/{stem}" if folder else stem, {})
        if ending.lower() in parts:
            raise SampleSetError(f"{member.name} occurs more than once in {archive}; names must differ")
        parts[ending.lower()] = member
    return found


def _members(archive: Path) -> Iterator[Member]:
    plain = _plain(archive)
    try:
        with tarfile.open(plain, "r:") as opened:
            for info in opened:
                name = info.name.removeprefix("./")
                if info.isreg() and not info.issparse() and not is_hidden(name):
                    yield Member(plain, name, info.offset_data, info.size)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise CorruptDataError(f"{archive} is damaged or no tar archive: {error}") from error


def _plain(archive: Path) -> Path:
    """Return an archive that can be read in place: itself, or what it unpacks to."""
    with archive.open("rb") as file:
        head = file.read(6)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        raise SampleSetError(f"{archive} is compressed with zstd; unpack it to a plain tar with unzstd")
    opener = next((opener for magic, opener in _COMPRESSED.items() if head.startswith(magic)), None)
    return archive if opener is None else _unpacked(archive, archive.stat().st_mtime_ns, opener)


@cache
def _unpacked(archive: Path, modified: int, opener: Callable[..., Any]) -> Path:
    """Unpack an archive to a temporary file, which goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="diffviews-tar-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target, most = folder / archive.name, _MOST_TIMES * archive.stat().st_size + _MOST_SMALL
    logger.info("%s is unpacked to a temporary file, since it is compressed", archive)
    try:
        with named_disk_errors(target), opener(archive, "rb") as source, target.open("wb") as file:
            while block := source.read(2**20):
                file.write(block)
                if file.tell() > most:
                    raise SampleSetError(f"{archive} unpacks to more than {most:,} bytes; that is no set of images")
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, DiskSpaceError):
            raise
        raise CorruptDataError(f"{archive} cannot be unpacked: {error}") from error
    return target


def _image_of(parts: dict[str, Member]) -> Member | None:
    """Return the image of a sample: the file with the shortest ending of an image, 'jpg' before 'depth.png'."""
    found = [ending for ending in parts if f".{ending.rpartition('.')[2]}" in image_suffixes()]
    return parts[min(found, key=lambda ending: (ending.count("."), len(ending)))] if found else None


def _fields(parts: dict[str, Member]) -> dict[str, Any]:
    """Return a sample's further files by their endings, texts and numbers read, and the fields of its JSON."""
    image, fields = _image_of(parts), dict[str, Any]()
    for ending, member in parts.items():
        if member is image:
            continue
        if ending == "json":
            fields |= _json(member) or {"json": None}
        elif ending in ("cls", "txt", "text", "caption", "prompt"):
            text = _text(member)
            fields[ending] = int(text) if re.fullmatch("-1|[0-9]{1,9}", text) and ending == "cls" else text
        else:
            fields[ending] = None
    return fields


def _text(member: Member) -> str:
    try:
        return member.read(_MOST_TEXT).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise CorruptDataError(f"{member.name} in {member.archive} is not UTF-8 text; write it anew as such") from error


def _json(member: Member) -> dict[str, Any]:
    try:
        said = json.loads(member.read(_MOST_TEXT))
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"{member.name} in {member.archive} is not JSON: {error}") from error
    return {str(name): value for name, value in said.items()} if isinstance(said, dict) else {}


def _by_folder(names: Sequence[str], location: str, inner: str) -> SampleClasses | None:
    """Return the folder of each image as its class, None where they are in one."""
    classes = folder_classes([name.removeprefix(inner) for name in names], f"tar:{location}")
    return classes if len({*classes.labels} - {None}) > 1 else None
