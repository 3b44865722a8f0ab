"""Layer maps made by several processes of one machine: equal bytes, and a worker that dies ends the job kindly."""

import os
import signal
from functools import partial

import pytest

from diffviews.errors import ConfigError, WorkerError
from diffviews.lightning.process_group import ALONE, ProcessGroup
from diffviews.pipelines.layers import runs
from diffviews.pipelines.layers.runs import choose_workers, in_processes
from diffviews.pipelines.workspace import open_workspace
from tests.jobs import extract

WANTED = {"layers": ("encoder_bottleneck", "decoder_block_8"), "sigmas": (2.0,), "max_samples": 60, "device": "cpu"}


def files_of(run_id):
    """Return the bytes of all artifacts of the layer runs, by layer and name."""
    workspace, found = open_workspace(), {}
    for record in workspace.catalog.layers(run_id):
        folder = workspace.folder(record.run_id)
        found |= {(record.layer, name): folder.path(name).read_bytes() for name in folder.names()}
        found[record.layer, "metrics"] = dict(record.metrics)
    return found


def test_maps_of_two_workers_are_those_of_one_byte_for_byte_and_the_widest_comes_first(own_store, monkeypatch):
    widths = []

    def watched(jobs, workers):
        widths.append([job.func.__self__.width for job in jobs])
        return in_processes(jobs, workers)

    monkeypatch.setattr(runs, "in_processes", watched)
    one, two = (extract(**WANTED, workers=workers, experiment=f"by-{workers}") for workers in (1, 2))
    assert files_of(one.run_id) == files_of(two.run_id)
    assert len([name for _, name in files_of(one.run_id) if name == "map/projector.safetensors"]) == 2
    alone, shared = widths
    assert alone == sorted(alone) != shared == sorted(shared, reverse=True)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def refuse():
    raise ConfigError("no such thing")


def test_worker_that_dies_is_one_sentence():
    with pytest.raises(WorkerError, match="one of 2 worker processes is gone"), in_processes([die, die], 2) as results:
        list(results)


def test_refusal_in_a_worker_is_the_callers():
    with pytest.raises(ConfigError, match="no such thing"), in_processes([refuse, refuse], 2) as results:
        list(results)


def test_results_come_in_the_order_of_the_jobs():
    with in_processes([partial(pow, base, 2) for base in range(5)], 3) as results:
        assert list(results) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize(
    ("workers", "maps", "samples", "group", "chosen"),
    [
        ("auto", 8, 100_000, ALONE, 4),
        ("auto", 3, 100_000, ALONE, 3),
        ("auto", 8, 100, ALONE, 1),  # little to do
        ("auto", 8, 100_000, ProcessGroup(0, 2, 0, 2), 2),
        (3, 8, 100, ALONE, 3),
        (9, 2, 100, ALONE, 2),
        (4, 8, 100, ProcessGroup(0, 4, 0, 2), 2),
    ],
)
def test_workers_are_the_cores_or_as_many_as_asked_and_no_more_than_maps(
    monkeypatch, workers, maps, samples, group, chosen
):
    monkeypatch.setattr("diffviews.pipelines.layers.runs.num_threads", lambda: 4)
    monkeypatch.setattr("diffviews.pipelines.layers.runs.cuda_is_allowed", lambda: False)
    assert choose_workers(workers, maps, samples, group) == chosen


def test_a_gpu_makes_maps_one_after_the_other(monkeypatch):
    monkeypatch.setattr("diffviews.pipelines.layers.runs.cuda_is_allowed", lambda: True)
    assert choose_workers("auto", 8, 100_000, ALONE) == 1
