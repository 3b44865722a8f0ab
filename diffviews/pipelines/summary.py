"""What the parent of an extraction shows: the table of layers, their similarity, and one picture of all maps."""

import numpy as np
import pandas as pd

from diffviews.data.layout import LayerKey
from diffviews.data.samples import SampleSet
from diffviews.noise import format_sigma
from diffviews.pipelines.layers.measured_map import class_array
from diffviews.pipelines.workspace import Workspace, is_sketch
from diffviews.processing.figures import cka_figure, maps_figure, ranking_figure
from diffviews.processing.similarity import centered_gram, cka_from_grams
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.catalog import LayerRecord

CKA_SAMPLES = 1000
"""Rows of the sample set that CKA is computed from, evenly spaced, the same for all layers."""


class ExtractionSummary:
    """Collects each layer run's measures while they are made, and logs the whole on the parent."""

    def __init__(self, samples: SampleSet) -> None:
        self._samples = samples
        self._rows_used = np.linspace(0, len(samples) - 1, min(len(samples), CKA_SAMPLES)).astype(int)
        self._table: list[dict[str, object]] = []
        self._grams: dict[LayerKey, np.ndarray] = {}
        self._maps: dict[LayerKey, np.ndarray] = {}

    def add(self, workspace: Workspace, record: LayerRecord) -> str:
        """Take one finished layer run, read from where it was logged; return its activations' digest."""
        key, folder = (record.layer, record.sigma), workspace.folder(record.run_id)
        self._table.append({"layer": record.layer, "sigma": record.sigma, "run_id": record.run_id, **record.metrics})
        if is_sketch(record):
            self._grams[key], digest = self._sketched_gram(workspace, record), workspace.sketch(record).digest
        else:
            reader = workspace.activations(record)
            self._grams[key], digest = centered_gram(reader.rows(self._rows_used)), reader.digest
        points = pd.read_parquet(folder.path("map/points.parquet"))
        self._maps[key] = points[["x", "y"]].to_numpy()
        return digest

    def _sketched_gram(self, workspace: Workspace, record: LayerRecord) -> np.ndarray:
        """Return the Gram matrix of the activations as far as a sketch's axes span them, in their own units."""
        (projector,) = workspace.projectors(record.run_id).values()
        axes = projector.pca_components * projector.scaler_scale
        vectors = projector.pca_points[self._rows_used].astype(np.float64)
        vectors -= vectors.mean(axis=0)
        return (vectors @ (axes @ axes.T) @ vectors.T).astype(np.float32)

    def table(self) -> pd.DataFrame:
        """Return one row a layer run, in the order they were added."""
        return pd.DataFrame(self._table)

    def log(self, parent: ActiveRun) -> None:
        """Log `layers.csv`, a CKA table and heat map a sigma, the ranking and the montage."""
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
        parent.log_metrics({f"best_{name}": float(table[name].max()) for name in RANKED if name in table})

    def _log_similarity(self, parent: ActiveRun, sigma: float) -> None:
        grams = {layer: gram for (layer, at), gram in self._grams.items() if at == sigma}
        names, matrix = cka_from_grams(grams)
        frame = pd.DataFrame(matrix, index=pd.Index(names, name="layer"), columns=names)
        parent.log_text(frame.to_csv(), f"cka/{format_sigma(sigma)}.csv")
        picture = cka_figure(names, matrix, title=f"linear CKA at σ {format_sigma(sigma)}")
        parent.log_artifact_bytes(picture, f"cka/{format_sigma(sigma)}.png")


RANKED = ("knn_accuracy_activation", "knn_accuracy_map", "trustworthiness", "control_rate")
"""Measures whose best value over all layers is a metric of the parent."""
