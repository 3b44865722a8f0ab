"""Which samples of a map are shown: by values, by ranges of numbers, by words. Hiding changes nothing else."""

import functools
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd

from panel_app.recent import Recent

_KEPT = 8
"""Answers kept for each map: the visitors' present filters, mostly."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What is asked of a shown sample; everything asked must hold, and an empty filter shows all."""

    values: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(column, values shown) of columns with categories."""
    ranges: tuple[tuple[str, float, float], ...] = ()
    """(column, least, greatest) of columns with numbers; a sample without a number is hidden."""
    words: str = ""
    """Words that must all begin a word of the prompt or of the class name, or be the sample's id."""

    def __bool__(self) -> bool:
        return bool(self.values or self.ranges or self.words.strip())

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that hide something."""
        return (*(row[0] for row in self.values), *(row[0] for row in self.ranges))

    def values_of(self, column: str) -> tuple[str, ...]:
        """Return the values of a column that are shown; none means all."""
        return dict(self.values).get(column, ())

    def range_of(self, column: str) -> tuple[float, float] | None:
        """Return the range of a column that is shown; None means all."""
        return next(((low, high) for name, low, high in self.ranges if name == column), None)

    def with_values(self, column: str, values: Sequence[str]) -> Self:
        """Show only these values of a column; none shows all."""
        kept = tuple(row for row in self.values if row[0] != column)
        return replace(self, values=(*kept, (column, tuple(values))) if values else kept)

    def with_range(self, column: str, limits: tuple[float, float] | None) -> Self:
        """Show only numbers of a column within limits; None shows all."""
        kept = tuple(row for row in self.ranges if row[0] != column)
        return replace(self, ranges=kept if limits is None else (*kept, (column, *limits)))

    def with_words(self, words: str) -> Self:
        """Show only samples that these words find."""
        return replace(self, words=words.strip())

    def only(self, categories: Mapping[str, Collection[str]], numbers: Collection[str]) -> Self:
        """Drop what a map lacks: columns, and values of columns."""
        values = ((column, tuple(v for v in kept if v in categories.get(column, ()))) for column, kept in self.values)
        return replace(
            self,
            values=tuple((column, kept) for column, kept in values if kept),
            ranges=tuple(row for row in self.ranges if row[0] in numbers),
        )

    def to_json(self) -> str | None:
        """Return values and ranges as JSON, or None when there are none."""
        rows: dict[str, Any] = {column: list(values) for column, values in self.values}
        rows.update({column: {"from": low, "to": high} for column, low, high in self.ranges})
        return json.dumps(rows) if rows else None

    @classmethod
    def from_json(cls, text: Any, words: str = "") -> Self:
        """Read what `to_json` wrote; what is malformed counts as absent."""
        made = cls(words=words.strip())
        try:
            rows = json.loads(text) if isinstance(text, str) else text
        except json.JSONDecodeError:
            return made
        for column, wanted in rows.items() if isinstance(rows, dict) else ():
            if isinstance(wanted, list) and all(isinstance(value, str) for value in wanted):
                made = made.with_values(column, tuple(dict.fromkeys(wanted)))
            elif isinstance(wanted, dict) and (limits := _limits(wanted.get("from"), wanted.get("to"))):
                made = made.with_range(column, limits)
        return made


def _limits(low: Any, high: Any) -> tuple[float, float] | None:
    numbers = [value for value in (low, high) if isinstance(value, int | float) and math.isfinite(value)]
    return (float(low), float(high)) if len(numbers) == 2 and low <= high else None


SHOW_ALL = Filter()
"""The filter that hides nothing."""


class RowFilter:
    """Answers filters over one table that never changes; usable from several threads.

    Args:
        table: columns sample_id, class and prompt (text, <NA> where there is none), and those asked for.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self._table = table
        self._known = Recent[np.ndarray](_KEPT)

    def mask(self, wanted: Filter) -> np.ndarray:
        """Return which rows are shown, (N,) bool; it must not be written to."""
        return self._known.get(wanted, lambda: self._answer(wanted))

    def _answer(self, wanted: Filter) -> np.ndarray:
        table = self._table
        shown = np.ones(len(table), dtype=bool)
        for column, values in wanted.values:
            shown &= table[column].isin(list(values)).to_numpy(dtype=bool)
        for column, low, high in wanted.ranges:
            shown &= table[column].between(low, high).to_numpy(dtype=bool, na_value=False)
        for word in wanted.words.casefold().split():
            shown &= self._find(word)
        return shown

    def _find(self, word: str) -> np.ndarray:
        """Return the rows with a word that begins so; in scripts without spaces, with these letters anywhere."""
        codes, texts = self._texts
        pattern = rf"(?<!\w){re.escape(word)}" if word.isascii() and word[0].isalnum() else re.escape(word)
        found = texts.str.contains(pattern, regex=True).to_numpy(dtype=bool)
        ids = self._table["sample_id"].astype(str).str.casefold()
        return np.asarray(found[codes] | (ids == word).to_numpy(dtype=bool))

    @functools.cached_property
    def _texts(self) -> tuple[np.ndarray, pd.Series]:
        """Return the different texts, and which one each row has."""
        prompts = self._table["prompt"].astype("string").fillna("")
        codes, texts = pd.factorize(prompts + "\n" + self._table["class"].astype("string").fillna(""))
        return codes, pd.Series(texts, dtype="string").str.casefold()
