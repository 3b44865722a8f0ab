"""All layers of an extraction with everything that was measured of them; a row opens on either side."""

from collections.abc import Sequence
from typing import Any

import param

from diffviews.noise import format_sigma
from panel_app.best_layer import DECIDES, GAIN, KNOWS
from panel_app.cards import quiet
from panel_app.compare.comparison import Comparison
from panel_app.components import Ranking, column
from panel_app.fields import Part, section
from panel_app.inspector import BASELINE, METRIC_LABELS, layer_row

_SHORT = {
    KNOWS: "Knows",
    GAIN: "Gain",
    "gain_probe": "Gain, probe",
    "gain_knn_p": "p, gain",
    "gain_probe_p": "p, probe",
    "knows_knn": "Knows, draws",
    "knows_probe": "Knows, probe",
    "knows_best": "Best group",
    "knows_best_probe": "Best, probe",
    "random_knn": "Random net",
    "random_probe": "Random, probe",
    DECIDES: "Decides",
    "knn_accuracy_map": "Knows on map",
    "trustworthiness": "Trustworthy",
    "silhouette": "Silhouette",
    "silhouette_activation": "Silhouette",
    "silhouette_map": "Silh. on map",
    "sampled_effective_rank": "Eff. rank",
    "sampled_intrinsic_dimension": "Dimension",
    "held_out_variance": "PCA keeps",
    "effective_rank": "Old rank",
    "intrinsic_dimension": "Old dimension",
    "explained_variance": "Old PCA keeps",
    "neighborhood_preservation": "Neighbours kept",
    "control_rate_low": "Decides, low",
    "control_rate_high": "Decides, high",
    "control_corrected": "Decides, corrected",
    "control_p": "p, masked",
    "control_rejects": "Rejected",
    "control_rate_early": "Decides early",
    "control_rate_late": "Decides late",
    "control_matched": "Decides, matched",
    "control_global_mean": "Global mean",
    "control_mixed_means": "Mixed means",
    "control_random_direction": "Random direction",
    "control_other_layer": "Other layer",
    "control_on_manifold": "Near real",
    "control_diversity": "Diversity",
    "control_loss_ratio": "Loss ratio",
}
"""Headings of columns whose whole name would not fit; it is their help."""
_UNRANKED = {
    BASELINE, "control_seeds", "control_n", "control_on_manifold_baseline", "quality_points", "space_samples",
    "gain_knn_low", "gain_knn_high", "gain_probe_low", "gain_probe_high", "knows_knn_sd", "knows_probe_sd",
    "nonfinite", "nan_count", "pca_explained_variance", "pca_held_out_variance",
}  # fmt: skip
"""Metrics that say how a measure was made, or repeat another."""


class QualityTable(Part):
    """The layer runs of both sides' extractions, sortable by any measure."""

    def __init__(self, comparison: Comparison, **params: Any) -> None:
        self.comparison = comparison
        self._records: dict[str, Any] = {}
        self.table = Ranking(
            self._on_message, beside=True, sort={"key": KNOWS, "down": True}, margin=0,
            empty="No finished layer runs yet.", styles={"overflow-x": "auto"},
        )  # fmt: skip
        intro = quiet(
            "Everything that was measured of each layer. Click a heading to sort, a row to open the layer on the "
            "left; its button, or a click with Shift held, opens it on the right."
        )
        self._layout = section(intro, self.table, margin=(8, 0))
        super().__init__(session=comparison.session, **params)

    @param.depends("session.map", "session.layers", "comparison.opening", watch=True, on_init=True)
    def show(self) -> None:
        """Show the layer runs that can be opened."""
        session, right = self.session, self.comparison.right
        if session.map is None:
            return
        others = [] if right.plain is None or right.plain.layer.parent_id == session.state.extraction else right.layers
        self._records = {record.run_id: record for record in (*session.layers, *others)}
        shown = list(self._records.values())
        self.table.param.update(
            columns=quality_columns(shown, several=bool(others)), rows=[self._row(r) for r in shown]
        )

    def _row(self, record: Any) -> dict[str, Any]:
        plain = self.comparison.right.plain
        shown = {"left": self.session.map.layer.run_id, "right": plain and plain.layer.run_id}
        side = " and ".join(side for side, run in shown.items() if run == record.run_id)
        return layer_row(
            record, active=bool(side), side=side, run=f"{record.model} {record.parent_id[:6]}",
            title=f"Open {record.layer} at σ {format_sigma(record.sigma)} on the left",
            **{f"{name}_text": _text(value) for name, value in record.metrics.items()},
        )  # fmt: skip

    def _on_message(self, message: dict[str, Any]) -> None:
        record = self._records.get(str(message.get("open")))
        if record is None:
            return
        if message.get("beside"):
            self.comparison.choose(record.parent_id, record.layer, record.sigma)
        else:
            self.session.choose(record.parent_id, record.layer, record.sigma)


def quality_columns(records: Sequence[Any], *, several: bool) -> list[dict[str, Any]]:
    """Return the columns of a table of layer runs: what they are called, then each measure that any of them has.

    Args:
        records: layer runs.
        several: whether they are of more than one extraction, which is then a column.
    """
    measured = {name for record in records for name in record.metrics} - _UNRANKED
    known = [name for name in METRIC_LABELS if name in measured]
    columns = [column("run", "Run", "Model and run of the extraction")] if several else []
    columns += [
        column("layer", "Layer", "Hook point of the model"),
        column("sigma", "σ", "Noise level", number=True),
        column("side", "Open", "On which side it is open"),
    ]
    bars = {KNOWS: {"bar": "knows"}, DECIDES: {"bar": "decides", "baseline": BASELINE}}
    for name in (*known, *sorted(measured - set(known))):
        label = METRIC_LABELS.get(name, name)
        columns.append(column(name, _SHORT.get(name, label), label, **bars.get(name, {"number": True})))
    return columns


def _text(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
