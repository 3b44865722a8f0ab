"""The picture shown is that of the sample clicked, whatever was filtered, switched, compared or loaded again before."""

import json
from itertools import product
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
from explorer import Explorer
from playwright.sync_api import expect
from scipy.spatial import cKDTree

from panel_app.filter import SHOW_ALL

SIGMAS = (0.5, 2.0)


def selected(explorer):
    return parse_qs(urlsplit(explorer.page.url).query).get("sample", [None])[0]


def alone(opened, wanted, size):
    """Samples that a filter shows and that no other shown one is near on the screen, the loneliest first."""
    shown = opened.shown(wanted)
    (x0, x1), (y0, y1) = opened.bounds
    spots = np.stack([(shown["x"] - x0) / (x1 - x0) * size[0], (shown["y"] - y0) / (y1 - y0) * size[1]], axis=1)
    gaps = cKDTree(spots).query(spots, k=2)[0][:, 1]
    return [str(shown["sample_id"].iloc[i]) for i in np.argsort(-gaps)[:3]]


def expect_picture(explorer, sample_id, samples):
    """The selected sample is this one, by its address, its id in words, and every pixel of its picture."""
    explorer.wait(lambda: selected(explorer) == sample_id)
    card = explorer.page.get_by_role("img", name=sample_id, exact=True).first
    expect(card).to_be_visible()
    assert (explorer.picture(card) == samples.images_of([sample_id])[0]).all()


@pytest.mark.parametrize("classes", [(), ("3: three", "8: eight")], ids=["all", "filtered"])
def test_picture_is_that_of_the_sample_clicked_on_every_map(new_page, url, data, opened, classes):
    page, run = new_page(), opened.layer.parent_id
    wanted = SHOW_ALL.with_values("class", classes) if classes else SHOW_ALL
    layers = sorted({record.layer for record in data.library.layers(run)})
    for number, (layer, sigma) in enumerate(product(layers, SIGMAS)):
        this = data.open(data.layer_run(run, layer, sigma))
        explorer = Explorer(page, url, this)
        query = {"run": run, "layer": layer, "sigma": f"{sigma:g}"}
        explorer.open("?" + urlencode(query | ({"classes": json.dumps(classes)} if classes else {})))
        chosen = alone(this, wanted, (explorer.box["width"], explorer.box["height"]))[number % 3]
        explorer.click(chosen)
        expect_picture(explorer, chosen, this.samples)
        explorer.away()

        # The other noise level, in the page: the same sample, its own picture still.
        other = next(level for level in SIGMAS if level != sigma)
        page.get_by_role("group", name="Noise level σ").get_by_role("button", name=f"{other:g}", exact=True).click()
        explorer.wait(lambda other=other: f"sigma={other:g}" in page.url)
        expect_picture(explorer, chosen, this.samples)

        # Compared, in three dimensions, and loaded again.
        for view in ("Compare", "3-D", "Map"):
            page.get_by_role("group", name="View").get_by_role("button", name=view, exact=True).click()
            explorer.wait(lambda explorer=explorer, chosen=chosen: selected(explorer) == chosen)
        page.reload()
        expect(page.locator(".bk-events").first).to_be_visible(timeout=60_000)
        expect_picture(explorer, chosen, this.samples)
