"""The `replay` command: a logged generation repeated from its recipe and compared with what was logged."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.request import Progress
from diffviews.errors import DiffViewsError
from diffviews.pipelines.generate import find_layer, run_recipe
from diffviews.pipelines.models import load_model
from diffviews.pipelines.workspace import Workspace
from diffviews.recipes.generation import GenerationRecipe

TOLERANCE = 1
"""Grey levels by which one kind of device may differ from another batch or thread count."""


class ReplayError(DiffViewsError, RuntimeError):
    """A repeated generation differs from what was logged."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A repeated generation beside the logged one."""

    run_id: str
    num_images: int
    largest_difference: int
    """Grey levels, over all images and channels."""

    def __str__(self) -> str:
        difference = f"largest difference {self.largest_difference} grey levels"
        return f"replayed {self.num_images} images of {self.run_id}: {difference}"


def replay(
    run: str,
    workspace: Workspace,
    *,
    adapter: GeneratorAdapter | None = None,
    device: str = "auto",
    callback: Callable[[Progress], None] | None = None,
) -> Replay:
    """Repeat a logged generation and compare it image by image; nothing is logged.

    Args:
        run: id of a generation run.
        workspace: where it was logged.
        adapter: a loaded model to use; None loads the recipe's.
        device: for a model loaded here: auto, cpu, cuda, cuda:N or mps.
        callback: told of every sampler step.

    Raises:
        ReplayError: if an image differs by more than one grey level.
    """
    recipe = read_recipe(workspace, run)
    adapter = adapter or load_model(recipe, workspace, device=device)
    repeated = run_recipe(recipe, find_layer(recipe, workspace), workspace, adapter, callback)
    return compare(run, workspace, repeated.images)


def compare(run: str, workspace: Workspace, repeated: np.ndarray) -> Replay:
    """Compare images, (N, H, W, 3) uint8, with those that a generation logged; raises as `replay` does."""
    logged = np.stack([logged_image(workspace, run, index) for index in range(len(repeated))])
    largest = int(np.abs(repeated.astype(int) - logged.astype(int)).max())
    if largest > TOLERANCE:
        raise ReplayError(
            f"generation {run} differs from its replay by up to {largest} grey levels; weights, activations or "
            "device are not those it was made with"
        )
    return Replay(run, len(repeated), largest)


def read_recipe(workspace: Workspace, run_id: str) -> GenerationRecipe:
    """Return the recipe of a logged generation.

    Raises:
        RunNotFoundError: if there is no such run, or it is no generation.
    """
    record = workspace.catalog.generation(run_id)
    return GenerationRecipe.from_json(workspace.folder(record.run_id).path("recipe.json").read_text())


def logged_image(workspace: Workspace, run_id: str, index: int) -> np.ndarray:
    """Return one logged image, (H, W, 3) uint8."""
    return np.asarray(Image.open(workspace.folder(run_id).path(f"images/{index:03d}.png")).convert("RGB"))
