"""The map's tools: what dragging does, zooming, how marking adds up, and which keys there are."""

from collections.abc import Callable
from html import escape

import panel as pn
import panel_material_ui as pmui
import param

from panel_app.filter import Filter
from panel_app.html import Html
from panel_app.layer_map import LayerMap
from panel_app.map.marking import WAYS, Way
from panel_app.state import Group
from panel_app.theme import LABEL_BESIDE, PANE_CSS

HAND, BOX, LASSO = "hand", "box", "lasso"
_TOOLS = (
    (HAND, "pan_tool", "Hand: drag moves the map, a click selects"),
    (BOX, "highlight_alt", "Box: drag marks the samples in a rectangle"),
    (LASSO, "gesture", "Lasso: draw round samples to mark them"),
)
_WAYS: dict[str, Way] = dict(zip(("New", "Add", "Remove", "Intersect"), WAYS, strict=True))

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


class MapTools(pn.viewable.Viewer):
    """Buttons beside the map's caption; `bar` tells of the marked samples, `keys` lists the keys."""

    tool = param.Selector(default=HAND, objects=[HAND, BOX, LASSO], doc="what dragging on the map does")
    way = param.Selector(default="new", objects=list(WAYS), doc="what a further box or lasso does")
    helping = param.Boolean(False, doc="whether the keys are listed")

    def __init__(self, zoom: Callable[[float], None], reset: Callable[[], None], clear: Callable[[], None]) -> None:
        super().__init__()
        self._zoom = (
            _button("add", "Zoom in", lambda _: zoom(0.65)),
            _button("remove", "Zoom out", lambda _: zoom(1 / 0.65)),
            _button("fit_screen", "Reset view", lambda _: reset()),
        )
        self._tools = {name: _button(icon, text, self._chooser(name)) for name, icon, text in _TOOLS}
        self._build_bar(clear)
        helps = _button("help_outline", "Keys and gestures", lambda _: self.param.update(helping=not self.helping))
        self.keys = Html(_key_list(), stylesheets=[PANE_CSS], margin=0, visible=False)
        self.keys.styles = {"position": "absolute", "right": "8px", "top": "4px", "z-index": "20"}
        self.param.watch(lambda event: self.keys.param.update(visible=event.new), "helping")
        self.param.watch(lambda _: self._follow_tool(), "tool")
        self._follow_tool()
        rule = Html('<div style="width:1px;height:18px;background:var(--dv-faint)"></div>', margin=(8, 4))
        rule.stylesheets = [PANE_CSS]
        self._layout = pn.Row(*self._tools.values(), rule, *self._zoom, helps, margin=0)

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def _chooser(self, name: str) -> Callable[[object], None]:
        return lambda _: self.param.update(tool=name)

    def _build_bar(self, clear: Callable[[], None]) -> None:
        self._ways = pmui.RadioButtonGroup(
            label="Marking",
            description="What the next box or lasso does to the samples marked before.",
            options=_WAYS,
            value=self.way,
            size="small",
            margin=(0, 6, 0, 0),
            stylesheets=[LABEL_BESIDE],
        )
        self._ways.param.watch(lambda event: self.param.update(way=event.new), "value")
        self._told = Html("", stylesheets=[PANE_CSS], margin=(8, 6, 0, 0))
        self._clear = pmui.Button(
            label="Clear marks",
            icon="close",
            variant="text",
            size="small",
            margin=(1, 0),
            description="Marks nothing; the selected sample and its neighbours stay.",
            on_click=lambda _: clear(),
        )
        self.bar = pn.Row(self._ways, self._told, self._clear, margin=(0, 12), height=BAR_HEIGHT, visible=False)

    def _follow_tool(self) -> None:
        for name, button in self._tools.items():
            button.sx = _CHOSEN if name == self.tool else {}
        self._show_bar()

    def tell(self, layer_map: LayerMap | None, group: Group, wanted: Filter) -> None:
        """Say how many samples are marked."""
        text = "" if layer_map is None else told(layer_map, group, wanted)
        self._told.object = f'<span class="small num">{escape(text)}</span>'
        self._clear.visible = bool(group)
        self._show_bar()

    def _show_bar(self) -> None:
        self._ways.visible = self.tool != HAND
        self.bar.visible = self.tool != HAND or self._clear.visible


def told(layer_map: LayerMap, group: Group, wanted: Filter) -> str:
    """Return how many samples are marked, and how many of them a filter hides."""
    if not len(group):
        return "Nothing marked yet: drag on the map."
    text = f"{len(group):,} marked"
    if wanted:
        rows = layer_map.rows_of(group.sample_ids)
        hidden = len(group) - len(layer_map.samples_at(rows[layer_map.rows.mask(wanted)[rows]]))
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
