"""Every sample's way from its place on the left map to its place on the right one, as a moving picture."""

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import panel as pn
import param
from PIL import Image

from diffviews.processing.procrustes import overlay
from panel_app.cards import hint
from panel_app.compare.against import BETWEEN
from panel_app.compare.comparison import Comparison
from panel_app.compare.data import FEWEST
from panel_app.components import BrowserPane
from panel_app.html import Html
from panel_app.layer_map import LayerMap
from panel_app.map.raster import Colouring, Window, disc_radius, draw
from panel_app.state import Selection
from panel_app.theme import NEIGHBOUR, PANE_CSS, SELECTED

MOST_LIVE = 20_000
"""Up to so many samples are sent to the browser, which moves them itself; of more, each picture is drawn here."""
_LARGEST = 2400
"""Pixels a side that a browser may ask for."""
_MARGIN = 0.94
"""Share of the picture that the maps take; the browser places rings by the same number."""


@dataclass(frozen=True, slots=True, eq=False)
class Moving:
    """Samples with their places on two maps that lie over each other."""

    sample_ids: tuple[str, ...]
    left: np.ndarray
    """(N, 2) float64, 0 to 1, the middle of both maps at 0.5."""
    right: np.ndarray
    """(N, 2) float64, the same."""
    span: tuple[float, float]
    """Width and height that both maps together take."""
    agreement: float
    """Procrustes correlation of the two maps, 0 to 1."""
    values: pd.Series
    """What colours each sample."""
    colouring: Colouring

    @classmethod
    def of(cls, left: LayerMap, right: LayerMap, sample_ids: tuple[str, ...], colour_by: str) -> Self:
        """Lay two maps over each other by the samples that both have.

        Args:
            left: the map that gives the colours.
            right: the map that is turned onto it.
            sample_ids: samples on both, at least 2.
            colour_by: column of the left map.
        """
        rows = [np.array([layer_map.row_of[s] for s in sample_ids]) for layer_map in (left, right)]
        places = [o.table[["x", "y"]].to_numpy(np.float64)[r] for o, r in zip((left, right), rows, strict=True)]
        laid = overlay(*places)
        both = np.concatenate([laid.first, laid.second])
        low, high = both.min(axis=0), both.max(axis=0)
        size = float((high - low).max()) or 1.0
        middle = (low + high) / 2
        ours, theirs = ((points - middle) / size + 0.5 for points in (laid.first, laid.second))
        width, height = ((high - low) / size).clip(0.05)
        colouring = left.colouring(colour_by)
        values = left.table[colouring.column].iloc[rows[0]].reset_index(drop=True)
        return cls(sample_ids, ours, theirs, (float(width), float(height)), laid.agreement, values, colouring)

    def sample_at(self, index: Any) -> str | None:
        """Return the sample that a browser means by a number, or None when there is none."""
        known = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(self.sample_ids)
        return self.sample_ids[index] if known else None

    def colours(self) -> np.ndarray:
        """Return each sample's colour, (N, 3) uint8."""
        stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in self.colouring.colours], np.float64)
        if self.colouring.categorical:
            return stops[pd.Categorical(self.values, categories=self.colouring.categories).codes].astype(np.uint8)
        width = (self.colouring.high - self.colouring.low) or 1.0
        share = np.nan_to_num((self.values.to_numpy(np.float64) - self.colouring.low) / width).clip(0, 1)
        at = share * (len(stops) - 1)
        channels = [np.interp(at, np.arange(len(stops)), stops[:, i]) for i in range(3)]
        return np.stack(channels, axis=1).round().astype(np.uint8)

    def picture(self, share: float, width: int, height: int) -> np.ndarray:
        """Draw all samples at a share of their way, (height, width, 4) uint8."""
        places = (1 - share) * self.left + share * self.right
        frame = pd.DataFrame({"x": places[:, 0], "y": places[:, 1], self.colouring.column: self.values})
        scale = min(width / self.span[0], height / self.span[1]) * _MARGIN
        ranges = [(0.5 - size / scale / 2, 0.5 + size / scale / 2) for size in (width, height)]
        radius = disc_radius(len(frame), width * height)
        return draw(frame, Window(ranges[0], ranges[1], width, height), self.colouring, radius=radius)


class MovingPicture(BrowserPane):
    """Moves points between two places; answers {choose: index}, {point: index or -1} and {draw, width, height}."""

    count = param.Integer(0, doc="number of samples; 0 shows the sentence")
    left = param.String(doc="base64 of (N, 2) uint16 places, where they are few enough to be sent")
    right = param.String(doc="the same on the right map")
    colours = param.String(doc="base64 of (N, 3) uint8")
    span = param.List(default=[1.0, 1.0])
    live = param.Boolean(True, doc="whether the browser draws the points itself")
    labels = param.List(default=["", ""], doc="what is left and right")
    share = param.Number(0.0, bounds=(0, 1), doc="where between the two the slider stands")
    marks = param.List(doc="[{left, right, colour, width}] rings with their places on both maps")
    empty = param.String(doc="sentence shown when there is nothing")

    _esm = Path(__file__).parents[1] / "esm" / "between.js"


class BetweenPanel(pn.viewable.Viewer):
    """Both maps in one picture, with a slider and a play button between them."""

    def __init__(self, comparison: Comparison, **params: Any) -> None:
        super().__init__(**params)
        self._comparison = comparison
        self._moving: tuple[Any, Moving | None] = (None, None)
        self.told = Html("", stylesheets=[PANE_CSS], sizing_mode="stretch_width", margin=(10, 0, 8, 0))
        self.stage = MovingPicture(self._on_message, margin=0)
        self._layout = pn.Column(self.told, self.stage, sizing_mode="stretch_width", margin=0)
        comparison.param.watch(lambda *_: self.show(), "pairing")
        comparison.session.param.watch(lambda *_: self.show(), "map")
        comparison.session.state.param.watch(lambda *_: self.show(), ["colour_by", "against"])
        comparison.session.state.param.watch(lambda *_: self._mark(), ["selection", "hovered"])
        self.stage.param.watch(lambda event: comparison.set(share=round(event.new, 3)), "share")
        self.show()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def show(self) -> None:
        """Lay the two maps over each other, if this is looked at."""
        if self._comparison.against.tool != BETWEEN:
            return
        self.stage.share = self._comparison.against.share
        left, right, pairing = self._comparison.left.map, self._comparison.right.plain, self._comparison.pairing
        key = (left, right, pairing, self._comparison.left.state.colour_by)
        if key == self._moving[0]:
            return
        moving = None
        if left is not None and right is not None and pairing is not None and len(pairing) >= FEWEST:
            moving = Moving.of(left, right, pairing.sample_ids, key[3])
        self._moving = key, moving
        self._send(moving)

    def _send(self, moving: Moving | None) -> None:
        if moving is None:
            few = self._comparison.pairing is not None
            text = f"The two maps share fewer than {FEWEST} samples, so nothing can move between them."
            self.told.object = ""
            self.stage.param.update(count=0, empty=text if few else "Opening both maps…")
            return
        self.told.object = hint(
            "The right map is turned, mirrored and scaled to lie as well as it can over the left one; every sample "
            f"then moves straight from one to the other. How alike the two layouts are: {moving.agreement:.2f} of 1 "
            "(Procrustes correlation). Colours as on the left."
        )
        live = len(moving.sample_ids) <= MOST_LIVE
        self.stage.param.update(
            count=len(moving.sample_ids),
            left=_packed(moving.left) if live else "",
            right=_packed(moving.right) if live else "",
            colours=base64.b64encode(moving.colours().tobytes()).decode() if live else "",
            span=list(moving.span),
            live=live,
            labels=[_name(self._comparison.left), _name(self._comparison.right)],
        )
        self._mark()

    def _mark(self) -> None:
        moving = self._moving[1]
        if moving is None or self._comparison.against.tool != BETWEEN:
            return
        state = self._comparison.session.state
        self.stage.marks = marks_of(moving, state.selection, state.hovered)

    def _on_message(self, message: dict[str, Any]) -> None:
        moving = self._moving[1]
        if moving is None:
            return
        if "draw" in message:
            self._draw(moving, message)
            return
        sample_id = moving.sample_at(message.get("choose", message.get("point")))
        if "choose" in message and sample_id is not None:
            self._comparison.left.click(sample_id)
        elif "point" in message:
            self._comparison.session.state.hovered = sample_id

    def _draw(self, moving: Moving, asked: dict[str, Any]) -> None:
        numbers = [asked.get(name) for name in ("width", "height", "draw")]
        known = [float(n) for n in numbers if isinstance(n, int | float) and math.isfinite(n)]
        if len(known) < len(numbers):
            return
        width, height = (int(min(max(n, 50), _LARGEST)) for n in known[:2])
        share = min(max(known[2], 0.0), 1.0)
        file = io.BytesIO()
        Image.fromarray(moving.picture(share, width, height)).save(file, "PNG", compress_level=1)
        address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        self.stage._send_msg({"frame": address, "share": share})


def marks_of(moving: Moving, selection: Selection, hovered: str | None) -> list[dict[str, Any]]:
    """Return the rings of the selected, neighbouring and hovered samples, with their places on both maps."""
    wanted = [(s, NEIGHBOUR, 1.6) for s in selection.suggested] + [(s, NEIGHBOUR, 3.2) for s in selection.manual]
    wanted += [(selection.sample_id, SELECTED, 3.6)] if selection.sample_id else []
    wanted += [(hovered, "#8a8f98", 2.0)] if hovered else []
    needed = {sample_id for sample_id, _, _ in wanted}
    index_of = {s: index for index, s in enumerate(moving.sample_ids) if s in needed}
    return [
        {
            "left": moving.left[index_of[s]].tolist(), "right": moving.right[index_of[s]].tolist(),
            "colour": colour, "width": width,
        }
        for s, colour, width in wanted
        if s in index_of
    ]  # fmt: skip


def _name(side: Any) -> str:
    layer = side.plain.layer
    return f"{layer.layer} at σ {layer.sigma:g}"


def _packed(places: np.ndarray) -> str:
    return base64.b64encode((places.clip(0, 1) * 65535).round().astype("<u2").tobytes()).decode()
