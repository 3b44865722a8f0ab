"""How alike all layers of an extraction are: a heat map of their linear CKA, of which a cell opens its pair."""

from html import escape
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import panel as pn
import param
from bokeh.palettes import interp_palette

from diffviews.errors import DiffViewsError
from diffviews.noise import format_sigma
from panel_app.cards import hint
from panel_app.compare.comparison import Comparison
from panel_app.fields import Part, row, text
from panel_app.map.plot import load_plots
from panel_app.places import CKA
from panel_app.theme import SELECTED, SEQUENTIAL

_HELP = (
    "Linear centred kernel alignment of two layers' activations of the same samples (Kornblith et al. 2019), at the "
    "noise level of the left map. Click a cell to open its row on the left and its column on the right."
)
_INK = "#808892"
"""Of names and numbers beside the cells, on light and dark pages alike."""
_LOOKS = {
    "plot.sizing_mode": None, "plot.width_policy": "min", "plot.height_policy": "min",
    "plot.border_fill_color": None, "plot.background_fill_color": None, "plot.outline_line_color": None,
    "xaxis.major_label_text_color": _INK, "yaxis.major_label_text_color": _INK,
    "colorbar.major_label_text_color": _INK, "colorbar.background_fill_color": None,
}  # fmt: skip


class CkaPanel(Part):
    """The heat map of the left-hand extraction at the left-hand noise level, and the value of the pair on show."""

    table = param.DataFrame(None, allow_None=True, doc="values from 0 to 1, by layer, or None where there are none")

    def __init__(self, comparison: Comparison, **params: Any) -> None:
        load_plots()
        self.comparison = comparison
        self.plot = pn.pane.HoloViews(margin=(10, 24, 10, 0), linked_axes=False)
        self.summary = text(margin=(10, 0), max_width=320)
        self._layout = row(self.plot, self.summary)
        super().__init__(session=comparison.session, **params)

    @param.depends("session.map", "session.state.against", watch=True, on_init=True)
    def show(self) -> None:
        """Show the similarity of the layers, the pair on show outlined, if this is looked at."""
        if self.session.map is None or self.comparison.against.tool != CKA:
            return
        layer, against = self.session.map.layer, self.comparison.against
        level = format_sigma(layer.sigma)
        problem = f"This extraction logged no similarity of layers at σ {level}; extracting several at once does."
        try:
            self.table = self.session.store.comparisons.similarity(layer.parent_id, layer.sigma)
        except DiffViewsError as error:
            self.table, problem = None, str(error)
        self.plot.visible = self.table is not None
        if self.table is None:
            self.summary.object = hint(problem)
            return
        known = against.run == layer.parent_id and against.sigma == layer.sigma and against.layer in self.table
        pair = (layer.layer, str(against.layer)) if known and layer.layer in self.table else None
        self.plot.object, tap = heat_map(self.table, pair)
        tap.add_subscriber(lambda x, y: self.open(y, x))
        value = f"{self.table.loc[pair]:.3f}" if pair else "–"
        self.summary.object = (
            f'<div class="overline">Linear CKA</div><div style="font-size:26px;font-weight:600">{value}</div>'
            f"<p>{escape(' and '.join(pair or ()))}</p><br>{hint(_HELP)}"
        )

    def open(self, left: Any, right: Any) -> None:
        """Open a pair of layers on both sides."""
        if self.table is not None and left in self.table and right in self.table:
            self.comparison.choose_pair(left, right, self.session.map.layer.sigma)


def heat_map(table: pd.DataFrame, pair: tuple[str, str] | None) -> tuple[hv.Overlay, hv.streams.Tap]:
    """Return a square of values with the cell of a (row, column) outlined, and what tells of clicks on cells."""
    layers, values = list(table.columns), table.to_numpy()
    cell = max(9, min(26, 460 // len(layers)))
    low = np.floor(np.nanmin(values, initial=0.9) * 10) / 10  # what differs shall be seen to differ
    side = cell * len(layers)
    cells = hv.HeatMap((layers, layers, values), ["Right", "Left"], "Linear CKA").opts(
        cmap=interp_palette(SEQUENTIAL, 256), clim=(max(low, 0.0), 1.0), colorbar=True, clabel="", frame_width=side,
        frame_height=side, tools=["hover"], toolbar=None, invert_yaxis=True, xrotation=48, xlabel="", ylabel="",
        line_color=None, backend_opts=_LOOKS,
    )  # fmt: skip
    outline = hv.Points([pair[::-1]] if pair else [], ["Right", "Left"]).opts(
        marker="square", size=cell, fill_color=None, line_color=SELECTED, line_width=2.5
    )
    return cells * outline, hv.streams.Tap(source=cells)
