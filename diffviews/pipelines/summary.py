"""What the parent of an extraction shows: the table of layers, their similarity, and one picture of all maps."""

import numpy as np
import pandas as pd

from diffviews.data.layout import LayerKey
from diffviews.data.samples import SampleSet
from diffviews.noise import format_sigma
from diffviews.pipelines.control.measures import OUTCOMES, is_marked, not_told_from_best
from diffviews.pipelines.layers.alike import layer_gram, spaced_rows
from diffviews.pipelines.layers.measured_map import class_array
from diffviews.pipelines.workspace import Workspace, is_sketch
from diffviews.processing.figures import cka_figure, maps_figure, ranking_figure
from diffviews.processing.realism import is_off_manifold
from diffviews.processing.similarity import compare_grams
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.catalog import LayerRecord


class ExtractionSummary:
    """Collects each layer run's measures while they are made, and logs the whole on the parent."""

    def __init__(self, samples: SampleSet) -> None:
        self._samples = samples
        self._rows_used = spaced_rows(len(samples))
        self._table: list[dict[str, object]] = []
        self._grams: dict[LayerKey, np.ndarray] = {}
        self._maps: dict[LayerKey, np.ndarray] = {}
        self._outcomes: dict[LayerKey, pd.DataFrame] = {}

    def add(self, workspace: Workspace, record: LayerRecord) -> str:
        """Take one finished layer run, read from where it was logged; return its activations' digest."""
        key, folder = (record.layer, record.sigma), workspace.folder(record.run_id)
        self._table.append({"layer": record.layer, "sigma": record.sigma, "run_id": record.run_id, **record.metrics})
        self._grams[key] = layer_gram(workspace, record, self._rows_used)
        digest = workspace.sketch(record).digest if is_sketch(record) else workspace.activations(record).digest
        points = pd.read_parquet(folder.path("map/points.parquet"))
        self._maps[key] = points[["x", "y"]].to_numpy()
        if "control_n" in record.metrics and not is_marked(record.metrics):
            self._outcomes[key] = pd.read_parquet(folder.path(OUTCOMES))
        return digest

    def table(self) -> pd.DataFrame:
        """Return one row a layer run, in the order they were added; `control_best` of those near real images."""
        table = pd.DataFrame(self._table)
        best: dict[LayerKey, bool] = {}
        for sigma in {sigma for _, sigma in self._outcomes}:
            best |= not_told_from_best({key: found for key, found in self._outcomes.items() if key[1] == sigma})
        if best:
            table["control_best"] = [best.get(key) for key in zip(table["layer"], table["sigma"], strict=True)]
        return table

    def log(self, parent: ActiveRun) -> None:
        """Log `layers.csv`, tables of similarity and a heat map of CKA a sigma, the ranking and the montage."""
        table = self.table()
        parent.log_text(table.to_csv(index=False), "layers.csv")
        for sigma in sorted({sigma for _, sigma in self._grams}):
            self._log_similarity(parent, sigma)
            if "control_rate" in table and "knn_accuracy_activation" in table:
                rows = table[table["sigma"] == sigma]
                parent.log_artifact_bytes(ranking_figure(rows), f"ranking/{format_sigma(sigma)}.png")
        montage = maps_figure(
            {f"{layer} σ {format_sigma(sigma)}": points for (layer, sigma), points in self._maps.items()},
            class_array(self._samples),
            class_names=self._samples.classes,
        )
        parent.log_artifact_bytes(montage, "montage.png")
        parent.log_image("montage", montage)
        if "control_on_manifold" in table:  # the best rate is not one of images unlike any real one
            table.loc[table["control_on_manifold"].map(is_off_manifold), "control_rate"] = np.nan
        parent.log_metrics(
            {f"best_{name}": float(table[name].max()) for name in RANKED if name in table and table[name].notna().any()}
        )

    def _log_similarity(self, parent: ActiveRun, sigma: float) -> None:
        grams = {layer: gram for (layer, at), gram in self._grams.items() if at == sigma}
        similarity = compare_grams(grams)
        name = format_sigma(sigma)
        parent.log_text(similarity.table().to_csv(index=False), f"similarity/{name}.csv")
        parent.log_text(similarity.frame("cka").to_csv(), f"cka/{name}.csv")
        picture = cka_figure(similarity.names, similarity.cka, title=f"debiased linear CKA at σ {name}")
        parent.log_artifact_bytes(picture, f"cka/{name}.png")


RANKED = ("knn_accuracy_activation", "knn_accuracy_map", "trustworthiness", "control_rate")
"""Measures whose best value over all layers is a metric of the parent."""
