"""A team's deployment for real: PostgreSQL, `mlflow server` over it and the profile `server`, all over sockets."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from diffviews.errors import TrackingError
from diffviews.pipelines import extract as extract_module
from diffviews.pipelines.generate import generate
from diffviews.pipelines.workspace import open_workspace
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes import GenerationRecipe, Sampling
from diffviews.tracking.connection import Connection
from diffviews.tracking.schema import Tag
from tests.jobs import embed, extract
from tests.team_servers import DATABASE_PASSWORD, FOREIGN

ROOT = Path(__file__).parents[2]
TRACKING_PASSWORD = "planted-tracking-password"
SMALL = {"layers": ("encoder_bottleneck",), "sigmas": (2.0,), "max_samples": 60}


@pytest.fixture(scope="module")
def member(server, tmp_path_factory):
    """The folder and the environment of a member of the team: the profile, the server's address, a password."""
    own = {
        "DIFFVIEWS_PROFILE": "server",
        "DIFFVIEWS_TRACKING_SERVER": server.address,
        "DIFFVIEWS_TRACKING_USERNAME": "ada",
        "DIFFVIEWS_TRACKING_PASSWORD": TRACKING_PASSWORD,
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    folder = tmp_path_factory.mktemp("member")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in FOREIGN:
            patch.setenv(name, "")  # so that what a profile sets is taken back
            patch.delenv(name)
        for name, value in (own | {"DIFFVIEWS_CACHE_DIR": str(folder / "cache")}).items():
            patch.setenv(name, value)
        yield folder


@pytest.fixture(scope="module")
def extraction(member):
    return extract(**SMALL)


def logged(experiment):
    """Return every run of an experiment, in whatever state."""
    tracker = open_workspace(experiment=experiment).tracker
    return tracker.connection.call(lambda client: client.search_runs([tracker.experiment_id]))


def test_extraction_is_logged_read_back_and_reused(extraction, server, member):
    workspace = open_workspace()
    (record,) = workspace.catalog.layers(extraction.run_id)
    assert record.metrics["trustworthiness"] > 0.5
    for run_id in (extraction.run_id, record.run_id):
        workspace.folder(run_id).verify()
    assert workspace.activations(record).shape[0] == 60
    assert not (member / "mlflow.db").exists()
    assert any(server.artifacts.rglob(f"{record.run_id}/artifacts/map/*"))
    again = extract(**SMALL)
    assert (again.run_id, again.reused) == (extraction.run_id, True)


def test_map_and_masked_generation_use_what_the_server_holds(extraction):
    workspace = open_workspace()
    (record,) = workspace.catalog.layers(extraction.run_id)
    further = embed(record.run_id, MapParameters(n_neighbors=8), workspace)
    workspace.folder(further.run_id).verify()
    chosen = workspace.samples_of(record).sample_ids[:3]
    recipe = GenerationRecipe(layer_run=record.run_id, sample_ids=chosen, sampling=Sampling(num_steps=3))
    outcome = generate(recipe, workspace, device="cpu")
    assert (outcome.result.images != outcome.result.baseline_images).any()
    workspace.folder(outcome.run_id).verify()


@pytest.mark.slow
def test_two_writers_from_two_processes_do_not_disturb_one_another(member):
    writers = [
        subprocess.Popen(
            [sys.executable, "-m", "diffviews", "extract", "--layers", layer, "--sigmas", "2", "--max-samples", "40",
             "--device", "cpu", "--experiment", "two writers"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=member,
        )
        for layer in ("encoder_bottleneck", "decoder_block_4")
    ]  # fmt: skip
    said = [writer.communicate(timeout=500)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], said
    workspace = open_workspace(experiment="two writers")
    found = workspace.catalog.extractions("two writers")
    assert len(found) == 2
    layers = [record for run in found for record in workspace.catalog.layers(run.run_id)]
    assert {record.layer for record in layers} == {"encoder_bottleneck", "decoder_block_4"}
    for run_id in [run.run_id for run in (*found, *layers)]:
        workspace.folder(run_id).verify()
    assert TRACKING_PASSWORD not in "".join(said)


def after_capture(monkeypatch, action):
    """Have `action` done in the middle of the next extraction: its activations written, nothing of them logged."""
    whole = extract_module.capture_activations

    def capture_then(*arguments, **options):
        arrays = whole(*arguments, **options)
        action()
        return arrays

    monkeypatch.setattr(extract_module, "capture_activations", capture_then)


@pytest.mark.slow
def test_job_goes_on_when_the_server_is_restarted_under_it(server, member, monkeypatch):
    monkeypatch.setitem(Connection.__init__.__kwdefaults__, "patience", 120.0)
    restarts = []

    def restart():
        server.stop()
        restarts.append(threading.Timer(1.0, server.start))
        restarts[0].start()

    after_capture(monkeypatch, restart)
    outcome = extract(**SMALL, experiment="restarted")
    restarts[0].join()
    workspace = open_workspace(experiment="restarted")
    (record,) = workspace.catalog.layers(outcome.run_id)
    assert len(logged("restarted")) == 2
    for run_id in (outcome.run_id, record.run_id):
        workspace.folder(run_id).verify()


@pytest.mark.parametrize("program", ["database", pytest.param("server", marks=pytest.mark.slow)])
def test_job_that_loses_the_store_says_so_and_leaves_nothing_half_visible(
    program, request, server, member, monkeypatch
):
    lost = request.getfixturevalue(program)
    monkeypatch.setitem(Connection.__init__.__kwdefaults__, "patience", 1.0)
    experiment = f"lost {program}"
    try:
        with monkeypatch.context() as patch:
            after_capture(patch, lost.stop)
            with pytest.raises(TrackingError) as refusal:
                extract(**SMALL, experiment=experiment)
    finally:
        lost.start()
    said = str(refusal.value)
    assert f"tracking store {server.address} " in said
    causes = ("cannot be reached; start it", "see that its database runs", "see the server's log")
    assert any(cause in said for cause in causes)
    assert DATABASE_PASSWORD not in said
    assert "\n" not in said
    workspace = open_workspace(experiment=experiment)
    assert len(workspace.catalog.extractions(experiment)) == 0
    assert "FINISHED" not in {run.info.status for run in logged(experiment)}
    outcome = extract(**SMALL, experiment=experiment, resume=True)
    (found,) = workspace.catalog.extractions(experiment)
    assert found.run_id == outcome.run_id
    (record,) = workspace.catalog.layers(outcome.run_id)
    for run_id in (outcome.run_id, record.run_id):
        workspace.folder(run_id).verify()


def test_no_secret_is_in_the_database_the_artifacts_or_a_log(extraction, database, server, member):
    held = database.dump()
    assert extraction.run_id in held
    assert Tag.FINGERPRINT in held
    places = {"database": held, "log of the server": server.log.read_text()}
    places |= {str(path): path.read_bytes().decode(errors="replace") for path in _files(server.artifacts, member)}
    secrets = (DATABASE_PASSWORD, TRACKING_PASSWORD)
    assert [place for place, text in places.items() if any(secret in text for secret in secrets)] == []


def _files(*folders):
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]
