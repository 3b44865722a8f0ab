"""The visitor's hand on the map: keys, boxes and lassos become changes of the view."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from panel_app.map.marking import combined, rows_in_box, rows_in_outline, way_held
from panel_app.map.point_grid import PointGrid
from panel_app.map.tools import MapTools
from panel_app.session import Session
from panel_app.state import Group


class MapHand:
    """Answers what a visitor does on the map.

    Args:
        session: whose samples are marked; always the shown ones only.
        tools: say what marking does.
        moves: what the keys that move the view do, by key.
    """

    def __init__(self, session: Session, tools: MapTools, moves: Mapping[str, Callable[[], None]]) -> None:
        self._session, self._tools = session, tools
        self._held = {"shift": False, "alt": False}
        self._actions = {
            **moves,
            "Escape": self.escape,
            "s": session.suggest,
            "?": lambda: tools.param.update(helping=not tools.helping),
        }

    def on_message(self, message: Mapping[str, Any]) -> None:
        """Answer a key, or note which keys are down while the pointer goes down."""
        if "key" not in message:
            self._held = {name: message.get(name) is True for name in self._held}
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
        """Mark what is in a box, given as left, bottom, right, top."""
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
        way = way_held(self._tools.way, **self._held)
        state.group = combined(state.group, self._session.map.samples_at(rows), way)
