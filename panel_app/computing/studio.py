"""What the dashboard lets compute: generations and maps, as plain calls that a job can run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from diffviews.pipelines.recipe import GenerationRecipe
from diffviews.tracking.schema import MapKind
from panel_app.computing.jobs import Report


@dataclass(frozen=True, slots=True)
class GivenCheckpoint:
    """Weights that the dashboard was started with, for recipes that name none."""

    address: str | None = None
    """File, folder or address; None gives nothing."""
    adapter: str | None = None
    """Model that they are of; None: any."""

    def fill_in(self, recipe: GenerationRecipe) -> GenerationRecipe:
        """Return the recipe with these weights, if it is one of their model that names none."""
        if recipe.checkpoint or self.adapter not in (None, recipe.model):
            return recipe
        return replace(recipe, checkpoint=self.address)


NOTHING_GIVEN = GivenCheckpoint()
"""Recipes that name no weights take the adapter's own."""


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
