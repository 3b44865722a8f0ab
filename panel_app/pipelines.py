"""The studio that computes in this process, with one model resident at a time."""

import threading
from dataclasses import replace
from typing import Any

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.request import Progress
from diffviews.pipelines.embed import embed
from diffviews.pipelines.generate import GenerationOutcome, generate
from diffviews.pipelines.models import load_model
from diffviews.pipelines.recipe import GenerationRecipe, Precision
from diffviews.pipelines.workspace import Workspace
from diffviews.processing.map_parameters import MapParameters
from panel_app.jobs import Report


class LocalStudio:
    """Generates and embeds on this host's device; jobs come one at a time from the queue."""

    def __init__(self, workspace: Workspace, device: str = "auto", checkpoint: str | None = None) -> None:
        """Compute for a workspace.

        Args:
            workspace: where runs are read and logged.
            device: auto, cpu, cuda, cuda:N or mps.
            checkpoint: weights for recipes that name none.
        """
        self._workspace, self._device, self._checkpoint = workspace, device, checkpoint
        self._lock = threading.Lock()
        self._resident: tuple[tuple[str, str | None, str], GeneratorAdapter] | None = None

    def generate(self, recipe: GenerationRecipe, report: Report) -> GenerationOutcome:
        """Generate what a recipe says and log it."""

        def tell(progress: Progress) -> None:
            report(progress.step, progress.total, preview(adapter, progress))

        recipe = replace(recipe, checkpoint=recipe.checkpoint or self._checkpoint)
        adapter = self._adapter(recipe.model, recipe.checkpoint, recipe.precision)
        return generate(recipe, self._workspace, adapter=adapter, callback=tell)

    def embed(self, layer_run: str, parameters: MapParameters, report: Report) -> str:
        """Compute a further map and log it."""
        report(0, 0, None)
        return embed(layer_run, parameters, self._workspace).run_id

    def _adapter(self, model: str, checkpoint: str | None, precision: Precision) -> GeneratorAdapter:
        with self._lock:
            key = (model, checkpoint, precision)
            if self._resident is None or self._resident[0] != key:
                self._resident = None  # freed before the next is loaded: two large models rarely fit
                self._resident = (key, load_model(model, checkpoint, device=self._device, precision=precision))
            return self._resident[1]


def preview(adapter: GeneratorAdapter, progress: Progress) -> Any:
    """Return the first sample's estimate as an (H, W, 3) uint8 image, or None."""
    if progress.image is None:
        return None
    return adapter.decode(progress.image[:1])[0]
