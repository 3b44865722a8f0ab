"""Jobs that torchrun starts in several processes: each does its share, the first alone logs, any of them may die."""

import hashlib
import os
import signal
import subprocess
import sys

import pytest

from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError
from diffviews.pipelines.workspace import is_sketch, open_workspace
from diffviews.processing.map_parameters import MapParameters
from diffviews.tracking.schema import Tag
from tests.jobs import extract, generate_dataset
from tests.ports import free_port


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


def contents_of(run_id):
    """Return {(layer, sigma): (digest of its activations, of its map)} of an extraction, each file read and checked."""
    workspace = open_workspace()
    found = {}
    for record in workspace.catalog.layers(run_id):
        folder = workspace.folder(record.run_id)
        folder.verify()
        kept = workspace.sketch(record) if is_sketch(record) else workspace.activations(record)
        projector = hashlib.sha256(folder.path("map/projector.safetensors").read_bytes()).hexdigest()
        found[record.layer, record.sigma] = kept.digest, projector
    return found


DIES = """
import os, signal, sys
from diffviews.cli import main
from diffviews.lightning.extraction import ExtractionModule
from diffviews.lightning.runner import GenerationModule

def dying(step):
    def predict_step(self, batch, batch_idx):
        if os.environ["RANK"] == "1" and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, batch_idx)
    return predict_step

for module in (ExtractionModule, GenerationModule):
    module.predict_step = dying(module.predict_step)
main()
"""

BLOCKS = (0.25, 0.5, 1.0, 2.0, 5.0)
"""A block of rows each."""


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["full", "sketch"])
def test_extraction_that_lost_one_of_three_processes_is_gone_on_with_by_two(torchrun, own_store, storage):
    script = own_store / "job.py"
    script.write_text(DIES)
    wanted = ("--layers", "encoder_bottleneck", "--sigmas", ",".join(map(str, BLOCKS)), "--max-samples", "60",
              "--batch-size", "60", "--storage", storage, "--sketch-samples", "25",
              "--pca-components", "10")  # fmt: skip
    status, said = torchrun([str(script), "extract", *wanted], processes=3)
    assert status != 0
    assert "SIGKILL" in said
    (run,) = all_runs()
    assert run.info.status != "FINISHED"
    status, said = torchrun(["-m", "diffviews", "extract", *wanted, "--resume", "true"], processes=2)
    assert (status, f"extraction {run.info.run_id} finished" in said) == (0, True), said
    alone = extract(
        layers=("encoder_bottleneck",), sigmas=BLOCKS, max_samples=60, batch_size=60, device="cpu", force=True,
        storage=storage, sketch_samples=25, maps=MapParameters(pca_components=10), experiment="alone",
    )  # fmt: skip
    assert contents_of(run.info.run_id) == contents_of(alone.run_id)
    assert len(contents_of(alone.run_id)) == len(BLOCKS)
    status, said = torchrun(["-m", "diffviews", "extract", *wanted], processes=2)
    assert (status, said.count(f"extraction {run.info.run_id} re-used")) == (0, 1), said
    assert len(all_runs()) == 1 + len(BLOCKS)


@pytest.mark.slow
def test_sample_set_that_lost_one_of_three_processes_is_gone_on_with_by_two(torchrun, own_store):
    script = own_store / "job.py"
    script.write_text(DIES)
    wanted = ("--num-samples", "40", "--num-steps", "2", "--batch-size", "8", "--layers", "encoder_bottleneck")
    status, said = torchrun([str(script), "generate-dataset", *wanted], processes=3)
    assert (status != 0, "SIGKILL" in said) == (True, True), said
    (run,) = all_runs()
    status, said = torchrun(["-m", "diffviews", "generate-dataset", *wanted], processes=2)
    assert (status, f"sample set {run.info.run_id}: 40 samples" in said) == (0, True), said
    alone = generate_dataset(
        num_samples=40, num_steps=2, batch_size=8, layers=("encoder_bottleneck",), device="cpu", force=True,
        experiment="alone",
    )  # fmt: skip
    samples, those_of_one = (
        SampleSet.read_parquet(open_workspace().folder(run_id).path("samples.parquet"))
        for run_id in (run.info.run_id, alone.run_id)
    )
    assert samples.digest == those_of_one.digest
    assert contents_of(run.info.run_id) == contents_of(alone.run_id)
    assert len(contents_of(alone.run_id)) == 2


ONE_FAILS = """
import os
from diffviews.cli import main
from diffviews.pipelines.capture import arrays

def fail(*_, **__):
    raise OSError("the disk of this host is on fire")

if os.environ["RANK"] == "1":
    arrays._fill = fail
main()
"""


@pytest.mark.slow
def test_failure_on_another_host_fails_the_run_with_its_reason_and_it_can_be_resumed(torchrun, own_store):
    script = own_store / "job.py"
    script.write_text(ONE_FAILS)
    wanted = ("--layers", "encoder_bottleneck", "--sigmas", "0.5,2", "--max-samples", "60")
    status, said = torchrun([str(script), "extract", *wanted], hosts=2)
    assert status != 0
    assert "process 1 of the job failed, what is written is kept: OSError: the disk of this host is on fire" in said
    (run,) = all_runs()
    assert (run.info.status, "on fire" in run.data.tags[Tag.ERROR]) == ("FAILED", True)
    result = extract(layers=("encoder_bottleneck",), sigmas=(0.5, 2.0), max_samples=60, device="cpu", resume=True)
    assert result.run_id == run.info.run_id
    assert len(contents_of(result.run_id)) == 2


@pytest.mark.parametrize("job", [extract, generate_dataset])
def test_devices_asked_for_beside_torchrun_are_refused(own_store, monkeypatch, job):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"torchrun decides how many processes there are; leave out devices=3"):
        job(devices=3)


def test_devices_start_the_processes_that_torchrun_would(own_store, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    wanted = {"layers": ("encoder_bottleneck", "midblock"), "sigmas": (2.0,), "max_samples": 60, "device": "cpu"}
    together = extract(**wanted, devices=2)
    alone = extract(**wanted, experiment="alone")
    assert together.digests == alone.digests
    assert contents_of(together.run_id) == contents_of(alone.run_id)
