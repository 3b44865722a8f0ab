"""Analysis in Chromium: what sets marked samples apart, clusters, outliers, trust; the test computes the same."""

import json
import re
from urllib.parse import quote

import numpy as np
import pytest
from explorer import keep, query
from playwright.sync_api import expect

from diffviews.processing.clusters import find_clusters
from diffviews.processing.enrichment import enrich_values
from panel_app.clustering import CLUSTER


@pytest.fixture(scope="module")
def marked(layer_map):
    """Twenty samples, twelve of them of one class."""
    of_class = layer_map.table["class"] == layer_map.categories_of("class")[3]
    ids = [str(s) for s in layer_map.table["sample_id"][of_class]][:12]
    return ids + [s for s in layer_map.row_of if s not in ids][:8]


@pytest.fixture(scope="module")
def explorer(shared_explorer, marked):
    """A page with these marked; the tests look at one part after the other."""
    shared_explorer.open(f"?group={quote(json.dumps(marked))}").tab("Analysis")
    return shared_explorer


@pytest.fixture
def analysis(explorer):
    def look(part):
        explorer.page.get_by_role("button", name=part, exact=True).click()
        return explorer.page

    return look


def rows(page):
    return [
        [cell.inner_text().strip() for cell in row.locator("td").all()]
        for row in page.locator("tbody:visible").first.locator("tr").all()
    ]


def test_marked_samples_of_an_address_are_compared_with_the_rest(analysis, explorer, layer_map, marked):
    page = analysis("Group")
    expect(page.get_by_text("20 marked samples")).to_be_visible()
    expect(page.get_by_text(f"against the other {len(layer_map.row_of) - 20:,}")).to_be_visible()
    member = layer_map.table["sample_id"].isin(marked).to_numpy()
    expected = enrich_values(member, layer_map.table["class"].astype(str))
    explorer.wait(lambda: len(rows(page)) == len(expected))
    shown = rows(page)
    assert [row[0] for row in shown] == [row.value for row in expected]
    assert [row[1] for row in shown] == [f"{row.inside} · {row.share:.0%}" for row in expected]
    assert [float(row[3]) for row in shown] == pytest.approx([row.log2_fold for row in expected], abs=0.051)
    tip = page.locator("tbody:visible tr").first.get_attribute("title")
    assert f"{expected[0].inside} of 20 here" in tip
    page.get_by_role("button").filter(has_text="Unmark all").click()
    expect(page.get_by_text("Mark samples to see what sets them apart")).to_be_visible()
    explorer.wait(lambda: "group" not in query(explorer))


def test_clusters_colour_the_map_and_a_click_marks_one(analysis, explorer, data, layer_map):
    page = analysis("Clusters")
    explorer.page.get_by_role("textbox", name=re.compile("Fewest points")).fill("8")
    page.keyboard.press("Tab")
    explorer.button("Find clusters").click()
    expect(page.get_by_text("points in none. Click a cluster")).to_be_visible()
    numbers = find_clusters(layer_map.table[["x", "y"]].to_numpy(np.float64), 8)
    sizes = sorted(np.bincount(numbers[numbers >= 0]).tolist(), reverse=True)
    explorer.wait(lambda: len(rows(page)) == len(sizes))
    assert [int(row[1]) for row in rows(page)] == sizes
    explorer.wait(lambda: (query(explorer).get("clusters"), query(explorer).get("colour")) == ("map-8", CLUSTER))
    explorer.settle()
    keep(explorer, "analysis")
    page.locator("tbody:visible tr").first.click()
    page.get_by_role("button", name="Group", exact=True).click()
    expect(page.get_by_text(f"{sizes[0]} marked samples")).to_be_visible()
    shared = data.open(layer_map.layer)
    assert CLUSTER not in shared.table


def test_outliers_are_listed_with_their_pictures_and_open_by_keyboard(analysis, explorer, layer_map):
    page = analysis("Outliers")
    items = page.get_by_role("list", name="Outliers").get_by_role("listitem")
    far = layer_map.table.nlargest(40, "distance_to_data")
    expect(items.first.locator(".id")).to_have_text(str(far["sample_id"].iloc[0]))
    assert [item.locator(".id").inner_text() for item in items.all()[:5]] == list(far["sample_id"].iloc[:5])
    late = items.nth(35)
    late.scroll_into_view_if_needed()  # its picture comes only now
    image = late.locator("img")
    expect(image).to_be_visible()
    sample_id = late.locator(".id").inner_text()
    assert (explorer.picture(image) == layer_map.samples.images_of([sample_id])[0]).all()
    items.nth(0).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    explorer.wait(lambda: query(explorer).get("sample") == str(far["sample_id"].iloc[1]))


def test_trust_colours_the_map_in_one_click(analysis, explorer):
    page = analysis("Trust")
    before = explorer.map_pixels()
    explorer.button("Colour by trust").click()
    explorer.wait(lambda: query(explorer).get("colour") == "neighborhood_preservation")
    explorer.settle()
    assert (np.abs(explorer.map_pixels() - before).max(axis=-1) > 30).mean() > 0.001
    explorer.button("Colour by class again").click()
    explorer.wait(lambda: "colour" not in query(explorer))
    expect(page.get_by_text("among strangers")).to_be_visible()
