"""The studio that computes in this process, with one model resident at a time."""

import threading
from collections.abc import Mapping
from typing import Any

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.request import Progress
from diffviews.pipelines.embed import embed
from diffviews.pipelines.generate import GenerationOutcome, generate
from diffviews.pipelines.models import load_model
from diffviews.pipelines.recipe import GenerationRecipe, Precision
from diffviews.pipelines.replay import Replay, read_recipe, repeat
from diffviews.pipelines.workspace import Workspace
from diffviews.processing.map_parameters import MapParameters
from diffviews.serving.extraction import ExtractionProcess
from diffviews.tracking.schema import MapKind
from panel_app.computing.jobs import Report
from panel_app.computing.studio import NOTHING_GIVEN, GivenCheckpoint


class LocalStudio:
    """Generates and embeds on this host's device; jobs come one at a time from the queue."""

    def __init__(
        self, workspace: Workspace, device: str = "auto", checkpoint: GivenCheckpoint = NOTHING_GIVEN
    ) -> None:
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

        recipe = self._checkpoint.fill_in(recipe)
        adapter = self._adapter(recipe.model, recipe.checkpoint, recipe.precision)
        return generate(recipe, self._workspace, adapter=adapter, callback=tell)

    def embed(
        self, layer_run: str, parameters: MapParameters, report: Report, kind: MapKind = MapKind.SINGLE
    ) -> str:
        """Compute a further map and log it."""
        report(0, 0, None)
        return embed(layer_run, parameters, self._workspace, kind=kind).run_id

    def replay(self, run_id: str, report: Report) -> Replay:
        """Repeat a logged generation and compare; nothing is logged."""

        def tell(progress: Progress) -> None:
            report(progress.step, progress.total, preview(adapter, progress))

        recipe = read_recipe(self._workspace, run_id)
        adapter = self._adapter(recipe.model, recipe.checkpoint, recipe.precision)
        return repeat(run_id, self._workspace, adapter=adapter, callback=tell)

    def extract(self, arguments: Mapping[str, Any], report: Report) -> str:
        """Extract in a process of its own, which can be ended at any moment."""
        with self._lock:
            self._resident = None  # the device's memory belongs to the other process meanwhile
        own = {
            "device": self._device,
            "profile": self._workspace.catalog.profile.name,
            "experiment": self._workspace.experiment,
        }
        return ExtractionProcess({**arguments, **own}, self._workspace).run(Following(report))

    def _adapter(self, model: str, checkpoint: str | None, precision: Precision) -> GeneratorAdapter:
        with self._lock:
            key = (model, checkpoint, precision)
            if self._resident is None or self._resident[0] != key:
                self._resident = None  # freed before the next is loaded: two large models rarely fit
                self._resident = (key, load_model(model, checkpoint, device=self._device, precision=precision))
            return self._resident[1]


class Following:
    """Hands an extraction's progress on, and the wish to end it back."""

    def __init__(self, report: Report) -> None:
        self.run_id: str | None = None
        self._report, self._last = report, (0, 0)

    def check(self) -> None:
        """Go on, or raise what is to end it."""
        self._report(*self._last, note="" if self._last[1] else "loading the model and the samples")

    def report(self, step: int, total: int) -> None:
        """Note how many of the layer runs are done."""
        self._last = (step, total)
        self.check()


def preview(adapter: GeneratorAdapter, progress: Progress) -> Any:
    """Return the first sample's estimate as an (H, W, 3) uint8 image, or None."""
    if progress.image is None:
        return None
    return adapter.decode(progress.image[:1])[0]
