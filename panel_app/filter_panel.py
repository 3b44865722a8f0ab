"""Filtering in the sidebar: by words, by the values of any column, by a range of any measure."""

from html import escape
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from panel_app.cards import column_label
from panel_app.html import Html
from panel_app.layer_map import LayerMap
from panel_app.session import Session
from panel_app.theme import PANE_CSS

_FIELD: dict[str, Any] = {"sizing_mode": "stretch_width", "size": "small", "margin": (6, 0)}
_STEPS = 200
"""Steps of a range over a measure."""


class FilterPanel(pn.viewable.Viewer):
    """Fields that follow the session's filter and change it."""

    def __init__(self, session: Session, **params: Any) -> None:
        super().__init__(**params)
        self.session = session
        self._following = False
        self._build()
        self.words.param.watch(self._steer(lambda text: self._change(words=text)), "value")
        self.column.param.watch(self._steer(lambda _: None), "value")
        self.values.param.watch(self._steer(lambda chosen: self._change(values=chosen)), "value")
        self.range.param.watch(self._steer(lambda limits: self._change(limits=limits)), "value_throttled")
        session.param.watch(lambda *_: self.follow(), "map")
        session.state.param.watch(lambda *_: self._follow_change(), "filter")
        self.follow()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def _build(self) -> None:
        self.words = pmui.TextInput(
            label="Search prompts and names",
            description="Shows the samples whose prompt or class name has all of these words, or whose id it is. "
            "Press Enter.",
            **_FIELD,
        )
        self.column = pmui.Select(label="Filter by", description="What the choice below is about.", **_FIELD)
        self.values = pmui.MultiChoice(
            label="Show only",
            placeholder="All",
            searchable=True,
            chip=True,
            delete_button=True,
            description="Empty shows all. What is hidden stays in the data: neighbours and averages do not change.",
            visual_size="small",
            sizing_mode="stretch_width",
            margin=(6, 0),
        )
        self.range = pmui.RangeSlider(
            label="Show only from … to",
            start=0.0,
            end=1.0,
            value=(0.0, 1.0),
            step=0.005,
            description="Samples without a number are hidden as soon as the range is narrowed.",
            visible=False,
            sizing_mode="stretch_width",
            margin=(8, 8),
        )
        self._told = Html("", stylesheets=[PANE_CSS], sizing_mode="stretch_width", margin=(2, 0))
        self.clear = pmui.Button(
            label="Show all again",
            icon="filter_alt_off",
            variant="text",
            size="small",
            margin=(2, 0),
            on_click=lambda _: self._clear(),
        )
        self._active = pn.Column(self._told, self.clear, sizing_mode="stretch_width", margin=0, visible=False)
        self._layout = pn.Column(
            self.words, self.column, self.values, self.range, self._active, sizing_mode="stretch_width", margin=0
        )

    def _steer(self, action: Any) -> Any:
        def answer(event: param.parameterized.Event) -> None:
            if not self._following and event.new != event.old:
                action(event.new)
                self.follow()

        return answer

    def _change(self, *, words: str | None = None, values: Any = None, limits: Any = None) -> None:
        """Change one part of the filter."""
        layer_map, state, column = self.session.map, self.session.state, self.column.value
        if layer_map is None:
            return
        if words is not None:
            state.filter = state.filter.with_words(words)
        elif values is not None and column in layer_map.categorical_columns:
            everything = len(values) == len(layer_map.categories_of(column))
            state.filter = state.filter.with_values(column, () if everything else tuple(values))
        elif limits is not None and column in layer_map.numeric_columns:
            state.filter = state.filter.with_range(column, self._limits(limits))

    def _limits(self, chosen: tuple[float, float]) -> tuple[float, float] | None:
        """Return the limits chosen, None for the whole range; a slider's ends are meant exactly."""
        ends, near = (self.range.start, self.range.end), self.range.step / 2
        low, high = (end if abs(value - end) <= near else value for value, end in zip(chosen, ends, strict=True))
        return None if (low, high) == ends else (low, high)

    def _clear(self) -> None:
        self.session.state.filter = type(self.session.state.filter)()

    def _follow_change(self) -> None:
        """Turn to what was filtered elsewhere, as by the legend."""
        columns = self.session.state.filter.columns
        if not self._following and columns and self.column.value not in columns:
            self.column.value = columns[-1]
        self.follow()

    def follow(self) -> None:
        """Show the session's filter."""
        layer_map, wanted = self.session.map, self.session.state.filter
        if self._following or layer_map is None:
            return
        self._following = True
        try:
            self._follow_column(layer_map)
            self.words.value = wanted.words
            self._told.object = f'<p class="muted small">Hidden by {escape(_told(layer_map, wanted))}.</p>'
            self._active.visible = bool(wanted)
        finally:
            self._following = False

    def _follow_column(self, layer_map: LayerMap) -> None:
        options, wanted = column_options(layer_map), self.session.state.filter
        column = self.column.value
        if column not in options.values():
            column = next((c for c in wanted.columns if c in options.values()), layer_map.default_colour)
        self.column.param.update(options=options, value=column)
        numeric = column in layer_map.numeric_columns
        self.values.visible, self.range.visible = not numeric, numeric
        if not numeric:
            categories = list(layer_map.categories_of(column))
            if list(self.values.options) != categories:
                self.values.param.update(options=categories, value=[])
            self.values.value = list(wanted.values_of(column))
            return
        low, high = layer_map.range_of(column)
        end = high if high > low else low + 1.0
        limits = wanted.range_of(column) or (low, end)
        shown = (max(limits[0], low), min(limits[1], end))
        self.range.param.update(start=low, end=end, step=(end - low) / _STEPS, value=shown)


def column_options(layer_map: LayerMap) -> dict[str, str]:
    """Return what can colour and filter a map, by its name for people: categories first, then numbers."""
    return {column_label(c): c for c in (*layer_map.categorical_columns, *layer_map.numeric_columns)}


def _told(layer_map: LayerMap, wanted: Any) -> str:
    parts = [column_label(column) for column in wanted.columns]
    return ", ".join([*parts, f"the words “{wanted.words}”"] if wanted.words else parts)
