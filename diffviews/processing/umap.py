"""The functions that notebooks use: load activations of the legacy layout, embed them, save the map."""

import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffviews.data.legacy.arrays import open_matrix
from diffviews.errors import ConfigError, CorruptDataError, SampleSetError, ShapeError
from diffviews.processing.fitting import fit_map
from diffviews.processing.map_parameters import MapParameters
from diffviews.processing.projector import Projector

logger = logging.getLogger(__name__)

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, eq=False)
class Reducer:
    """What `compute_umap` returns as its reducer: the fitted map, which places new points."""

    projector: Projector

    @property
    def embedding_(self) -> np.ndarray:
        """(N, n) float32 coordinates of the points it was fitted on."""
        return self.projector.embedding

    def transform(self, points: np.ndarray) -> np.ndarray:
        """Place points that went through the scaler and PCA, (M, d), on the map, (M, n) float32."""
        unscaled = np.zeros(self.projector.pca_points.shape[1], np.float32)
        after_pca = replace(self.projector, scaler_mean=unscaled, scaler_scale=unscaled + 1, pca_components=None)
        return after_pca.transform(np.asarray(points, dtype=np.float32)).coordinates


def compute_umap(
    activations: np.ndarray,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    metric: str = "euclidean",
    n_components: int = 2,
    random_state: int | None = 42,
    normalize: bool = True,
    pca_components: int | None = None,
) -> tuple[np.ndarray, Reducer, Any, Any]:
    """Embed activations by StandardScaler → PCA → UMAP; `fit_map` does the same and returns more.

    Args:
        activations: (N, *shape) float16 or float32, all finite.
        n_neighbors, min_dist, metric, n_components: as in UMAP.
        random_state: seed; None draws one.
        normalize: divide each feature by its standard deviation.
        pca_components: None or 0 for no PCA.

    Returns:
        embeddings (N, n) float32; the reducer; a fitted StandardScaler, or None without `normalize`; a
        fitted PCA, or None without. The last two are scikit-learn's own classes.
    """
    parameters = MapParameters(
        n_neighbors=n_neighbors,
        min_dist=min_dist,
        n_components=n_components,
        metric=metric,
        pca_components=pca_components or None,
        normalize=normalize,
        random_state=secrets.randbelow(2**32) if random_state is None else random_state,
    )
    fitted = fit_map(activations, [f"row-{row}" for row in range(len(activations))], parameters)
    projector = fitted.projector
    scaler = _scaler(projector) if normalize else None
    axes, ratio = projector.pca_components, fitted.explained_variance_ratio
    pca = None if axes is None else _pca(projector, axes, ratio, normalize)
    return np.array(projector.embedding), Reducer(projector), scaler, pca


def save_embeddings(
    embeddings: np.ndarray,
    metadata_df: pd.DataFrame,
    output_path: StrPath,
    umap_params: Mapping[str, Any],
    reducer: Reducer | None = None,
    scaler: Any = None,
    pca_reducer: Any = None,
) -> None:
    """Write a map as `.csv` (metadata, umap_x, umap_y[, umap_z]), its parameters as `.json`, and its projector.

    The projector, `.safetensors`, is written when `reducer` is given; it holds scaler and PCA as well, so
    the last two arguments only need to be those that belong to it. Nothing is pickled.

    Raises:
        ShapeError: if there is not one row of metadata a point.
        ConfigError: if the parameters are no JSON, or the reducer is of another kind.
    """
    path, coordinates = Path(output_path), np.asarray(embeddings)
    if len(metadata_df) != len(coordinates):
        raise ShapeError(f"there are {len(metadata_df)} rows of metadata for {len(coordinates)} points")
    if reducer is not None and not isinstance(reducer, Reducer):
        raise ConfigError(f"a reducer comes from compute_umap; {type(reducer).__name__} cannot be saved")
    try:
        parameters = json.dumps(dict(umap_params), indent=2)
    except TypeError as error:
        raise ConfigError(f"the map's parameters cannot be written as JSON: {error}") from error
    table = metadata_df.reset_index(drop=True)
    for axis, values in zip("xyz", coordinates.T, strict=False):
        table[f"umap_{axis}"] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    path.with_suffix(".json").write_text(parameters)
    if reducer is not None:
        reducer.projector.save(path.with_suffix(".safetensors"))


def load_dataset_activations(
    activation_dir: StrPath,
    metadata_path: StrPath,
    max_samples: int | None = None,
    batch_size: int = 500,
    low_memory: bool = False,
    use_mmap: bool = True,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Read the activations of a legacy data set: row i of the matrix belongs to row i of the table.

    `dataset_info.json` lists `samples`, each with a `sample_id` and either an `activation_path`, relative
    to the data set's root two folders above `activation_dir`, with the `batch_index` of its row; or
    nothing, and its file is `<sample_id>.npz`. Layers are joined in sorted order. Where the folder holds
    a single `.npy` of all samples, or a file has an `.npy` beside it, that is used. Values are returned as
    they are: NaN and infinite ones are counted in the log.

    Args:
        activation_dir: folder of the files.
        metadata_path: `dataset_info.json`.
        max_samples: read only the first so many.
        batch_size: files that are kept open at a time.
        low_memory: never hold more than one file beside the matrix.
        use_mmap: memory-map `.npy` files; False: read only `.npz`.

    Returns:
        matrix (n, D) float32 and a table of the samples' metadata; samples whose file is missing are in
        neither, and are logged.

    Raises:
        SampleSetError: if the metadata lists no samples, leads outside the data set, or no file is there.
        CorruptDataError: if a file cannot be read; it is named.
    """
    folder, listed = Path(activation_dir), _sample_records(Path(metadata_path))
    records, single = listed[:max_samples], sorted(folder.glob("*.npy")) if use_mmap else []
    whole = open_matrix(single[0]) if len(single) == 1 else None
    if whole is not None and len(whole) == len(listed):
        matrix, found = np.array(whole[_rows_of(single[0], records)], dtype=np.float32), records
    else:
        kept = lru_cache(1 if low_memory else max(batch_size, 1))
        matrix, found = _gathered(folder, records, kept(lambda stem: _matrix_of(stem, use_mmap)))
    bad = int(np.count_nonzero(~np.isfinite(matrix)))
    if bad:
        logger.warning("%d values of the activations in %s are NaN or infinite", bad, folder)
    return matrix, pd.DataFrame(found)


def _scaler(projector: Projector) -> Any:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    scaler.mean_ = projector.scaler_mean.astype(np.float64)
    scaler.scale_ = projector.scaler_scale.astype(np.float64)
    scaler.var_ = scaler.scale_**2
    scaler.n_features_in_, scaler.n_samples_seen_ = projector.num_features, len(projector)
    return scaler


def _pca(projector: Projector, axes: np.ndarray, ratio: np.ndarray, normalize: bool) -> Any:
    from sklearn.decomposition import PCA

    pca = PCA(n_components=len(axes))
    pca.components_ = np.array(axes)
    # After the scaler the mean is zero; without it PCA itself takes the mean off.
    pca.mean_ = np.zeros_like(projector.scaler_mean) if normalize else np.array(projector.scaler_mean)
    pca.explained_variance_ = np.var(projector.pca_points, axis=0, ddof=1)
    pca.explained_variance_ratio_ = ratio
    pca.singular_values_ = np.sqrt(pca.explained_variance_ * (len(projector) - 1))
    pca.n_components_, pca.n_features_in_, pca.n_samples_ = len(ratio), projector.num_features, len(projector)
    return pca


def _sample_records(path: Path) -> list[dict[str, Any]]:
    try:
        samples = json.loads(path.read_text(encoding="utf-8"))["samples"]
        records = [dict(sample, sample_id=str(sample["sample_id"])) for sample in samples]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SampleSetError(f"{path} does not list samples: {error!r}") from error
    if not records:
        raise SampleSetError(f"{path} lists no samples")
    return records


def _rows_of(path: Path, records: Sequence[Mapping[str, Any]]) -> Any:
    """Return the rows of a folder's only .npy that belong to the records: as its .json says, else in order."""
    beside = path.with_name(path.name + ".json")
    said = json.loads(beside.read_text(encoding="utf-8")).get("sample_ids") if beside.is_file() else None
    if said is None:
        return slice(0, len(records))
    place = {str(sample_id): row for row, sample_id in enumerate(said)}
    missing = [record["sample_id"] for record in records if record["sample_id"] not in place]
    if missing:
        raise CorruptDataError(f"{beside} names no row for sample {missing[0]!r}; convert the activations again")
    return [place[record["sample_id"]] for record in records]


def _gathered(
    folder: Path, records: list[dict[str, Any]], matrix_of: Callable[[Path], np.ndarray | None]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    rows, found, missing = [], [], []
    for record, path, row in _places(folder, records):
        values = matrix_of(path)
        if values is None:
            missing.append(record["sample_id"])
            continue
        if not 0 <= row < len(values):
            raise CorruptDataError(f"{path} has {len(values)} rows, but sample {record['sample_id']!r} is row {row}")
        rows.append(np.asarray(values[row], dtype=np.float32))
        found.append(record)
    if not rows:
        raise SampleSetError(f"none of the {len(records)} samples has an activation file under {folder}")
    if missing:
        logger.warning("%d of %d samples have no activation file: %s …", len(missing), len(records), missing[0])
    if len({len(row) for row in rows}) > 1:
        raise CorruptDataError(f"activation files under {folder} hold different layers: their rows differ in length")
    return np.stack(rows), found


def _places(folder: Path, records: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Path, int]]:
    """Yield (record, path without suffix, row) of each sample, checking that the path stays in the data set."""
    root = folder.parent.parent.resolve()
    for record in records:
        if "activation_path" in record:
            base, path = root, root / str(record["activation_path"])
        else:
            base, path = folder.resolve(), folder / record["sample_id"]
        path = path.resolve()
        if not path.is_relative_to(base):
            raise SampleSetError(f"the activation file of sample {record['sample_id']!r} lies outside {base}")
        path = path.with_suffix("") if path.suffix in (".npz", ".npy") else path
        yield record, path, int(record.get("batch_index", 0))


def _matrix_of(stem: Path, use_mmap: bool) -> np.ndarray | None:
    """Return the matrix (rows, D) of `stem`.npy or .npz, None if there is neither."""
    fast, packed = stem.with_name(stem.name + ".npy"), stem.with_name(stem.name + ".npz")
    if use_mmap and fast.is_file():
        return open_matrix(fast)
    return _read_npz(packed) if packed.is_file() else None


def _read_npz(path: Path) -> np.ndarray:
    """Return the layers of an .npz joined in sorted order, (rows, D)."""
    from zipfile import BadZipFile

    try:
        with np.load(path, allow_pickle=False) as arrays:
            layers = [arrays[name] for name in sorted(arrays.files)]
        return np.concatenate([np.atleast_2d(layer).reshape(len(np.atleast_2d(layer)), -1) for layer in layers], axis=1)
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise CorruptDataError(f"{path} is truncated or holds no layers: {error}") from error
