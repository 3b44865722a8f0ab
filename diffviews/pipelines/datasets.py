"""Opening the sample set that a job names: a source of images, an earlier run, or prompts to make images of."""

import logging

from diffviews.adapters.base import GeneratorAdapter
from diffviews.data.prompts import read_prompts
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.pipelines.generate_dataset import DatasetJob
from diffviews.pipelines.plan import check_sample_count
from diffviews.pipelines.series import Series
from diffviews.pipelines.workspace import Workspace, samples_file
from diffviews.recipes.dataset import DatasetRecipe
from diffviews.recipes.execution import Execution
from diffviews.recipes.extraction import ExtractionRecipe

logger = logging.getLogger(__name__)

PROMPTS = "prompts:"
"""Notation of a prompt file, whose images the model makes first."""


def open_dataset(
    recipe: ExtractionRecipe, adapter: GeneratorAdapter, workspace: Workspace, *, devices: int = 1
) -> SampleSet:
    """Return the sample set that an extraction names, its images fitted to the model.

    A prompt file holds no images: the model makes one of each prompt, with its own defaults and seed
    0, as a `generate-dataset` run of its own, which the next job re-uses.

    Args:
        recipe: of the extraction; too few prompts for its maps are refused before any image is made.
        adapter: model that the samples are for, and that makes them from prompts.
        workspace: where earlier runs are found.
        devices: number of devices that make them.

    Raises:
        SampleSetError, CorruptDataError: if the source cannot be read.
        ConfigError: if prompts are given to a model that takes none.
    """
    spec = recipe.dataset
    if not spec.startswith(PROMPTS):
        return open_source(
            spec,
            max_samples=recipe.max_samples,
            resolution=adapter.resolution,
            runs=lambda run_id: samples_file(workspace, run_id),
        )
    prompts = read_prompts(spec.removeprefix(PROMPTS), max_prompts=recipe.max_samples)
    series = Series.of_prompts(adapter, prompts, samples_per_prompt=1)
    check_sample_count(series.total, recipe.maps)
    own = DatasetRecipe(recipe.model, recipe.checkpoint, batch_size=recipe.batch_size)
    job = DatasetJob(adapter, series, own, workspace, Execution(devices=devices, resume=True), on_the_way=True)
    made = job.run()
    logger.info("images of %d prompts: run %s, %d made now", series.total, made.run_id, made.made)
    return SampleSet.read_parquet(samples_file(workspace, made.run_id))
