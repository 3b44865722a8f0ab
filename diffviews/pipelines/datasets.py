"""Opening the sample set that a job names: a source of images, an earlier run, or prompts to make images of."""

import logging

from diffviews.adapters.base import GeneratorAdapter
from diffviews.data.prompts import read_prompts
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.pipelines.generate_dataset import DatasetJob, request_of
from diffviews.pipelines.plan import check_sample_count
from diffviews.pipelines.series import Series
from diffviews.pipelines.workspace import Workspace, samples_file
from diffviews.processing.map_parameters import MapParameters

logger = logging.getLogger(__name__)

PROMPTS = "prompts:"
"""Notation of a prompt file, whose images the model makes first."""


def open_dataset(
    spec: str,
    adapter: GeneratorAdapter,
    workspace: Workspace,
    *,
    maps: MapParameters,
    max_samples: int | None = None,
    checkpoint: str | None = None,
    batch_size: int = 64,
    devices: int = 1,
) -> SampleSet:
    """Return the sample set that `spec` names, its images fitted to the model.

    A prompt file holds no images: the model makes one of each prompt, with its own defaults and seed
    0, as a `generate-dataset` run of its own, which the next job re-uses.

    Args:
        spec: digits, folder:<path>, parquet:<path>, lmdb:<path>, run:<id> or prompts:<path>.
        adapter: model that the samples are for, and that makes them from prompts.
        workspace: where earlier runs are found.
        maps: the maps that will be made of it; too few prompts for them are refused before any image is made.
        max_samples: keep at most so many, evenly over the classes.
        checkpoint: where the model's weights came from, to be noted on what is made.
        batch_size: samples in one forward pass when they are made.
        devices: number of devices that make them.

    Raises:
        SampleSetError, CorruptDataError: if the source cannot be read.
        ConfigError: if prompts are given to a model that takes none.
    """
    if not spec.startswith(PROMPTS):
        return open_source(
            spec,
            max_samples=max_samples,
            resolution=adapter.resolution,
            runs=lambda run_id: samples_file(workspace, run_id),
        )
    prompts = read_prompts(spec.removeprefix(PROMPTS), max_prompts=max_samples)
    series = Series.of_prompts(adapter, prompts, samples_per_prompt=1)
    check_sample_count(series.total, maps)
    request = request_of(series, seed=0, batch_size=batch_size)
    made = DatasetJob(
        adapter, series, request, workspace, devices, checkpoint=checkpoint, on_the_way=True
    ).run(resume=True, force=False)
    logger.info("images of %d prompts: run %s, %d made now", series.total, made.run_id, made.made)
    return SampleSet.read_parquet(samples_file(workspace, made.run_id))
