"""The weights that ship with the package."""

from importlib.resources import files
from pathlib import Path

from diffviews.errors import CheckpointError


def shipped_weights(name: str) -> Path:
    """Return the path of shipped weights, a file or a folder of diffusers.

    Args:
        name: as it lies in `diffviews/models/weights`.

    Raises:
        CheckpointError: if the installation lacks it.
    """
    path = Path(str(files("diffviews.models") / "weights")) / name
    if not path.exists():
        raise CheckpointError(f"the shipped weights {path} are missing; install the package again")
    return path
