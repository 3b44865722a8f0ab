"""Further columns of a sample set with prompts: what a map can be coloured by beside classes and measures."""

import pandas as pd
import torch

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Condition
from diffviews.data.samples import SampleSet
from diffviews.processing.text_clusters import cluster_prompts

BATCH = 64


def prompt_columns(adapter: GeneratorAdapter, samples: SampleSet) -> pd.DataFrame | None:
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
