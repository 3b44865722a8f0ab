"""What stands above each map of a comparison: what it is and, on the right, which one it shall be."""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import PurePath
from typing import Any

import panel as pn
import panel_material_ui as pmui

from diffviews.tracking.records import ExtractionRecord
from panel_app.compare.comparison import Comparison
from panel_app.html import Html
from panel_app.navigation import OWN_MAP, extraction_label, map_label, sigma_options
from panel_app.theme import PANE_CSS

_FIELD: dict[str, Any] = {"size": "small", "sizing_mode": "stretch_width", "margin": (4, 4)}
_OWN = ""


class SideChooser(pn.viewable.Viewer):
    """The selectors of one side; they follow the comparison and steer it.

    Args:
        comparison: what is compared.
        right: whether these are the right-hand map's selectors.
    """

    def __init__(self, comparison: Comparison, *, right: bool, **params: Any) -> None:
        super().__init__(**params)
        self._comparison, self._right = comparison, right
        self._following = False
        self._build("right" if right else "left")
        session = comparison.session
        session.param.watch(lambda *_: self.follow(), ["map", "extractions", "layers", "maps"])
        session.state.param.watch(lambda *_: self.follow(), ["experiment", "map_run"])
        comparison.param.watch(lambda *_: self.follow(), ["opening", "pairing", "problem"])
        self.follow()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def _build(self, side: str) -> None:
        title = side.capitalize()
        self.extraction = pmui.Select(
            label=f"{title}: extraction", description=f"Model and sample set of the {side} map.", **_FIELD
        )
        self.layer = pmui.Select(label="Layer", description=f"Layer of the {side} map.", searchable=True, **_FIELD)
        self.sigma = pmui.Select(
            label="σ", description=f"Noise level of the {side} map.", **{**_FIELD, "sizing_mode": None}, width=84
        )
        self.map = pmui.Select(label="Map", description="The layer's own map, or one re-computed of it.", **_FIELD)
        self.told = Html("", stylesheets=[PANE_CSS], sizing_mode="stretch_width", margin=(2, 6, 6, 6))
        for widget, action in (
            (self.extraction, lambda run: self._choose(run)),
            (self.layer, lambda layer: self._choose(self.extraction.value, layer)),
            (self.sigma, lambda sigma: self._choose(self.extraction.value, self.layer.value, sigma)),
            (
                self.map,
                lambda run: self._choose(self.extraction.value, self.layer.value, self.sigma.value, run or None),
            ),
        ):
            widget.param.watch(self._steer(action), "value")
        self._layout = pn.Column(
            self.extraction,
            pn.Row(self.layer, self.sigma, self.map, sizing_mode="stretch_width", margin=0),
            self.told,
            sizing_mode="stretch_width",
            margin=0,
        )

    def _steer(self, action: Callable[[Any], None]) -> Callable[[Any], None]:
        def answer(event: Any) -> None:
            if not self._following and event.new is not None and event.new != event.old:
                self._following = True  # what is half done would take back the very choice that is being answered
                try:
                    action(event.new)
                finally:
                    self._following = False
                self.follow()

        return answer

    def _choose(
        self, run: str, layer: str | None = None, sigma: float | None = None, map_run: str | None = None
    ) -> None:
        """Open what is chosen; what is not named stays as it is on this side, as far as it is there."""
        now = self._comparison.right.state if self._right else self._comparison.session.state
        layer, sigma = layer or now.layer, now.sigma if sigma is None else sigma
        if self._right:
            self._comparison.choose(run, layer, sigma, map_run)
        else:
            self._comparison.session.choose(run, layer, sigma, map_run)

    def follow(self) -> None:
        """Show what this side shows."""
        if self._following or self._comparison.session.map is None:
            return
        self._following = True
        try:
            self._offer()
        finally:
            self._following = False

    def _offer(self) -> None:
        session, side = self._comparison.session, self._comparison.right
        shown = side.plain if self._right else session.map
        state, layers, maps = (
            (side.state, side.layers, side.maps) if self._right else (session.state, session.layers, session.maps)
        )
        for widget in (self.layer, self.sigma, self.map):
            widget.disabled = shown is None
        extractions = extraction_options(session.extractions)
        if shown is None:
            _offer(self.extraction, extractions, self._comparison.against.run)
            self.told.object = ""
            return
        run = shown.layer.parent_id
        if run not in extractions.values():
            extractions = {f"{shown.layer.model}, of another experiment": run, **extractions}
        _offer(self.extraction, extractions, run)
        names = dict.fromkeys(record.layer for record in layers)
        _offer(self.layer, {name: name for name in names}, shown.layer.layer)
        sigmas = sorted({r.sigma for r in layers if r.layer == shown.layer.layer})
        _offer(self.sigma, sigma_options(sigmas), shown.layer.sigma)
        own = {map_label(m, len(maps) - i): m.run_id for i, m in enumerate(maps)}
        _offer(self.map, {OWN_MAP: _OWN, **own}, state.map_run or _OWN)
        self.told.object = self._sentence()

    def _sentence(self) -> str:
        """Say how many of this side's samples the other lacks."""
        pairing = self._comparison.pairing
        if pairing is None:
            return ""
        missing = pairing.only_right if self._right else pairing.only_left
        other = "left" if self._right else "right"
        text = (
            ""
            if not missing
            else f"{missing:,} of these samples {'is' if missing == 1 else 'are'} not on the {other} map."
        )
        return f'<span class="muted small">{escape(text)}</span>'


def extraction_options(extractions: Sequence[ExtractionRecord]) -> dict[str, str]:
    """Return run ids by a label that tells them apart: of checkpoints of one training, the file; else the run."""
    options: dict[str, str] = {}
    for record in extractions:
        checkpoint = str(getattr(record, "params", {}).get("checkpoint") or "")
        label = extraction_label(record) + (f" · {PurePath(checkpoint).name}" if checkpoint else "")
        options[f"{label} · {record.run_id[:6]}" if label in options else label] = record.run_id
    return options


def _offer(widget: Any, options: dict[str, Any], value: Any) -> None:
    if value not in options.values():
        value = next(iter(options.values()), None)
    if dict(widget.options or {}) != options:
        widget.param.update(options=options, value=value)
    elif widget.value != value:
        widget.value = value
