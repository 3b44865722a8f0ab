"""What every parent of layer runs says of its inputs: recipe, model, sample set and its further columns."""

from diffviews.adapters.base import GeneratorAdapter
from diffviews.data.samples import SampleSet
from diffviews.pipelines.models import describe
from diffviews.pipelines.prompt_columns import prompt_columns
from diffviews.recipes.base import Recipe
from diffviews.tracking.active_run import ActiveRun


def log_inputs(
    parent: ActiveRun, adapter: GeneratorAdapter, samples: SampleSet, recipe: Recipe, *, dataset: str
) -> None:
    """Publish config.json, model.json, samples.parquet and, for prompts, columns.parquet, and log the data set."""
    parent.log_text(recipe.to_json(), "config.json")
    parent.log_json(describe(adapter), "model.json")
    samples.write_parquet(parent.stage("samples.parquet"))
    columns = prompt_columns(adapter, samples)
    if columns is not None:
        parent.log_table(columns, "columns.parquet")
    parent.log_input(samples, name=dataset, source=dataset)
    parent.publish()
