"""Sketches: scaler and principal axes fitted on some samples of a layer, by which all are kept as a few numbers.

    sketch = fit_sketch(rows, parameters, held_out=others)      # rows (n, *layer_shape)
    vectors = (activations - sketch.mean) / sketch.scale @ sketch.components.T
    fitted = fit_map(sketch.reduction(vectors), sample_ids, parameters)
"""

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from diffviews.data.tensor_file import read_arrays, write_arrays
from diffviews.errors import ConfigError, CorruptDataError
from diffviews.processing.held_out import with_held_out
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.neighbors import exact_neighbors, shared_counts
from diffviews.processing.projector import Projector
from diffviews.processing.quality import knn_accuracy
from diffviews.processing.reduction import PrincipalAxes, Reduction, reduce_activations
from diffviews.processing.umap_backend import fitting

SKETCH_FILE = "sketch.safetensors"
"""Artifact of a layer run, a `SketchRecord`; its presence says that no activations are stored."""

_FITTED = (
    "mean", "scale", "components", "eigenvalues", "explained_variance_ratio", "spectrum_rows", "held_out_distances",
    "held_out_residuals", "held_out_variance", "space",
)  # fmt: skip


class Stored:
    """What a dataclass needs to be one safetensors file: its arrays as such, its other values as JSON."""

    __slots__ = ()
    format: ClassVar[str]
    """Name of the format, by which a file of another one is refused."""

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        about = {name: value for name, value in values.items() if name not in arrays and value is not None}
        write_arrays(path, arrays, {"format": self.format, "about": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            CorruptDataError: if the file is missing, truncated or something else; it is named.
        """
        arrays, metadata = read_arrays(path)
        if metadata.get("format") != cls.format:
            raise CorruptDataError(f"{path} is a safetensors file, but no {cls.format}")
        try:
            values = {**json.loads(metadata["about"]), **arrays}
            known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
            return cls(**{name: value for name, value in values.items() if name in known})
        except (KeyError, ValueError, TypeError) as error:
            raise CorruptDataError(f"{path} does not hold a whole sketch: {error!r}") from error


@dataclass(frozen=True, slots=True, eq=False)
class Sketch(Stored, PrincipalAxes):
    """A scaler and a PCA fitted on some of the samples."""

    format = "diffviews.sketch-fit"
    components: np.ndarray
    rows: int
    """Number of samples it was fitted on."""
    loss: dict[str, float] = field(default_factory=dict)
    """What was measured on samples it was not fitted on; empty when it was fitted on all."""
    points: np.ndarray | None = None
    """(rows, d) float32 vectors of the samples it was fitted on; kept only where these are all."""

    @property
    def width(self) -> int:
        """Numbers kept a sample, d."""
        return len(self.components)

    def project(self, activations: np.ndarray) -> np.ndarray:
        """Return the vectors (n, d) float32 of activations (n, *layer_shape)."""
        return self.standardised(activations) @ self.components.T

    def standardised(self, activations: np.ndarray) -> np.ndarray:
        """Return activations (n, *layer_shape) as the scaler makes them, (n, D) float32."""
        values = activations.reshape(len(activations), -1).astype(np.float32) - self.mean
        values /= self.scale
        return values

    def reduction(self, vectors: np.ndarray) -> Reduction:
        """Return the scaled and reduced form of the samples whose vectors (N, d) these are."""
        return self.with_points(np.ascontiguousarray(vectors, dtype=np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class SketchRecord(Stored):
    """What a layer run in sketch mode keeps beside its map, whose points are the vectors."""

    format = "diffviews.sketch"
    layer: str
    sigma: float
    model_digest: str
    dataset_digest: str
    digest: str
    """Of the vectors of all samples, in order."""
    mean: np.ndarray
    """(1, *layer_shape) float32 mean activation of all samples."""


def fit_sketch(
    rows: np.ndarray,
    parameters: MapParameters,
    *,
    held_out: np.ndarray | None = None,
    held_out_classes: np.ndarray | None = None,
) -> Sketch:
    """Fit scaler and PCA on some samples of a layer, and measure on others what the sketch loses.

    Args:
        rows: activations of the samples to fit on, (n, *layer_shape) float16 or float32.
        parameters: of the map; its `pca_components` are the numbers kept a sample.
        held_out: activations of samples that are not among them; None: these are all there are, and their
            vectors are kept.
        held_out_classes: of `held_out`, (h,) int, −1 for none; None: there are none.

    Raises:
        ConfigError: if the map has no PCA.
        SampleSetError, FloatingPointError: as `reduce_activations`.
    """
    if parameters.pca_components is None:
        raise ConfigError("a sketch keeps pca_components numbers a sample; set it to 50 or more, or store in full")
    with fitting():
        reduction = reduce_activations(rows, parameters.pca_components, normalize=parameters.normalize)
        reduction = with_held_out(reduction, rows, k=parameters.n_neighbors, metric=parameters.metric)
    sketch = Sketch(
        **{name: getattr(reduction, name) for name in _FITTED},
        rows=len(rows),
        points=reduction.points if held_out is None else None,
    )
    if held_out is None:
        return sketch
    k = min(parameters.n_neighbors, len(held_out) - 1)
    return replace(sketch, loss=sketch_loss(sketch, held_out, held_out_classes, k=k))


def sketch_loss(sketch: Sketch, activations: np.ndarray, classes: np.ndarray | None, *, k: int) -> dict[str, float]:
    """Return what is lost of activations (h, *layer_shape) that the sketch was not fitted on.

    `sketch_variance_captured`: share of their standardised variance that lies in the sketch's axes;
    `sketch_knn_overlap`: mean share of a sample's k nearest, among these, that are the same by all
    standardised values and by the stored vectors; `sketch_knn_accuracy_loss`: how much less often the
    commonest class among those k is the sample's own.
    """
    whole = sketch.standardised(activations)
    vectors = (whole @ sketch.components.T).astype(np.float16).astype(np.float32)
    own, _ = exact_neighbors(whole, k)
    kept, _ = exact_neighbors(vectors, k)
    captured = np.square(vectors, dtype=np.float64).sum() / np.square(whole).sum(dtype=np.float64)
    loss = {
        "sketch_variance_captured": float(captured),
        "sketch_knn_overlap": float(np.mean(shared_counts(own, kept) / k)),
    }
    if classes is not None and (classes >= 0).all():
        loss["sketch_knn_accuracy_loss"] = knn_accuracy(own, classes) - knn_accuracy(kept, classes)
    return loss


def reduction_of(projector: Projector, parameters: MapParameters) -> Reduction:
    """Return the scaled and reduced form of a map's samples, for another map of them.

    The spectrum beyond the kept axes is not known to a map, so shares of the variance are of those.

    Args:
        projector: of the map that holds the samples' vectors.
        parameters: of the other map, which may use fewer components.

    Raises:
        ConfigError: if it asks for what the vectors do not hold.
    """
    axes, wanted = projector.pca_components, parameters.pca_components
    held = 0 if axes is None else max(len(axes), projector.parameters.pca_components or 0)
    if axes is None or wanted is None or wanted > held or parameters.normalize != projector.parameters.normalize:
        raise ConfigError(
            f"a sketch of {held} components with normalize {str(projector.parameters.normalize).lower()} gives no map "
            f"with pca_components {wanted} and normalize {str(parameters.normalize).lower()}; take at most {held} and "
            "the same normalize, or extract anew"
        )
    points = np.ascontiguousarray(projector.pca_points[:, :wanted])
    variances = np.var(projector.pca_points, axis=0, dtype=np.float64, ddof=1)
    shares = variances[:wanted] / variances.sum()
    own = PrincipalAxes(
        projector.scaler_mean, projector.scaler_scale, axes[:wanted], variances, shares, spectrum_rows=len(points),
        held_out_residuals=projector.held_out_residuals if wanted >= len(axes) else None,
    )  # fmt: skip
    return own.with_points(points)
