"""What stands above each map of a comparison: what it is and, on the right, which one it shall be."""

from collections.abc import Sequence
from functools import partial
from pathlib import PurePath
from typing import Any

import panel_material_ui as pmui
import param

from diffviews.tracking.records import ExtractionRecord
from panel_app.cards import hint_small
from panel_app.compare.comparison import Comparison
from panel_app.fields import Steering, field, offer, row, section, text
from panel_app.layer_map import LayerMap
from panel_app.navigation import extraction_label, map_options, sigma_options


class SideChooser(Steering):
    """The selectors of one side; they follow the comparison and steer it.

    Args:
        comparison: what is compared.
        right: whether these are the right-hand map's selectors.
    """

    def __init__(self, comparison: Comparison, *, right: bool, **params: Any) -> None:
        self.comparison, self._right = comparison, right
        side = "right" if right else "left"
        looks: dict[str, Any] = {"margin": (4, 4)}
        self.extraction = field(
            pmui.Select, f"{side.capitalize()}: extraction", f"Model and sample set of the {side} map.", **looks
        )
        self.layer = field(pmui.Select, "Layer", f"Layer of the {side} map.", searchable=True, **looks)
        self.sigma = field(pmui.Select, "σ", f"Noise level of the {side} map.", sizing_mode=None, width=84, **looks)
        self.map = field(pmui.Select, "Map", "The layer's own map, or one re-computed of it.", **looks)
        self.missing = text(margin=(2, 6, 6, 6))
        self._layout = section(self.extraction, row(self.layer, self.sigma, self.map), self.missing)
        super().__init__(session=comparison.session, **params)
        widgets = self.extraction, self.layer, self.sigma, self.map
        for count, widget in enumerate(widgets, 1):  # what stands after the one that was changed is found anew
            self.steer(widget, partial(self._choose, widgets[:count]))

    @property
    def _shown(self) -> LayerMap | None:
        shown: LayerMap | None = self.comparison.right.plain if self._right else self.session.map
        return shown

    def _choose(self, widgets: Sequence[Any], _: Any) -> None:
        """Open what is chosen; what is not named stays as it is on this side, as far as it is there."""
        choose: Any = self.comparison.choose if self._right else self.session.choose
        now = [] if self._shown is None else [None, self._shown.layer.layer, self._shown.layer.sigma]
        values = [widget.value for widget in widgets]
        choose(*(None if value == "" else value for value in (*values, *now[len(values) :])))

    @param.depends(
        "session.map", "session.extractions", "session.layers", "session.maps", "session.state.experiment",
        "session.state.map_run", "comparison.opening", "comparison.pairing", "comparison.problem",
        watch=True, on_init=True,
    )  # fmt: skip
    def follow(self) -> None:
        """Show what this side shows."""
        super().follow()

    def _follow(self) -> None:
        session, shown = self.session, self._shown
        if session.map is None:
            return
        for widget in (self.layer, self.sigma, self.map):
            widget.disabled = shown is None
        extractions = extraction_options(session.extractions)
        self.missing.object = self._sentence() if shown else ""
        if shown is None:
            offer(self.extraction, extractions, self.comparison.against.run)
            return
        layer, of = shown.layer, self.comparison.right if self._right else session
        if layer.parent_id not in extractions.values():
            extractions = {f"{layer.model}, of another experiment": layer.parent_id, **extractions}
        offer(self.extraction, extractions, layer.parent_id)
        offer(self.layer, {record.layer: record.layer for record in of.layers}, layer.layer)
        offer(self.sigma, sigma_options(of.layers, layer.layer), layer.sigma)
        offer(self.map, map_options(of.maps), shown.map_run)  # the layer's own comes first

    def _sentence(self) -> str:
        """Say how many of this side's samples the other lacks."""
        pairing = self.comparison.pairing
        missing = pairing and (pairing.only_right if self._right else pairing.only_left)
        are, other = "is" if missing == 1 else "are", "left" if self._right else "right"
        return hint_small(f"{missing:,} of these samples {are} not on the {other} map.") if missing else ""


def extraction_options(extractions: Sequence[ExtractionRecord]) -> dict[str, str]:
    """Return run ids by a label that tells them apart: of checkpoints of one training, the file; else the run."""
    options: dict[str, str] = {}
    for record in extractions:
        checkpoint = str(getattr(record, "params", {}).get("checkpoint") or "")
        label = extraction_label(record) + (f" · {PurePath(checkpoint).name}" if checkpoint else "")
        options[f"{label} · {record.run_id[:6]}" if label in options else label] = record.run_id
    return options
