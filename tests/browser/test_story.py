"""The whole story in Chromium: open, hover, click, neighbours, generate, path, cancel; and what must not go wrong."""

import re

import numpy as np
import pytest
from explorer import NEIGHBOUR, PATH, SELECTED, Explorer, count_colour, keep, query
from playwright.sync_api import expect


def finished_generations(workspace, layer):
    return {record.run_id for record in workspace.catalog.generations(layer.run_id)}


def test_story_from_first_look_to_the_path_of_a_masked_generation(explorer, layer_map, lonely, workspace):
    page = explorer.open().page
    total = len(layer_map.table)
    expect(page.get_by_text(f"{total:,} of {total:,} shown")).to_be_visible()

    # Hover: the card shows this sample and no other.
    chosen, other = lonely[0], lonely[1]
    explorer.hover(chosen)
    card = page.get_by_text(chosen, exact=True).first
    expect(card).to_be_visible()
    expect(page.get_by_text(layer_map.text_of(chosen), exact=True).first).to_be_visible()
    shown = page.locator("img.px:visible").first
    assert (explorer.picture(shown) == layer_map.samples.images_of([chosen])[0]).all()
    keep(explorer, "hover")

    # Click: ringed in blue, and the panel tells of it.
    explorer.click(chosen)
    expect(page.get_by_text("Selected", exact=True)).to_be_visible()
    explorer.away()
    explorer.wait(lambda: explorer.count_near(chosen, SELECTED) > 30)
    assert explorer.count_near(other, SELECTED) == 0

    # Suggest: the nearest in activation space, with their distances, ringed thinly in red.
    expected = layer_map.neighbours(chosen, 5, "activation")
    explorer.button("Suggest nearest").click()
    expect(page.get_by_text("5 suggested, 0 chosen")).to_be_visible()
    listed = explorer.neighbours()
    assert [row[0] for row in listed] == [n.sample_id for n in expected]
    assert [row[1] for row in listed] == pytest.approx([n.distance for n in expected], abs=0.006)
    explorer.wait(lambda: explorer.count_near(expected[-1].sample_id, NEIGHBOUR) > 8)

    # They can be listed by name as well.
    page.get_by_role("button", name="Name", exact=True).click()
    assert [row[0] for row in explorer.neighbours()] == sorted(n.sample_id for n in expected)
    page.get_by_role("button", name="Distance", exact=True).click()
    assert [row[0] for row in explorer.neighbours()] == [n.sample_id for n in expected]

    # A click on a suggested one removes it, a click on any other adds it with a thick ring.
    page.get_by_role("button", name=f"Remove {expected[0].sample_id}").click()
    expect(page.get_by_text("4 suggested, 0 chosen")).to_be_visible()
    explorer.click(other)
    expect(page.get_by_text("4 suggested, 1 chosen")).to_be_visible()
    explorer.away()
    explorer.wait(lambda: explorer.count_near(other, NEIGHBOUR) > 40)
    explorer.click(other)
    expect(page.get_by_text("4 suggested, 0 chosen")).to_be_visible()
    explorer.away()

    # Generate from their average.
    before = finished_generations(workspace, layer_map.layer)
    explorer.tab("Generate")
    expect(page.get_by_text("the average of 5 samples")).to_be_visible()
    explorer.button("Generate").click()
    expect(page.get_by_text(re.compile(r"Generating: (step \d+ of|preparing|starting)")).first).to_be_visible()
    expect(page.get_by_text("Baseline, no mask")).to_be_visible()
    pictures = {
        name: explorer.picture(page.get_by_role("img", name=re.compile(f"^{name}")).first)
        for name in ("Generated", "Baseline", "Difference")
    }
    apart = np.abs(pictures["Generated"].astype(int) - pictures["Baseline"].astype(int))
    assert pictures["Generated"].std() > 10
    assert apart.max() > 0
    stretched = np.round(apart * 255 / apart.max())
    assert np.abs(pictures["Difference"] - stretched).max() <= 1

    # It is one new run, linked, finished, and of these samples.
    (run,) = finished_generations(workspace, layer_map.layer) - before
    link = page.get_by_role("link", name="MLflow run").first
    assert link.get_attribute("href").endswith(f"/runs/{run}?workflowType=machine_learning")
    recipe = workspace.folder(run).path("recipe.json").read_text()
    assert all(f'"{n.sample_id}"' in recipe for n in expected[1:])
    assert f'"{chosen}"' in recipe
    assert f'"{expected[0].sample_id}"' not in recipe

    # The path runs over the map, and the steps can be walked through.
    explorer.settle()
    assert count_colour(explorer.map_pixels(), PATH, 25) > 120
    keep(explorer, "dashboard")
    note = page.get_by_text(re.compile(r"Step \d+ of \d+, σ"))
    last = int(re.search(r"of (\d+)", note.inner_text()).group(1))
    expect(note).to_have_text(re.compile(f"Step {last} of {last}, σ 0.002"))
    page.get_by_role("button", name="Previous step").click()
    expect(note).to_have_text(re.compile(f"Step {last - 1} of {last}"))
    page.get_by_role("button", name=re.compile("^Frame 1, σ")).click()
    expect(note).to_have_text(re.compile(f"Step 1 of {last}, σ 80"))
    expect(page.get_by_text(re.compile(r"distance to the data \d"))).to_be_visible()

    # A job that is cancelled ends between two steps and leaves no finished run.
    before = finished_generations(workspace, layer_map.layer)
    page.get_by_role("button", name="Sampling", exact=True).click()
    steps = page.get_by_role("textbox", name=re.compile("^Steps"))
    steps.fill("400")
    steps.press("Tab")
    explorer.button("Generate").click()
    expect(page.get_by_text(re.compile(r"Generating: step \d+ of \d+"))).to_be_visible()
    explorer.button("Cancel").click()
    expect(page.get_by_text("Generating was cancelled; nothing was logged as finished.")).to_be_visible()
    assert finished_generations(workspace, layer_map.layer) == before
    expect(explorer.button("Generate")).to_be_enabled()


def test_address_holds_the_view_and_opens_it_again(explorer, layer_map, lonely):
    page = explorer.open(f"?theme=dark&sample={lonely[0]}").page
    explorer.button("Suggest nearest").click()
    expect(page.get_by_text("5 suggested, 0 chosen")).to_be_visible()
    explorer.choose("Colour by", "Distance to data")
    told = {"colour": "distance_to_data", "run": layer_map.layer.parent_id, "sample": lonely[0]}
    explorer.wait(lambda: told.items() <= query(explorer).items())
    explorer.settle()
    asked = query(explorer)
    listed = explorer.neighbours()
    page.reload()
    expect(page.get_by_text("5 suggested, 0 chosen")).to_be_visible()
    assert explorer.neighbours() == listed
    explorer.wait(lambda: query(explorer) == asked)
    expect(page.get_by_text("Distance to data", exact=True).first).to_be_visible()

    # It is dark, with its rings, until one wants it light.
    explorer.settle()
    assert np.median(explorer.map_pixels()) < 60
    explorer.away()
    explorer.wait(lambda: explorer.count_near(lonely[0], SELECTED) > 30)
    keep(explorer, "dark")
    page.get_by_role("button", name="Toggle theme").click()
    explorer.wait(lambda: np.median(explorer.map_pixels()) > 200)


@pytest.mark.slow
def test_second_visitor_waits_in_the_queue_and_sees_the_place(explorer, new_page, url, layer_map, lonely):
    other = Explorer(new_page(), url, layer_map)
    for visitor in (explorer, other):
        visitor.open(f"?sample={lonely[0]}").tab("Generate")
        visitor.page.get_by_role("button", name="Sampling", exact=True).click()
        steps = visitor.page.get_by_role("textbox", name=re.compile("^Steps"))
        steps.fill("512")
        steps.press("Tab")
    for visitor in (explorer, other):  # both are ready first, lest one is done before the other asks
        visitor.button("Generate").click()
        expect(visitor.page.get_by_text(re.compile("^Generating: "))).to_be_visible()
    expect(other.page.get_by_text("Generating: waiting, 1 job ahead")).to_be_visible()
    other.button("Cancel").click()
    expect(other.page.get_by_text("Generating was cancelled")).to_be_visible()
    explorer.button("Cancel").click()
    expect(explorer.page.get_by_text("Generating was cancelled")).to_be_visible()


def test_class_filter_hides_points_but_never_mixes_samples_up(explorer, layer_map, lonely):
    page = explorer.open().page
    hidden = lonely[0]
    shown = next(s for s in lonely if layer_map.text_of(s) != layer_map.text_of(hidden))
    name = layer_map.text_of(shown)
    page.get_by_title(f"Highlight {name}; click again").click()
    page.get_by_title(f"Show only {name}").click()
    count = int((layer_map.table["class"] == name).sum())
    expect(page.get_by_text(f"{count:,} of {len(layer_map.table):,} shown")).to_be_visible()
    explorer.settle()
    explorer.click(hidden)
    page.wait_for_timeout(1000)
    expect(page.get_by_text("Hover over the map to see samples.")).to_be_visible()
    explorer.click(shown)
    expect(page.get_by_text(shown, exact=False).first).to_be_visible()
    explorer.button("Suggest nearest").click()
    expect(page.get_by_text("5 suggested, 0 chosen")).to_be_visible()
    expected = layer_map.neighbours(shown, 5, "activation")
    assert [row[0] for row in explorer.neighbours()] == [n.sample_id for n in expected]
    page.get_by_role("list", name="Neighbours").get_by_role("listitem").first.focus()
    page.keyboard.press("Delete")
    assert [row[0] for row in explorer.neighbours(4)] == [n.sample_id for n in expected[1:]]
    explorer.away()
    picture = explorer.picture(page.locator(f'img[alt="{shown}"]'))
    assert (picture == layer_map.samples.images_of([shown])[0]).all()


def test_ranking_opens_the_layer_clicked_and_the_sample_stays_itself(explorer, data, layer_map, lonely):
    first, *_, other = sorted(data.library.layers(layer_map.layer.parent_id), key=lambda r: r.layer)
    assert first.layer != other.layer

    # A layer's run id, as copied from MLflow, opens that layer.
    page = explorer.open(f"?run={first.run_id}&sample={lonely[0]}").page
    told = {"layer": first.layer, "run": layer_map.layer.parent_id, "sigma": f"{first.sigma:g}"}
    explorer.wait(lambda: told.items() <= query(explorer).items())
    assert page.get_by_text("is not finished").count() == 0

    explorer.tab("Layers")
    page.get_by_title(f"Open {other.layer} at σ {other.sigma:g}").click()
    expect(page.get_by_text(f"{other.layer} at σ {other.sigma:g}")).to_be_visible()
    explorer.map = data.open(other)
    explorer.settle()
    explorer.tab("Sample")
    picture = explorer.picture(page.locator(f'img[alt="{lonely[0]}"]'))
    assert (picture == layer_map.samples.images_of([lonely[0]])[0]).all()
    explorer.away()
    explorer.wait(lambda: explorer.count_near(lonely[0], SELECTED) > 30)

    # All of it fits a narrow window.
    page.set_viewport_size({"width": 1280, "height": 800})
    explorer.settle()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    for tab in ("Sample", "Generate", "Layers", "Run"):
        explorer.tab(tab)
        box = page.get_by_role("tab", name=tab, exact=True).bounding_box()
        assert box["x"] + box["width"] <= 1280
    assert explorer.box["width"] > 500
    keep(explorer, "narrow")


def test_recomputed_map_is_a_new_run_and_is_opened(explorer, workspace, layer_map):
    page = explorer.open().page
    before = {m.run_id for m in workspace.catalog.maps(layer_map.layer.run_id)}
    own = explorer.map_pixels()
    explorer.button("Re-compute the map").click()
    expect(page.get_by_text(re.compile(r"^\d+: \d+ neighbours, min_dist"))).to_be_visible(timeout=180_000)
    new = {m.run_id for m in workspace.catalog.maps(layer_map.layer.run_id)} - before
    if new:  # the same parameters computed before are re-used
        explorer.wait(lambda: query(explorer).get("map") in new)
    explorer.settle()
    explorer.choose("Map", "Logged with the layer")
    explorer.wait(lambda: "map" not in query(explorer))
    explorer.away()
    # names may come to lie a pixel beside
    explorer.wait(lambda: (np.abs(explorer.map_pixels() - own).max(axis=-1) > 30).mean() < 0.01)
