"""Extraction by several processes that torchrun starts: each captures its share, the first alone logs."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from diffviews.data.sources import open_source
from diffviews.errors import ConfigError
from diffviews.pipelines import capture
from diffviews.pipelines.workspace import is_sketch, open_workspace
from diffviews.processing.map_parameters import MapParameters
from diffviews.tracking import Tag
from tests.jobs import extract
from tests.ports import free_port

LAYERS = ("encoder_block_1", "decoder_block_4")
SIGMAS = (0.5, 2.0)  # a block of rows each, so that either process has one to capture


@pytest.fixture
def torchrun(own_store, command_environment):
    """Run a program in so many processes on each of so many hosts; return the exit status and what they said."""

    def run(program, processes=1, hosts=1):
        port = free_port()
        agents = [
            subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes),
                 "--nnodes", str(hosts), "--node-rank", str(host), "--master-addr", "127.0.0.1",
                 "--master-port", str(port), *program, "--device", "cpu"],
                cwd=own_store, env=command_environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            )
            for host in range(hosts)
        ]  # fmt: skip
        try:
            said = [agent.communicate(timeout=200)[0] for agent in agents]
        finally:
            for agent in agents:
                if agent.poll() is None:
                    os.killpg(agent.pid, signal.SIGKILL)
        return max(agent.returncode for agent in agents), "\n".join(said)

    return run


def all_runs():
    tracker = open_workspace().tracker
    return tracker.connection.call(lambda client: client.search_runs([tracker.experiment_id]))


def digests_of(run_id):
    """Return {(layer, sigma): digest} of what an extraction logged, each chunk read and checked."""
    workspace = open_workspace()
    found = {}
    for record in workspace.catalog.layers(run_id):
        workspace.folder(record.run_id).verify()
        kept = workspace.sketch(record) if is_sketch(record) else workspace.activations(record)
        found[record.layer, record.sigma] = kept.digest
    return found


WANTED = ("--layers", ",".join(LAYERS), "--sigmas", "0.5,2", "--max-samples", "120")


@pytest.mark.parametrize("storage", ["full", pytest.param("sketch", marks=pytest.mark.slow)])
def test_two_processes_log_one_run_with_the_digests_of_one_process(torchrun, storage):
    kind = ("--storage", storage, "--sketch-samples", "60", "--pca-components", "20")
    status, said = torchrun(["-m", "diffviews", "extract", *WANTED, *kind], processes=2)
    assert status == 0, said
    assert "rank 1 has done its share" in said
    (parent,) = open_workspace().catalog.extractions("diffviews")
    assert len(all_runs()) == 1 + len(LAYERS) * len(SIGMAS)
    kept = {"storage": storage, "sketch_samples": 60, "maps": MapParameters(pca_components=20)}
    alone = extract(layers=LAYERS, sigmas=SIGMAS, max_samples=120, device="cpu", force=True, experiment="alone", **kept)
    assert digests_of(parent.run_id) == digests_of(alone.run_id)
    assert len(digests_of(alone.run_id)) == len(LAYERS) * len(SIGMAS)
    status, said = torchrun(["-m", "diffviews", "extract", *WANTED, *kind], processes=2)
    assert (status, f"extraction {parent.run_id} re-used" in said) == (0, True), said
    assert len(all_runs()) == 1 + len(LAYERS) * len(SIGMAS)


ONE_FAILS = """
import os, sys
from diffviews.cli import main
from diffviews.pipelines import capture

def fail(*_):
    raise OSError("the disk of this host is on fire")

if os.environ["RANK"] == "1":
    capture._capture = fail
main(["extract", *sys.argv[1:]])
"""


def test_failure_on_another_host_fails_the_run_with_its_reason_and_it_can_be_resumed(torchrun, own_store):
    script = own_store / "job.py"
    script.write_text(ONE_FAILS)
    status, said = torchrun([str(script), *WANTED], hosts=2)
    assert status != 0
    assert "process 1 of the job failed, what is written is kept: OSError: the disk of this host is on fire" in said
    (run,) = all_runs()
    assert (run.info.status, "on fire" in run.data.tags[Tag.ERROR]) == ("FAILED", True)
    outcome = extract(layers=LAYERS, sigmas=SIGMAS, max_samples=120, device="cpu", resume=True)
    assert outcome.run_id == run.info.run_id
    assert len(digests_of(outcome.run_id)) == len(LAYERS) * len(SIGMAS)


def test_devices_asked_for_beside_torchrun_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"torchrun decides how many processes there are; leave out devices=3"):
        extract(devices=3)


def test_process_captures_the_blocks_that_fall_to_it_and_no_others(adapter, tmp_path):
    samples = open_source("digits", max_samples=20)
    keys = [("encoder_bottleneck", sigma) for sigma in SIGMAS]
    task = capture.CaptureTask(tmp_path, dict.fromkeys(keys, "float16"), [(s, 0) for s in SIGMAS], 20, 20, "none")
    second, idle = SimpleNamespace(rank=1, size=2), SimpleNamespace(rank=2, size=3)
    for process in (second, idle):
        capture._capture_share(adapter, samples, process, task, progress=False)
    writers = capture._writers(adapter, samples, tmp_path, dict.fromkeys(keys, "float16"), {})
    assert [writers[key].is_done(0) for key in keys] == [False, True]
