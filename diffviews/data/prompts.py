"""Prompt files: text to be drawn, by `prompts:<path>`.

A `.txt` file has one prompt a line; blank lines and lines that begin with '#' are skipped. A `.csv`, `.tsv` or
`.jsonl` file has a column `prompt`, and perhaps `negative_prompt`, `category`, `seed` and `name`, in the usual
spellings ('Negative Prompt', 'caption', 'id'); a `.json` file is a list of prompts or COCO's captions; and
`prompts:hf:<id or folder>` takes the text column of a data set.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from diffviews.data.columns import find_column, names_of_rows, plain, say_unused
from diffviews.data.prompt_files import PromptTable, open_prompts
from diffviews.data.sample_index import SampleIndex
from diffviews.data.samples import stratified_rows
from diffviews.errors import SampleSetError

MAX_PROMPT_LENGTH = 10_000
MAX_SEED = 2**63 - 1
COLUMNS = ("prompt", "negative_prompt", "category", "seed", "name")
"""What a prompt may have, by the names in `diffviews.data.columns.SPELLINGS`."""


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
        path: a file in UTF-8, or in UTF-16 with its mark, or `hf:<id or folder>[:split]`.
        max_prompts: keep at most so many, evenly over the categories, the same ones every time.

    Raises:
        SampleSetError: if the file is missing, empty, of another format or encoding, lacks a column of
            prompts, or has an impossible value; file and line are named.
    """
    table = open_prompts(os.fspath(path))
    columns = {meaning: find_column(meaning, table.names) for meaning in COLUMNS}
    if columns["category"] == columns["name"]:
        columns["name"] = None
    say_unused(table.place, [name for name in table.names if name and name not in columns.values()])
    rows = [(n, {m: row.get(name, "") if name else "" for m, name in columns.items()}) for n, row in table.rows]
    named, ids = columns["name"], [row["name"] or None for _, row in rows]
    if named and plain(named) != "name":  # an id may be of a text's image, and the same for several
        ids = names_of_rows(ids, named, table.place)
    found = tuple(
        _prompt(table, number, row, prompt_id or _numbered(count))
        for count, ((number, row), prompt_id) in enumerate(zip(rows, ids, strict=True))
    )
    if not found:
        raise SampleSetError(f"{table.place} holds no prompt")
    try:
        prompts = PromptSet(found)
    except SampleSetError as error:
        raise SampleSetError(f"{table.place}: {error}") from error
    return prompts if max_prompts is None else prompts.stratified(max_prompts)


def _prompt(table: PromptTable, number: int, row: Mapping[str, str], prompt_id: str) -> Prompt:
    place = f"{table.place}, {table.unit} {number}"
    if not row["prompt"]:
        raise SampleSetError(f"{place}, has no prompt; write one, or take it out")
    return Prompt(
        prompt_id=prompt_id,
        prompt=_checked(row["prompt"], place),
        negative_prompt=_checked(row["negative_prompt"], place),
        category=row["category"] or None,
        seed=_seed(row["seed"], place),
    )


def _numbered(count: int) -> str:
    return f"prompt-{count:04d}"


def _checked(text: str, place: str) -> str:
    if len(text) > MAX_PROMPT_LENGTH:
        raise SampleSetError(
            f"{place}: a prompt has {len(text):,} characters, at most {MAX_PROMPT_LENGTH:,} "
            "are taken; shorten it"
        )
    return text


def _seed(text: str, place: str) -> int | None:
    if not text:
        return None
    text = text.removesuffix(".0")  # as tables with gaps write whole numbers
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MAX_SEED):
        raise SampleSetError(
            f"{place}: seed {text[:40]!r} is no whole number from 0 to 2^63 - 1; leave it empty where any will do"
        )
    return int(text)
