"""Process groups: what each process knows and takes, and what the others hear when one fails."""

import pytest

from diffviews.errors import ConfigError, WorkerError
from diffviews.lightning.process_group import ALONE, ProcessGroup, joined_process_group, run_processes
from tests import processes


def test_process_alone_is_a_group_of_one():
    with joined_process_group() as group:
        assert group is ALONE
        assert (group.leads, group.size) == (True, 1)
        assert (group.share([1, 2, 3]), group.from_first(lambda: "x")) == ([1, 2, 3], "x")
        group.wait()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_work_is_shared_without_overlap_or_gap_and_a_process_may_have_none(size):
    shares = [ProcessGroup(rank, size).share(range(5)) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == list(range(5))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [ProcessGroup(rank, 4, rank % 2, 2).own_device("auto") for rank in range(4)] == ["cuda:0", "cuda:1"] * 2
    assert ALONE.own_device("cuda:3") == "cuda:3"
    assert ProcessGroup(1, 4, 1, 2).own_device("cpu") == "cpu"


def test_processes_know_what_the_first_looked_up_and_share_the_work(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert run_processes(2, processes.tell, [1, 2, 3]) == (2, [1, 3], "found")


@pytest.mark.parametrize(
    ("how", "error", "sentence"),
    [
        ("fails", WorkerError, "^process 1 of the job failed, what is written is kept: OSError: the disk is on fire$"),
        pytest.param("refuses", ConfigError, "^sigma -1 is not possible$", marks=pytest.mark.slow),
        ("killed", WorkerError, r"^process 1 .* kept: Signal 9 \(SIGKILL\)"),
    ],
)
def test_failure_of_one_process_ends_all_with_its_reason(monkeypatch, how, error, sentence):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(error, match=sentence):
        run_processes(2, processes.fail, how)
