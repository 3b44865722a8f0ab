"""Two maps side by side in Chromium: linked by sample, and compared by what the test computes itself."""

import json
import re
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
from explorer import SELECTED, count_colour, keep, query
from playwright.sync_api import expect
from scipy.spatial.distance import cdist

ALIKE = (247, 224, 75)
TABLE = "table[aria-label^='Samples by how much'] tbody tr"


class Comparing:
    """The compare view of one visitor; what it should show is read from the store by the test itself."""

    def __init__(self, explorer, data):
        self.explorer, self.page, self.data = explorer, explorer.page, data

    def open(self, query=""):
        self.page.goto(f"{self.explorer.url}{query}")
        return self

    def enter(self):
        self.page.get_by_role("button", name="Compare", exact=True).click()
        return self.ready()

    def ready(self):
        expect(self.page.get_by_text("samples in both")).to_be_visible()
        expect(self.page.locator(".bk-events:visible")).to_have_count(2)
        self.explorer.wait(lambda: "against" in self.query())
        self.settle()
        return self

    def settle(self):
        self.explorer.settle(maps=2)

    def query(self):
        return query(self)

    def left(self):
        asked = self.query()
        return self.data.open(self.data.layer_run(asked["run"], asked["layer"], float(asked["sigma"])))

    def right(self):
        asked = json.loads(self.query()["against"])
        return self.data.open(self.data.layer_run(asked["run"], asked["layer"], asked["sigma"]))

    def box(self, side):
        return self.page.locator(".bk-events:visible").nth(side).bounding_box()

    def place(self, side, sample_id):
        layer_map = (self.left, self.right)[side]()
        (x0, x1), (y0, y1) = layer_map.bounds
        x, y = layer_map.position(sample_id)
        box = self.box(side)
        return box["x"] + (x - x0) / (x1 - x0) * box["width"], box["y"] + (y1 - y) / (y1 - y0) * box["height"]

    def click(self, side, sample_id):
        x, y = self.place(side, sample_id)
        self.page.mouse.move(x - 2, y - 2)
        self.page.mouse.click(x, y)
        self.page.mouse.move(5, 400)

    def ringed(self, side, sample_id):
        """How many pixels around a sample are of the selection's ring."""
        x, y = self.place(side, sample_id)
        clip = {"x": x - 16, "y": y - 16, "width": 32, "height": 32}
        return count_colour(self.explorer.pixels(clip), SELECTED)

    def first_cell(self, heat_map):
        """Where the first cell begins: its value is 1, so it has the last of the colours."""
        box = heat_map.bounding_box()
        last = np.abs(self.explorer.pixels(box) - np.array(ALIKE)).max(axis=-1) <= 12
        if not last.any():
            return None
        left = int(np.flatnonzero(last.any(axis=0))[0])
        return box["x"] + left, box["y"] + int(np.flatnonzero(last[:, left + 4])[0])

    def choose_right(self, label, option):
        self.page.get_by_role("combobox", name=re.compile(f"^{label}")).last.click()
        self.page.get_by_role("menuitem", name=option, exact=True).click()


@pytest.fixture
def comparing(explorer, data):
    return Comparing(explorer, data)


def changes(left, right, k):
    """Share of each sample's k nearest that are others on the other map, by brute force."""
    ids = [s for s in left.row_of if s in right.row_of]
    near = []
    for layer_map in (left, right):
        points = np.asarray(layer_map.projector.pca_points, np.float64)[[layer_map.projector_row_of[s] for s in ids]]
        gaps = cdist(points, points)
        np.fill_diagonal(gaps, np.inf)
        near.append(np.argsort(gaps, axis=1, kind="stable")[:, :k])
    kept = [len(set(a) & set(b)) for a, b in zip(*near, strict=True)]
    return {s: 1 - count / k for s, count in zip(ids, kept, strict=True)}


def test_compare_links_two_maps_by_sample_and_lists_what_changes_most(comparing, layer_map, lonely):
    page, wait = comparing.page, comparing.explorer.wait
    comparing.open().enter()
    layer, sigma = layer_map.layer.layer, layer_map.layer.sigma
    wait(lambda: (comparing.query().get("layer"), float(comparing.query().get("sigma", 0))) == (layer, sigma))
    assert comparing.right().layer.layer != layer

    # The same layer at the other noise level takes the right side.
    other = next(s for s in (0.5, 2.0) if s != sigma)
    comparing.choose_right("Layer", layer)
    wait(lambda: comparing.right().layer.layer == layer)
    comparing.choose_right("σ", f"{other:g}")
    wait(lambda: comparing.right().layer.sigma == other)
    expect(page.get_by_text(f"{len(layer_map.table):,} samples in both")).to_be_visible()
    comparing.settle()

    # A click on the left rings the same sample on the right, at its own place there.
    chosen, elsewhere = lonely[0], lonely[1]
    comparing.click(0, chosen)
    wait(lambda: comparing.query().get("sample") == chosen)
    for side in (0, 1):
        wait(lambda side=side: comparing.ringed(side, chosen) > 30)
        assert comparing.ringed(side, elsewhere) == 0
    keep(page, "compare")

    # What changes most is what the test finds itself.
    expected = changes(comparing.left(), comparing.right(), 10)
    order = sorted(expected, key=lambda s: (-expected[s], s))[:30]
    wait(lambda: page.locator(f"{TABLE} .id").all_inner_texts() == order)
    shown = [float(text) for text in page.locator(f"{TABLE} .num").all_inner_texts()]
    assert shown == pytest.approx([expected[s] for s in order], abs=0.006)
    page.locator(TABLE).nth(2).click()
    wait(lambda: comparing.query().get("sample") == order[2])

    # Swapped, and opened again from the address.
    page.get_by_role("button").filter(has_text="Swap").click()
    wait(lambda: float(comparing.query()["sigma"]) == other and comparing.right().layer.sigma == sigma)
    address = page.url
    comparing.open(f"?{urlsplit(address).query}").ready()
    asked = {key: values[0] for key, values in parse_qs(urlsplit(address).query).items()}
    wait(lambda: comparing.query() == asked)
    for side in (0, 1):
        wait(lambda side=side: comparing.ringed(side, order[2]) > 30)


@pytest.mark.slow
def test_nothing_of_an_earlier_view_stays_at_the_edge_of_a_map(comparing, lonely):
    comparing.open().enter()
    for side in (0, 1):
        box = comparing.box(side)
        comparing.page.mouse.move(*comparing.place(side, lonely[0]))
        comparing.page.mouse.wheel(0, -600)
        comparing.page.mouse.move(5, 400)
        comparing.settle()
        reset = comparing.page.get_by_role("button", name="Reset view")
        reset.and_(comparing.page.locator(":visible")).nth(side).click()
        comparing.page.mouse.move(5, 400)
        comparing.settle()
        pixels = comparing.explorer.pixels(box)
        assert np.ptp(pixels[:4]) < 12
        assert np.ptp(pixels[:, :4]) < 12


def test_cell_of_the_similarity_opens_its_pair_and_a_row_of_the_table_either_side(comparing, layer_map, data):
    page, wait = comparing.page, comparing.explorer.wait
    comparing.open().enter()
    page.get_by_role("tab", name="Similarity of layers").click()
    table = data.comparisons.similarity(layer_map.layer.parent_id, layer_map.layer.sigma).frame()
    heat_map = page.locator(".bk-events:visible").nth(2)
    heat_map.scroll_into_view_if_needed()
    wait(lambda: comparing.first_cell(heat_map) is not None)
    keep(page, "compare-similarity")
    x, y = comparing.first_cell(heat_map)  # of two by two, each of 26 pixels
    page.mouse.move(x + 38, y + 12)
    page.mouse.click(x + 39, y + 13)
    expect(page.get_by_text(f"{table.iloc[0, 1]:.3f}", exact=True).first).to_be_visible()
    expect(page.get_by_text(f"{table.index[0]} and {table.columns[1]}")).to_be_visible()
    wait(lambda: comparing.query()["layer"] == table.index[0] and comparing.right().layer.layer == table.columns[1])

    page.get_by_role("tab", name="All measures").click()
    row = page.locator(f"tr[title='Open {table.columns[1]} at σ 2 on the left']")
    row.click()
    wait(lambda: (comparing.query()["layer"], comparing.query()["sigma"]) == (table.columns[1], "2"))
    page.get_by_role("button", name=f"Open {table.index[0]} at σ 2 on the right").click()
    wait(lambda: (comparing.right().layer.layer, comparing.right().layer.sigma) == (table.index[0], 2.0))


def test_samples_move_from_one_map_to_the_other(comparing, layer_map):
    page = comparing.page
    against = {"tool": "between"}
    query = urlencode({"view": "compare", "theme": "dark", "against": json.dumps(against)})
    comparing.open(f"?{query}").ready()
    canvas = page.get_by_role("application", name="Samples between their places")
    canvas.scroll_into_view_if_needed()

    def pixels():
        return comparing.explorer.pixels(canvas.bounding_box())

    comparing.explorer.wait(lambda: np.ptp(pixels()) > 40)
    start = pixels()
    assert start.mean() < 90  # the page is dark
    page.get_by_label("Between the maps").fill("1")
    comparing.explorer.wait(lambda: (pixels() != start).any(axis=-1).sum() > 200)
    page.get_by_label("Between the maps").fill("0.5")
    keep(page, "compare-between")
    page.get_by_label("Between the maps").fill("0")
    comparing.explorer.wait(lambda: (pixels() == start).all())
    page.locator(".bk-events:visible").first.scroll_into_view_if_needed()
    page.get_by_text("samples in both").scroll_into_view_if_needed()
    comparing.settle()
    keep(page, "compare-dark")
