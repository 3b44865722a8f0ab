"""How alike layers are: a heat map of an extraction's CKA, of which a cell opens its pair, and the pair on show."""

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
from diffviews.processing.similarity import MEASURES, Measure, Similarity
from panel_app.cards import hint
from panel_app.compare.comparison import Comparison
from panel_app.fields import Part, row, text
from panel_app.map.plot import load_plots
from panel_app.places import CKA
from panel_app.theme import SELECTED, SEQUENTIAL

_HELP = (
    "Linear centred kernel alignment of two layers' activations of the same samples, debiased (Nguyen et al. 2021): "
    "about 0, above or below, for independent layers. Mutual neighbours: share of a sample's 10 nearest that are so in "
    "both. RSA: rank correlation of the samples' distances. p: how often permuted samples are as alike."
)
_BIASED = (
    "An earlier version logged this table: its CKA is biased, high for wide layers whatever they hold. Do not compare "
    "it with other runs' values."
)
_MEASURED = "Measured on the samples that both maps have, as far as the components that the maps keep span the layers."
_CLICK = (
    "The heat map is of the left map's noise level. Click a cell to open its row on the left, its column on the right."
)
_TITLES: dict[Measure, str] = {"mutual_knn": "mutual neighbours", "rsa": "RSA", "p_value": "p"}
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

    similarity = param.ClassSelector(
        class_=Similarity, default=None, allow_None=True, doc="of the left-hand extraction's layers, None without"
    )

    def __init__(self, comparison: Comparison, **params: Any) -> None:
        load_plots()
        self.comparison = comparison
        self.plot = pn.pane.HoloViews(margin=(10, 24, 10, 0), linked_axes=False)
        self.summary = text(margin=(10, 0), max_width=320)
        self._layout = row(self.plot, self.summary)
        super().__init__(session=comparison.session, **params)

    @param.depends("session.map", "session.state.against", "comparison.alike", watch=True, on_init=True)
    def show(self) -> None:
        """Show the similarity of the layers, the pair on show outlined, if this is looked at."""
        if self.session.map is None or self.comparison.against.tool != CKA:
            return
        layer, against = self.session.map.layer, self.comparison.against
        level = format_sigma(layer.sigma)
        problem = f"This extraction logged no similarity of layers at σ {level}; extracting several at once does."
        try:
            self.similarity = self.session.store.comparisons.similarity(layer.parent_id, layer.sigma)
        except DiffViewsError as error:
            self.similarity, problem = None, str(error)
        self.plot.visible = self.similarity is not None
        pair = (layer.layer, str(against.layer))
        names = () if self.similarity is None else self.similarity.names
        logged = against.run == layer.parent_id and against.sigma == layer.sigma and set(pair) <= set(names)
        if self.similarity is not None:
            self.plot.object, tap = heat_map(self.similarity.frame(), pair if logged else None)
            tap.add_subscriber(lambda x, y: self.open(y, x))
        notes = [problem] if self.similarity is None else [_CLICK] if self.similarity.debiased else [_BIASED, _CLICK]
        if logged:
            self.summary.object = _summary(self.similarity, pair, pair, [_HELP, *notes])
        elif self.comparison.alike is not None:
            self.summary.object = _summary(self.comparison.alike, ("left", "right"), pair, [_MEASURED, _HELP, *notes])
        else:
            self.summary.object = "".join(map(hint, notes))

    def open(self, left: Any, right: Any) -> None:
        """Open a pair of layers on both sides."""
        if self.similarity is not None and {left, right} <= set(self.similarity.names):
            self.comparison.choose_pair(left, right, self.session.map.layer.sigma)


def heat_map(table: pd.DataFrame, pair: tuple[str, str] | None) -> tuple[hv.Overlay, hv.streams.Tap]:
    """Return a square of values with the cell of a (row, column) outlined, and what tells of clicks on cells."""
    layers, values = list(table.columns), table.to_numpy()
    cell = max(9, min(26, 460 // len(layers)))
    low = np.floor(np.nanmin(values, initial=0.9) * 10) / 10  # what differs shall be seen to differ; it may be negative
    side = cell * len(layers)
    cells = hv.HeatMap((layers, layers, values), ["Right", "Left"], "Linear CKA").opts(
        cmap=interp_palette(SEQUENTIAL, 256), clim=(low, 1.0), colorbar=True, clabel="", frame_width=side,
        frame_height=side, tools=["hover"], toolbar=None, invert_yaxis=True, xrotation=48, xlabel="", ylabel="",
        line_color=None, backend_opts=_LOOKS,
    )  # fmt: skip
    outline = hv.Points([pair[::-1]] if pair else [], ["Right", "Left"]).opts(
        marker="square", size=cell, fill_color=None, line_color=SELECTED, line_width=2.5
    )
    return cells * outline, hv.streams.Tap(source=cells)


def _summary(similarity: Similarity, place: tuple[str, str], names: tuple[str, str], notes: list[str]) -> str:
    """Return the values of one pair as HTML: CKA large, the other measures below where they are known."""
    kind = "Debiased" if similarity.debiased else "Biased"
    at, across = (similarity.names.index(name) for name in place)
    values = {name: float(similarity.frame(name).to_numpy()[at, across]) for name in MEASURES}
    others = " · ".join(f"{title} {values[name]:.3f}" for name, title in _TITLES.items() if np.isfinite(values[name]))
    return (
        f'<div class="overline">{kind} linear CKA</div>'
        f'<div style="font-size:26px;font-weight:600">{values["cka"]:.3f}</div>'
        f"<p>{escape(' and '.join(names))}</p><p>{others}</p><br>{''.join(map(hint, notes))}"
    )
