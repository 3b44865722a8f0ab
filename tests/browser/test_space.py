"""The view in space in Chromium: what lies under the pointer is the sample that the logged map has there."""

import numpy as np
import pytest
from explorer import PATH, SELECTED, count_colour, keep, query
from playwright.sync_api import expect
from scenes import Stage, solid_places
from test_generation import fill, generate, heading
from test_noise import slices  # noqa: F401

RING = 120


@pytest.fixture(scope="session")
def solid(workspace, layer_map):
    """Run and positions of a map with three components."""
    from diffviews.processing.map_parameters import MapParameters
    from tests.jobs import embed

    run = embed(layer_map.layer.run_id, MapParameters(n_components=3), workspace).run_id
    return run, solid_places(workspace, run, layer_map.table["sample_id"])


@pytest.fixture
def stage(explorer):
    return Stage(explorer)


def test_click_in_the_stack_selects_the_sample_under_the_pointer(stage, slices, layer_map):  # noqa: F811
    stage.open(layer_map, "3d", across='{"axis": "sigma"}').ready()
    places, count = stage.stack(slices), len(slices.sample_ids)
    chosen = stage.alone(places)[0]
    index, level = chosen % count, chosen // count
    stage.hover(places[chosen])
    card = stage.expect_card_of(slices.sample_ids[index], layer_map)
    expect(card.get_by_text(f"σ {('0.5', '2')[level]}")).to_be_visible()
    stage.click(places[chosen])
    stage.explorer.wait(lambda: query(stage.explorer).get("sample") == slices.sample_ids[index])

    # It is ringed on every slice, and a thread joins its places.
    spots = [stage.stack(slices)[index + count * level] for level in range(2)]
    for spot in spots:
        stage.explorer.wait(lambda spot=spot: stage.count(spot, SELECTED) > RING)
    stage.explorer.away()
    assert stage.count(np.mean(spots, axis=0), SELECTED, reach=6) > 10
    keep(stage.explorer, "space")


@pytest.mark.slow
def test_turned_by_keys_and_by_hand_it_still_means_the_sample_that_is_there(stage, slices, layer_map):  # noqa: F811
    stage.open(layer_map, "3d", across='{"axis": "sigma"}', theme="dark").ready()
    first = stage.camera
    stage.element.focus()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowDown", "+"):
        stage.page.keyboard.press(key)
    stage.explorer.wait(lambda: stage.camera["zoom"] > first["zoom"])
    assert stage.camera["yaw"] != first["yaw"]
    assert stage.camera["pitch"] != first["pitch"]
    middle = [stage.box["x"] + stage.box["width"] / 2, stage.box["y"] + stage.box["height"] / 2]
    stage.page.mouse.move(*middle)
    stage.page.mouse.down()
    stage.page.mouse.move(middle[0] + 90, middle[1] - 30, steps=6)
    stage.page.mouse.up()
    places = stage.stack(slices)
    chosen = stage.alone(places)[0]
    stage.hover(places[chosen])
    sample_id = slices.sample_ids[chosen % len(slices.sample_ids)]
    stage.expect_card_of(sample_id, layer_map)
    stage.click(places[chosen])
    stage.explorer.wait(lambda: query(stage.explorer).get("sample") == sample_id)
    keep(stage.explorer, "space-dark")
    stage.element.focus()
    stage.page.keyboard.press("0")
    stage.explorer.wait(lambda: stage.camera == first)


def test_map_in_three_dimensions_shows_its_samples_where_it_has_them(stage, solid, layer_map):
    run, positions = solid
    stage.open(layer_map, "3d", map=run).ready()
    assert stage.element.get_attribute("data-key") == run
    ids = layer_map.table["sample_id"].tolist()
    places = stage.solid(positions)
    chosen = stage.alone(places)[0]
    stage.hover(places[chosen])
    stage.expect_card_of(ids[chosen], layer_map)
    stage.click(places[chosen])
    stage.explorer.wait(lambda: query(stage.explorer).get("sample") == ids[chosen])
    stage.explorer.wait(lambda: stage.count(places[chosen], SELECTED) > RING)


def test_hidden_classes_cannot_be_clicked(stage, slices, layer_map):  # noqa: F811
    shown = layer_map.categories_of("class")[0]
    stage.open(layer_map, "3d", across='{"axis": "sigma"}', classes=f'["{shown}"]').ready()
    places, count = stage.stack(slices), len(slices.sample_ids)
    hidden = np.array([layer_map.text_of(s) != shown for s in slices.sample_ids] * 2)
    gaps = np.array([np.linalg.norm(places[~hidden] - place, axis=1).min() for place in places])
    chosen = int(np.argmax(np.where(hidden, gaps, 0)))
    stage.click(places[chosen])
    stage.page.wait_for_timeout(700)
    assert "sample" not in query(stage.explorer)
    visible = stage.alone(places[~hidden])[0]
    stage.click(places[~hidden][visible])
    expected = np.flatnonzero(~hidden)[visible] % count
    stage.explorer.wait(lambda: query(stage.explorer).get("sample") == slices.sample_ids[expected])


def test_generated_path_is_seen_over_noise_levels_and_in_the_stack(stage, slices, layer_map, lonely):  # noqa: F811
    explorer, page = stage.explorer, stage.page

    def look(view):
        page.get_by_role("group", name="View").get_by_role("button", name=view, exact=True).click()
        stage.ready()
        explorer.away()

    def drawn():
        return count_colour(explorer.pixels(stage.box), PATH, tolerance=20)

    stage.open(layer_map, "3d", sample=lonely[0]).ready()
    before = {"3-D": drawn()}
    look("Noise levels")
    before["Noise levels"] = drawn()
    explorer.tab("Generate")
    heading(explorer, "Sampling").click()
    fill(explorer, "Steps", "6")
    fill(explorer, "Seed", "17")
    generate(explorer)
    for view in ("Noise levels", "3-D"):
        look(view)
        explorer.wait(lambda view=view: drawn() > before[view] + 150)
        keep(explorer, f"path-{view}")
