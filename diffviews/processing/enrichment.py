"""What sets a group of samples apart from the rest: values, words and numbers that it has more or less of."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import pandas as pd

from diffviews.errors import SelectionError, ShapeError

FEWEST = 2
"""Samples that must share a word for it to be compared."""

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Enrichment:
    """How common a value is in a group and elsewhere."""

    value: str
    inside: int
    """Samples of the group that have it."""
    outside: int
    """Samples of the rest that have it."""
    share: float
    """inside / size of the group."""
    share_elsewhere: float
    """outside / size of the rest."""
    odds_ratio: float
    """Odds of having it in the group over those in the rest; infinite where only the group has it."""
    log2_fold: float
    """Binary logarithm of the shares' ratio, each with one sample more that has it as often as all samples do: so it
    is finite, and negative where the group's share is the smaller one, however small the group is."""
    p: float
    """Fisher's exact test, two-sided."""
    q: float
    """p after Benjamini & Hochberg (1995) over all values compared."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How a number differs between a group and the rest."""

    column: str
    mean: float
    mean_elsewhere: float
    effect: float
    """Cohen's d: difference of the means over the pooled standard deviation; NaN where that is 0 or unknown."""


def enrich_values(member: np.ndarray, values: Sequence[object] | pd.Series | pd.Categorical) -> tuple[Enrichment, ...]:
    """Compare how common each value of a column is in a group and in the rest.

    Args:
        member: (N,) bool, which samples are the group.
        values: (N,) value of each sample; None and NaN are no values.

    Returns:
        One a value, the smallest p first, then by fold.

    Raises:
        SelectionError: if the group or the rest is empty.
    """
    given = pd.Categorical(cast(Any, values))
    codes, names = np.asarray(given.codes, dtype=np.int64), list(map(str, given.categories))
    inside_rows = _checked(member, len(codes))
    known = codes >= 0
    inside = np.bincount(codes[inside_rows & known], minlength=len(names))
    outside = np.bincount(codes[~inside_rows & known], minlength=len(names))
    return _compared(names, inside, outside, inside_rows)


def enrich_words(member: np.ndarray, texts: Sequence[str | None], *, fewest: int = FEWEST) -> tuple[Enrichment, ...]:
    """Compare how common each word is in a group's texts and in the others'; a text counts a word once.

    Args:
        member: (N,) bool, which samples are the group.
        texts: (N,) such as prompts; None has no words.
        fewest: texts in which a word must occur to be compared; common English words are left out.

    Raises:
        SelectionError: if the group or the rest is empty.
    """
    inside_rows = _checked(member, len(texts))
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for text, row in zip(texts, inside_rows, strict=True):
        counts[0 if row else 1].update(words_of(text))
    names = sorted(w for w in counts[0].keys() | counts[1].keys() if counts[0][w] + counts[1][w] >= fewest)
    inside, outside = (np.array([count[name] for name in names], dtype=np.int64) for count in counts)
    return _compared(names, inside, outside, inside_rows)


def words_of(text: str | None) -> frozenset[str]:
    """Return the different words of a text, in lower case, without common English ones and single digits."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    found = _WORD.findall(text.casefold()) if isinstance(text, str) else ()
    return frozenset(w for w in found if w not in ENGLISH_STOP_WORDS and not (len(w) == 1 and w.isascii()))


def compare_numbers(member: np.ndarray, columns: pd.DataFrame) -> tuple[Difference, ...]:
    """Compare the mean of each numeric column in a group and in the rest, the largest effect first.

    Values that are not finite are left out.

    Raises:
        SelectionError: if the group or the rest is empty.
    """
    inside_rows = _checked(member, len(columns))
    found = []
    for name in columns.columns:
        values = columns[name].to_numpy(dtype=np.float64)
        finite = np.isfinite(values)
        inside, outside = values[inside_rows & finite], values[~inside_rows & finite]
        if len(inside) and len(outside):
            means = float(inside.mean()), float(outside.mean())
            found.append(Difference(str(name), *means, cohens_d(inside, outside)))
    return tuple(sorted(found, key=lambda row: -abs(row.effect) if math.isfinite(row.effect) else 1.0))


def cohens_d(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return (mean of inside − mean of outside) / pooled standard deviation, NaN where it is 0 or unknown."""
    freedom = len(inside) + len(outside) - 2
    if freedom < 1:
        return float("nan")
    squares = sum(float(((part - part.mean()) ** 2).sum()) for part in (inside, outside))
    pooled = math.sqrt(squares / freedom)
    return float(inside.mean() - outside.mean()) / pooled if pooled > 0 else float("nan")


def _compared(
    names: Sequence[str], inside: np.ndarray, outside: np.ndarray, inside_rows: np.ndarray
) -> tuple[Enrichment, ...]:
    from scipy.stats import false_discovery_control

    size = int(inside_rows.sum())
    rest = len(inside_rows) - size
    p = _fisher(inside, outside, size, rest)
    q = false_discovery_control(p) if len(p) else p
    rows = [
        Enrichment(
            value=name,
            inside=a,
            outside=c,
            share=a / size,
            share_elsewhere=c / rest,
            odds_ratio=_odds_ratio(a, size - a, c, rest - c),
            log2_fold=_log2_fold(a, c, size, rest),
            p=float(chance),
            q=float(adjusted),
        )
        for name, a, c, chance, adjusted in zip(names, inside.tolist(), outside.tolist(), p, q, strict=True)
    ]
    return tuple(sorted(rows, key=lambda row: (row.p, -row.log2_fold)))


def _fisher(inside: np.ndarray, outside: np.ndarray, size: int, rest: int) -> np.ndarray:
    """Return the two-sided p of each 2 × 2 table; equal tables, of which words have many, are tested once."""
    from scipy.stats import fisher_exact

    @cache
    def chance(a: int, c: int) -> float:
        return float(fisher_exact([[a, size - a], [c, rest - c]]).pvalue)

    return np.array([chance(a, c) for a, c in zip(inside.tolist(), outside.tolist(), strict=True)])


def _log2_fold(a: int, c: int, size: int, rest: int) -> float:
    usual = (a + c) / (size + rest)
    return math.log2((a + usual) / (size + 1)) - math.log2((c + usual) / (rest + 1))


def _odds_ratio(a: int, b: int, c: int, d: int) -> float:
    if b * c:
        return a * d / (b * c)
    return float("inf") if a * d else float("nan")


def _checked(member: np.ndarray, count: int) -> np.ndarray:
    rows = np.asarray(member, dtype=bool)
    if rows.shape != (count,):
        raise ShapeError(f"there are {rows.size} marks for {count} samples")
    if not rows.any():
        raise SelectionError("no sample of this map is marked; mark some, then they can be compared with the rest")
    if rows.all():
        raise SelectionError("every sample is marked, so there is no rest to compare with; mark fewer")
    return rows
