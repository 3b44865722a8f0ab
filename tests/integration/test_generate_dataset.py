"""Sample sets made by the model: they grow, resume after a kill, and depend on no batch size."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from diffviews.adapters.registry import load_adapter
from diffviews.core.generator import GenerationRequest, generate
from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError, TrackingError
from diffviews.pipelines.trajectories import TrajectoryArrays
from diffviews.pipelines.workspace import open_workspace
from tests.jobs import extract, generate_dataset

QUICK = {"num_steps": 3, "batch_size": 8}


def samples_of(outcome):
    return SampleSet.read_parquet(open_workspace().folder(outcome.run_id).path("samples.parquet"))


def test_growing_keeps_the_first_samples_bitwise_and_makes_only_the_rest(experiment, monkeypatch):
    few = generate_dataset(num_samples=20, **QUICK, experiment=experiment)
    assert (few.num_samples, few.made) == (20, 20)
    many = generate_dataset(num_samples=45, **QUICK, experiment=experiment)
    assert (many.num_samples, many.made) == (45, 25)
    first, all_samples = samples_of(few), samples_of(many)
    assert all_samples.sample_ids[:20] == first.sample_ids
    assert np.array_equal(all_samples.images[:20], first.images)
    assert np.array_equal(all_samples.class_labels[:20], first.class_labels)
    assert len(set(all_samples.sample_ids)) == 45
    assert len(np.unique(all_samples.images.reshape(45, -1), axis=0)) == 45
    at_once = samples_of(generate_dataset(num_samples=45, **QUICK, force=True, experiment=experiment))
    assert at_once.sample_ids == all_samples.sample_ids
    assert np.abs(at_once.images.astype(int) - all_samples.images).max() <= 1


def test_same_request_is_reused_and_any_other_is_not(experiment):
    first = generate_dataset(num_samples=9, **QUICK, experiment=experiment)
    again = generate_dataset(num_samples=9, **QUICK, experiment=experiment)
    assert (again.run_id, again.made) == (first.run_id, 0)
    other = generate_dataset(num_samples=9, **QUICK, seed=1, experiment=experiment)
    assert other.made == 9
    assert set(samples_of(other).sample_ids).isdisjoint(samples_of(first).sample_ids)
    steps = generate_dataset(num_samples=9, **{**QUICK, "num_steps": 2}, experiment=experiment)
    assert steps.made == 9
    churned = generate_dataset(num_samples=9, **QUICK, s_churn=20.0, s_noise=1.003, experiment=experiment)
    assert churned.made == 9
    assert np.abs(samples_of(churned).images.astype(int) - samples_of(first).images).max() > 1


def test_samples_per_class_take_turns(experiment):
    outcome = generate_dataset(samples_per_class=2, **QUICK, experiment=experiment)
    samples = samples_of(outcome)
    assert samples.class_labels.tolist() == [*range(10), *range(10)]
    assert samples.classes == {digit: str(digit) for digit in range(10)}
    more = generate_dataset(samples_per_class=3, **QUICK, experiment=experiment)
    assert more.made == 10
    assert np.array_equal(samples_of(more).images[:20], samples.images)


def test_batch_size_changes_no_image(experiment, adapter):
    by_five, by_nine = (
        samples_of(generate_dataset(num_samples=14, num_steps=3, batch_size=size, force=True, experiment=experiment))
        for size in (5, 9)
    )
    assert by_five.class_labels.tolist() == by_nine.class_labels.tolist()
    assert np.abs(by_five.images.astype(int) - by_nine.images).max() <= 1
    direct = generate(adapter, GenerationRequest(num_samples=14, seed=0, num_steps=3, batch_size=14))
    assert direct.labels.tolist() == by_five.class_labels.tolist()
    assert np.abs(direct.images.astype(int) - by_five.images).max() <= 1


def test_generated_set_is_a_source_for_extraction(experiment):
    outcome = generate_dataset(num_samples=20, **QUICK, experiment=experiment)
    path = open_workspace().folder(outcome.run_id).path("samples.parquet")
    extracted = extract(dataset=f"parquet:{path}", layers=("midblock",), sigmas=(2.0,), experiment=experiment)
    (record,) = open_workspace().catalog.layers(extracted.run_id)
    assert open_workspace().activations(record).sample_ids == samples_of(outcome).sample_ids


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"num_samples": 0}, "num_samples is 0"), ({"samples_per_class": 0}, "samples_per_class 0")],
)
def test_impossible_numbers_are_refused(store, wrong, words):
    with pytest.raises(ConfigError, match=words):
        generate_dataset(**wrong)


def test_killed_job_goes_on_with_what_is_there_and_has_one_writer(experiment, store, command_environment):
    command = [sys.executable, "-m", "diffviews", "generate-dataset", "--num-samples", "40", "--batch-size", "4"]
    command += ["--num-steps", "18", "--experiment", experiment]
    job = subprocess.Popen(command, cwd=store, env=command_environment, stderr=subprocess.PIPE, text=True)
    folder, deadline = store / "mlartifacts" / experiment, time.monotonic() + 120
    while len(list(folder.rglob("spans/*.parquet"))) < 3:
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    job.send_signal(signal.SIGSTOP)
    again = {"num_samples": 40, "batch_size": 4, "num_steps": 18, "experiment": experiment}
    with pytest.raises(TrackingError, match="is being written by"):
        generate_dataset(**again)
    job.kill()
    job.communicate()
    done = len(list(folder.rglob("spans/0*.parquet")))
    (unfinished,) = open_workspace().catalog.runs("generate-dataset", experiment=experiment, unfinished=True)
    resumed = generate_dataset(**again)
    assert resumed.run_id == unfinished.run_id
    assert resumed.made == 40 - 4 * done
    samples = samples_of(resumed)
    whole = samples_of(generate_dataset(**again, force=True))
    assert np.array_equal(samples.images, whole.images)
    assert samples.sample_ids == whole.sample_ids


def test_resume_after_a_smaller_set_was_finished_meanwhile_has_no_sample_twice(experiment, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("diffviews.pipelines.generate_dataset.concatenate", stop)
        with pytest.raises(KeyboardInterrupt):
            generate_dataset(num_samples=20, **QUICK, experiment=experiment)
    generate_dataset(num_samples=10, **QUICK, experiment=experiment)
    resumed = samples_of(generate_dataset(num_samples=20, **QUICK, experiment=experiment))
    assert len(set(resumed.sample_ids)) == len(resumed) == 20


def test_layers_along_the_denoising_are_layer_runs_that_grow_with_the_set(experiment):
    asked = {**QUICK, "layers": ("midblock", "encoder_block_0"), "experiment": experiment}
    generate_dataset(num_samples=18, **asked)
    outcome = generate_dataset(num_samples=30, **asked)
    assert outcome.made == 12
    workspace = open_workspace()
    adapter = load_adapter("edm-digits", device="cpu")
    request = GenerationRequest(num_samples=30, seed=0, num_steps=3, record_layers=("midblock",))
    direct = generate(adapter, request)
    assert outcome.run_id in {record.run_id for record in workspace.catalog.extractions(experiment)}
    plain = generate_dataset(num_samples=5, **QUICK, experiment=experiment)
    assert plain.run_id not in {record.run_id for record in workspace.catalog.extractions(experiment)}
    records = workspace.catalog.layers(outcome.run_id)
    assert {(r.layer, r.sigma) for r in records} == {
        (layer, float(sigma)) for layer in ("midblock", "encoder_block_0") for sigma in direct.sigmas
    }
    ids = samples_of(outcome).sample_ids
    for step, sigma in enumerate(direct.sigmas):
        record = next(r for r in records if (r.layer, r.sigma) == ("midblock", float(sigma)))
        stored = workspace.activations(record).rows(ids)
        # float16 storage, and batches of 8 where the direct generation has one of 30
        np.testing.assert_allclose(stored, direct.trajectory["midblock"][step], atol=2e-2, rtol=2e-3)
        assert record.params["conditioning"] == "label"
        assert "trustworthiness" in record.metrics
        assert len(workspace.projectors(record.run_id)) == 1


@pytest.mark.slow
def test_layers_of_a_killed_set_are_gone_on_with(experiment, monkeypatch):
    asked = {**QUICK, "layers": ("midblock",), "num_samples": 17, "experiment": experiment}
    build = TrajectoryArrays.build
    monkeypatch.setattr(TrajectoryArrays, "build", killed_after(2, build))
    with pytest.raises(KeyboardInterrupt):
        generate_dataset(**asked)
    monkeypatch.setattr(TrajectoryArrays, "build", build)
    outcome = generate_dataset(**asked)
    assert outcome.made == 0
    assert len(open_workspace().catalog.layers(outcome.run_id)) == 3


def killed_after(count, function):
    """Return `function` that a Ctrl-C ends at its call number `count`."""
    calls = []

    def call(*arguments):
        calls.append(arguments)
        if len(calls) == count:
            raise KeyboardInterrupt
        return function(*arguments)

    return call
