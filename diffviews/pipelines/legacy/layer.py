"""A layer of the bucket's legacy cache, read once and fitted once: its coordinates stay, its projector is new.

That cache names a layer by model and name alone. What it does not contradict is believed: the samples must be
those asked for, and a sigma it states must be the one asked for. Its weights are not known.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffviews.data.activations import ActivationWriter
from diffviews.data.layout import LayerKey
from diffviews.data.legacy.datasets import UNKNOWN_MODEL_DIGEST
from diffviews.data.legacy.maps import AXES, MIN_POINTS
from diffviews.data.r2_cache import legacy_layer_objects
from diffviews.data.storage.object_store import ObjectStore, StoredObject
from diffviews.errors import CorruptDataError
from diffviews.pipelines.layers.measured_map import map_title, measure, write_map
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.processing.fitting import fit_given_map
from diffviews.tracking.schema import fingerprint

logger = logging.getLogger(__name__)

_MAX_CELLS = 2**33


@dataclass(frozen=True, slots=True)
class LegacyLayer:
    """A layer of the legacy cache that may answer a plan."""

    store: ObjectStore
    plan: ExtractionPlan
    key: LayerKey
    objects: dict[str, StoredObject]

    @classmethod
    def find(cls, store: ObjectStore, plan: ExtractionPlan, key: LayerKey) -> "LegacyLayer | None":
        """Return the layer, None if the cache has no table, parameters and activations of it.

        Raises:
            StoreError: if the store cannot be used.
        """
        objects = legacy_layer_objects(store, plan.adapter.model_type, key[0])
        return cls(store, plan, key, objects) if {".csv", ".json", ".npy"} <= set(objects) else None

    def fingerprint(self) -> str:
        """Digest of what its run depends on: these versions of the files, the samples, the noise level."""
        return fingerprint(
            kind="older-layer",  # its first name, by which layers fitted before are found
            model=self.plan.adapter.model_type,
            layer=self.key[0],
            sigma=self.key[1],
            dataset=self.plan.samples.digest,
            maps=self.plan.recipe.maps,
            objects={ending: item.etag for ending, item in self.objects.items()},
        )

    def fill(self, folder: Path) -> dict[str, Any] | None:
        """Download and fit the layer into `folder`; None, with the reason in the log, if it is of something else.

        Raises:
            StoreError: if it cannot be downloaded.
            CorruptDataError: if a file of it cannot be read.
        """
        table, stated, values = self._read(folder / "legacy")
        problem = self._mismatch(table, stated, values)
        if problem:
            logger.info("layer %s of the legacy cache is not used: %s", self.key[0], problem)
            return None
        ids = [str(sample_id) for sample_id in table["sample_id"]]
        samples = self.plan.samples.select(ids)
        axes = [name for name in AXES if name in table]
        activations = np.asarray(values).reshape(len(ids), *self._shape())
        fitted = fit_given_map(activations, ids, table[axes].to_numpy(np.float32), self.plan.recipe.maps)
        title = map_title(self.plan.adapter.model_type, *self.key)
        measured = measure(fitted, samples, title=title)
        (folder / "map").mkdir()
        write_map(measured, folder.joinpath)
        samples.write_parquet(folder / "samples.parquet")
        self._store(folder / "activations.zarr", ids, activations)
        (folder / "legacy" / "layer.npy").unlink()  # stored as Zarr now
        return self._about({name: float(value) for name, value in measured.quality.summary.items()})

    def _read(self, folder: Path) -> tuple[pd.DataFrame, dict[str, Any], np.ndarray]:
        for ending, item in self.objects.items():
            self.store.get(item.key, folder / f"layer{ending}", item.size)
        try:
            table = pd.read_csv(folder / "layer.csv", dtype={"sample_id": "string"}, encoding="utf-8-sig")
            stated = json.loads((folder / "layer.json").read_text(encoding="utf-8"))
            values = np.load(folder / "layer.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise CorruptDataError(f"layer {self.key[0]} of the legacy cache cannot be read: {error}") from error
        return table, stated if isinstance(stated, dict) else {}, values

    def _mismatch(self, table: pd.DataFrame, stated: dict[str, Any], values: np.ndarray) -> str:
        """Return what shows that the files are of something else, or ''."""
        if "sample_id" not in table or not {"umap_x", "umap_y"} <= set(table):
            return "its table has no sample_id, umap_x and umap_y"
        axes = [name for name in AXES if name in table]
        numbers = table[axes].apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
        if len(table) < MIN_POINTS or not np.isfinite(numbers).all():
            return "its table holds too few places, or some that are not finite"
        wanted = set(self.plan.samples.sample_ids)
        if set(table["sample_id"]) != wanted or len(table) != len(wanted):
            return "it is of other samples"
        features = int(np.prod(self._shape()))
        if values.dtype.kind != "f" or values.size != len(table) * features or values.size > _MAX_CELLS:
            return f"its activations are {values.shape} {values.dtype}, not {len(table)} × {features} floats"
        sigmas = [stated.get(name) for name in ("sigma", "conditioning_sigma") if name in stated]
        for name in ("sigma", "conditioning_sigma"):
            sigmas += table[name].unique().tolist() if name in table else []
        if any(not isinstance(value, int | float) or not np.isclose(value, self.key[1]) for value in sigmas):
            return f"it is of sigma {sigmas}"
        if not sigmas:
            logger.warning("layer %s of the legacy cache does not say its sigma; %g is believed", *self.key)
        return ""

    def _shape(self) -> tuple[int, ...]:
        return tuple(self.plan.adapter.get_layer_shapes()[self.key[0]])

    def _store(self, path: Path, ids: list[str], activations: np.ndarray) -> None:
        half = activations.dtype.itemsize == 2
        writer = ActivationWriter(
            path,
            sample_ids=ids,
            layer=self.key[0],
            shape=self._shape(),
            dtype="float16" if half else "float32",
            sigma=self.key[1],
            model_digest=UNKNOWN_MODEL_DIGEST,
            dataset_digest=self.plan.samples.digest,
        )
        writer.fill(lambda rows: np.asarray(activations[rows], dtype=writer.dtype))

    def _about(self, metrics: dict[str, float]) -> dict[str, Any]:
        order = list(self.plan.adapter.hookable_layers)
        return {
            "model": self.plan.adapter.model_type,
            "layer": self.key[0],
            "layer_index": order.index(self.key[0]),
            "sigma": self.key[1],
            "dataset": self.plan.recipe.dataset,
            "params": {name: str(value) for name, value in self.plan.params().items()},
            "metrics": {name: value for name, value in metrics.items() if np.isfinite(value)},
        }
