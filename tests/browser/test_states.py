"""What a visitor sees when there is nothing, or nothing works: sentences."""

import os
import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.dashboard_server import serve, stop


def keep(page, name):
    """Keep a picture of the page where DIFFVIEWS_SCREENSHOTS says."""
    folder = os.environ.get("DIFFVIEWS_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture
def page_over(new_page):
    programs, pages = [], []

    def open_page(address, **environment):
        program, url = serve(address, **environment)
        programs.append(program)
        page = new_page()
        pages.append(page)
        page.goto(url)
        return page

    yield open_page
    for page in pages:
        page.close()
    complaints = [stop(program) for program in programs]
    assert not any(complaints), complaints


def test_empty_store_says_what_to_do(page_over, tmp_path):
    page = page_over(f"sqlite:///{tmp_path}/mlflow.db")
    expect(page.get_by_text("No extractions yet")).to_be_visible()
    expect(page.get_by_text("diffviews demo")).to_be_visible()
    page.get_by_role("button").filter(has_text="Look for new runs").click()
    expect(page.get_by_text("No extractions yet")).to_be_visible()


def test_unreachable_server_is_a_sentence(page_over):
    page = page_over("http://127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", MLFLOW_HTTP_REQUEST_TIMEOUT="2")
    expect(page.get_by_text("127.0.0.1:9").first).to_be_visible()
    assert "Traceback" not in page.content()


def test_page_whose_server_has_ended_says_so(new_page, store):
    program, url = serve(store)
    page = new_page()
    page.goto(url)
    expect(page.get_by_text(re.compile("200 of 200 shown"))).to_be_visible()
    assert not stop(program)
    expect(page.get_by_role("alert").filter(has_text="no longer answers")).to_be_visible()
    expect(page.get_by_role("button", name="Load the page again")).to_be_visible()
    keep(page, "server-gone")


def test_line_moves_while_the_server_is_at_work(new_page, url):
    page = new_page()
    page.goto(url)
    expect(page.get_by_text(re.compile("200 of 200 shown"))).to_be_visible()
    page.evaluate("""() => {
      const line = document.getElementById("busy-line")
      window.moved = 0
      const look = () => { window.moved += line.style.visibility === "visible" }
      new MutationObserver(look).observe(line, {attributes: true})
    }""")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("samples in both")).to_be_visible()
    expect(page.get_by_role("progressbar", name="The server is at work")).to_be_hidden()
    assert page.evaluate("window.moved") >= 1


@pytest.mark.slow
def test_page_that_takes_long_to_load_its_scripts_still_opens(new_page, url):
    """Bokeh would have dropped its session after 15 s, and the page would stay empty."""
    page = new_page()

    def late(route):
        time.sleep(45)
        route.continue_()

    page.route(re.compile(r"/bokeh\.min\.js"), late)
    page.goto(url)
    expect(page.get_by_text(re.compile("200 of 200 shown"))).to_be_visible()
