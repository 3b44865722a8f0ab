"""All layers of an extraction with everything that was measured of them; a row opens on either side."""

from collections.abc import Sequence
from typing import Any

import panel as pn

from diffviews.noise import format_sigma
from panel_app.best_layer import DECIDES, KNOWS
from panel_app.cards import quiet
from panel_app.compare.comparison import Comparison
from panel_app.components import Ranking
from panel_app.inspector import BASELINE, METRIC_LABELS

_SHORT = {
    "knn_accuracy_map": "Knows on map",
    "trustworthiness": "Trustworthy",
    "silhouette": "Silhouette",
    "silhouette_activation": "Silhouette",
    "silhouette_map": "Silh. on map",
    "effective_rank": "Eff. rank",
    "intrinsic_dimension": "Dimension",
    "explained_variance": "PCA keeps",
    "neighborhood_preservation": "Neighbours kept",
}
"""Headings of columns whose whole name would not fit; it is their help."""
_UNRANKED = {BASELINE, "control_seeds", "quality_points", "nonfinite", "nan_count", "pca_explained_variance"}
"""Metrics that say how a measure was made, or repeat another."""


class QualityTable(pn.viewable.Viewer):
    """The layer runs of both sides' extractions, sortable by any measure."""

    def __init__(self, comparison: Comparison, **params: Any) -> None:
        super().__init__(**params)
        self._comparison = comparison
        self._records: dict[str, Any] = {}
        self.table = Ranking(
            self._on_message,
            beside=True,
            sort={"key": KNOWS, "down": True},
            margin=0,
            empty="No finished layer runs yet.",
        )
        self.table.styles = {"overflow-x": "auto"}
        self._layout = pn.Column(
            quiet(
                "Everything that was measured of each layer. Click a heading to sort, a row to open the layer on the "
                "left; its button, or a click with Shift held, opens it on the right."
            ),
            self.table,
            sizing_mode="stretch_width",
            margin=(8, 0),
        )
        comparison.session.param.watch(lambda *_: self.show(), ["map", "layers"])
        comparison.param.watch(lambda *_: self.show(), "opening")
        self.show()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def show(self) -> None:
        """Show the layer runs that can be opened."""
        session, right = self._comparison.session, self._comparison.right
        if session.map is None:
            return
        others = [] if right.plain is None or right.plain.layer.parent_id == session.state.extraction else right.layers
        self._records = {record.run_id: record for record in (*session.layers, *others)}
        shown = list(self._records.values())
        self.table.param.update(
            columns=quality_columns(shown, several=bool(others)), rows=[self._row(r) for r in shown]
        )

    def _row(self, record: Any) -> dict[str, Any]:
        plain = self._comparison.right.plain
        places = {
            "left": record.run_id == self._comparison.session.map.layer.run_id,
            "right": plain is not None and record.run_id == plain.layer.run_id,
        }
        return {
            **record.metrics,
            **{f"{name}_text": _text(value) for name, value in record.metrics.items()},
            "id": record.run_id,
            "run": f"{record.model} {record.parent_id[:6]}",
            "layer": record.layer,
            "sigma": record.sigma,
            "sigma_text": format_sigma(record.sigma),
            "active": any(places.values()),
            "side": " and ".join(side for side, on in places.items() if on),
            "title": f"Open {record.layer} at σ {format_sigma(record.sigma)} on the left",
        }

    def _on_message(self, message: dict[str, Any]) -> None:
        record = self._records.get(str(message.get("open")))
        if record is None:
            return
        if message.get("beside"):
            self._comparison.choose(record.parent_id, record.layer, record.sigma)
        else:
            self._comparison.session.choose(record.parent_id, record.layer, record.sigma)


def quality_columns(records: Sequence[Any], *, several: bool) -> list[dict[str, Any]]:
    """Return the columns of a table of layer runs: what they are called, then each measure that any of them has.

    Args:
        records: layer runs.
        several: whether they are of more than one extraction, which is then a column.
    """
    measured = {name for record in records for name in record.metrics} - _UNRANKED
    known = [name for name in METRIC_LABELS if name in measured]
    further = sorted(measured - set(known))
    columns: list[dict[str, Any]] = [
        {"key": "run", "label": "Run", "help": "Model and run of the extraction"}
    ] * several
    columns += [
        {"key": "layer", "label": "Layer", "help": "Hook point of the model"},
        {"key": "sigma", "label": "σ", "help": "Noise level", "number": True},
        {"key": "side", "label": "Open", "help": "On which side it is open"},
    ]
    for name in (*known, *further):
        bars = {KNOWS: {"bar": "knows"}, DECIDES: {"bar": "decides", "baseline": BASELINE}}
        heading = {KNOWS: "Knows", DECIDES: "Decides"}.get(name) or _SHORT.get(name) or METRIC_LABELS.get(name, name)
        help_text = METRIC_LABELS.get(name, name)
        columns.append({"key": name, "label": heading, "help": help_text, **bars.get(name, {"number": True})})
    return columns


def _text(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
