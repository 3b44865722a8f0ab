"""A dashboard whose bucket does not answer: what was fetched before is shown, and a banner says what is missing."""

import re

import pytest
from explorer import Explorer, keep
from playwright.sync_api import expect

from tests.dashboard_server import served
from tests.s3_server import KEY, SECRET, fresh_bucket, proxied, s3_server, use_store


@pytest.fixture(scope="module")
def bucket(tmp_path_factory, clean_environment):
    """A store with its artifacts in a bucket behind a proxy, an extraction in it, and nothing fetched yet."""
    from tests.jobs import extract

    folder = tmp_path_factory.mktemp("bucket")
    address = f"sqlite:///{folder}/mlflow.db"
    with s3_server() as upstream, proxied(upstream) as proxy, pytest.MonkeyPatch.context() as patch:
        fresh_bucket(upstream)
        use_store(patch, proxy.url)
        patch.setenv("MLFLOW_TRACKING_URI", address)
        patch.setenv("DIFFVIEWS_PROFILE", "r2")
        patch.setenv("DIFFVIEWS_CACHE_DIR", str(folder / "cache"))
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.chdir(folder)
        extract(layers=("encoder_block_1", "midblock"), sigmas=(2.0,), max_samples=60)
        yield address, proxy


def first_map(page, address, query=""):
    page.goto(f"{address}{query}")
    expect(page.get_by_text(re.compile("60 of 60 shown"))).to_be_visible()


def choose_layer(page, name):
    page.get_by_role("combobox", name="Layer").first.click()
    page.get_by_role("menuitem", name=name, exact=True).click()


@pytest.mark.slow
def test_bucket_that_is_down_leaves_what_was_fetched_and_is_told_until_it_answers(new_page, bucket):
    address, proxy = bucket
    with served(address) as (_, url):
        page = new_page()
        first_map(page, url, "?layer=midblock")
        expect(page.get_by_text("The artifact store cannot be reached")).to_be_hidden()
        page.close()

    proxy.faults.unavailable = 1.0
    with served(address) as (_, url):
        page = new_page()
        first_map(page, url, "?layer=midblock")
        expect(page.get_by_text("The artifact store cannot be reached")).to_be_visible()
        expect(page.get_by_text("What this host has fetched before can still be looked at")).to_be_visible()
        explorer = Explorer(page, url, None)
        keep(explorer, "store-down")

        # What was never fetched cannot be opened: a sentence, and the map stays.
        choose_layer(page, "encoder_block_1")
        expect(page.get_by_text(re.compile("^midblock at σ 2"))).to_be_visible()
        expect(page.get_by_text(re.compile("s3://team")).last).to_be_visible()

        proxy.faults.unavailable = 0.0
        explorer.button("Try again").click()
        expect(page.get_by_text("The artifact store answers again.")).to_be_visible()
        expect(page.get_by_text("The artifact store cannot be reached")).to_be_hidden()
        choose_layer(page, "encoder_block_1")
        expect(page.get_by_text(re.compile("^encoder_block_1 at σ 2"))).to_be_visible()
        content = page.content()
        assert KEY not in content
        assert SECRET not in content
        page.close()
