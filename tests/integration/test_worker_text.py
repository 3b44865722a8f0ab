"""A text model through the worker: the prompt goes there, the masked image, its baseline and its path come back."""

import numpy as np
import pytest

from diffviews.errors import CancelledError, ConfigError
from diffviews.pipelines.job_queue import Job
from diffviews.pipelines.workspace import open_workspace
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes import GenerationRecipe, Sampling
from diffviews.recipes.options import build
from diffviews.serving.client import WorkerClient
from diffviews.serving.remote_runner import RemoteRunner
from tests.diffusion_folders import draw_sd_pipeline, saved
from tests.integration.conftest import inside
from tests.jobs import extract
from tests.serving import TOKEN, Program

PROMPTS = [f"a {colour} {thing}" for colour in ("red", "green") for thing in ("cat", "dog", "photo", "two")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny Stable Diffusion and an extraction of it from prompts, in a store of its own."""
    with inside(tmp_path_factory.mktemp("worker-text")) as folder:
        saved(draw_sd_pipeline(3), folder / "sd")
        (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
        maps = MapParameters(n_neighbors=3)
        extract(
            "sd-v1.5", str(folder / "sd"), f"prompts:{folder}/prompts.txt", ("mid_block",), sigmas=(2.0,), maps=maps,
            device="cpu",
        )  # fmt: skip
        yield folder


@pytest.fixture(scope="module")
def layer_run(place):
    catalog = open_workspace().catalog
    (record,) = catalog.layers(catalog.extractions()[0].run_id)
    return record


@pytest.fixture(scope="module")
def runner(place):
    with Program(place) as worker:
        worker.ready()
        yield RemoteRunner(WorkerClient(worker.url, TOKEN), open_workspace())


def job():
    return Job("0" * 32, "Generating", None)


def recipe_of(layer_run, **changed):
    ids = open_workspace().samples_of(layer_run).sample_ids[:3]
    values = {"prompt": "a red cat", "negative_prompt": "blurry", "guidance_scale": 3.0, "num_steps": 3, "seed": 5}
    masked = {"layer_run": layer_run.run_id, "sample_ids": tuple(ids)}
    weights = {"model": "sd-v1.5", "checkpoint": layer_run.params["checkpoint"]}
    return build(GenerationRecipe, weights | masked | values | changed)


def test_prompt_is_generated_masked_by_the_worker_and_replays_equal(runner, layer_run):
    outcome = runner.generate(recipe_of(layer_run), job())
    assert (outcome.recipe.prompt, outcome.recipe.negative_prompt) == ("a red cat", "blurry")
    assert outcome.result.difference_images.max() > 0
    assert set(outcome.path["variant"]) == {"masked", "baseline"}
    assert len(outcome.result.intermediates) == 3
    other = runner.generate(recipe_of(layer_run, prompt="a green dog"), job())
    assert np.abs(other.result.baseline_images.astype(int) - outcome.result.baseline_images).max() > 0
    replay = runner.replay(outcome.run_id, job())
    assert (replay.num_images, replay.largest_difference <= 1) == (1, True)


def test_checkpoint_that_no_layer_run_notes_is_refused_in_words(runner, layer_run):
    recipe = GenerationRecipe(model="sd-v1.5", checkpoint="/etc/passwd", prompt="a cat", sampling=Sampling(num_steps=1))
    with pytest.raises(ConfigError, match="is not opened for a remote caller"):
        runner.generate(recipe, job())


@pytest.mark.slow
def test_cancelled_text_generation_leaves_no_finished_run(runner, layer_run):
    cancelled = job()
    cancelled.end = CancelledError("enough")
    before = len(open_workspace().catalog.generations())
    with pytest.raises(CancelledError):
        runner.generate(recipe_of(layer_run, num_steps=500), cancelled)
    assert len(open_workspace().catalog.generations()) == before
