"""The map's tools and the visitor's hand: dragging, zooming, marking by box and lasso, and the keys."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from html import escape
from typing import Any, Literal, get_args

import numpy as np
import panel as pn
import panel_material_ui as pmui
import param
import shapely

from panel_app.components import Html
from panel_app.fields import Part
from panel_app.filter import Filter
from panel_app.layer_map import LayerMap
from panel_app.point_grid import PointGrid, Range
from panel_app.session import Session
from panel_app.state import Group
from panel_app.theme import LABEL_BESIDE

Way = Literal["new", "add", "remove", "intersect"]
"""What a further box or lasso does to the samples marked before."""
_WAYS: dict[str, Way] = {way.capitalize(): way for way in get_args(Way)}


def combined(before: Group, found: Iterable[str], way: Way) -> Group:
    """Return the group that marking further samples makes of the one before."""
    return {"new": Group().union, "add": before.union, "remove": before.minus, "intersect": before.intersect}[way](
        found
    )


def way_with(chosen: Way, *, shift: bool, alt: bool) -> Way:
    """Return what is meant while keys are held down: Shift adds, Alt removes, both intersect."""
    if shift:
        return "intersect" if alt else "add"
    return "remove" if alt else chosen


def rows_in_box(grid: PointGrid, x_range: Range, y_range: Range) -> np.ndarray:
    """Return the rows of the points in a box, (n,) in the order of the table."""
    return np.sort(grid.rows[grid.inside(x_range, y_range)])


def rows_in_outline(grid: PointGrid, outline: np.ndarray) -> np.ndarray:
    """Return the rows of the points within a closed line, (n,) in the order of the table.

    Args:
        grid: the points.
        outline: (m, 2) corners; a line of fewer than three encloses nothing. Where it crosses itself, what it
            goes round twice is outside, as in drawing programs.
    """
    corners = np.asarray(outline, np.float64).reshape(-1, 2)
    corners = corners[np.isfinite(corners).all(axis=1)]
    if len(np.unique(corners, axis=0)) < 3:
        return np.zeros(0, grid.rows.dtype)
    (x0, y0), (x1, y1) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    places = grid.inside((x0, x1), (y0, y1))
    inside = shapely.contains_xy(shapely.Polygon(corners), grid.x[places], grid.y[places])
    return np.sort(grid.rows[places[inside]])


HAND, BOX, LASSO = "hand", "box", "lasso"
_TOOLS = (
    (HAND, "pan_tool", "Hand: drag moves the map, a click selects"),
    (BOX, "highlight_alt", "Box: drag marks the samples in a rectangle"),
    (LASSO, "gesture", "Lasso: draw round samples to mark them"),
)

_CHOSEN = {"color": "primary.main", "backgroundColor": "action.selected"}
BAR_HEIGHT = 38
"""Pixels that the bar takes from the map while it is shown."""

_KEYS = (
    ("+ and −", "zoom in and out"),
    ("0", "show all of the map"),
    ("Arrow keys", "move the map"),
    ("s", "suggest the samples nearest to the selected one"),
    ("Escape", "clear: first marks and highlight, then the selection"),
    ("?", "show or hide this list"),
    ("Wheel", "zoom about the pointer"),
    ("Click", "select; further clicks choose neighbours"),
    ("Shift while marking", "add to the marked samples"),
    ("Alt while marking", "remove from them"),
    ("Shift and Alt while marking", "keep only what is in both"),
    ("Click in the legend", "highlight a value; again: show only it; again: show all"),
)


class MapTools(Part):
    """Buttons beside the map's caption; `bar` tells of the marked samples, `keys` lists the keys."""

    tool = param.Selector(default=HAND, objects=[HAND, BOX, LASSO], doc="what dragging on the map does")
    way = param.Selector(
        default="new",
        objects=_WAYS,
        label="Marking",
        doc="What the next box or lasso does to the samples marked before.",
    )
    helping = param.Boolean(False, doc="whether the keys are listed")

    def __init__(self, zoom: Callable[[float], None], reset: Callable[[], None], clear: Callable[[], None]) -> None:
        view = (
            _button("add", "Zoom in", lambda _: zoom(0.65)),
            _button("remove", "Zoom out", lambda _: zoom(1 / 0.65)),
            _button("fit_screen", "Reset view", lambda _: reset()),
        )
        self._tools = {name: _button(icon, text, partial(self._choose, name)) for name, icon, text in _TOOLS}
        helps = _button("help_outline", "Keys and gestures", lambda _: self.param.update(helping=not self.helping))
        corner = {"position": "absolute", "right": "8px", "top": "4px", "z-index": "20"}
        self.keys = Html(_key_list(), margin=0, visible=False, styles=corner)
        rule = Html('<div style="width:1px;height:18px;background:var(--dv-faint)"></div>', margin=(8, 4))
        self._layout = pn.Row(*self._tools.values(), rule, *view, helps, margin=0)
        self._marks = Html(margin=(8, 6, 0, 0))
        self._clear = pmui.Button(
            label="Clear marks", icon="close", variant="text", size="small", margin=(1, 0),
            description="Marks nothing; the selected sample and its neighbours stay.", on_click=lambda _: clear(),
        )  # fmt: skip
        super().__init__()
        self._ways = pmui.RadioButtonGroup.from_param(
            self.param.way, description=self.param.way.doc, size="small", margin=(0, 6, 0, 0),
            stylesheets=[LABEL_BESIDE],
        )  # fmt: skip
        self.bar = pn.Row(self._ways, self._marks, self._clear, margin=(0, 12), height=BAR_HEIGHT, visible=False)
        self._follow_tool()

    def _choose(self, name: str, _: Any) -> None:
        self.tool = name

    @param.depends("helping", watch=True)
    def _help(self) -> None:
        self.keys.visible = self.helping

    @param.depends("tool", watch=True)
    def _follow_tool(self) -> None:
        for name, button in self._tools.items():
            button.sx = _CHOSEN if name == self.tool else {}
        self._show_bar()

    def count(self, layer_map: LayerMap | None, group: Group, wanted: Filter) -> None:
        """Say how many samples are marked."""
        text = "" if layer_map is None else count_sentence(layer_map, group, wanted)
        self._marks.object = f'<span class="small num">{escape(text)}</span>'
        self._clear.visible = bool(group)
        self._show_bar()

    def _show_bar(self) -> None:
        self._ways.visible = self.tool != HAND
        self.bar.visible = self.tool != HAND or self._clear.visible


def count_sentence(layer_map: LayerMap, group: Group, wanted: Filter) -> str:
    """Return how many samples are marked, and how many of them a filter hides."""
    if not len(group):
        return "Nothing marked yet: drag on the map."
    text = f"{len(group):,} marked"
    if wanted:
        rows = layer_map.rows_of(group.sample_ids)
        hidden = len(group) - len(layer_map.samples_at(rows[layer_map.mask(wanted)[rows]]))
        text += f", {hidden:,} of them hidden by the filter" if hidden else ""
    return text


def _button(icon: str, text: str, action: Callable[[object], None]) -> pmui.IconButton:
    return pmui.IconButton(icon=icon, label=text, description=text, size="small", on_click=action, margin=1)


def _key_list() -> str:
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(text)}</td></tr>" for key, text in _KEYS)
    return (
        '<div role="note" aria-label="Keys and gestures" style="padding:12px 16px;border-radius:10px;'
        "background:var(--dv-surface);box-shadow:0 4px 18px rgba(0,0,0,.22);border:1px solid var(--dv-faint);"
        f'max-width:430px"><div class="title" style="margin-bottom:4px">Keys and gestures of the map</div>'
        f'<table class="facts">{rows}</table></div>'
    )


class MapHand:
    """Answers what a visitor does on the map.

    Args:
        session: whose samples are marked; always the shown ones only.
        tools: say what marking does.
        moves: what the keys that move the view do, by key.
    """

    def __init__(self, session: Session, tools: MapTools, moves: Mapping[str, Callable[[], None]]) -> None:
        self._session, self._tools = session, tools
        self._modifiers = {"shift": False, "alt": False}
        self._actions = {
            **moves,
            "Escape": self.escape,
            "s": session.suggest,
            "?": lambda: tools.param.update(helping=not tools.helping),
        }

    def on_message(self, message: Mapping[str, Any]) -> None:
        """Answer a key, or note which keys are down while the pointer goes down."""
        if "key" not in message:
            self._modifiers = {name: message.get(name) is True for name in self._modifiers}
        elif self._session.map is not None and message["key"] in self._actions:
            self._actions[message["key"]]()

    def escape(self) -> None:
        """Clear what lies on top: the list of keys, then marks and highlight, then the selection."""
        state = self._session.state
        if self._tools.helping:
            self._tools.helping = False
        elif len(state.group) or state.highlight is not None:
            state.param.update(group=Group(), highlight=None)
        else:
            self._session.clear()

    def unmark(self) -> None:
        """Mark nothing."""
        self._session.state.group = Group()

    def mark_box(self, bounds: tuple[float, float, float, float] | None) -> None:
        """Mark what is in a box: left, bottom, right, top."""
        if bounds is not None and self._session.map is not None:
            left, bottom, right, top = bounds
            self._mark(rows_in_box(self._shown(), (left, right), (bottom, top)))

    def mark_outline(self, outline: np.ndarray | None) -> None:
        """Mark what a lasso goes round, (m, 2) corners."""
        if outline is not None and self._session.map is not None:
            self._mark(rows_in_outline(self._shown(), outline))

    def _shown(self) -> PointGrid:
        state, layer_map = self._session.state, self._session.map
        grid: PointGrid = layer_map.points(state.colour_by, state.filter).grid
        return grid

    def _mark(self, rows: np.ndarray) -> None:
        state = self._session.state
        way = way_with(self._tools.way, **self._modifiers)
        self._session.mark(combined(state.group, self._session.map.samples_at(rows), way).sample_ids)
