"""The queue: one job at a time, a visible place, progress, cancel, and failures in words."""

import threading
import time

import pytest

from diffviews.errors import CancelledError, SelectionError
from panel_app.jobs import JobQueue


def wait(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


class Gate:
    """Work that stands still until it is let through, step by step."""

    def __init__(self, steps=1):
        self.open, self.started, self.steps, self.done = threading.Semaphore(0), threading.Event(), steps, 0

    def __call__(self, report):
        self.started.set()
        for step in range(self.steps):
            assert self.open.acquire(timeout=10)
            report(step + 1, self.steps, None)
            self.done += 1
        return "result"


@pytest.fixture
def queue():
    return JobQueue()


def test_jobs_run_one_at_a_time_in_order_with_their_place_visible(queue):
    gates = [Gate() for _ in range(3)]
    jobs = [queue.submit(f"job {i}", gate) for i, gate in enumerate(gates)]
    assert gates[0].started.wait(10)
    assert [queue.view(job).ahead for job in jobs] == [0, 1, 2]
    assert not gates[1].started.is_set()
    gates[0].open.release()
    assert gates[1].started.wait(10)
    assert [queue.view(job).status for job in jobs] == ["finished", "running", "queued"]
    assert [queue.view(job).ahead for job in jobs] == [0, 0, 1]
    for gate in gates[1:]:
        gate.open.release()
    wait(lambda: queue.view(jobs[2]).over)
    assert jobs[2].result == "result"


def test_progress_shows_the_last_step_reported(queue):
    gate = Gate(steps=4)
    job = queue.submit("job", gate)
    gate.open.release()
    gate.open.release()
    wait(lambda: gate.done == 2)
    view = queue.view(job)
    assert (view.status, view.step, view.total) == ("running", 2, 4)
    gate.open.release()
    gate.open.release()
    wait(lambda: queue.view(job).status == "finished")


def test_cancel_of_a_running_job_takes_effect_between_two_steps(queue):
    gate = Gate(steps=4)
    job = queue.submit("job", gate)
    gate.open.release()
    wait(lambda: gate.done == 1)
    job.cancel()
    gate.open.release()
    wait(lambda: queue.view(job).over)
    assert queue.view(job).status == "cancelled"
    assert gate.done == 1
    assert job.result is None


def test_cancel_of_a_queued_job_never_starts_it_and_moves_others_up(queue):
    first, second, third = Gate(), Gate(), Gate()
    jobs = [queue.submit("job", gate) for gate in (first, second, third)]
    assert first.started.wait(10)
    jobs[1].cancel()
    assert queue.view(jobs[1]).status == "cancelled"
    assert queue.view(jobs[2]).ahead == 1
    first.open.release()
    third.open.release()
    wait(lambda: queue.view(jobs[2]).status == "finished")
    assert not second.started.is_set()


def test_failure_is_a_sentence_and_the_queue_lives_on(queue):
    def expected(report):
        raise SelectionError("no sample is selected; click one")

    def unexpected(report):
        raise ZeroDivisionError("division by zero\nTraceback …")

    failed = [queue.submit("Generating", work) for work in (expected, unexpected)]
    after = queue.submit("job", lambda report: 7)
    wait(lambda: queue.view(after).over)
    assert queue.view(failed[0]).error == "no sample is selected; click one"
    assert queue.view(failed[1]).error == ("Generating failed: division by zero. The server's log has the details.")
    assert after.result == 7


def test_work_that_swallows_nothing_ends_cancelled_when_it_raises_so(queue):
    def work(report):
        raise CancelledError("stopped")

    job = queue.submit("job", work)
    wait(lambda: queue.view(job).over)
    assert queue.view(job).status == "cancelled"
