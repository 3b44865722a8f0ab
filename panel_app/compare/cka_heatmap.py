"""How alike all layers of an extraction are: a heat map of their linear CKA, of which a cell opens its pair."""

from pathlib import Path
from typing import Any

import numpy as np
import panel as pn
import param

from diffviews.errors import DiffViewsError
from diffviews.noise import format_sigma
from panel_app.compare.comparison import Comparison
from panel_app.components import BrowserPane
from panel_app.theme import SEQUENTIAL

_HELP = (
    "Linear centred kernel alignment of two layers' activations of the same samples (Kornblith et al. 2019), at the "
    "noise level of the left map. Click a cell to open its row on the left and its column on the right."
)


class Heatmap(BrowserPane):
    """A square of values; hovering tells a cell's value, a click or Enter answers {left, right}."""

    layers = param.List(doc="names of rows and columns")
    values = param.List(doc="rows of numbers from 0 to 1, or None where there is none")
    pair = param.List(default=["", ""], doc="row and column that are outlined")
    colours = param.List(default=list(SEQUENTIAL), doc="from 0 to 1")
    low = param.Number(0.0, doc="value of the first colour; the last is that of 1")
    help = param.String(_HELP)
    empty = param.String(doc="sentence shown when there is nothing")

    _esm = Path(__file__).parents[1] / "esm" / "cka_heatmap.js"


class CkaPanel(pn.viewable.Viewer):
    """The heat map of the left-hand extraction at the left-hand noise level."""

    def __init__(self, comparison: Comparison, **params: Any) -> None:
        super().__init__(**params)
        self._comparison = comparison
        self.heatmap = Heatmap(self._on_message, margin=(10, 0))
        comparison.session.param.watch(lambda *_: self.show(), "map")
        comparison.session.state.param.watch(lambda *_: self.show(), "against")
        self.show()

    def __panel__(self) -> pn.viewable.Viewable:
        return self.heatmap

    def show(self) -> None:
        """Show the similarity of the layers, the pair on show outlined."""
        session = self._comparison.session
        layer_map, against = session.map, self._comparison.against
        if layer_map is None:
            return
        layer = layer_map.layer
        same = against.run == layer.parent_id and against.sigma == layer.sigma
        pair = [layer.layer, against.layer] if same and against.layer else ["", ""]
        level = format_sigma(layer.sigma)
        try:
            table = session.store.comparisons.similarity(layer.parent_id, layer.sigma)
            problem = f"This extraction logged no similarity of layers at σ {level}; extracting several at once does."
        except DiffViewsError as error:
            table, problem = None, str(error)
        if table is None:
            self.heatmap.param.update(layers=[], values=[], pair=pair, empty=problem)
            return
        values = [[float(v) if np.isfinite(v) else None for v in row] for row in table.to_numpy()]
        low = np.floor(np.nanmin(table.to_numpy(), initial=0.9) * 10) / 10  # what differs shall be seen to differ
        self.heatmap.param.update(layers=list(table.columns), values=values, pair=pair, low=float(max(low, 0.0)))

    def _on_message(self, message: dict[str, Any]) -> None:
        left, right = str(message.get("left")), str(message.get("right"))
        layer_map = self._comparison.session.map
        known = self.heatmap.layers
        if layer_map is not None and left in known and right in known:
            self._comparison.choose_pair(left, right, layer_map.layer.sigma)
