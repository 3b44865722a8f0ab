"""What a visitor sees when there is nothing, or nothing works: sentences."""

import re
import time

import pytest
from explorer import keep
from playwright.sync_api import expect

from tests.dashboard_server import served


def test_empty_store_says_what_to_do_and_its_page_when_the_server_has_ended(new_page, tmp_path):
    page = new_page()
    with served(f"sqlite:///{tmp_path}/mlflow.db") as (_, url):
        page.goto(url)
        expect(page.get_by_text("No extractions yet")).to_be_visible()
        expect(page.get_by_text("diffviews demo")).to_be_visible()
        page.get_by_role("button").filter(has_text="Look for new runs").click()
        expect(page.get_by_text("No extractions yet")).to_be_visible()
    expect(page.get_by_role("alert").filter(has_text="no longer answers")).to_be_visible()
    expect(page.get_by_role("button", name="Load the page again")).to_be_visible()
    keep(page, "server-gone")


@pytest.mark.slow
def test_unreachable_server_is_a_sentence(new_page):
    impatient = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
    with served("http://127.0.0.1:9", **impatient) as (_, url):
        page = new_page()
        page.goto(url)
        expect(page.get_by_text("127.0.0.1:9").first).to_be_visible()
        assert "Traceback" not in page.content()
        page.close()


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
