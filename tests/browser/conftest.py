"""A real extraction, a real dashboard server and a real browser, each started once."""

import os
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from explorer import PATIENCE, Explorer
from playwright.sync_api import expect, sync_playwright
from scipy.spatial import cKDTree

from tests import programs
from tests.dashboard_server import served

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
LAYERS = ("encoder_block_1", "decoder_block_4")
ENVIRONMENT = (
    "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "DIFFVIEWS_PROFILE",
    "DIFFVIEWS_EXPERIMENT", "DIFFVIEWS_MLFLOW_UI", "DIFFVIEWS_CHECKPOINT",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if "chromium" in item.fixturenames and programs.chromium() is None:
                item.add_marker(pytest.mark.skip(reason=programs.NO_CHROMIUM))


@pytest.fixture(scope="session")
def clean_environment():
    with pytest.MonkeyPatch.context() as patch:
        for name in ENVIRONMENT:
            patch.delenv(name, raising=False)
        yield patch


@pytest.fixture(scope="session")
def store(tmp_path_factory, clean_environment):
    """Address of a tracking store that holds an extraction of digits; DIFFVIEWS_STORY_STORE names a larger one."""
    given = os.environ.get("DIFFVIEWS_STORY_STORE")
    if given:
        return given
    from tests.jobs import extract

    folder = tmp_path_factory.mktemp("dashboard")
    address = f"sqlite:///{folder}/mlflow.db"
    clean_environment.setenv("MLFLOW_TRACKING_URI", address)
    clean_environment.chdir(folder)
    control = {"control_seeds": 1, "control_null_seeds": 1, "control_windows": False, "control_matched": False}
    extract(layers=LAYERS, sigmas=(0.5, 2.0), max_samples=200, **control)
    return address


@pytest.fixture(scope="session")
def workspace(store, clean_environment):
    """The same store, as the tests read it."""
    from diffviews.pipelines.workspace import open_workspace

    clean_environment.setenv("MLFLOW_TRACKING_URI", store)
    return open_workspace()


@pytest.fixture(scope="session")
def url(store, workspace):
    """Address of the dashboard over the store. Its log must stay free of complaints."""
    with served(store, DIFFVIEWS_MLFLOW_UI="http://127.0.0.1:5000") as (_, address):
        yield address


@pytest.fixture(scope="session")
def chromium():
    expect.set_options(timeout=1000 * PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=programs.chromium(), args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def visitors(chromium):
    """Where visitors open their pages: with one cache, so that the page's scripts are compiled once and not by each."""
    with chromium.new_context() as context:
        context.set_default_timeout(1000 * PATIENCE)
        yield context


@contextmanager
def watched_pages(visitors):
    """Open pages, each a visit of its own; none may raise an error or ask another host for anything."""
    pages, problems = [], []

    def watch(page):
        page.on("pageerror", lambda error: problems.append(f"page error: {error.stack or error}"))
        page.on("console", lambda m: problems.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("request", lambda r: problems.append(f"asked for {r.url}") if _is_outside(r.url) else None)

    def make(width=1440, height=900):
        pages.append(visitors.new_page())
        pages[-1].set_viewport_size({"width": width, "height": height})
        watch(pages[-1])
        return pages[-1]

    yield make
    for page in pages:
        page.close()
    assert not problems, "\n".join(problems)


@pytest.fixture
def new_page(visitors):
    with watched_pages(visitors) as make:
        yield make


def _is_outside(url):
    return not re.match(r"(data|blob|about):|(https?|wss?)://(127\.0\.0\.1|localhost)[:/]", url)


@pytest.fixture(scope="session")
def data(workspace):
    """The store read by the test itself, to know what the page must show."""
    from panel_app.data import DataStore
    from panel_app.library import LoggedRuns

    return DataStore(LoggedRuns(workspace))


@pytest.fixture(scope="session")
def layer_map(data):
    """The map that a first visit opens."""
    from panel_app.session import Session
    from panel_app.state import Address

    session = Session(data)
    session.start(Address())
    assert session.notice is None, session.notice
    return session.map


@pytest.fixture(scope="session")
def lonely(layer_map):
    """Samples that no other overlaps on the screen, so that a click can only mean them; typical ones first."""
    table = layer_map.table
    (x0, x1), (y0, y1) = layer_map.bounds
    points = np.stack([(table["x"] - x0) / (x1 - x0) * 740, (table["y"] - y0) / (y1 - y0) * 380], axis=1)
    gaps = cKDTree(points).query(points, k=2)[0][:, 1]
    apart = [str(s) for s in table["sample_id"].iloc[np.argsort(-gaps)[:40]]]

    def is_typical(sample_id):
        near = layer_map.neighbours(sample_id, 5, "activation")
        return {layer_map.text_of(n.sample_id) for n in near} == {layer_map.text_of(sample_id)}

    return sorted(apart, key=lambda sample_id: not is_typical(sample_id))


@pytest.fixture
def explorer(new_page, url, layer_map):
    return Explorer(new_page(), url, layer_map)


@pytest.fixture(scope="module")
def shared_explorer(visitors, url, layer_map):
    """One page for the tests of a file that leave it as they find it."""
    with watched_pages(visitors) as make:
        yield Explorer(make(), url, layer_map)
