"""The queue: one job at a time, a visible place, progress, cancel, and failures in words."""

import gc
import threading
import time
import weakref

import pytest

from diffviews.errors import CancelledError, SelectionError
from diffviews.pipelines.job_queue import JobQueue, QueueFullError
from panel_app.computing.job_bar import SessionJobs


def wait(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


class Gate:
    """Work that stands still until it is let through, step by step."""

    def __init__(self, steps=1):
        self.open, self.started, self.steps, self.done = threading.Semaphore(0), threading.Event(), steps, 0

    def __call__(self, job):
        self.started.set()
        for step in range(self.steps):
            assert self.open.acquire(timeout=10)
            job.report(step + 1, self.steps)
            self.done += 1
        return "result"


@pytest.fixture
def queue():
    return JobQueue()


def test_jobs_run_one_at_a_time_in_order_with_their_place_visible(queue):
    gates = [Gate() for _ in range(3)]
    jobs = [queue.submit(f"job {i}", gate) for i, gate in enumerate(gates)]
    assert gates[0].started.wait(10)
    assert [queue.ahead_of(job) for job in jobs] == [0, 1, 2]
    assert not gates[1].started.is_set()
    gates[0].open.release()
    assert gates[1].started.wait(10)
    assert [job.state for job in jobs] == ["finished", "running", "queued"]
    assert [queue.ahead_of(job) for job in jobs] == [0, 0, 1]
    for gate in gates[1:]:
        gate.open.release()
    wait(lambda: jobs[2].over)
    assert jobs[2].result == "result"


def test_progress_shows_the_last_step_reported(queue):
    gate = Gate(steps=4)
    job = queue.submit("job", gate)
    gate.open.release()
    gate.open.release()
    wait(lambda: gate.done == 2)
    assert (job.state, job.step, job.total) == ("running", 2, 4)
    gate.open.release()
    gate.open.release()
    wait(lambda: job.state == "finished")


def test_cancel_of_a_running_job_takes_effect_between_two_steps(queue):
    gate = Gate(steps=4)
    job = queue.submit("job", gate)
    gate.open.release()
    wait(lambda: gate.done == 1)
    queue.cancel(job)
    gate.open.release()
    wait(lambda: job.over)
    assert job.state == "cancelled"
    assert gate.done == 1
    assert job.result is None


def test_cancel_of_a_queued_job_never_starts_it_and_moves_others_up(queue):
    first, second, third = Gate(), Gate(), Gate()
    jobs = [queue.submit("job", gate) for gate in (first, second, third)]
    assert first.started.wait(10)
    queue.cancel(jobs[1])
    assert jobs[1].state == "cancelled"
    assert queue.ahead_of(jobs[2]) == 1
    first.open.release()
    third.open.release()
    wait(lambda: jobs[2].state == "finished")
    assert not second.started.is_set()


def test_failure_is_a_sentence_and_the_queue_lives_on(queue):
    def expected(job):
        raise SelectionError("no sample is selected; click one")

    def unexpected(job):
        raise ZeroDivisionError("division by zero\nTraceback …")

    failed = [queue.submit("Generating", work) for work in (expected, unexpected)]
    after = queue.submit("job", lambda job: 7)
    wait(lambda: after.over)
    assert failed[0].error == "no sample is selected; click one"
    told = "Generating failed unexpectedly (ZeroDivisionError); the server's log has the details"
    assert failed[1].error == told
    assert after.result == 7


def test_work_that_swallows_nothing_ends_cancelled_when_it_raises_so(queue):
    def work(job):
        raise CancelledError("stopped")

    job = queue.submit("job", work)
    wait(lambda: job.over)
    assert job.state == "cancelled"


def test_visitors_share_one_queue_and_see_one_anothers_jobs_ahead():
    queue = JobQueue()
    here, there = SessionJobs(queue), SessionJobs(queue)
    gates = [Gate(), Gate()]
    first, second = here.submit("job", gates[0]), there.submit("job", gates[1])
    assert gates[0].started.wait(10)
    assert queue.ahead_of(second) == 1
    assert not gates[1].started.is_set()
    for gate in gates:
        gate.open.release()
    wait(lambda: first.over and second.over)


def test_jobs_of_a_visitor_who_left_are_not_begun_but_the_running_one_finishes():
    queue = JobQueue()
    leaving, staying = SessionJobs(queue), SessionJobs(queue)
    gates = [Gate(steps=2), Gate(), Gate()]
    running, queued = leaving.submit("job", gates[0]), leaving.submit("job", gates[1])
    other = staying.submit("job", gates[2])
    assert gates[0].started.wait(10)
    leaving.leave()
    assert queued.state == "cancelled"
    assert queue.ahead_of(other) == 1
    for gate in (gates[0], gates[0], gates[2]):
        gate.open.release()
    wait(lambda: other.over)
    assert (running.state, running.result) == ("finished", "result")
    assert not gates[1].started.is_set()


def test_result_is_let_go_of_with_the_job_that_held_it(queue):
    class Images:
        pass

    job = queue.submit("job", lambda job: Images())
    wait(lambda: job.over)
    left = weakref.ref(job.result)
    wait(lambda: queue.idle_seconds > 0)
    job = None
    gc.collect()
    assert left() is None


def test_queue_that_is_full_says_so():
    queue = JobQueue(1)
    gate = Gate()
    queue.submit("job", gate)
    assert gate.started.wait(10)
    queue.submit("job", Gate())
    with pytest.raises(QueueFullError, match="this server holds no more; try later"):
        queue.submit("job", Gate())
    gate.open.release()
    queue.stop("enough")
