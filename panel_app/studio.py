"""What the dashboard lets compute: generations and maps, as plain calls that a job can run."""

from typing import Any, Protocol

from diffviews.pipelines.recipe import GenerationRecipe
from panel_app.jobs import Report


class Studio(Protocol):
    """Computes and logs; `panel_app.pipelines` does it with this process's models."""

    def generate(self, recipe: GenerationRecipe, report: Report) -> Any:
        """Return the outcome of a recipe: run_id, recipe, result, path."""

    def embed(self, layer_run: str, parameters: Any, report: Report) -> str:
        """Compute a further map of a layer run and return its run id."""
