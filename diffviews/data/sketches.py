"""What a layer run in sketch mode keeps beside its map: the mean of all activations, and what they depend on.

The vectors themselves are the points of the map's projector, and kept there once.
"""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from diffviews.core.files import write_atomically
from diffviews.errors import CorruptDataError

SKETCH_FILE = "sketch.safetensors"
"""Artifact of a layer run; its presence says that no activations are stored."""

FORMAT = "diffviews.sketch"
_ABOUT = ("layer", "sigma", "model_digest", "dataset_digest", "digest")


class BlockSums:
    """What the outputs of a layer sum up to, block by block; each process has one file in a common folder.

    A file holds the total of its blocks, and apart from it the last one's: that block is done again after a
    kill that came between its sum and its chunk, and must not be counted twice.

    Args:
        folder: of the layer's sums.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{secrets.token_hex(8)}.npz"
        self._blocks: list[int] = []
        self._total: np.ndarray | float = 0.0
        self._last: tuple[int, np.ndarray] | None = None

    def add(self, block: int, outputs: np.ndarray) -> None:
        """Count a block in, and store it before its chunk is written.

        Args:
            block: a number of its own among all processes.
            outputs: (D,) float32, what its outputs sum up to.
        """
        if any(block in _numbers(path) for path in self._path.parent.glob("*.npz")):
            return  # a chunk that was damaged after it had been counted
        if self._last is not None:
            self._blocks.append(self._last[0])
            self._total = self._total + self._last[1].astype(np.float64)
        self._last = block, outputs
        total = np.broadcast_to(self._total, outputs.shape)
        stored = {"blocks": np.array(self._blocks, np.int64), "total": total, "last_block": block, "last": outputs}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, lambda file: np.savez(file, **stored))

    @staticmethod
    def total(folder: Path) -> np.ndarray:
        """Return what all blocks of a folder sum up to, (D,) float64."""
        files = sorted(folder.glob("*.npz"))
        counted = {block for path in files for block in _numbers(path)}
        sums = np.zeros(1)
        for path in files:
            with np.load(path, allow_pickle=False) as stored:
                sums = sums + stored["total"]
                if int(stored["last_block"]) not in counted:
                    sums += stored["last"]
                    counted.add(int(stored["last_block"]))
        return sums


def _numbers(path: Path) -> list[int]:
    """Return the blocks that a file's total counts."""
    with np.load(path, allow_pickle=False) as stored:
        return list(stored["blocks"].tolist())


@dataclass(frozen=True, slots=True, eq=False)
class StoredSketch:
    """The part of a sketch that is no map."""

    layer: str
    sigma: float
    model_digest: str
    dataset_digest: str
    digest: str
    """Of the vectors of all samples, in order."""
    mean: np.ndarray
    """(1, *layer_shape) float32 mean activation of all samples."""

    def save(self, path: Path) -> None:
        """Write it as one safetensors file."""
        from safetensors.numpy import save

        about = {name: getattr(self, name) for name in _ABOUT}
        mean = np.ascontiguousarray(self.mean, dtype=np.float32)
        path.write_bytes(save({"mean": mean}, {"format": FORMAT, "about": json.dumps(about)}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            CorruptDataError: if the file is missing, truncated or something else; it is named.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                metadata, mean = file.metadata() or {}, file.get_tensor("mean")
            if metadata["format"] != FORMAT:
                raise CorruptDataError(f"{path} is a safetensors file, but holds no sketch")
            about = json.loads(metadata["about"])
            return cls(**{name: about[name] for name in _ABOUT}, mean=mean)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise CorruptDataError(f"{path} is missing, truncated or no sketch: {error!r}") from error


def sums_folder(array: Path) -> Path:
    """Return where the sums of a layer's outputs lie beside its array of vectors."""
    return array.with_name("sums")
