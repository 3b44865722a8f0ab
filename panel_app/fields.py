"""Parts of the page and their fields, texts and sections: one place for how they all look, follow and steer."""

from collections.abc import Callable, Mapping
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from panel_app.components import Html
from panel_app.theme import HEADINGS_STAY

ARRIVES_WITHIN = 150
"""Milliseconds. Panel holds a typed value back for 50, but hands on a click at once: a click that follows
quickly, or on a busy server, would read the form as it was before."""


class Part(pn.viewable.Viewer):
    """A piece of a visitor's page, which builds `_layout` first and then follows the session by `param.depends`."""

    session = param.Parameter(None, doc="the visitor's `Session`")
    _layout: pn.viewable.Viewable

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout


class Steering(Part):
    """A part whose selectors follow the session and steer it; a change from outside never answers back."""

    _following = False

    def steer(self, widget: Any, action: Callable[[Any], Any], name: str = "value") -> None:
        """Call `action` with what a visitor chooses, and then show what has come of it."""

        def answer(event: param.parameterized.Event) -> None:
            if not self._following and event.new is not None:
                self._alone(action, event.new)  # what is half done would take back the very choice
                self.follow()

        widget.param.watch(answer, name)

    def follow(self) -> None:
        """Show what the session shows."""
        self._alone(self._follow)

    def _follow(self) -> None:
        raise NotImplementedError

    def _alone(self, action: Callable[..., Any], *arguments: Any) -> None:
        if not self._following:
            self._following = True
            try:
                action(*arguments)
            finally:
                self._following = False


def offer(widget: Any, options: Mapping[str, Any], value: Any) -> None:
    """Give a selector its options and the value on show, or the first where that is none of them."""
    if value not in options.values():
        value = next(iter(options.values()), None)
    widget.param.update(options=dict(options), value=value)


def field(kind: Callable[..., Any], label: str, help: str | None = None, **params: Any) -> Any:
    """Return a labelled widget as wide as its section; `help` is told where it is hovered."""
    if kind in (pmui.IntSlider, pmui.FloatSlider, pmui.IntRangeSlider, pmui.RangeSlider):
        params.setdefault("margin", (8, 8))  # their knobs need room at the sides
    if kind is pmui.MultiChoice:
        params = {"visual_size": "small", "searchable": True, "chip": True, **params}
    else:
        params = {"size": "small", **params}
    return kind(label=label, description=help, **{"sizing_mode": "stretch_width", "margin": (5, 0), **params})


def choice(label: str, options: Mapping[str, Any], value: Any, help: str | None = None, **params: Any) -> Any:
    """Return buttons side by side of which one is pressed; `options` are values by text."""
    params.setdefault("margin", (4, 0))
    return field(pmui.RadioButtonGroup, label, help, options=dict(options), value=value, **params)


def switch(label: str, value: bool, help: str | None = None, **params: Any) -> Any:
    """Return a switch."""
    return pmui.Switch(label=label, value=value, description=help, **{"size": "small", "margin": (4, 0), **params})


def press(label: str, action: Callable[[], Any], help: str | None = None, *, typed: bool = False, **params: Any) -> Any:
    """Return a button that does `action`; one that reads what is `typed` waits until that has arrived."""
    return field(pmui.Button, label, help, on_click=after_typing(action) if typed else lambda _: action(), **params)


def text(html: str = "", **params: Any) -> Html:
    """Return a pane of text as wide as its section; `html` is escaped already."""
    return Html(html, **{"sizing_mode": "stretch_width", "margin": (4, 0), **params})


def section(*parts: Any, margin: Any = 0, **params: Any) -> pn.Column:
    """Return parts below one another."""
    return pn.Column(*parts, sizing_mode="stretch_width", margin=margin, **params)


def row(*parts: Any, gap: int = 0, margin: Any = 0) -> pn.Row:
    """Return parts side by side, `gap` pixels apart."""
    spaced = [item for part in parts for item in (pn.Spacer(width=gap), part)][1:] if gap else parts
    return pn.Row(*spaced, sizing_mode="stretch_width", margin=margin)


def folded(parts: Mapping[str, Any], **params: Any) -> pmui.Accordion:
    """Return parts by heading, each of which can be unfolded."""
    looks = {"elevation": 0, "disable_gutters": True, "sizing_mode": "stretch_width", "title_variant": "subtitle2"}
    return pmui.Accordion(*parts.items(), **{"margin": (4, 0), **looks, **params})


def after_typing(action: Callable[[], Any]) -> Callable[[Any], None]:
    """Return what to do on a click: `action`, once typed values have arrived."""

    def clicked(_: Any) -> None:
        document = pn.state.curdoc
        if document is None or document.session_context is None:  # no page, so nobody types
            action()
        else:
            pn.state.add_periodic_callback(action, period=ARRIVES_WITHIN, count=1)

    return clicked


class Tabs(Part):
    """Panels under headings, of which one is on show; each joins the page when it is first looked at.

    Args:
        panels: content by heading, in order.
        on_show: called with the heading that is brought to the front.
    """

    def __init__(self, panels: Mapping[str, pn.viewable.Viewer], on_show: Callable[[str], None]) -> None:
        super().__init__()
        self._panels, self._on_show = dict(panels), on_show
        self._places = {name: section() for name in panels}
        self._layout = pmui.Tabs(
            *self._places.items(), sizing_mode="stretch_width", margin=0, dynamic=False, sx=HEADINGS_STAY
        )
        self._layout.param.watch(lambda event: self._show(list(self._places)[event.new]), "active")
        self._show(next(iter(self._places)))

    def show(self, name: str) -> None:
        """Bring a panel to the front."""
        self._layout.active = list(self._places).index(name)

    def _show(self, name: str) -> None:
        place = self._places[name]
        if not len(place):
            place.append(self._panels[name])
        self._on_show(name)
