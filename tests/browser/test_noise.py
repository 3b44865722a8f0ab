"""The player over noise levels in Chromium: samples move along the logged slices, and are who they seem to be."""

import re

import numpy as np
import pytest
from explorer import SELECTED, keep, query
from playwright.sync_api import expect
from scenes import Slices, Stage

RING = 120
"""Pixels of a selected sample's ring; its trail alone, and that of its marks, are fewer."""


@pytest.fixture(scope="session")
def slices(workspace, layer_map):
    from diffviews.processing.map_parameters import MapParameters
    from diffviews.tracking.schema import MapKind
    from tests.jobs import embed

    run = embed(layer_map.layer.run_id, MapParameters(), workspace, kind=MapKind.ALIGNED).run_id
    return Slices(workspace, run, ("0.5", "2"), layer_map.table["sample_id"])


@pytest.fixture
def stage(explorer):
    return Stage(explorer)


def farthest(slices):
    """The sample that moves farthest from one slice to the other."""
    return int(np.argmax(np.linalg.norm(slices.places[0] - slices.places[-1], axis=1)))


def test_play_moves_a_sample_along_the_logged_slices(stage, slices, layer_map):
    index = farthest(slices)
    stage.open(layer_map, "noise", sample=slices.sample_ids[index], across='{"sigma": 2}').ready()
    page, spot = stage.page, lambda at: stage.plane(slices, at)[index]

    def ring(at):
        return stage.count(spot(at), SELECTED)

    noisy, clear = slices.ats[1], slices.ats[0]
    assert stage.at == pytest.approx(noisy)
    stage.explorer.wait(lambda: ring(noisy) > RING)

    page.get_by_label("Speed").select_option("0.5")
    page.get_by_role("button", name="Play from the noisiest").click()
    stage.explorer.wait(lambda: np.linalg.norm(spot(stage.at) - spot(noisy)) > 45)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Play from the noisiest")).to_be_visible()
    slider = page.get_by_role("slider", name="Noise level σ")
    # The canvas is drawn a frame after the click, or later: only then does it stand still where the slider says.
    seen = []
    stage.explorer.wait(lambda: seen.append(stage.at) or seen[-5:] == [seen[-1]] * 5)
    midway = stage.at
    assert slider.get_attribute("aria-valuetext") == f"σ {float(f'{np.exp(midway):.3g}'):g}"
    assert clear < midway < noisy
    stage.explorer.wait(lambda: ring(midway) > RING)
    assert ring(noisy) < RING
    assert stage.at == midway
    keep(stage.explorer, "noise")
    page.get_by_label("Speed").select_option("2")

    page.get_by_role("button", name="Play from the noisiest").click()
    stage.explorer.wait(lambda: stage.at == pytest.approx(clear))
    stage.explorer.wait(lambda: ring(clear) > RING)
    stage.explorer.wait(lambda: '"sigma": 0.5' in query(stage.explorer).get("across", ""))


def test_hover_and_click_between_two_slices_mean_the_sample_that_is_there(stage, slices, layer_map):
    stage.open(layer_map, "noise", across='{"sigma": 0.8}').ready()
    assert stage.at == pytest.approx(np.log(0.8), abs=1e-3)
    places = stage.plane(slices, stage.at)
    first, second = stage.alone(places)[:2]
    for index in (first, second):
        stage.hover(places[index])
        card = stage.expect_card_of(slices.sample_ids[index], layer_map)
        expect(card.get_by_text("σ 0.5")).to_be_visible()
    stage.click(places[first])
    stage.explorer.wait(lambda: query(stage.explorer).get("sample") == slices.sample_ids[first])
    stage.explorer.wait(lambda: stage.count(places[first], SELECTED) > RING)
    assert stage.count(places[second], SELECTED) < RING
    # The same address shows the same place again.
    page = stage.page
    page.reload()
    stage.ready()
    assert stage.at == pytest.approx(np.log(0.8), abs=1e-3)
    stage.explorer.wait(lambda: stage.count(stage.plane(slices, stage.at)[first], SELECTED) > RING)


@pytest.mark.slow
def test_keys_and_wheel_zoom_and_zero_shows_all_again(stage, slices, layer_map):
    stage.open(layer_map, "noise").ready()
    whole = stage.camera
    stage.element.focus()
    stage.page.keyboard.press("+")
    stage.explorer.wait(lambda: stage.camera["zoom"] > whole["zoom"])
    places = stage.plane(slices, stage.at)
    index = stage.alone(places)[0]
    stage.hover(places[index])
    stage.expect_card_of(slices.sample_ids[index], layer_map)
    stage.page.mouse.wheel(0, -200)
    stage.explorer.wait(lambda: stage.camera["zoom"] > 1.3 * whole["zoom"])
    stage.page.keyboard.press("0")
    stage.explorer.wait(lambda: stage.camera == whole)


@pytest.mark.slow
def test_layer_without_slices_orders_them_from_the_page(stage, slices, layer_map, data):
    records = data.library.layers(layer_map.layer.parent_id)
    runs_of = {r.layer: [s.run_id for s in records if s.layer == r.layer] for r in records}
    other = next(r for r in records if not data.library.aligned_maps(runs_of[r.layer]))
    stage.open(layer_map, "noise", layer=other.layer)
    page = stage.page
    expect(page.get_by_text("No aligned map of this layer yet")).to_be_visible()
    stage.explorer.button("Compute the aligned map").click()
    expect(page.get_by_text(re.compile("Computing the aligned map"))).to_be_visible()
    expect(stage.element).to_be_visible(timeout=180_000)
    assert data.library.aligned_maps(runs_of[other.layer])
    expect(page.get_by_text("No aligned map of this layer yet")).to_be_hidden()
