"""Writes folders in the legacy on-disk layout, in the forms in which they occur."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LAYERS = {"encoder_bottleneck": (6, 2, 2), "midblock": (4, 2, 2)}
"""Shapes of the layers of written folders; the first in sorted order is the larger."""


def activations_of(number: int, sigma: float, layer: str) -> np.ndarray:
    """Return the activation of a sample at a noise level: (C, H, W) float32, in two separate groups."""
    seed = [number, round(sigma * 1000), len(layer)]
    values = np.random.default_rng(seed).normal(size=LAYERS[layer]) + 6.0 * (number % 2)
    return values.astype(np.float32)


def pixels_of(number: int, side: int = 16) -> np.ndarray:
    """Return the picture of a sample, (side, side, 3) uint8."""
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


class LegacyFolder:
    """A model's folder under construction.

    Args:
        folder: made if it is not there.
        config: written as `config.json`; None: no such file.
        dataset: name of its data set.
    """

    def __init__(self, folder: Path, config: dict[str, Any] | None = None, dataset: str = "imagenet_real") -> None:
        self.folder, self.dataset = folder, dataset
        folder.mkdir(parents=True, exist_ok=True)
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        self.records: list[dict[str, Any]] = []

    def path(self, kind: str, name: str) -> Path:
        """Return `<kind>/<dataset>/<name>`, its folder made."""
        path = self.folder / kind / self.dataset / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add(self, number: int, sigma: float = 2.0, **more: Any) -> dict[str, Any]:
        """Add a sample: its picture and its record, which is returned; `more` changes the record."""
        name = f"sample_{number:06d}"
        Image.fromarray(pixels_of(number)).save(self.path("images", f"{name}.png"))
        record = {
            "sample_id": name,
            "class_label": number % 2,
            "class_name": ("tench", "goldfish")[number % 2],
            "image_path": f"images/{self.dataset}/{name}.png",
            "conditioning_sigma": sigma,
            "number": number,
        }
        self.records.append(record | more)
        return self.records[-1]

    def add_many(self, count: int, sigma: float = 2.0) -> None:
        """Add samples 0 … count − 1 at one noise level."""
        for number in range(count):
            self.add(number, sigma)

    def stacked(self, layer: str) -> np.ndarray:
        """Return a layer's activations of all records, (N, C, H, W), row i for record i."""
        return np.stack([activations_of(r["number"], r["conditioning_sigma"], layer) for r in self.records])

    def write_batch(self, name: str = "batch_000000", *, npz: bool = False, shapes: str = "rows") -> Path:
        """Write all activations as one `.npy` with its `.npy.json`, or one `.npz`; records point at its rows.

        Args:
            name: of the file, without ending.
            npz: write an `.npz` with rows of (C·H·W).
            shapes: what `.npy.json` states: 'rows' (N, C·H·W) or 'layer' (C, H, W).
        """
        stem = self.path("activations", name)
        flat = {layer: self.stacked(layer).reshape(len(self.records), -1) for layer in sorted(LAYERS)}
        if npz:
            np.savez_compressed(stem.with_name(f"{name}.npz"), **flat)
        else:
            np.save(stem.with_name(f"{name}.npy"), np.concatenate(list(flat.values()), axis=1))
            stated = {layer: list(flat[layer].shape if shapes == "rows" else LAYERS[layer]) for layer in flat}
            info = {"layers": list(flat), "shapes": stated, "num_samples": len(self.records)}
            stem.with_name(f"{name}.npy.json").write_text(json.dumps(info))
        for row, record in enumerate(self.records):
            record |= {"activation_path": f"activations/{self.dataset}/{name}", "batch_index": row}
        return stem

    def write_each(self, *, with_rows: bool = True) -> None:
        """Write the activations of each record to an `.npz` of its own with its record beside as `.json`."""
        for record in self.records:
            stem = self.path("activations", record["sample_id"])
            arrays = {
                layer: activations_of(record["number"], record["conditioning_sigma"], layer) for layer in LAYERS
            }
            np.savez(f"{stem}.npz", **{k: v[None].reshape(1, -1) if with_rows else v for k, v in arrays.items()})
            record["activation_path"] = f"activations/{self.dataset}/{stem.name}.npz"
            Path(f"{stem}.json").write_text(json.dumps(record))

    def write_metadata(self, **more: Any) -> Path:
        """Write `dataset_info.json` with the records and `more` beside them."""
        path = self.path("metadata", "dataset_info.json")
        path.write_text(json.dumps({"samples": self.records} | more))
        return path

    def write_map(self, name: str = "demo_embeddings", parameters: dict[str, Any] | None = None) -> np.ndarray:
        """Write coordinates of all records as `embeddings/<name>.csv` and `.json`; return them, (N, 2) float32."""
        numbers = np.array([record["number"] for record in self.records])
        places = np.random.default_rng(5).normal(size=(len(numbers), 2)).astype(np.float32)
        places[:, 0] += 20 * (numbers % 2)
        columns = ("sample_id", "class_label", "conditioning_sigma")
        rows = [
            ",".join([*(str(record[column]) for column in columns), *(repr(float(value)) for value in place)])
            for record, place in zip(self.records, places, strict=True)
        ]
        path = self.folder / "embeddings" / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([",".join((*columns, "umap_x", "umap_y")), *reversed(rows)]) + "\n")
        path.with_suffix(".json").write_text(json.dumps(parameters or {"n_neighbors": 7, "layers": ["midblock"]}))
        return places


def digits_folder(folder: Path, count: int = 24, sigma: float = 2.0, **config: Any) -> LegacyFolder:
    """Return a written folder of samples for edm-digits: one `.npy`, metadata and a map of midblock."""
    made = LegacyFolder(folder, {"adapter": "edm-digits", **config}, dataset="digits_real")
    made.add_many(count, sigma)
    made.write_batch()
    made.write_metadata()
    made.write_map()
    return made
