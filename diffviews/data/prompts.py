"""Prompt files: text to be drawn, by `prompts:<path>`.

A `.txt` file has one prompt a line; blank lines and lines that begin with '#' are skipped. A `.csv` file
has a header with the column `prompt`, and perhaps `negative_prompt`, `category`, `seed` and `name` (or `id`).
"""

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from diffviews.data.sample_index import SampleIndex
from diffviews.data.samples import stratified_rows
from diffviews.errors import SampleSetError, unknown_name

MAX_PROMPT_LENGTH = 10_000
MAX_SEED = 2**63 - 1
COLUMNS = ("prompt", "negative_prompt", "category", "seed", "name", "id")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of a prompt file."""

    prompt_id: str
    """Its name in the file, or `prompt-0007` for the eighth prompt; rows added below change no id."""
    prompt: str
    negative_prompt: str = ""
    """Text of the unconditional pass."""
    category: str | None = None
    """What colours and measures its samples; it never conditions a model."""
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts in the order of their file; the same text may occur twice, an id may not."""

    prompts: tuple[Prompt, ...]
    class_order: str = "categories"
    """What class labels count: the sorted categories."""
    categories: tuple[str, ...] = ()
    """Categories of the whole file, sorted; a category's class label is its place here."""
    _index: SampleIndex = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.prompts:
            raise SampleSetError("a prompt set needs at least one prompt")
        own = {prompt.category for prompt in self.prompts if prompt.category is not None}
        object.__setattr__(self, "categories", tuple(sorted(own | set(self.categories))))
        object.__setattr__(self, "_index", SampleIndex(self.prompt_ids))

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @property
    def prompt_ids(self) -> tuple[str, ...]:
        """The ids in row order."""
        return tuple(prompt.prompt_id for prompt in self.prompts)

    @property
    def class_labels(self) -> tuple[int | None, ...]:
        """Class of each prompt by its category, None for one without."""
        known = {name: label for label, name in enumerate(self.categories)}
        return tuple(None if prompt.category is None else known[prompt.category] for prompt in self.prompts)

    def stratified(self, max_prompts: int) -> Self:
        """Return at most so many prompts, evenly over the categories, whose labels stay."""
        rows = stratified_rows(self.class_labels, max_prompts)
        return type(self)(tuple(self.prompts[row] for row in rows), categories=self.categories)


def read_prompts(path: str | os.PathLike[str], max_prompts: int | None = None) -> PromptSet:
    """Read a prompt file.

    Args:
        path: a .txt or .csv file in UTF-8, perhaps with a byte-order mark.
        max_prompts: keep at most so many, evenly over the categories, the same ones every time.

    Raises:
        SampleSetError: if the file is missing, empty, of another format or encoding, lacks the column
            `prompt`, or has an impossible value; file and line are named.
    """
    file = Path(path)
    readers = {".txt": _text_prompts, ".csv": _csv_prompts}
    if file.suffix.lower() not in readers:
        raise SampleSetError(f"prompt file {file} must be .txt, one prompt a line, or .csv with a column prompt")
    prompts = tuple(readers[file.suffix.lower()](file, _read_text(file)))
    if not prompts:
        raise SampleSetError(f"prompt file {file} holds no prompt")
    try:
        found = PromptSet(prompts)
    except SampleSetError as error:
        raise SampleSetError(f"prompt file {file}: {error}") from error
    return found if max_prompts is None else found.stratified(max_prompts)


def _read_text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SampleSetError(f"prompt file {file} cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SampleSetError(f"prompt file {file} is not UTF-8 text (line {line}); save it as UTF-8") from error


def _text_prompts(file: Path, text: str) -> Iterator[Prompt]:
    count = 0
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        prompt = line.strip()
        if prompt and not prompt.startswith("#"):
            yield Prompt(_numbered(count), _checked(prompt, file, number))
            count += 1


def _csv_prompts(file: Path, text: str) -> Iterator[Prompt]:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    header, count = None, 0
    try:
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _header(cells, file)
                continue
            yield _csv_prompt(header, cells, count, file, lines.line_num)
            count += 1
    except csv.Error as error:
        raise SampleSetError(f"prompt file {file}, line {lines.line_num}, is not valid CSV: {error}") from error


def _header(cells: Sequence[str], file: Path) -> tuple[str, ...]:
    names = tuple(cell.strip().lower() for cell in cells)
    if "prompt" not in names:
        raise SampleSetError(
            f"prompt file {file} has no column prompt in its first line: {unknown_name('column', 'prompt', names)}"
        )
    repeated = [name for name in COLUMNS if names.count(name) > 1]
    if repeated:
        raise SampleSetError(f"prompt file {file} has the column {repeated[0]} more than once")
    return names


def _csv_prompt(header: Sequence[str], cells: Sequence[str], count: int, file: Path, line: int) -> Prompt:
    if len(cells) > len(header):
        raise SampleSetError(
            f"prompt file {file}, line {line}, has {len(cells)} cells under {len(header)} columns; "
            'write a text that holds a comma in "quotation marks"'
        )
    row: Mapping[str, str] = {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
    if not row.get("prompt"):
        raise SampleSetError(f"prompt file {file}, line {line}, has no prompt")
    return Prompt(
        prompt_id=row.get("name") or row.get("id") or _numbered(count),
        prompt=_checked(row["prompt"], file, line),
        negative_prompt=_checked(row.get("negative_prompt", ""), file, line),
        category=row.get("category") or None,
        seed=_seed(row.get("seed", ""), file, line),
    )


def _numbered(count: int) -> str:
    return f"prompt-{count:04d}"


def _checked(text: str, file: Path, line: int) -> str:
    if len(text) > MAX_PROMPT_LENGTH:
        raise SampleSetError(
            f"prompt file {file}, line {line}: a prompt has {len(text):,} characters, at most {MAX_PROMPT_LENGTH:,} "
            "are taken; shorten it"
        )
    return text


def _seed(text: str, file: Path, line: int) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MAX_SEED):
        raise SampleSetError(f"prompt file {file}, line {line}: seed {text[:40]!r} is no whole number below 2^63")
    return int(text)
