"""The source `tar:<path>`: WebDataset, samples as files of one name in tar archives, read in place.

Files `000017.jpg`, `000017.cls` and `000017.txt` are one sample: its image, class and prompt; `000017.json` may hold
the same as fields. Several archives are a folder, or numbered in braces: `tar:train-{0000..0009}.tar`.
"""

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffviews.data.class_order import SampleClasses, classes_of
from diffviews.data.columns import TableLayout
from diffviews.data.encoded import open_pictures
from diffviews.data.file_tree import MAX_FILE_BYTES, is_hidden
from diffviews.data.pictures import image_suffixes
from diffviews.data.samples import SampleSet, stratified_rows
from diffviews.errors import CorruptDataError, SampleSetError

_MOST_TEXT = 2**20
"""Bytes of one sample's class, prompt or fields that are read."""


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

    Raises:
        SampleSetError: if there is no archive or no image, or an archive is compressed.
        CorruptDataError: if an archive is cut short or damaged; it is named.
    """
    archives = _archives(location)
    samples = _samples(archives)
    images = [(key, parts) for key, parts in samples.items() if _image_of(parts) is not None]
    if not images:
        raise SampleSetError(f"tar:{location} holds no image ({', '.join(sorted(image_suffixes()))})")
    columns = [_fields(parts) for _, parts in images]
    names = list(dict.fromkeys(name for row in columns for name in row))
    table: dict[str, list[Any]] = {name: [row.get(name) for row in columns] for name in names}
    table["image"], table["sample_id"] = [None] * len(images), [key for key, _ in images]
    layout = TableLayout.of(f"tar:{location}", list(table), ["image"])
    classes = layout.classes(table) or _by_folder([key for key, _ in images])
    frame = layout.frame(table, classes, archives[0].stem)
    rows = np.arange(len(frame))
    if max_samples is not None:
        rows = stratified_rows([None] * len(rows) if classes is None else classes.labels, max_samples)
        frame = frame.iloc[rows].reset_index(drop=True)
    members = tuple(member for _, parts in images if (member := _image_of(parts)) is not None)
    pictures = open_pictures(MemberImages(members), rows, resolution)
    return SampleSet(frame, pictures, "own" if classes is None else classes.order)


def _archives(location: str) -> list[Path]:
    """Return the archives that a location names: one, those of a folder, or those numbered in braces."""
    path = Path(location)
    if location and path.is_dir():
        found = sorted(file for file in path.rglob("*.tar") if not is_hidden(file.relative_to(path).as_posix()))
    else:
        found = [Path(name) for name in _expanded(location)] if location else []
    absent = [file for file in found if not file.is_file()]
    if not found or absent:
        missing = str(absent[0]) if absent else location
        raise SampleSetError(f"there is no tar archive at {missing!r}; write tar:<file or folder>")
    return found


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


def _samples(archives: Sequence[Path]) -> dict[str, dict[str, Member]]:
    """Return {key: {ending: file}} of all archives, in order."""
    found: dict[str, dict[str, Member]] = {}
    for archive in archives:
        for member in _members(archive):
            folder, _, base = member.name.rpartition("/")
            stem, _, ending = base.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            parts = found.setdefault(key, {})
            if ending.lower() in parts:
                raise SampleSetError(
                    f"{member.name} occurs in {parts[ending.lower()].archive} and again in {archive}; names must differ"
                )
            parts[ending.lower()] = member
    return found


def _members(archive: Path) -> Iterator[Member]:
    try:
        with tarfile.open(archive, "r:") as opened:
            for info in opened:
                name = info.name.removeprefix("./")
                if info.isreg() and not info.issparse() and not is_hidden(name):
                    yield Member(archive, name, info.offset_data, info.size)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        with archive.open("rb") as file:
            head = file.read(6)
        if head[:2] == b"\x1f\x8b" or head[:3] == b"BZh" or head == b"\xfd7zXZ\0":
            raise SampleSetError(
                f"{archive} is compressed, and its files cannot be read in place; unpack it to a plain tar"
            ) from error
        raise CorruptDataError(f"{archive} is damaged or no tar archive: {error}") from error


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
            fields |= _json(member)
        elif ending in ("cls", "txt", "text", "caption", "prompt"):
            text = member.read(_MOST_TEXT).decode("utf-8", "replace").strip()
            fields[ending] = int(text) if re.fullmatch("[0-9]{1,9}", text) and ending == "cls" else text
        else:
            fields[ending] = None
    return fields


def _json(member: Member) -> dict[str, Any]:
    try:
        said = json.loads(member.read(_MOST_TEXT))
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"{member.name} in {member.archive} is not JSON: {error}") from error
    return {str(name): value for name, value in said.items()} if isinstance(said, dict) else {}


def _by_folder(keys: Sequence[str]) -> SampleClasses | None:
    """Return the first folder of each name as its class, None where there is none."""
    folders = [key.split("/")[0] if "/" in key else None for key in keys]
    return classes_of(folders) if len({*folders} - {None}) > 1 else None
