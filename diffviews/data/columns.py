"""Columns of tables that others made, known by the usual spellings of their names, as those of a sample set."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from diffviews.data.class_order import NamedClasses, SampleClasses, classes_of
from diffviews.data.sample_index import SampleIndex
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
        "positive", "sentence", "sentences", "en_text", "blip_caption", "prompt_text", "text_prompt",
    ),
    "negative_prompt": (
        "negative_prompt", "negative_prompts", "negative", "negativeprompt", "neg_prompt", "neg", "uncond_prompt",
        "unconditional_prompt", "unconditional", "uncond", "negative_text", "negative_caption", "n_prompt",
    ),
    "category": ("category", "categories", "class", "class_name", "label", "group", "concept", "challenge", "style"),
    "seed": ("seed", "seeds", "sd_seed", "random_seed", "evaluation_seed", "noise_seed"),
    "name": ("name", "id", "prompt_id", "case_number", "key", "uid", "image_id", "sample_id"),
    "source": ("source",),
}  # fmt: skip
"""What a column may be called, the likeliest first."""
IMAGES = ("image", "img", "images", "picture")
"""What the column of images is called where there are several."""
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
_NAMED = 50
"""Columns that a line names: a table of pixels has one for each."""


def plain(name: str) -> str:
    """Return a column's name without case and with '_' between its words: 'negativePrompt' is 'negative_prompt'."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip()).lower()
    return re.sub(r"[^a-z0-9_]+", "_", words).strip("_") or words


def find_column(meaning: str, names: Iterable[str]) -> str | None:
    """Return which of these columns has a meaning, None where none has."""
    by_plain: dict[str, str] = {}
    for name in names:
        by_plain.setdefault(name if name.startswith("__") else plain(name), name)
    return next((by_plain[spelling] for spelling in SPELLINGS[meaning] if spelling in by_plain), None)


def text_of(value: Any) -> str | None:
    """Return a value as text: of a list the first, of an object its text ({'raw': 'a dog', …}); None without one."""
    if isinstance(value, list | tuple | np.ndarray):
        return text_of(value[0]) if len(value) else None
    if isinstance(value, Mapping):
        name = find_column("prompt", value) or ("raw" if "raw" in value else None)
        return None if name is None else text_of(value[name])
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def names_of_rows(given: Sequence[str | None], column: str, place: str) -> list[str | None]:
    """Return what a column calls the rows, none of them, and a line, where two or an impossible one are among them."""
    try:
        SampleIndex(tuple(name for name in given if name is not None))
    except SampleSetError as error:
        logger.info("column %s of %s cannot name its rows, which are numbered: %s", column, place, error)
        return [None] * len(given)
    return list(given)


def image_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of images: structs of bytes and path, else bytes that are called an image, or alone."""
    structs = [c.name for c in schema if pa.types.is_struct(c.type) and any(inner.name == "bytes" for inner in c.type)]
    binary = [column.name for column in schema if any(is_kind(column.type) for is_kind in _BYTES)]
    called = [name for name in binary if re.search("image|img|picture|photo|jpe?g|png|webp|^bytes$", name.lower())]
    return structs + (called or (binary if len(binary) == 1 and not structs else []))


def say_unused(place: str, names: Sequence[str]) -> None:
    """Name the columns of a table that are not used, in one line."""
    if names:
        more = [f"… and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
        logger.info("columns of %s that are not used: %s", place, ", ".join([*names[:_NAMED], *more]))


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
            raise SampleSetError(_no_images(place, names))
        lists = class_lists or {}
        image = next((n for n in images if plain(n) in IMAGES), images[0])
        rest = [name for name in names if name not in images]
        found: dict[str, str] = {}
        for meaning in ("sample_id", "class_label", "class_name", "prompt", "seed", "source"):
            free = [name for name in rest if name not in found.values()]
            first = [name for name in free if name in lists] if meaning == "class_label" else []
            column = find_column(meaning, first) or (first[0] if first else find_column(meaning, free))
            if column is not None:
                found[meaning] = column
        if len(images) > 1:
            logger.info("the images of %s are its column %s", place, image)
        say_unused(place, [name for name in names if name != image and name not in found.values()])
        return cls(place, image, found, lists)

    def classes(self, table: Mapping[str, Sequence[Any]]) -> SampleClasses | None:
        """Return the class of each row, None for a table without classes."""
        column = self.columns.get("class_label")
        if column is None:
            names = self.columns.get("class_name")
            return None if names is None else classes_of([text_of(value) for value in table[names]])
        values = list(table[column])
        if any(isinstance(value, list | dict | np.ndarray) for value in values):
            logger.info("column %s of %s holds lists and not one class a row; it is not used", column, self.place)
            return None
        if any(isinstance(value, str) for value in values):
            return classes_of([text_of(value) for value in values])
        labels = self._numbers(column, values)
        if labels is None:
            return None
        if column in self.class_lists:
            return self._listed(column, labels)
        names = self.columns.get("class_name")
        own = [None] * len(labels) if names is None else [text_of(value) for value in table[names]]
        return SampleClasses([None if label == -1 else label for label in labels], own, "own")

    def frame(self, table: Mapping[str, Sequence[Any]], classes: SampleClasses | None, prefix: str) -> pd.DataFrame:
        """Return the table of a sample set; a row without an id of its own is called by `prefix` and its number."""
        count = max((len(values) for values in table.values()), default=0)
        frame: dict[str, Sequence[Any]] = {"sample_id": self._ids(table, count, prefix)}
        if classes is not None:
            frame |= {"class_label": classes.labels, "class_name": classes.names}
        if "prompt" in self.columns:
            frame["prompt"] = self._texts(self.columns["prompt"], table)
        seeds = self._numbers(self.columns["seed"], table[self.columns["seed"]]) if "seed" in self.columns else None
        if seeds is not None:
            frame["seed"] = seeds
        source = self.columns.get("source")
        frame["source"] = [prefix] * count if source is None else [text_of(value) for value in table[source]]
        return pd.DataFrame(frame, dtype=object)

    def _texts(self, column: str, table: Mapping[str, Sequence[Any]]) -> list[str | None]:
        texts = [text_of(value) for value in table[column]]
        if any(text is None and isinstance(value, dict) for text, value in zip(texts, table[column], strict=True)):
            logger.info("column %s of %s holds objects and not one text a row; it is not used", column, self.place)
            return [None] * len(texts)
        return texts

    def _numbers(self, column: str, values: Iterable[Any]) -> list[int | None] | None:
        """Return whole numbers, None and a line for a column that holds others."""
        numbers = list[int | None]()
        for value in values:
            if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
                numbers.append(None)
            elif isinstance(value, Number) and value == (whole := _floor(value)) and abs(whole) < 2**63:
                numbers.append(whole)
            else:
                said = str(value)[:40]
                logger.info("column %s of %s holds %r, no whole number; it is not used", column, self.place, said)
                return None
        return numbers

    def _ids(self, table: Mapping[str, Sequence[Any]], count: int, prefix: str) -> Sequence[str | None]:
        numbered = [f"{prefix}-{row:07d}" for row in range(count)]
        column = self.columns.get("sample_id")
        if column is None:
            return numbered
        ids = [text_of(value) for value in table[column]]
        if column == "sample_id":
            return ids  # what cannot be an id is refused by the sample set, which names the row
        named = names_of_rows([text or "" for text in ids], column, self.place)
        return numbered if None in named else named

    def _listed(self, column: str, places: Sequence[int | None]) -> SampleClasses:
        named = NamedClasses.of([str(name) for name in self.class_lists[column]])
        beyond = [place for place in places if place is not None and place >= len(named.labels)]
        if beyond:
            raise SampleSetError(
                f"column {column} of {self.place} has the class {beyond[0]}, but names {len(named.labels)}"
            )
        known = [None if place is None or place < 0 else place for place in places]
        labels = [None if place is None else named.labels[place] for place in known]
        return SampleClasses(labels, [None if place is None else named.names[place] for place in known], named.order)


def _floor(value: Any) -> int:
    """Return a number without what is behind its point; 0, which it is not, for one without end."""
    try:
        return int(value)
    except OverflowError:
        return 0


def _no_images(place: str, names: Sequence[str]) -> str:
    said = f"{place} lacks a column of images; its columns are {', '.join(names[:_NAMED]) or 'none'}"
    called = next((name for name in names if plain(name) in IMAGES), None)
    if any("url" in plain(name).split("_") for name in names):
        return f"{said}. Images at addresses are not fetched; img2dataset does that, and tar:<its folder> reads them"
    if called is not None:
        return f"{said}. {called} holds no image file a row but a list, pixels or a path; cast it to datasets.Image()"
    return said
