"""The logged generations behind the gallery: which there are, and what each holds, fetched when it is looked at."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from diffviews.pipelines.generate import LoggedGeneration
from diffviews.pipelines.replay import read_recipe
from diffviews.pipelines.workspace import Workspace
from diffviews.recipes.generation import GenerationRecipe
from diffviews.serving.result import read_result
from diffviews.tracking.records import GenerationRecord
from panel_app.pictures import PREVIEW, png_address
from panel_app.recent import Recent


@dataclass(frozen=True, slots=True)
class Preview:
    """What the gallery shows of one generation."""

    recipe: GenerationRecipe
    thumbnail: str
    """Its first image as a data address."""


class GenerationArchive:
    """Reads the generations of a workspace; usable from several threads."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._previews = Recent[Preview](512)

    def of_layers(self, layer_runs: Collection[str]) -> Sequence[GenerationRecord]:
        """Return the finished generations masked from, or drawn on, these layer runs, newest first."""
        catalog = self._workspace.catalog
        if len(layer_runs) == 1:
            return list(catalog.generations(next(iter(layer_runs))))
        return [record for record in catalog.generations() if record.source_run in layer_runs]

    def preview(self, run_id: str) -> Preview:
        """Return what the gallery shows of a generation; raises as `generation` does."""
        return self._previews.get(run_id, lambda: self._read_preview(run_id))

    def generation(self, run_id: str) -> LoggedGeneration:
        """Return a generation as it was logged.

        Raises:
            DiffViewsError: if it is gone, damaged, or its store cannot be reached.
        """
        folder = self._workspace.folder(run_id)
        return read_result(run_id, folder.names(), lambda name: folder.path(name).read_bytes())

    def _read_preview(self, run_id: str) -> Preview:
        image = self._workspace.folder(run_id).path("images/000.png").read_bytes()
        return Preview(read_recipe(self._workspace, run_id), png_address(image, PREVIEW))
