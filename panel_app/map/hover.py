"""The card beside the point under the pointer."""

import panel as pn

from panel_app.cards import hover_card
from panel_app.html import Html
from panel_app.layer_map import LayerMap
from panel_app.map.point_grid import Range
from panel_app.theme import PANE_CSS

_ROOM = (330, 150)
"""Pixels that the card may take."""
_GAP = 16


class HoverCard(pn.viewable.Viewer):
    """Lies over the map's canvas and never takes the pointer."""

    def __init__(self) -> None:
        super().__init__()
        self.pane = Html("", visible=False, margin=0, stylesheets=[PANE_CSS])
        self.pane.styles = {"position": "absolute", "left": "0", "top": "0"}

    def __panel__(self) -> pn.viewable.Viewable:
        return self.pane

    def hide(self) -> None:
        """Show nothing."""
        self.pane.visible = False

    def show(self, layer_map: LayerMap, row: int, view: tuple[Range, Range], pixels: tuple[float, float]) -> None:
        """Show the card of a point beside it, on the side where there is room."""
        x, y = (float(layer_map.table[axis].iloc[row]) for axis in "xy")
        (x0, x1), (y0, y1) = view
        left, top = (x - x0) / (x1 - x0) * pixels[0], (1 - (y - y0) / (y1 - y0)) * pixels[1]
        has_right, has_below = left < pixels[0] - _ROOM[0], top < pixels[1] - _ROOM[1]
        styles = {
            "position": "absolute",
            "left": f"{left + (_GAP if has_right else -_GAP):.0f}px",
            "top": f"{top:.0f}px",
            "transform": f"translate({'0' if has_right else '-100%'}, {'0' if has_below else '-100%'})",
            "pointer-events": "none",
            "z-index": "10",
        }
        self.pane.param.update(object=hover_card(layer_map, row), styles=styles, visible=True)
