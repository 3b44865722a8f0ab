"""What every parent of layer runs says of its inputs: recipe, model, sample set and its further columns."""

import pandas as pd
import torch

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Condition
from diffviews.data.samples import SampleSet
from diffviews.pipelines.models import describe
from diffviews.processing.text_clusters import cluster_prompts
from diffviews.recipes.base import Recipe
from diffviews.tracking.active_run import ActiveRun

BATCH = 64


def log_inputs(
    parent: ActiveRun, adapter: GeneratorAdapter, samples: SampleSet, recipe: Recipe, *, dataset: str
) -> None:
    """Publish config.json, model.json, samples.parquet and, for prompts, columns.parquet, and log the data set."""
    parent.log_text(recipe.to_json(), "config.json")
    parent.log_json(describe(adapter), "model.json")
    samples.write_parquet(parent.stage("samples.parquet"))
    columns = _prompt_columns(adapter, samples)
    if columns is not None:
        parent.log_table(columns, "columns.parquet")
    parent.log_input(samples, name=dataset, source=dataset)
    parent.publish()


def _prompt_columns(adapter: GeneratorAdapter, samples: SampleSet) -> pd.DataFrame | None:
    """Return the columns sample_id and prompt_cluster, or None where a sample or the model has no prompt."""
    prompts = [prompt for prompt in samples.prompts if prompt is not None]
    if not adapter.takes_prompts or len(prompts) < len(samples):
        return None
    parts = [_embedding(adapter, prompts[first : first + BATCH]) for first in range(0, len(prompts), BATCH)]
    clusters = cluster_prompts(torch.cat(parts).numpy(), prompts)
    return pd.DataFrame({"sample_id": list(samples.sample_ids), "prompt_cluster": clusters})


@torch.no_grad()
def _embedding(adapter: GeneratorAdapter, prompts: list[str]) -> torch.Tensor:
    """Return one vector a prompt: its pooled embedding where the model has one, else the mean over its tokens."""
    given = adapter.condition([Condition(prompt=prompt) for prompt in prompts])
    pooled = given.get("pooled_prompt_embeds")
    return (given["prompt_embeds"].mean(dim=1) if pooled is None else pooled).float().cpu()
