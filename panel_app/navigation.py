"""The sidebar: what is on show, how it is coloured, and the map's own parameters."""

from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from diffviews.tracking.records import ExtractionRecord, MapRecord
from panel_app.filter_panel import FilterPanel, column_options
from panel_app.html import Html
from panel_app.points import sigma_texts
from panel_app.session import Session
from panel_app.theme import PANE_CSS

_FIELD: dict[str, Any] = {"sizing_mode": "stretch_width", "size": "small", "margin": (6, 0)}
OWN_MAP = "Logged with the layer"
_FEW_SIGMAS = 6
"""Up to so many noise levels stand side by side; more are a list."""

_OWN = ""
"""Value of OWN_MAP in its selector, which cannot hold None."""


class Navigation(pn.viewable.Viewer):
    """Selectors that follow the session and steer it; a change from outside never answers back."""

    def __init__(self, session: Session, **params: Any) -> None:
        super().__init__(**params)
        self.session = session
        self._following = False
        self._build()
        for widget, action in (
            (self.experiment, session.choose_experiment),
            (self.extraction, session.choose_extraction),
            (self.layer, session.choose_layer),
            (self.sigma, lambda sigma: session.choose_layer(session.state.layer, sigma)),
            (self.sigmas, lambda sigma: session.choose_layer(session.state.layer, sigma)),
            (self.map, lambda run: session.choose_map(run or None)),
        ):
            widget.param.watch(self._steer(action), "value")
        self.colour.param.watch(self._steer(lambda value: session.state.param.update(colour_by=value)), "value")
        session.param.watch(lambda *_: self.follow(), ["map", "extractions", "layers", "maps"])
        session.state.param.watch(lambda *_: self.follow(), ["colour_by", "experiment", "map_run"])
        self.follow()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def _build(self) -> None:
        self.experiment = pmui.Select(
            label="Experiment", description="MLflow experiment the runs are logged in.", **_FIELD
        )
        self.extraction = pmui.Select(
            label="Extraction",
            description="One pass of one model over one sample set, an import, or a set captured while it was "
            "made; newest first.",
            **_FIELD,
        )
        self.layer = pmui.Select(
            label="Layer",
            searchable=True,
            description="Where in the network the activations were captured, in the order data flows.",
            **_FIELD,
        )
        self.sigma = pmui.RadioButtonGroup(
            label="Noise level σ",
            sizing_mode="stretch_width",
            size="small",
            margin=(6, 0),
            description="How much noise the model was given: σ in EDM units, larger is noisier.",
        )
        self.sigmas = pmui.Select(label="Noise level σ", description=self.sigma.description, visible=False, **_FIELD)
        self.map = pmui.Select(
            label="Map", description="The layer's own map, or one re-computed with other UMAP parameters.", **_FIELD
        )
        self.colour = pmui.Select(
            label="Colour by",
            description="Class, a column of the sample set, or a number measured for each sample.",
            **_FIELD,
        )
        self.filters = FilterPanel(self.session)
        self._refresh = pmui.Button(
            label="Look for new runs",
            icon="refresh",
            variant="text",
            size="small",
            margin=(2, 0),
            on_click=lambda _: self.session.refresh(),
        )
        self._layout = pn.Column(
            section("Data"),
            self.experiment,
            self.extraction,
            self.layer,
            self.sigma,
            self.sigmas,
            self.map,
            self._refresh,
            section("Colours and filters"),
            self.colour,
            self.filters,
            sizing_mode="stretch_width",
            margin=(4, 16),
        )

    def add(self, *parts: Any) -> None:
        """Append further sections."""
        self._layout.extend(parts)

    def _steer(self, action: Any) -> Any:
        def answer(event: param.parameterized.Event) -> None:
            if not self._following and event.new != event.old:
                self._following = True  # what is half done would take back the very choice that is being answered
                try:
                    action(event.new)
                finally:
                    self._following = False
                self.follow()

        return answer

    def follow(self) -> None:
        """Show what the session shows."""
        if self._following:
            return
        self._following = True
        try:
            self._follow_runs()
            self._follow_view()
        finally:
            self._following = False

    def _follow_runs(self) -> None:
        session, state = self.session, self.session.state
        experiments = list(session.store.experiments()) if state.experiment else []
        _offer(self.experiment, {name: name for name in experiments}, state.experiment)
        _offer(self.extraction, {extraction_label(e): e.run_id for e in session.extractions}, state.extraction)
        names = list(dict.fromkeys(record.layer for record in session.layers))
        _offer(self.layer, {name: name for name in names}, state.layer)
        sigmas = sorted({r.sigma for r in session.layers if r.layer == state.layer})
        for widget in (self.sigma, self.sigmas):
            _offer(widget, sigma_options(sigmas), state.sigma)
        self.sigma.visible, self.sigmas.visible = len(sigmas) <= _FEW_SIGMAS, len(sigmas) > _FEW_SIGMAS
        maps = {OWN_MAP: _OWN}
        maps.update({map_label(m, number): m.run_id for number, m in _numbered(session.maps)})
        _offer(self.map, maps, state.map_run or _OWN)

    def _follow_view(self) -> None:
        layer_map, state = self.session.map, self.session.state
        if layer_map is None:
            return
        _offer(self.colour, column_options(layer_map), state.colour_by)


def section(title: str) -> Html:
    """Return a quiet heading of the sidebar."""
    return Html(f'<div class="overline">{title}</div>', margin=(14, 0, 2, 0), stylesheets=[PANE_CSS])


def extraction_label(record: ExtractionRecord) -> str:
    """Return how an extraction, an import or a generated set is called in the list."""
    when = record.start_time.astimezone().strftime("%d %b %H:%M")
    made = {"import": "imported, ", "generate-dataset": "while generating, "}.get(str(getattr(record, "kind", "")), "")
    return f"{record.model}, {made}{when} · {record.dataset}"


def sigma_options(sigmas: list[float]) -> dict[str, float]:
    """Return noise levels by a short text, or by their whole one where the short ones are alike."""
    return {text.removeprefix("σ "): sigma for sigma, text in sigma_texts(sigmas).items()}


def map_label(record: MapRecord, number: int) -> str:
    """Return how a re-computed or imported map is called in the list."""
    shown = record.params
    if shown.get("imported"):
        return f"{number}: imported, {shown['imported']}"
    levels = len(shown.get("sigmas", "").split(","))
    joint = f"joint over {levels} noise levels, " if shown.get("map") == "joint" else ""
    return f"{number}: {joint}{shown.get('n_neighbors', '?')} neighbours, min_dist {shown.get('min_dist', '?')}"


def _numbered(maps: list[MapRecord]) -> list[tuple[int, MapRecord]]:
    return [(len(maps) - index, record) for index, record in enumerate(maps)]


def _offer(widget: Any, options: dict[str, Any], value: Any) -> None:
    if value not in options.values():
        value = None if not options else next(iter(options.values()))
    if dict(widget.options or {}) != options:
        widget.param.update(options=options, value=value)
    elif widget.value != value:
        widget.value = value
