"""Sums of a layer's outputs, of which the mean of all samples is made, stored while an extraction runs."""

import secrets
from pathlib import Path

import numpy as np

from diffviews.data.files import write_atomically


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
        blocks = np.array(self._blocks, np.int64)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(
            self._path, lambda file: np.savez(file, blocks=blocks, total=total, last_block=block, last=outputs)
        )

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


def sums_folder(array: Path) -> Path:
    """Return where the sums of a layer's outputs lie beside its array of vectors."""
    return array.with_name("sums")
