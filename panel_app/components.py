"""Small panes drawn in the browser; each shows a list of plain values and answers with a message."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import param
from panel.custom import JSComponent

from panel_app.theme import PANE_CSS

_ESM = Path(__file__).parent / "esm"


class BrowserPane(JSComponent):
    """Base: messages of the browser side go to `on_message`."""

    def __init__(self, on_message: Callable[[dict[str, Any]], None] | None = None, **params: Any) -> None:
        self._on_message = on_message
        params.setdefault("sizing_mode", "stretch_width")
        params.setdefault("stylesheets", [PANE_CSS])
        super().__init__(**params)

    def _handle_msg(self, data: Any) -> None:
        if self._on_message is not None and isinstance(data, dict):
            self._on_message(data)


class ColourKey(BrowserPane):
    """What the colours mean: clickable classes with their counts, or a scale."""

    entries = param.List(doc="[{name, colour, count, on}] of a categorical legend")
    scale = param.Dict(default={}, doc="{label, low, high, colours} of a continuous legend")

    _esm = _ESM / "colour_key.js"


class SampleList(BrowserPane):
    """Samples with picture, name, distance and a button that removes them."""

    entries = param.List(doc="[{id, src, title, note, help, detail, tone}]")
    empty = param.String(doc="sentence shown when there is nothing")

    _esm = _ESM / "sample_list.js"


class Ranking(BrowserPane):
    """A sortable table of layers with bars; a click opens the layer."""

    columns = param.List(doc="[{key, label, help, bar}]")
    rows = param.List(doc="[{id, active, …values}]")
    empty = param.String(doc="sentence shown when there is nothing")

    _esm = _ESM / "ranking.js"


class Gallery(BrowserPane):
    """This visit's generations as thumbnails."""

    entries = param.List(doc="[{id, src, title, detail, url, active}]")

    _esm = _ESM / "gallery.js"


class ResultView(BrowserPane):
    """One generation: image, baseline, difference, and its steps frame by frame."""

    samples = param.List(doc="[{image, baseline, difference, title}]")
    active = param.Integer(0, doc="index of the sample on show")
    steps = param.List(doc="[{frame, noised, sigma, note}] of that sample")
    step = param.Integer(0, doc="index of the frame on show")

    _esm = _ESM / "result.js"


class AddressBar(BrowserPane):
    """Writes the view into the window's address in place; Panel's own location adds to the history at each click."""

    search = param.String(doc="query string of the view")
    keys = param.List(doc="query parameters that are the view's; all others are left alone")

    _esm = _ESM / "address_bar.js"
