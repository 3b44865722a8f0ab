"""The atlas as a job: a planted cut is found, a killed job ends as an uninterrupted one, a finished one is re-used."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError, LayerNotFoundError
from diffviews.judges.base import Verdicts
from diffviews.pipelines.atlas import drawing, job
from diffviews.pipelines.workspace import open_workspace
from diffviews.recipes import AtlasRecipe, Execution
from diffviews.recipes.generation import Sampling
from tests.planted import CLASSES, PlantedAdapter, nearest_class, templates

SAMPLING = Sampling(sampler="euler", num_steps=12, sigma_max=3.0, sigma_min=0.05)
RECIPE = AtlasRecipe(model="fake", dataset="planted", conditioning="uniform", max_pairs=50, sampling=SAMPLING)


class NearestJudge:
    name = "nearest"
    held_out = None

    def classify(self, images):
        return Verdicts(nearest_class(images), np.zeros(len(images)))


@pytest.fixture
def planted(store, experiment, monkeypatch):
    """Return what runs the atlas of a model whose 'block_3' decides in the third of six windows."""
    monkeypatch.setattr(job, "make_judge", lambda notation, samples, adapter: NearestJudge())
    monkeypatch.setattr(drawing, "ROUND", 20)
    workspace = open_workspace(experiment=experiment)
    samples = real_images()

    def run(recipe=RECIPE, **execution):
        made = job.AtlasJob(adapter(), samples, recipe, workspace, Execution(**{"resume": True, **execution}))
        return made.run(), workspace

    return run


def adapter():
    levels = job.AtlasJob(PlantedAdapter("block_3", (0, 1)), None, RECIPE, None, Execution())
    object.__setattr__(levels, "samples", real_images())
    return PlantedAdapter("block_3", (levels.sigmas[6], levels.sigmas[4]))


def real_images():
    random = np.random.default_rng(0)
    labels = np.arange(80) % CLASSES
    clean = templates().permute(0, 2, 3, 1).numpy()[labels] + random.normal(0, 0.05, (80, 8, 8, 3))
    images = np.clip(clean * 127.5 + 128, 0, 255).astype(np.uint8)
    return SampleSet.from_images(images, [f"real-{number}" for number in range(80)], class_labels=labels)


def table_of(result, workspace):
    return pd.read_parquet(workspace.folder(result.run_id).path("atlas.parquet"))


def test_planted_cut_and_window_are_in_the_logged_atlas(planted):
    result, workspace = planted()
    table = table_of(result, workspace)
    best = table.loc[(table["rate"] - table["null"])[table["first_step"] + 2 == table["last_step"]].idxmax()]
    assert (best["cut"], best["part"], best["first_step"], best["last_step"]) == ("block_3", "trunk", 4, 6)
    whole = table[(table["last_step"] - table["first_step"]) == 12].set_index("cut")
    assert whole.loc["block_3", "rate"] > 0.8
    assert whole.drop("block_3")["rate"].max() < 0.1
    record = workspace.catalog.run(result.run_id)
    assert (record.kind.value, record.is_finished, record.model) == ("atlas", True, "fake")
    assert record.metrics["interchange_block_3_trunk"] == whole.loc["block_3", "rate"]
    assert {"atlas.csv", "atlas.html", "atlas.png", "config.json"} <= set(workspace.folder(result.run_id).names())
    assert "layer idle has no effect" in str(result)
    again, _ = planted()
    assert (again.run_id, again.reused) == (result.run_id, True)


def test_killed_job_goes_on_and_ends_as_an_uninterrupted_one(planted, monkeypatch):
    whole, workspace = planted()
    real, calls = job.interchange, []

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(job, "interchange", killed)
    with pytest.raises(KeyboardInterrupt):
        planted(force=True, resume=False)
    resumed, _ = planted(force=True)
    assert len(calls) > 2
    assert resumed.run_id != whole.run_id
    pd.testing.assert_frame_equal(table_of(resumed, workspace), table_of(whole, workspace), check_exact=True)
    assert sum(calls) == 1 + (50 + 19) // 20  # the round before the kill was not drawn again


def test_what_cannot_be_measured_is_refused(planted):
    with pytest.raises(ConfigError, match="no layer has an effect"):
        planted(replace(RECIPE, layers=("idle",)))
    with pytest.raises(LayerNotFoundError, match="block_9"):
        planted(replace(RECIPE, layers=("block_9",)))
    with pytest.raises(ConfigError, match="prompt"):
        planted(replace(RECIPE, conditioning="prompt"))


def test_model_and_samples_are_those_of_the_extraction_that_is_named(extraction, store):
    workspace = open_workspace()
    recipe = job._of_extraction(AtlasRecipe(run=extraction.run_id), workspace)
    assert (recipe.model, recipe.dataset, recipe.max_samples) == ("edm-digits", "digits", 120)
    assert len(job._samples(recipe, None, workspace)) == 120
