"""The worker as a program: results as from this process, kill, stop, cancel, two clients, and secrets."""

import json
import re
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest

from diffviews.errors import CancelledError, ConfigError
from diffviews.pipelines.generate import generate
from diffviews.pipelines.job_queue import JobFailedError
from diffviews.pipelines.workspace import open_workspace
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes import ExtractionRecipe, GenerationRecipe, Sampling
from diffviews.serving.app import STOPPED
from diffviews.serving.client import WorkerClient
from diffviews.serving.protocol import JobLostError, JobStatus, WorkerUnreachableError
from tests.serving import TOKEN, Program, cancel_at, wait

SECRETS = {
    "R2_SECRET_ACCESS_KEY": "planted-r2-secret-0001",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-secret-0002",
    "HF_TOKEN": "planted-hf-token-0003",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password-0004",
}
SLOW = GenerationRecipe(model="slow", class_label=1, sampling=Sampling(num_steps=1000, sampler="euler"))
QUICK = replace(SLOW, sampling=replace(SLOW.sampling, num_steps=2))


@pytest.fixture(scope="module")
def program(store, extraction):
    """A worker on the shared store that lives through the tests of this module, secrets in its environment."""
    with Program(store, environment=SECRETS) as started:
        yield started.ready()


@pytest.fixture
def client(program):
    return WorkerClient(program.url, TOKEN)


def generations(experiment):
    """Return the generations of an experiment, those that did not finish as well."""
    return open_workspace().catalog.generations(experiment=experiment, unfinished=True)


def running(client, job):
    """Wait until a job has done a step."""
    wait(lambda: client.status(job.id).step > 0, 100)


def test_masked_generation_is_the_one_made_here(client, layer_run, workspace, adapter, experiment):
    ids = workspace.samples_of(layer_run).sample_ids[:5]
    sampling = Sampling(num_steps=4)
    recipe = GenerationRecipe(
        layer_run=layer_run.run_id, sample_ids=tuple(ids), num_samples=2, sampling=sampling, seed=3
    )
    there, seen = client.generate(recipe, experiment=experiment), []
    client.generate(replace(recipe, sample_ids=()), seen.append, experiment=experiment)
    here = generate(recipe, open_workspace(experiment=experiment), adapter=adapter)
    for name in ("images", "baseline_images", "difference_images", "intermediates", "noised_inputs"):
        made, expected = getattr(there.result, name), getattr(here.result, name)
        assert made.shape == expected.shape
        assert np.abs(made.astype(int) - expected.astype(int)).max() <= 1
    assert np.array_equal(there.result.sigmas, here.result.sigmas)
    assert there.path.columns.tolist() == here.path.columns.tolist()
    assert np.allclose(there.path[["x", "y"]], here.path[["x", "y"]], atol=1e-3)
    assert there.recipe == here.recipe
    logged = open_workspace().catalog.generation(there.run_id)
    assert (logged.status, logged.experiment, logged.source_run) == ("FINISHED", experiment, layer_run.run_id)
    assert {job.state for job in seen} <= {"queued", "running"}


def test_two_clients_share_one_queue_and_cancel_ends_only_its_job(program, client, experiment):
    other, seen = WorkerClient(program.url, TOKEN), []
    slow = client.submit(SLOW, experiment)
    running(client, slow)
    assert client.status(slow.id, preview=True).preview_image().shape == (8, 8, 3)
    with pytest.raises(CancelledError):
        other.generate(QUICK, cancel_at("queued", seen), experiment=experiment)
    assert seen[0].ahead == 1
    waiting = other.submit(QUICK, experiment)
    client.cancel(slow.id)
    with pytest.raises(CancelledError, match=r"cancelled at step \d+ of 1000"):
        client.watch(slow)
    assert other.watch(waiting).state == "finished"
    assert sorted(record.status for record in generations(experiment)) == ["FINISHED", "KILLED"]
    (killed,) = [record for record in generations(experiment) if record.status == "KILLED"]
    assert "cancelled at step" in killed.error


def test_failure_inside_the_job_is_its_sentence(client, experiment):
    with pytest.raises(JobFailedError, match="10000"):
        client.generate(GenerationRecipe(class_label=10_000), experiment=experiment)
    with pytest.raises(ConfigError, match="not opened for a remote caller"):
        client.generate(GenerationRecipe(checkpoint="/etc/passwd"), experiment=experiment)
    with pytest.raises(ConfigError, match="did you mean 'edm-digits'"):
        client.generate(GenerationRecipe(model="edm-digit"), experiment=experiment)


def test_files_of_a_job_are_those_of_its_manifest(program, client, experiment):
    job = client.watch(client.submit(QUICK, experiment))
    for name in ("../recipe.json", "..%2f..%2fmlflow.db", "/etc/passwd", "manifest.jsonx", "images"):
        with pytest.raises((ConfigError, LookupError), match=r"file .* is not one of|nothing at"):
            client._request("GET", f"/jobs/{job.id}/files/{name}")
    assert client.result(job).run_id == job.run_id


def test_extraction_is_logged_where_asked_and_opens_nothing_else(client, experiment):
    asked = ExtractionRecipe(layers=("midblock",), sigmas=(1.0,), max_samples=40, maps=MapParameters(n_neighbors=5))
    seen = []
    run = client.extract(asked, seen.append, experiment=experiment)
    record = open_workspace().catalog.extraction(run)
    assert (record.status, record.experiment, record.params["num_samples"]) == ("FINISHED", experiment, "40")
    assert seen[-1].kind == "extract"
    hostile = ({"dataset": "folder:/etc"}, {"checkpoint": "/etc/passwd"}, {"device": "cuda:7"}, {"profile": "/x"})
    for forbidden in hostile:
        order = json.dumps(json.loads(asked.to_json()) | forbidden)
        with pytest.raises(ConfigError):
            next(client._states("POST", "/jobs/extract", JobStatus("0" * 32, "extract", "queued"), None, order))


def test_cancelled_extraction_ends_its_program_and_its_runs(client, experiment):
    asked = ExtractionRecipe(sigmas=(0.1, 0.2, 0.3, 0.4), maps=MapParameters(n_neighbors=5))
    job = client.submit(asked, experiment)
    wait(lambda: client.status(job.id).run_id is not None, 200)
    client.cancel(job.id)
    with pytest.raises(CancelledError):
        client.watch(job)
    (record,) = open_workspace().catalog.extractions(experiment, unfinished=True)
    assert (record.status, "cancelled" in record.error) == ("FAILED", True)
    layers = open_workspace().catalog.layers(record.run_id, unfinished=True)
    assert not [layer for layer in layers if layer.status == "RUNNING"]


def test_no_secret_is_said_logged_or_stored(program, client, store, experiment):
    client.generate(QUICK, experiment=experiment)
    answers = [client._request("GET", path) for path in ("/version", "/jobs", "/health")]
    stored = [path.read_bytes() for path in store.rglob("*") if path.is_file()]
    assert len(stored) > 50
    for secret in (*SECRETS.values(), TOKEN):
        assert not [content for content in (*answers, *stored, program.log.read_bytes()) if secret.encode() in content]
    assert "Traceback" not in program.log.read_text()


def test_killed_worker_leaves_nothing_finished_and_a_retry_succeeds(store, extraction, experiment):
    with Program(store) as first:
        client, outcome = WorkerClient(first.ready().url, TOKEN, patience=200), {}
        job = client.submit(SLOW, experiment)
        running(client, job)

        def follow():
            try:
                client.watch(job)
            except JobLostError as error:
                outcome["error"] = str(error)

        following = threading.Thread(target=follow, daemon=True)
        following.start()
        first.end(signal.SIGKILL)
        with Program(store, port=first.port) as second:
            second.ready()
            following.join(200)
            assert "was started anew while it had the job" in outcome["error"]
            (left,) = generations(experiment)
            assert left.status == "RUNNING"
            assert len(open_workspace().catalog.generations(experiment=experiment)) == 0
            made = client.generate(QUICK, experiment=experiment)
            assert [r.run_id for r in open_workspace().catalog.generations(experiment=experiment)] == [made.run_id]

            stopped = client.submit(SLOW, experiment)
            running(client, stopped)
            run = next(r for r in generations(experiment) if r.run_id not in (left.run_id, made.run_id))
            assert second.end(signal.SIGTERM) in (0, -signal.SIGTERM)
            record = open_workspace().catalog.generation(run.run_id)
            assert (record.status, record.error) == ("FAILED", STOPPED)
    with pytest.raises(WorkerUnreachableError, match="does not answer"):
        WorkerClient(first.url, TOKEN, patience=0.5).generate(QUICK)


def test_idle_worker_ends_by_itself_and_others_are_not_let_in_without_a_token(own_store):
    with Program(own_store, "--host", "0.0.0.0", token=None) as open_to_all, Program(
        own_store, "--idle-shutdown", "1", token=None
    ) as idle:
        assert open_to_all.process.wait(200) == 1
        said = open_to_all.log.read_text()
        assert re.fullmatch(r"diffviews worker: a worker on 0\.0\.0\.0 .* needs a token.*\n", said)
        assert idle.process.wait(200) == 0
        assert "no job for 1 s" in idle.log.read_text()
