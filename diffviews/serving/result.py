"""A logged generation, read back from its artifacts wherever they are."""

import io
from collections.abc import Callable, Collection

import numpy as np
import pandas as pd
import pyarrow

from diffviews.core.request import GenerationResult
from diffviews.data.pictures import decode_image
from diffviews.errors import CorruptDataError
from diffviews.pipelines.generate import LoggedGeneration
from diffviews.recipes.generation import GenerationRecipe


def read_result(run_id: str, names: Collection[str], fetch: Callable[[str], bytes]) -> LoggedGeneration:
    """Return a generation as it was logged; the recorded activations are not, only the path they make.

    Args:
        run_id: of the generation.
        names: artifacts that it has.
        fetch: returns the content of one of them.

    Raises:
        CorruptDataError: if an artifact is not what a generation logs.
    """
    try:
        return _read(run_id, names, fetch)
    except (KeyError, ValueError, EOFError, pyarrow.ArrowException) as error:
        raise CorruptDataError(f"generation {run_id} cannot be read back: {error}") from error


def _read(run_id: str, names: Collection[str], fetch: Callable[[str], bytes]) -> LoggedGeneration:
    recipe = GenerationRecipe.from_json(fetch("recipe.json").decode())
    with np.load(io.BytesIO(fetch("steps.npz")), allow_pickle=False) as stored:
        steps = {name: stored[name] for name in stored.files}
    pictures = {kind: _pictures(kind, names, fetch) for kind in ("images", "baseline", "difference")}
    if pictures["images"] is None or recipe.seed is None:
        raise CorruptDataError(f"generation {run_id} holds no image; it was not logged to its end")
    result = GenerationResult(
        images=pictures["images"],
        labels=steps["labels"],
        seed=recipe.seed,
        sigmas=steps["sigmas"],
        baseline_images=pictures["baseline"],
        difference_images=pictures["difference"],
        intermediates=steps.get("intermediates"),
        noised_inputs=steps.get("noised_inputs"),
    )
    path = pd.read_parquet(io.BytesIO(fetch("path.parquet"))) if "path.parquet" in names else None
    return LoggedGeneration(run_id, recipe, result, path)


def _pictures(kind: str, names: Collection[str], fetch: Callable[[str], bytes]) -> np.ndarray | None:
    """Return the pictures of a kind, (N, H, W, 3) uint8, or None."""
    found = sorted(name for name in names if name.startswith(f"{kind}/") and name.endswith(".png"))
    return np.stack([decode_image(fetch(name), name) for name in found]) if found else None
