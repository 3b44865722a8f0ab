"""What the dashboard lets compute: generations and maps, as plain calls that a job can run."""

from collections.abc import Mapping
from typing import Any, Protocol

from diffviews.pipelines.recipe import GenerationRecipe
from diffviews.tracking.schema import MapKind
from panel_app.computing.jobs import Report


class Studio(Protocol):
    """Computes and logs; `panel_app.computing.local_studio` does it with this process's models."""

    def generate(self, recipe: GenerationRecipe, report: Report) -> Any:
        """Return the outcome of a recipe: run_id, recipe, result, path."""

    def embed(self, layer_run: str, parameters: Any, report: Report, kind: MapKind = MapKind.SINGLE) -> str:
        """Compute a further map of a layer run, or of its layer at all noise levels, and return its run id."""

    def replay(self, run_id: str, report: Report) -> Any:
        """Repeat a logged generation; return the comparison: num_images, largest_difference."""

    def extract(self, arguments: Mapping[str, Any], report: Report) -> str:
        """Extract by arguments of `diffviews.pipelines.extract.extract` and return the run's id."""
