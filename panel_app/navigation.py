"""The sidebar: what is on show, how it is coloured, and the map's own parameters."""

from collections.abc import Sequence
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from diffviews.tracking.records import ExtractionRecord, MapRecord
from panel_app.components import Html
from panel_app.fields import Steering, field, offer
from panel_app.filter_panel import FilterPanel, column_options
from panel_app.points import sigma_texts
from panel_app.session import Session

_MARGIN = (6, 0)
_FEW_SIGMAS = 6
"""Up to so many noise levels stand side by side; more are a list."""
_OWN = ""
"""Value of a layer's own map in its selector, which cannot hold None."""


class Navigation(Steering):
    """Selectors of the run on show, its colours and its filters."""

    def __init__(self, session: Session, **params: Any) -> None:
        self.experiment = field(
            pmui.Select, "Experiment", "MLflow experiment the runs are logged in.", margin=_MARGIN
        )  # fmt: skip
        self.extraction = field(
            pmui.Select, "Extraction", "One pass of one model over one sample set, an import, or a set captured while "
            "it was made; newest first.", margin=_MARGIN,
        )  # fmt: skip
        self.layer = field(
            pmui.Select, "Layer", "Where in the network the activations were captured, in the order data flows.",
            searchable=True, margin=_MARGIN,
        )  # fmt: skip
        help_sigma = "How much noise the model was given: σ in EDM units, larger is noisier."
        self.sigma = field(pmui.RadioButtonGroup, "Noise level σ", help_sigma, margin=_MARGIN)
        self.sigmas = field(pmui.Select, "Noise level σ", help_sigma, visible=False, margin=_MARGIN)
        self.map = field(
            pmui.Select, "Map", "The layer's own map, or one re-computed with other UMAP parameters.", margin=_MARGIN
        )
        self.colour = field(
            pmui.Select, "Colour by", "Class, a column of the sample set, or a number measured for each sample.",
            margin=_MARGIN,
        )  # fmt: skip
        self.filters = FilterPanel(session)
        refresh = pmui.Button(
            label="Look for new runs", icon="refresh", variant="text", size="small", margin=(2, 0),
            on_click=lambda _: session.refresh(),
        )  # fmt: skip
        runs = (self.experiment, self.extraction, self.layer, self.sigma, self.sigmas, self.map, refresh)
        self._layout = pn.Column(
            heading("Data"), *runs, heading("Colours and filters"), self.colour, self.filters,
            sizing_mode="stretch_width", margin=(4, 16),
        )  # fmt: skip
        super().__init__(session=session, **params)
        self.steer(self.experiment, session.choose_experiment)
        self.steer(self.extraction, session.choose_extraction)
        self.steer(self.layer, session.choose_layer)
        for widget in (self.sigma, self.sigmas):
            self.steer(widget, lambda sigma: session.choose_layer(session.state.layer, sigma))
        self.steer(self.map, lambda run: session.choose_map(run or None))
        self.steer(self.colour, lambda value: session.state.param.update(colour_by=value))

    def add(self, *parts: Any) -> None:
        """Append further sections."""
        self._layout.extend(parts)

    @param.depends(
        "session.map", "session.extractions", "session.layers", "session.maps", "session.state.colour_by",
        "session.state.experiment", "session.state.map_run", watch=True, on_init=True,
    )  # fmt: skip
    def follow(self) -> None:
        """Show what the session shows."""
        super().follow()

    def _follow(self) -> None:
        session, state = self.session, self.session.state
        experiments = list(session.store.library.experiments()) if state.experiment else []
        offer(self.experiment, {name: name for name in experiments}, state.experiment)
        offer(self.extraction, {extraction_label(e): e.run_id for e in session.extractions}, state.extraction)
        offer(self.layer, {record.layer: record.layer for record in session.layers}, state.layer)
        sigmas = sigma_options(session.layers, state.layer)
        for widget in (self.sigma, self.sigmas):
            offer(widget, sigmas, state.sigma)
        self.sigma.visible, self.sigmas.visible = len(sigmas) <= _FEW_SIGMAS, len(sigmas) > _FEW_SIGMAS
        offer(self.map, map_options(session.maps), state.map_run or _OWN)
        if session.map is not None:
            offer(self.colour, column_options(session.map), state.colour_by)


def heading(title: str) -> Html:
    """Return a quiet heading of the sidebar."""
    return Html(f'<div class="overline">{title}</div>', margin=(14, 0, 2, 0))


def extraction_label(record: ExtractionRecord) -> str:
    """Return how an extraction, an import or a generated set is called in the list."""
    when = record.start_time.astimezone().strftime("%d %b %H:%M")
    made = {"import": "imported, ", "generate-dataset": "while generating, "}.get(str(getattr(record, "kind", "")), "")
    return f"{record.model}, {made}{when} · {record.dataset}"


def sigma_options(layers: Sequence[Any], layer: str | None) -> dict[str, float]:
    """Return a layer's noise levels by a short text, or by their whole one where the short ones are alike."""
    sigmas = sorted({record.sigma for record in layers if record.layer == layer})
    return {text.removeprefix("σ "): sigma for sigma, text in sigma_texts(sigmas).items()}


def map_options(maps: Sequence[MapRecord]) -> dict[str, str]:
    """Return the run ids of a layer's maps, its own one ('') first, by how they are called in a list."""
    return {"Logged with the layer": _OWN, **{_map_label(m, len(maps) - i): m.run_id for i, m in enumerate(maps)}}


def _map_label(record: MapRecord, number: int) -> str:
    shown = record.params
    if shown.get("imported"):
        return f"{number}: imported, {shown['imported']}"
    levels = len(shown.get("sigmas", "").split(","))
    joint = f"joint over {levels} noise levels, " if shown.get("map") == "joint" else ""
    return f"{number}: {joint}{shown.get('n_neighbors', '?')} neighbours, min_dist {shown.get('min_dist', '?')}"
