"""Small panes: HTML, and those drawn in the browser, which show plain values and answer with a message."""

import base64
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import panel as pn
import param
from panel.custom import JSComponent

from panel_app.theme import PANE_CSS

_ESM = Path(__file__).parent / "esm"


class Html(pn.pane.HTML):
    """A pane of HTML in the page's type and colours whose `visible` is a style.

    Panel's own fails in the browser, and with it whatever arrived in the same message, when it becomes visible
    before it was drawn for the first time.
    """

    def __init__(self, object: str = "", **params: Any) -> None:
        super().__init__(object, **{"stylesheets": [PANE_CSS], **params})

    def _process_param_change(self, params: dict[str, Any]) -> dict[str, Any]:
        changed = super()._process_param_change(params)
        if "visible" in changed or "styles" in changed:
            changed.pop("visible", None)
            # Named either way: Bokeh does not take back a style that is merely left out.
            changed["styles"] = {**(self.styles or {}), "display": "block" if self.visible else "none"}
        return changed


class BrowserPane(JSComponent):
    """Base: draws by the module in `esm` that is called like the class; its messages go to `on_message`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._esm = _ESM / f"{re.sub(r'(?<!^)(?=[A-Z])', '_', cls.__name__).lower()}.js"

    def __init__(self, on_message: Callable[[dict[str, Any]], None] | None = None, **params: Any) -> None:
        self._on_message = on_message
        params.setdefault("sizing_mode", "stretch_width")
        params.setdefault("stylesheets", [PANE_CSS])
        super().__init__(**params)

    @classmethod
    def _render_esm(cls, compiled: Any = True, server: bool = False) -> str:
        shared = (_ESM / "pane.js").read_text(encoding="utf-8")
        return f"{shared}\n{super()._render_esm(compiled, server)}"

    def _handle_msg(self, data: Any) -> None:
        if self._on_message is not None and isinstance(data, dict):
            self._on_message(data)


class ColourKey(BrowserPane):
    """What the colours mean: clickable classes with their counts, or a scale."""

    entries = param.List(doc="[{name, colour, count, on}] of a categorical legend")
    scale = param.Dict(default={}, doc="{label, low, high, colours} of a continuous legend")


class MapKeys(BrowserPane):
    """Keys pressed and the modifiers held on the map beside it; gives the map its accessible name."""

    label = param.String(doc="accessible name of the map")


class SampleList(BrowserPane):
    """Samples with picture, name and distance; arrow keys move, Enter opens, Delete removes.

    The first few entries bring their pictures along; the browser asks for another one when it comes into view.

    Args:
        on_message: called with what a visitor does.
        pictures: returns the data addresses of samples by id, for those that come into view.
    """

    entries = param.List(doc="[{id, src, title, note, help, detail, distance, tone, active}]; src may be empty")
    empty = param.String(doc="sentence shown when there is nothing")
    more = param.String(doc="sentence shown below the list")
    label = param.String("Neighbours", doc="what a screen reader calls the list")
    detail_help = param.String("Distance to the selected sample")
    remove_help = param.String("Remove this neighbour")
    removable = param.Boolean(True, doc="whether each has a button that removes it: {remove: id}")
    opens = param.Boolean(False, doc="whether a click or Enter answers {open: id}")
    order = param.String("Distance", doc="what the entries are in the order of; they can be sorted otherwise")
    sortable = param.Boolean(True, doc="whether they can be sorted by class and by name as well")

    def __init__(
        self,
        on_message: Callable[[dict[str, Any]], None] | None = None,
        pictures: Callable[[Sequence[str]], Sequence[str]] | None = None,
        **params: Any,
    ) -> None:
        self._pictures = pictures
        super().__init__(on_message, **params)

    def _handle_msg(self, data: Any) -> None:
        needed = data.get("need") if isinstance(data, dict) else None
        if not isinstance(needed, list):
            super()._handle_msg(data)
        elif self._pictures is not None:
            listed = {entry["id"] for entry in self.entries}
            known = [s for s in dict.fromkeys(needed) if isinstance(s, str) and s in listed]
            self._send_msg({"pictures": dict(zip(known, self._pictures(known), strict=True))})


def column(key: str, label: str, help: str, **looks: Any) -> dict[str, Any]:
    """Return a column of a `Ranking`: `number=True`, `wide=True`, `swatch=True`, `bar=` a kind, `baseline=` a key,
    `picture=True` (the value is an address), `named=True` (the row's id stands below)."""
    return {"key": key, "label": label, "help": help, **looks}


class Ranking(BrowserPane):
    """A sortable table, with bars where a column asks for them; a click or Enter opens a row."""

    columns = param.List(doc="[{key, label, help, bar, number, wide}]")
    rows = param.List(doc="[{id, active, title, colour, …values}]; the text of `value` is `value_text` if given")
    empty = param.String(doc="sentence shown when there is nothing")
    sort = param.Dict(default={"key": None, "down": True}, doc="column sorted by at first, and which way")
    opens = param.Boolean(True, doc="whether a row can be opened: {open: id}")
    beside = param.Boolean(False, doc="whether a row can be opened on the right, too: {open: id, beside: true}")
    points = param.Boolean(False, doc="whether the pointer over a row is told: {point: id}, or '' beside all")
    remote = param.Boolean(False, doc="whether the rows are some of many: they come sorted, a heading asks {sort: key}")
    more = param.String(doc="label of the button below those rows that answers {more: true}, if there are more")
    label = param.String(doc="what a screen reader calls the table")


class Gallery(BrowserPane):
    """This session's generations as thumbnails: {show: id} shows one, {path: id, on} draws its path."""

    entries = param.List(doc="[{id, src, title, detail, help, url, active, drawn, drawable, colour}]")


class HistoryList(BrowserPane):
    """Logged generations: {show: id}, {load: id} or {replay: id}."""

    entries = param.List(doc="[{id, src, title, detail, when, url, note}]; src may be empty")
    empty = param.String(doc="sentence shown when there is nothing")
    busy = param.Boolean(False, doc="whether one is being replayed, so that no other can be")


class ResultView(BrowserPane):
    """One generation: its samples side by side over baseline and difference, and one's steps frame by frame."""

    samples = param.List(doc="[{image, baseline, difference, title}]")
    active = param.Integer(0, doc="index of the sample on show")
    steps = param.List(doc="[{frame, noised, sigma, note}] of that sample")
    step = param.Integer(0, doc="index of the frame on show")
    recipe = param.String(doc="JSON to copy")
    command = param.String(doc="command line to copy")


class AddressBar(BrowserPane):
    """Writes the view into the window's address in place; Panel's own location adds to the history at each click."""

    search = param.String(doc="query string of the view")
    keys = param.List(doc="query parameters that are the view's; all others are left alone")


class BusyLine(BrowserPane):
    """A line along the top of the window that moves while the server is at work."""

    busy = param.Boolean(False, doc="whether it is")


class ConnectionNotice(BrowserPane):
    """Tells the visitor that the server no longer answers, and how to go on."""

    text = param.String("The dashboard's server no longer answers. Loaded again, this page opens the same view.")


class Downloader(BrowserPane):
    """Hands files to the browser, which saves them; nothing of them is kept."""

    def send(self, name: str, kind: str, content: bytes) -> None:
        """Save a file on the visitor's machine.

        Args:
            name: of the file.
            kind: its media type.
            content: what is in it.
        """
        self._send_msg({"name": name, "kind": kind, "content": base64.b64encode(content).decode()})
