"""Opening the sample set that a job names: a source of images, an earlier run, or prompts to make images of."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from diffviews.adapters.base import GeneratorAdapter
from diffviews.data.prompts import read_prompts
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.data.storage.cache import cache_folder
from diffviews.lightning.process_group import ALONE, ProcessGroup
from diffviews.pipelines.generate_dataset import DatasetJob
from diffviews.pipelines.plan import check_sample_count
from diffviews.pipelines.series import Series
from diffviews.pipelines.workspace import Workspace, samples_file
from diffviews.recipes.dataset import DatasetRecipe
from diffviews.recipes.execution import Execution
from diffviews.recipes.extraction import ExtractionRecipe
from diffviews.tracking.artifacts import local_folder

logger = logging.getLogger(__name__)

PROMPTS = "prompts:"
"""Notation of a prompt file, whose images the model makes first."""


def open_dataset(
    recipe: ExtractionRecipe, adapter: GeneratorAdapter, workspace: Workspace, group: ProcessGroup = ALONE
) -> SampleSet:
    """Return the sample set that an extraction names, its images fitted to the model.

    A prompt file holds no images: the model makes one of each prompt, with its own defaults and seed
    0, as a `generate-dataset` run of its own, which the next job re-uses.

    Args:
        recipe: of the extraction; too few prompts for its maps are refused before any image is made.
        adapter: model that the samples are for, and that makes them from prompts.
        workspace: where earlier runs are found.
        group: processes that make them together, and all have them; the first alone reads what is named.

    Raises:
        SampleSetError, CorruptDataError: if the source cannot be read.
        ConfigError: if prompts are given to a model that takes none.
    """
    if recipe.dataset.startswith(PROMPTS):
        found = _made_of_prompts(recipe, adapter, workspace, group)
    else:
        found = partial(
            open_source,
            recipe.dataset,
            max_samples=recipe.max_samples,
            resolution=adapter.resolution,
            runs=lambda run_id: samples_file(workspace, run_id),
        )
    if group.size == 1:
        return found()
    return SampleSet.read_parquet(group.from_first(lambda: _handed_out(found(), workspace)))


def _made_of_prompts(
    recipe: ExtractionRecipe, adapter: GeneratorAdapter, workspace: Workspace, group: ProcessGroup
) -> Callable[[], SampleSet]:
    """Have an image made of each prompt; return what reads them."""
    prompts = read_prompts(recipe.dataset.removeprefix(PROMPTS), max_prompts=recipe.max_samples)
    series = Series.of_prompts(adapter, prompts, samples_per_prompt=1)
    check_sample_count(series.total, recipe.maps)
    own = DatasetRecipe(recipe.model, recipe.checkpoint, batch_size=recipe.batch_size)
    made = DatasetJob(adapter, series, own, workspace, Execution(resume=True), group, on_the_way=True).run()
    logger.info("images of %d prompts: run %s, %d made now", series.total, made.run_id, made.made)
    return lambda: SampleSet.read_parquet(samples_file(workspace, made.run_id))


def _handed_out(samples: SampleSet, workspace: Workspace) -> Path:
    """Return a Parquet file of a sample set that all processes see: beside the artifacts, or in the cache folder."""
    root = local_folder(workspace.profile.artifact_root or "s3:")
    path = (cache_folder() if root is None else root).absolute() / "shared" / f"{samples.digest[:32]}.parquet"
    if not path.exists():
        samples.write_parquet(path)
    return path
