"""The model runner: one resident model, and none while an extraction runs."""

import weakref

import pytest

from diffviews.pipelines import model_runner
from diffviews.pipelines.job_queue import Job, JobQueue
from diffviews.pipelines.model_runner import ModelRunner
from diffviews.pipelines.workspace import open_workspace
from diffviews.recipes import ExtractionRecipe, GenerationRecipe, Sampling
from tests.serving import wait

RECIPE = GenerationRecipe(class_label=3, sampling=Sampling(num_steps=2, sampler="euler"))


@pytest.fixture
def runner(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return ModelRunner(open_workspace(experiment="mine"), "cpu")


def new_job():
    return Job("0" * 32, "generate", None)


class CancelledAtStep:
    """A job of a queue that is cancelled while the model is at work."""

    def __init__(self, queue, job):
        self.queue, self.job, self.check = queue, job, job.check

    def report(self, *step):
        self.queue.cancel(self.job)
        self.job.report(*step)


def test_model_stays_for_the_next_recipe_and_gives_way_to_another(runner):
    first = runner.load(RECIPE)
    assert runner.load(RECIPE) is first
    left, first = weakref.ref(first), None
    other = runner.load(GenerationRecipe(precision="float32"))
    assert left() is None
    assert runner.load(GenerationRecipe(precision="float32")) is other


def test_generation_is_logged_where_asked_and_told_step_by_step(runner):
    job = new_job()
    made = runner.generate(RECIPE, job, experiment="theirs")
    assert (job.step, job.total, job.preview.ndim) == (2, 2, 3)
    catalog = runner.workspace.catalog
    assert catalog.generation(made.run_id).experiment == "theirs"
    assert catalog.generation(runner.generate(RECIPE, new_job()).run_id).experiment == "mine"
    assert runner.replay(made.run_id, new_job()).largest_difference == 0


def test_nothing_of_the_model_is_left_when_an_extraction_starts(runner, monkeypatch):
    """Neither after a generation nor after a cancelled one, whose error passed through frames that hold the model."""
    found = []

    class Process:
        def __init__(self, recipe, execution, workspace):
            found.append((model() is not None, recipe, execution.device, workspace.profile.name, workspace.experiment))

        def run(self, job):
            return "run"

    monkeypatch.setattr(model_runner, "ExtractionProcess", Process)
    model, queue = weakref.ref(runner.load(RECIPE)), JobQueue(kept=9)
    generated = queue.submit("generate", lambda job: runner.generate(RECIPE, job))
    cancelled = queue.submit("generate", lambda job: runner.generate(RECIPE, CancelledAtStep(queue, job)))
    wait(lambda: cancelled.over)
    assert (generated.state, cancelled.state, model() is not None) == ("finished", "cancelled", True)
    extraction = queue.submit("extract", lambda job: runner.extract(ExtractionRecipe(layers=("midblock",)), job))
    wait(lambda: extraction.over)
    own = (ExtractionRecipe(layers=("midblock",)), "cpu", "local", "mine")
    assert (extraction.run_id, found) == ("run", [(False, *own)])
