"""The samples whose neighbourhood changes most between two maps, and what becomes of the selected one's."""

from collections.abc import Iterable
from functools import partial
from html import escape
from typing import Any

import numpy as np
import panel as pn
import panel_material_ui as pmui
import param

from diffviews.errors import DiffViewsError
from panel_app.cards import hint, picture
from panel_app.compare.comparison import Comparison
from panel_app.comparisons import FEWEST, NeighbourhoodChange, nearest
from panel_app.components import Html, Ranking, column
from panel_app.fields import Part, field, row, section, switch, text
from panel_app.layer_map import LayerMap
from panel_app.places import LARGEST_K
from panel_app.points import shortened
from panel_app.recent import Recent

_HELP = "Share of the nearest samples that are others on the other map: 0 none, 1 all"
_PAGE = 30
"""Rows that are sent at a time, each with its picture."""


_COLUMNS = [
    column("picture", "", "", picture=True),
    column("name", "Sample", "Sort by class and id", named=True),
    column("change", "Neighbours changed", _HELP, bar="knows", number=True),
]


class ChangesPanel(Part):
    """How many neighbours each sample keeps from one map to the other."""

    def __init__(self, comparison: Comparison, **params: Any) -> None:
        self.comparison, self._limit = comparison, _PAGE
        self._order = Recent[list[str]](1)
        self.k = field(
            pmui.IntSlider, "Neighbours compared", "How many nearest samples, in activation space, make a "
            "neighbourhood.", start=1, end=LARGEST_K, width=250, sizing_mode=None, margin=(4, 30, 4, 8),
        )  # fmt: skip
        self.coloured = switch(
            "Colour both maps by it", False,
            "Colours every sample by the share of its neighbours that changes, in place of “Colour by”.",
            margin=(12, 0),
        )  # fmt: skip
        progress = pmui.CircularProgress(value=0, variant="indeterminate", size=18, margin=(6, 8))
        self.working = pn.Row(progress, Html(hint("Comparing neighbourhoods…"), margin=(6, 0)), visible=False, margin=0)
        self.summary, self.kept = text(margin=(2, 0, 8, 0)), text(margin=(0, 0, 0, 28))
        self.table = Ranking(
            self._on_message, columns=_COLUMNS, sort={"key": "change", "down": True}, remote=True, points=True,
            label="Samples by how much their neighbourhood changes", margin=0, max_width=560, min_width=360,
        )  # fmt: skip
        self._layout = section(
            row(self.k, self.coloured, self.working, margin=(6, 0, 0, 0)), self.summary, row(self.table, self.kept)
        )
        self.k.param.watch(lambda event: comparison.set(k=event.new), "value_throttled")
        self.coloured.param.watch(lambda event: comparison.set(coloured=event.new), "value")
        super().__init__(session=comparison.session, **params)

    @param.depends("session.state.against", watch=True, on_init=True)
    def _follow(self) -> None:
        against = self.comparison.against
        self.k.value, self.coloured.value = against.k, against.coloured

    @param.depends("comparison.change", "comparison.pairing", "comparison.measuring", watch=True, on_init=True)
    def _show_new(self) -> None:
        self._limit = _PAGE
        self.show()

    @param.depends("session.state.selection", watch=True)
    def show(self) -> None:
        """Show the comparison as far as it is known."""
        comparison, change = self.comparison, self.comparison.change
        self.working.visible = comparison.measuring
        self.coloured.disabled = change is not None and not change.is_whole
        self.summary.object = summary(comparison)
        if change is None:
            self.table.param.update(rows=[], more="")
            self.kept.object = ""
            return
        self._show_table(change)
        self._show_kept(change)

    def _show_table(self, change: NeighbourhoodChange) -> None:
        layer_map, order = self.session.map, self._sorted(change)
        shown = order[: self._limit]
        selected = self.session.state.selection.sample_id
        self.table.param.update(
            rows=[
                {
                    "id": sample_id,
                    "picture": address,
                    "name": shortened(layer_map.text_of(sample_id), 80),
                    "change": change.values[sample_id],
                    "active": sample_id == selected,
                    "title": f"Select {sample_id} on both maps",
                }
                for sample_id, address in zip(shown, layer_map.thumbnails(shown), strict=True)
            ],
            more=f"Show {min(_PAGE, len(order) - len(shown))} more of {len(order):,}"
            if len(order) > len(shown)
            else "",
        )

    def _sorted(self, change: NeighbourhoodChange) -> list[str]:
        """Return the samples in the order asked for, sorted once."""
        layer_map, by, down = self.session.map, self.table.sort["key"], self.table.sort["down"]
        known = (s for s in change.values if s in layer_map.row_of)
        order = partial(sorted_samples, layer_map, known, change, by=by, down=down)
        return self._order.get((change, by, down), order)

    def _show_kept(self, change: NeighbourhoodChange) -> None:
        comparison, sample_id = self.comparison, self.session.state.selection.sample_id
        left, right = comparison.session.map, comparison.right.plain
        if sample_id is None or right is None or sample_id not in change.values or sample_id not in left.row_of:
            self.kept.object = hint("Click a sample, here or on a map: the neighbours that it keeps are shown here.")
            return
        ids = comparison.pairing.sample_ids
        try:
            near = [nearest(layer_map, ids, sample_id, change.k) for layer_map in (left, right)]
        except DiffViewsError as error:
            self.kept.object = hint(str(error))
            return
        self.kept.object = kept_html(left, sample_id, near[0], near[1])

    def _on_message(self, message: dict[str, Any]) -> None:
        state, change = self.session.state, self.comparison.change
        if change is None:
            return
        if message.get("open") in change.values:
            self.session.choose_sample(message["open"])
        elif "point" in message:
            state.hovered = message["point"] if message["point"] in change.values else None
        elif message.get("sort") in ("change", "name"):
            key, sort = message["sort"], self.table.sort
            self.table.sort = {"key": key, "down": not sort["down"] if key == sort["key"] else key == "change"}
            self._show_new()
        elif message.get("more"):
            self._limit += _PAGE
            self.show()


def summary(comparison: Comparison) -> str:
    """Return a sentence on how much neighbourhoods change, as HTML."""
    change, pairing = comparison.change, comparison.pairing
    if comparison.measuring or pairing is None:
        return ""
    if change is None:
        return hint(f"The two maps share {len(pairing)} samples; neighbourhoods need at least {FEWEST} to compare.")
    values = np.fromiter(change.values.values(), np.float64)
    none_kept = int((values == 1).sum())
    part = "" if change.is_whole else f" Measured for {len(values):,} of {change.total:,} samples, evenly spaced."
    return hint(
        f"On average {values.mean():.0%} of a sample's {change.k} nearest, in activation space, are others on the "
        f"other map; {none_kept:,} of {len(values):,} samples keep none of theirs.{part}"
    )


def sorted_samples(
    layer_map: LayerMap, sample_ids: Iterable[str], change: NeighbourhoodChange, *, by: str, down: bool
) -> list[str]:
    """Return samples by how much changes or by name; equal ones by id, so that the order is always the same."""
    if by == "name":
        return sorted(sample_ids, key=lambda s: (layer_map.text_of(s), s), reverse=down)
    return sorted(sample_ids, key=lambda s: (-change.values[s] if down else change.values[s], s))


def kept_html(layer_map: LayerMap, sample_id: str, left: tuple[str, ...], right: tuple[str, ...]) -> str:
    """Return the neighbours that a sample keeps, loses and gains from left to right."""
    groups = (
        ("On both maps", [s for s in left if s in right]),
        ("Near on the left only", [s for s in left if s not in right]),
        ("Near on the right only", [s for s in right if s not in left]),
    )
    title = escape(shortened(layer_map.text_of(sample_id), 80))
    face = picture(layer_map, layer_map.thumbnails([sample_id])[0], 56, style="box-shadow:0 0 0 2px var(--dv-selected)")
    parts = [
        '<div style="display:flex;gap:12px;align-items:center;margin-bottom:6px">'
        f'{face}<div><div class="title">{title}</div><div class="muted small">{escape(sample_id)}</div></div></div>'
    ]
    for heading, members in groups:
        parts.append(f'<div class="overline" style="margin:10px 0 4px">{heading}: {len(members)}</div>')
        faces = "".join(
            f'<span title="{escape(f"{layer_map.text_of(s)}, {s}", quote=True)}">{picture(layer_map, a, 40)}</span>'
            for s, a in zip(members, layer_map.thumbnails(members), strict=True)
        )
        parts.append(f'<div style="display:flex;flex-wrap:wrap;gap:5px">{faces}</div>' if members else hint("none"))
    return "".join(parts)
