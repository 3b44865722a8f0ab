"""The dashboard over a real worker process: asleep, busy, at work, cancelled, killed, and refusing."""

import re
import signal

import pytest
from explorer import Explorer, keep
from playwright.sync_api import expect

from diffviews.recipes import GenerationRecipe, Sampling
from diffviews.serving.client import WorkerClient
from tests.dashboard_server import served
from tests.ports import free_port
from tests.serving import TOKEN, Program

SLOW = GenerationRecipe(model="slow", class_label=1, sampling=Sampling(num_steps=1000, sampler="euler"))
MANY = "400"
"""Steps; those of the baseline come on top."""


@pytest.fixture(scope="module")
def place():
    return free_port()


@pytest.fixture(scope="module")
def dashboard(store, workspace, place):
    """Address of a dashboard whose worker is, or will be, at `place`; its log must not hold the token."""
    worker = {"DIFFVIEWS_WORKER_URL": f"http://127.0.0.1:{place}", "DIFFVIEWS_WORKER_TOKEN": TOKEN}
    with served(store, **worker) as (_, address):
        yield address


@pytest.fixture
def start_worker(store, place, tmp_path):
    """Start the worker at its place; it ends with the test."""
    started = []

    def start():
        program = Program(tmp_path, port=place, environment={"MLFLOW_TRACKING_URI": store})
        started.append(program)
        return program

    yield start
    for program in started:
        program.__exit__()


@pytest.fixture
def client(place):
    return WorkerClient(f"http://127.0.0.1:{place}", TOKEN)


@pytest.fixture
def visitor(new_page, dashboard, layer_map, lonely):
    """Someone with a point selected and the form before them; everything the page is sent is kept."""
    page = new_page()
    sent = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: sent.append(str(frame))))
    page.on("response", lambda response: sent.append(response.url))
    explorer = Explorer(page, dashboard, layer_map).open(f"?sample={lonely[0]}")
    explorer.tab("Generate")
    page.get_by_role("button", name="Sampling", exact=True).click()
    yield explorer
    sent.append(page.content())
    assert not [text for text in sent if TOKEN in text]


def steps(visitor, count):
    box = visitor.page.get_by_role("textbox", name=re.compile("^Steps"))
    box.fill(count)
    box.press("Tab")


def order(visitor, count):
    steps(visitor, count)
    visitor.button("Generate").click()


def told(visitor, text, seconds=60):
    expect(visitor.page.get_by_text(re.compile(text)).first).to_be_visible(timeout=1000 * seconds)


def arrives(visitor):
    told(visitor, "Baseline, no mask", 120)
    expect(visitor.button("Generate")).to_be_enabled()


@pytest.mark.slow
def test_worker_that_sleeps_is_waited_for_and_then_generates(visitor, start_worker, client):
    order(visitor, "4")
    told(visitor, "^Generating: waking the worker$")
    keep(visitor, "worker-waking")
    start_worker()
    arrives(visitor)
    assert [job.state for job in client.jobs()] == ["finished"]


def test_place_progress_and_cancel_are_those_of_the_worker(visitor, start_worker, client):
    start_worker().ready()
    ahead = client.submit(SLOW)
    order(visitor, MANY)
    told(visitor, "^Generating: waiting at the worker, 1 job ahead$")
    client.cancel(ahead.id)
    told(visitor, r"^Generating: step \d+ of 800$", 120)
    visitor.button("Cancel").click()
    told(visitor, "^Generating was cancelled; nothing was logged as finished.$")
    visitor.wait(lambda: [job.state for job in client.jobs()] == ["cancelled", "cancelled"])
    expect(visitor.button("Generate")).to_be_enabled()


@pytest.mark.slow
def test_worker_killed_at_work_is_a_sentence_and_the_next_order_succeeds(visitor, start_worker, client):
    worker = start_worker().ready()
    order(visitor, MANY)
    told(visitor, r"^Generating: step \d+ of 800$", 120)
    worker.end(signal.SIGKILL)
    told(visitor, "^Generating: waking the worker$")
    start_worker().ready()
    told(visitor, "was started anew while it had the job")
    expect(visitor.page.get_by_text("Order it again")).to_be_visible()
    order(visitor, "4")
    arrives(visitor)
    assert [job.state for job in client.jobs()] == ["finished"]


@pytest.mark.slow
def test_wrong_token_is_a_sentence(new_page, store, workspace, layer_map, start_worker, place):
    start_worker().ready()
    worker = {"DIFFVIEWS_WORKER_URL": f"http://127.0.0.1:{place}", "DIFFVIEWS_WORKER_TOKEN": "not-the-token"}
    with served(store, **worker) as (_, address):
        page = new_page()
        visitor = Explorer(page, address, layer_map).open()
        visitor.tab("Generate")
        visitor.button("Generate").click()
        told(visitor, "the token is missing or wrong")
        assert "not-the-token" not in page.content()
        expect(visitor.button("Generate")).to_be_enabled()
        page.close()
