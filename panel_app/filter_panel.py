"""Filtering in the sidebar: by words, by the values of any column, by a range of any measure."""

from html import escape
from typing import Any

import panel_material_ui as pmui
import param

from panel_app.cards import column_label
from panel_app.fields import Steering, field, section, text
from panel_app.filter import SHOW_ALL
from panel_app.layer_map import LayerMap
from panel_app.session import Session

_MARGIN = (6, 0)
_STEPS = 200
"""Steps of a range over a measure."""


class FilterPanel(Steering):
    """Fields that follow the session's filter and change it."""

    def __init__(self, session: Session) -> None:
        self.words = field(
            pmui.TextInput, "Search prompts and names", "Shows the samples whose prompt or class name has all of these "
            "words, or whose id it is. Press Enter.", margin=_MARGIN,
        )  # fmt: skip
        self.column = field(pmui.Select, "Filter by", "What the choice below is about.", margin=_MARGIN)
        self.values = field(
            pmui.MultiChoice, "Show only", "Empty shows all. What is hidden stays in the data: neighbours and averages "
            "do not change.", placeholder="All", delete_button=True, margin=_MARGIN,
        )  # fmt: skip
        self.range = field(
            pmui.RangeSlider, "Show only from … to", "Samples without a number are hidden as soon as the range is "
            "narrowed.", size="medium", start=0.0, end=1.0, value=(0.0, 1.0), step=0.005, visible=False,
        )  # fmt: skip
        self._hidden_by = text(margin=(2, 0))
        self.clear = pmui.Button(
            label="Show all again", icon="filter_alt_off", variant="text", size="small", margin=(2, 0),
            on_click=lambda _: session.state.param.update(filter=SHOW_ALL),
        )  # fmt: skip
        self._active = section(self._hidden_by, self.clear, visible=False)
        self._layout = section(self.words, self.column, self.values, self.range, self._active)
        super().__init__(session=session)
        self.steer(self.words, lambda words: self._change(words=words))
        self.steer(self.column, lambda _: None)
        self.steer(self.values, lambda chosen: self._change(values=chosen))
        self.steer(self.range, lambda limits: self._change(limits=limits), "value_throttled")

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

    @param.depends("session.state.filter", watch=True)
    def _follow_change(self) -> None:
        """Turn to what was filtered elsewhere, as by the legend."""
        columns = self.session.state.filter.columns
        if not self._following and columns and self.column.value not in columns:
            self.column.value = columns[-1]
        self.follow()

    @param.depends("session.map", watch=True, on_init=True)
    def follow(self) -> None:
        """Show the session's filter."""
        super().follow()

    def _follow(self) -> None:
        layer_map, wanted = self.session.map, self.session.state.filter
        if layer_map is None:
            return
        self._follow_column(layer_map)
        self.words.value = wanted.words
        causes = [column_label(column) for column in wanted.columns]
        causes += [f"the words “{wanted.words}”"] if wanted.words else []
        self._hidden_by.object = f'<p class="muted small">Hidden by {escape(", ".join(causes))}.</p>'
        self._active.visible = bool(wanted)

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
