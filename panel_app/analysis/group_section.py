"""The marked samples against the rest: what they have more or less of, and who they are."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import panel as pn
import panel_material_ui as pmui
import param

from diffviews.errors import SelectionError
from diffviews.processing.enrichment import Difference, Enrichment, compare_numbers, enrich_values, enrich_words
from panel_app.analysis.sample_lists import remainder, sample_entries, sample_list
from panel_app.cards import column_label, hint, quiet
from panel_app.components import Ranking, column
from panel_app.computing.job_bar import JobBar, SessionJobs
from panel_app.fields import Part, field, offer, section, text
from panel_app.layer_map import LayerMap
from panel_app.points import UNLABELLED
from panel_app.session import Session
from panel_app.state import BY_CLASS

WORDS, NUMBERS = " words", " numbers"
"""What can be compared beside a column; no column has such a name."""

_MOST_ROWS = 50
_QUICK = 150
"""Different values that are compared at once; more, or many texts, go through the queue."""

_QUICK_TEXTS = 3_000

Compared = Sequence[Enrichment | Difference]

_VALUE_COLUMNS = (
    column("value", "Value", "Class, value of a column or word of the prompts", wide=True),
    column("share", "Here", "How many of the group have it, and their share", number=True),
    column("elsewhere", "Others", "Share of all other samples that have it", number=True),
    column(
        "fold", "log₂", "Binary logarithm of the ratio of the shares: +1 is twice as common in the group, −1 half as "
        "common", number=True,
    ),
    column(
        "q", "q", "Fisher's exact test, corrected for the number of values (Benjamini-Hochberg): below 0.05 is "
        "unlikely to be chance", number=True,
    ),
)  # fmt: skip
_NUMBER_COLUMNS = (
    column("value", "Number", "Column of the map's table", wide=True),
    column("share", "Here", "Mean over the group", number=True),
    column("elsewhere", "Others", "Mean over all other samples", number=True),
    column(
        "effect", "d", "Cohen's d: difference of the means in standard deviations; 0.2 is small, 0.8 large", number=True
    ),
)


class GroupSection(Part):
    """What sets the marked samples apart; without any, the selected one with its neighbours."""

    def __init__(self, session: Session, queue: SessionJobs) -> None:
        self._heading = text(margin=(4, 0, 6, 0))
        self.by = field(
            pmui.Select, "Compare by", "What the group may have more or less of than all other samples of this map."
        )
        self.table = Ranking(columns=list(_VALUE_COLUMNS), opens=False, margin=(4, 0))
        self.bar = JobBar(session, queue, self._done)
        self.clear = field(
            pmui.Button, "Unmark all", "No sample is marked any more; the selected one and its neighbours stay.",
            variant="outlined", sizing_mode=None, margin=(8, 0), on_click=lambda _: session.mark(()),
        )  # fmt: skip
        self.list = sample_list(
            session, self._unmark, label="Group", order="As marked", opens=True, detail_help="",
            remove_help="Unmark this sample", margin=(4, 0),
        )  # fmt: skip
        note = quiet("Here: how many of the group, and their share. Hover a row for odds ratio and p.")
        self._body = section(self.by, self.bar, self.table, note, self.clear, self.list)
        self._layout = section(self._heading, self._body)
        super().__init__(session=session)

    def show(self) -> None:
        """Show the session's group."""
        layer_map = self.session.map
        ids, marked = self._group()
        self._body.visible = bool(ids)
        if layer_map is None or not ids:
            self._heading.object = hint(
                "Mark samples to see what sets them apart from the rest: with lasso or box on the map, by clicking "
                "a cluster, or by selecting a sample with its neighbours."
            )
            self.list.entries = []
            return
        offer(self.by, comparisons(layer_map), self.by.value)
        kind = "marked" if marked else "selected"
        others = len(layer_map.row_of) - len(ids)
        plural = "sample" if len(ids) == 1 else "samples"
        self._heading.object = (
            f'<div class="title">{len(ids):,} {kind} {plural} '
            f'<span class="muted" style="font-weight:400">against the other {others:,}</span></div>'
        )
        self.clear.visible = self.list.removable = marked
        self.list.param.update(
            entries=sample_entries(layer_map, ids, active=self.session.state.selection.sample_id),
            more=remainder(layer_map, ids),
        )
        self._compare()

    def _group(self) -> tuple[tuple[str, ...], bool]:
        """Return the samples compared with the rest, and whether they were marked."""
        state, layer_map = self.session.state, self.session.map
        marked = len(state.group) > 0
        ids = state.group.sample_ids if marked else state.selection.members
        return tuple(s for s in ids if layer_map is not None and s in layer_map.row_of), marked

    @param.depends("by.value", watch=True)
    def _compare(self) -> None:
        layer_map, (ids, _) = self.session.map, self._group()
        if layer_map is None or not ids or not self.by.value:
            return
        by = self.by.value
        work = comparison(layer_map, ids, by)
        many = len(layer_map.row_of) > _QUICK_TEXTS if by == WORDS else _values(layer_map, by) > _QUICK
        if not many:
            try:
                self._fill(work())
            except SelectionError as error:
                self.table.param.update(rows=[], empty=str(error))
        elif not self.bar.busy:
            asked = (layer_map.map_run, ids, by)
            self.table.param.update(rows=[], empty="Comparing…")
            self.bar.start("Comparing", lambda _: (asked, work()))

    def _done(self, result: tuple[Any, Compared]) -> None:
        """Show what the queue found, or compare again where something else is asked for by now."""
        layer_map, (ids, _) = self.session.map, self._group()
        if layer_map is not None and result[0] == (layer_map.map_run, ids, self.by.value):
            self._fill(result[1])
        else:
            self._compare()

    def _fill(self, rows: Compared) -> None:
        """Show what a comparison found."""
        ids, _ = self._group()
        rest = len(self.session.map.row_of) - len(ids)
        by_number = self.by.value == NUMBERS
        columns = _NUMBER_COLUMNS if by_number else _VALUE_COLUMNS
        empty = "No prompt has words to compare." if self.by.value == WORDS else "There is nothing to compare."
        with pn.io.hold():
            self.table.param.update(
                columns=list(columns),
                sort={"key": "place", "down": False},
                empty=empty,
                rows=[
                    {"id": str(i), "place": i, **table_row(row, len(ids), rest)}
                    for i, row in enumerate(rows[:_MOST_ROWS])
                ],
            )

    def _unmark(self, sample_id: str) -> None:
        self.session.state.group = self.session.state.group.minus([sample_id])


def comparisons(layer_map: LayerMap) -> dict[str, str]:
    """Return what a group can be compared by, by label."""
    options = {column_label(c): c for c in layer_map.categorical_columns if layer_map.categories_of(c) != (UNLABELLED,)}
    if layer_map.table["prompt"].notna().any():
        options["Words of the prompts"] = WORDS
    if layer_map.numeric_columns:
        options["Numbers"] = NUMBERS
    return options


def comparison(layer_map: LayerMap, sample_ids: Sequence[str], by: str) -> Callable[[], Compared]:
    """Return the work of comparing samples with the rest of a map, each sample once.

    Args:
        layer_map: the map.
        sample_ids: the group.
        by: a column with categories, `WORDS` or `NUMBERS`.
    """

    def work() -> Compared:
        table = layer_map.table.iloc[sorted(layer_map.row_of.values())] if layer_map.is_joint else layer_map.table
        member = table["sample_id"].isin(list(sample_ids)).to_numpy(dtype=bool)
        if by == NUMBERS:
            return compare_numbers(member, table[list(layer_map.numeric_columns)])
        if by == WORDS:
            return enrich_words(member, [None if pd.isna(p) else str(p) for p in table["prompt"]])
        values = table[by if by in layer_map.categorical_columns else BY_CLASS].cat
        known = [name for name in values.categories if name != UNLABELLED]
        return enrich_values(member, values.set_categories(known))

    return work


def table_row(row: Enrichment | Difference, size: int, rest: int) -> dict[str, Any]:
    """Return a row of the table as plain values, with what a hover tells."""
    if isinstance(row, Difference):
        return {
            "value": column_label(row.column),
            "share": row.mean,
            "share_text": f"{row.mean:.3g}",
            "elsewhere": row.mean_elsewhere,
            "elsewhere_text": f"{row.mean_elsewhere:.3g}",
            "effect": row.effect if np.isfinite(row.effect) else None,
            "effect_text": f"{row.effect:+.2f}" if np.isfinite(row.effect) else "–",
            "title": f"{column_label(row.column)}: mean {row.mean:.6g} here, {row.mean_elsewhere:.6g} elsewhere",
        }
    odds = (
        "infinite" if np.isinf(row.odds_ratio) else "unknown" if np.isnan(row.odds_ratio) else f"{row.odds_ratio:.3g}"
    )
    return {
        "value": row.value,
        "share": row.share,
        "share_text": f"{row.inside:,} · {row.share:.0%}",
        "elsewhere": row.share_elsewhere,
        "elsewhere_text": f"{row.share_elsewhere:.0%}" if row.share_elsewhere >= 0.01 or not row.outside else "<1%",
        "fold": row.log2_fold,
        "fold_text": f"{row.log2_fold:+.1f}",
        "q": row.q,
        "q_text": p_text(row.q),
        "title": (
            f"{row.value}: {row.inside:,} of {size:,} here ({row.share:.1%}), {row.outside:,} of {rest:,} "
            f"elsewhere ({row.share_elsewhere:.1%}); odds ratio {odds}; "
            f"Fisher's exact p {p_text(row.p)}, corrected q {p_text(row.q)}"
        ),
    }


def p_text(p: float) -> str:
    """Return a probability as short as it can be told."""
    return f"{p:.2f}" if p >= 0.01 else f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def _values(layer_map: LayerMap, by: str) -> int:
    return len(layer_map.categories_of(by)) if by in layer_map.categorical_columns else 0
