"""What a layer run in sketch mode keeps beside its map: the mean of all activations, and what they depend on.

The vectors themselves are the points of the map's projector, and kept there once.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from diffviews.data.tensor_file import read_arrays, write_arrays
from diffviews.errors import CorruptDataError

SKETCH_FILE = "sketch.safetensors"
"""Artifact of a layer run; its presence says that no activations are stored."""

FORMAT = "diffviews.sketch"
_ABOUT = ("layer", "sigma", "model_digest", "dataset_digest", "digest")


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
        about = {name: getattr(self, name) for name in _ABOUT}
        write_arrays(path, {"mean": self.mean.astype(np.float32)}, {"format": FORMAT, "about": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            CorruptDataError: if the file is missing, truncated or something else; it is named.
        """
        arrays, metadata = read_arrays(path)
        try:
            if metadata["format"] != FORMAT:
                raise CorruptDataError(f"{path} is a safetensors file, but holds no sketch")
            about = json.loads(metadata["about"])
            return cls(**{name: about[name] for name in _ABOUT}, mean=arrays["mean"])
        except (KeyError, ValueError, TypeError) as error:
            raise CorruptDataError(f"{path} does not hold a whole sketch: {error!r}") from error
