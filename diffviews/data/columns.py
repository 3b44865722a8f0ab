"""Columns of tables that others made, known by the usual spellings of their names, as those of a sample set."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from diffviews.data.class_order import NamedClasses, SampleClasses, classes_of
from diffviews.errors import SampleSetError

logger = logging.getLogger(__name__)

SPELLINGS: dict[str, tuple[str, ...]] = {
    "sample_id": ("sample_id", "id", "image_id", "uid", "uuid", "key", "__key__", "file_name", "filename"),
    "class_label": (
        "class_label", "label", "labels", "class", "class_id", "classes", "cls", "target", "category", "category_id",
        "fine_label", "coarse_label", "digit", "y",
    ),
    "class_name": ("class_name", "label_name", "class_text", "label_text"),
    "prompt": (
        "prompt", "prompts", "text", "texts", "txt", "caption", "captions", "description", "positive_prompt",
        "positive", "sentence", "sentences", "en_text", "blip_caption",
    ),
    "negative_prompt": (
        "negative_prompt", "negative_prompts", "negative", "negativeprompt", "neg_prompt", "neg", "uncond_prompt",
        "unconditional_prompt",
    ),
    "category": ("category", "categories", "class", "class_name", "label", "group", "concept", "challenge", "style"),
    "seed": ("seed", "seeds", "sd_seed", "random_seed"),
    "name": ("name", "id", "prompt_id", "case_number", "key", "uid", "image_id", "sample_id"),
    "source": ("source",),
}  # fmt: skip
"""What a column may be called, the likeliest first."""


def plain(name: str) -> str:
    """Return a column's name without case and with '_' between its words: 'Negative Prompt' is 'negative_prompt'."""
    return re.sub(r"[^a-z0-9_]+", "_", name.strip().lower()).strip("_") or name.strip().lower()


def find_column(meaning: str, names: Iterable[str]) -> str | None:
    """Return which of these columns has a meaning, None where none has."""
    by_plain: dict[str, str] = {}
    for name in names:
        by_plain.setdefault(name if name.startswith("__") else plain(name), name)
    return next((by_plain[spelling] for spelling in SPELLINGS[meaning] if spelling in by_plain), None)


def say_unused(place: str, names: Sequence[str]) -> None:
    """Name the columns of a table that are not used, in one line."""
    if names:
        logger.info("columns of %s that are not used: %s", place, ", ".join(names))


@dataclass(frozen=True, slots=True)
class TableLayout:
    """Which columns of a table are a sample's image, id, class, prompt and so on."""

    place: str
    """What errors call the table."""
    image: str
    columns: Mapping[str, str]
    """{column of a sample set: column of the table}."""
    class_lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of the classes that a column of labels counts, by column."""

    @classmethod
    def of(
        cls,
        place: str,
        names: Sequence[str],
        images: Sequence[str],
        class_lists: Mapping[str, Sequence[str]] | None = None,
    ) -> "TableLayout":
        """Find out, and say once which columns are not used.

        Args:
            place: what errors call the table.
            names: of all columns.
            images: those that hold images.
            class_lists: names of the classes that columns of labels count.

        Raises:
            SampleSetError: if no column holds images.
        """
        if not images:
            raise SampleSetError(f"{place} lacks a column of images; its columns are {', '.join(names) or 'none'}")
        lists = class_lists or {}
        image = next((n for n in images if plain(n) in ("image", "img", "images", "picture")), images[0])
        rest = [name for name in names if name not in images]
        found: dict[str, str] = {}
        for meaning in ("sample_id", "class_label", "class_name", "prompt", "seed", "source"):
            free = [name for name in rest if name not in found.values()]
            first = [name for name in free if name in lists] if meaning == "class_label" else []
            column = find_column(meaning, first) or (first[0] if first else find_column(meaning, free))
            if column is not None:
                found[meaning] = column
        say_unused(place, [name for name in names if name != image and name not in found.values()])
        return cls(place, image, found, lists)

    def classes(self, table: Mapping[str, Sequence[Any]]) -> SampleClasses | None:
        """Return the class of each row, None for a table without classes."""
        column = self.columns.get("class_label")
        if column is None:
            names = self.columns.get("class_name")
            return None if names is None else classes_of([_text(value) for value in table[names]])
        values = list(table[column])
        if any(isinstance(value, list | dict | np.ndarray) for value in values):
            logger.info("column %s of %s holds lists and not one class a row; it is not used", column, self.place)
            return None
        if column in self.class_lists:
            return self._listed(column, values)
        if any(isinstance(value, str) for value in values):
            return classes_of([_text(value) for value in values])
        labels = [_whole(value, column, self.place) for value in values]
        names = self.columns.get("class_name")
        own = [None] * len(labels) if names is None else [_text(value) for value in table[names]]
        return SampleClasses(labels, own, "own")

    def frame(self, table: Mapping[str, Sequence[Any]], classes: SampleClasses | None, prefix: str) -> pd.DataFrame:
        """Return the table of a sample set; a row without an id of its own is called by `prefix` and its number."""
        count = max((len(values) for values in table.values()), default=0)
        frame: dict[str, Sequence[Any]] = {"sample_id": self._ids(table, count, prefix)}
        if classes is not None:
            frame |= {"class_label": classes.labels, "class_name": classes.names}
        if "prompt" in self.columns:
            frame["prompt"] = [_text(value) for value in table[self.columns["prompt"]]]
        if "seed" in self.columns:
            frame["seed"] = [_whole(value, self.columns["seed"], self.place) for value in table[self.columns["seed"]]]
        source = self.columns.get("source")
        frame["source"] = [prefix] * count if source is None else [_text(value) for value in table[source]]
        return pd.DataFrame(frame, dtype=object)

    def _ids(self, table: Mapping[str, Sequence[Any]], count: int, prefix: str) -> list[str]:
        numbered = [f"{prefix}-{row:07d}" for row in range(count)]
        column = self.columns.get("sample_id")
        if column is None:
            return numbered
        ids = [_text(value) for value in table[column]]
        if None in ids or len(set(ids)) < len(ids):
            if column == "sample_id":
                return ids  # type: ignore[return-value]  # refused by the sample set, which names the row
            logger.info("column %s of %s does not tell its rows apart; they are numbered", column, self.place)
            return numbered
        return [str(value) for value in ids]

    def _listed(self, column: str, values: Sequence[Any]) -> SampleClasses:
        named = NamedClasses.of([str(name) for name in self.class_lists[column]])
        labels, names = list[int | None](), list[str | None]()
        for value in values:
            place = _whole(value, column, self.place)
            if place is not None and not place < len(named.labels):
                raise SampleSetError(
                    f"column {column} of {self.place} has the class {place}, but names {len(named.labels)}"
                )
            known = place is not None and place >= 0
            labels.append(named.labels[place] if known else None)  # type: ignore[index]
            names.append(named.names[place] if known else None)  # type: ignore[index]
        return SampleClasses(labels, names, named.order)


def _text(value: Any) -> str | None:
    """Return a value as text; of a list, such as several captions of an image, the first."""
    if isinstance(value, list | tuple | np.ndarray):
        return _text(value[0]) if len(value) else None
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _whole(value: Any, column: str, place: str) -> int | None:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, int | np.integer) or (isinstance(value, float | np.floating) and float(value).is_integer()):
        return int(value)
    raise SampleSetError(f"column {column} of {place} holds {str(value)[:40]!r}, which is no whole number")
