"""A map's points with what is known of their samples, and which of it can colour and filter them."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from diffviews.data.samples import SampleSet
from diffviews.noise import format_sigma

UNLABELLED = "unlabelled"
"""Value of samples that have no class, or no value in a column."""

NO_CLUSTER = "in no cluster"
"""Value of samples that lie in none of the clusters found on a map."""

CLASS, PROMPT, SIGMA = "class", "prompt_text", "sigma"
"""Columns with categories that a map may have beside those of its extraction."""

LEVEL = "sigma_level"
"""Column of a joint map with the noise level of each point as a number."""

_MOST_VALUES = 100
"""A column of text with more different values is searched, but colours nothing."""


def join_points(points: pd.DataFrame, samples: SampleSet, columns: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the points with what is known of their samples, matched by sample_id.

    Points without coordinates are left out, for they can be neither drawn nor clicked.

    Args:
        points: sample_id, x, y and numbers a point; a joint map has `sigma` too, each sample once a level.
        samples: the samples; those without a class are `UNLABELLED`.
        columns: sample_id and further columns of the extraction.

    Raises:
        SelectionError: if a point's sample is not in the set.
    """
    finite = points[np.isfinite(points["x"]) & np.isfinite(points["y"])].reset_index(drop=True)
    ids = finite["sample_id"].astype(str).tolist()
    rows = samples.index_of(ids) if ids else np.zeros(0, np.int64)
    known = samples.table.iloc[rows].reset_index(drop=True)
    table = finite.drop(columns=[c for c in known.columns if c in finite and c != "sample_id"])
    table["sample_id"] = ids
    table["x"], table["y"] = finite["x"].astype("float32"), finite["y"].astype("float32")
    table[CLASS] = _classes(known, samples, rows)
    table = table.assign(**{c: known[c] for c in ("class_label", "prompt", "seed")})
    different = known["prompt"].nunique()
    if 1 < different <= min(_MOST_VALUES, len(set(ids)) - 1):  # several seeds a prompt
        table[PROMPT] = _categorical(known["prompt"])
    if SIGMA in table:
        table[LEVEL] = table[SIGMA].astype("float64")
        texts = sigma_texts(sorted(table[LEVEL].unique()))
        table[SIGMA] = pd.Categorical(table[LEVEL].map(texts), categories=list(texts.values()))
    return table if columns is None else _with_columns(table, columns)


def shortened(text: str, width: int) -> str:
    """Return a text in one line of at most `width` characters, cut between words where it can be."""
    line = " ".join(text.split())
    cut = textwrap.shorten(line, width, placeholder=" …")
    return cut if len(line) <= width or len(cut) > 2 else line[: width - 1] + "…"


def short_sigma(sigma: float) -> str:
    """Return a noise level with three significant digits, for tight places."""
    return format_sigma(float(f"{sigma:.3g}"))


def sigma_texts(sigmas: Sequence[float]) -> dict[float, str]:
    """Return noise levels as short texts, or as whole ones where two short ones would be alike."""
    short = {sigma: f"σ {short_sigma(sigma)}" for sigma in sigmas}
    return short if len(set(short.values())) == len(short) else {s: f"σ {format_sigma(float(s))}" for s in sigmas}


def _classes(known: pd.DataFrame, samples: SampleSet, rows: np.ndarray) -> "pd.Categorical[Any]":
    """Return the class of each row as people read it, categories in the order of the labels."""
    label = known["class_label"]
    firsts = np.flatnonzero(~label.duplicated().to_numpy() & label.notna().to_numpy())
    texts = {int(label.iloc[i]): _class_text(samples, int(rows[i])) for i in firsts}
    names = label.map(texts).astype("string").fillna(UNLABELLED)
    order = [texts[value] for value in sorted(texts)] + [UNLABELLED]
    occurring = set(names.unique())
    return pd.Categorical(names, categories=[name for name in dict.fromkeys(order) if name in occurring])


def _class_text(samples: SampleSet, row: int) -> str:
    """Return a class by number and name; the numbers of prompts' categories mean nothing."""
    text = samples.class_text(row)
    return text.partition(": ")[2] or text if samples.class_order == "categories" else text


def _with_columns(table: pd.DataFrame, columns: pd.DataFrame) -> pd.DataFrame:
    """Return the table with an extraction's further columns; text becomes categories, numbers stay numbers."""
    given = columns.drop_duplicates("sample_id").set_index(columns["sample_id"].astype(str).drop_duplicates())
    given = given.reindex(table["sample_id"])
    for name in given.columns:
        if name in table:
            continue
        values = given[name].reset_index(drop=True)
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            table[name] = values.astype("float64")
        elif values.map(_is_plain).all() and values.nunique() <= _MOST_VALUES:
            table[name] = _categorical(values)
    return table


def _is_plain(value: object) -> bool:
    return isinstance(value, str | bool | int | float | np.generic) or value is None or value is pd.NA


def _categorical(values: pd.Series) -> "pd.Categorical[Any]":
    """Return values as text with categories in the order people count: '2: b' before '10: a'."""
    texts = [UNLABELLED if pd.isna(value) else str(value) for value in values]
    order: Sequence[str] = sorted(set(texts) - {UNLABELLED}, key=_counted)
    return pd.Categorical(texts, categories=[*order, *({UNLABELLED} & set(texts))])


def _counted(text: str) -> tuple[bool, int, str]:
    head = text.partition(":")[0]
    return (False, int(head), text) if head.isdecimal() else (True, 0, text)
