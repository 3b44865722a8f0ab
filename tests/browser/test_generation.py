"""Generating as a person does it: the group's average, what is refused, seeds side by side, the gallery, an order."""

import json
import re
import shlex

import numpy as np
import pytest
from explorer import keep
from playwright.sync_api import expect

from diffviews.recipes.generation import GenerationRecipe
from tests import jobs


def members_of(layer_map, count):
    return [str(s) for s in layer_map.table["sample_id"].iloc[:count]]


def grouped(layer_map, count):
    return f"?group={json.dumps(members_of(layer_map, count))}"


def fill(explorer, label, value):
    box = explorer.page.get_by_role("textbox", name=re.compile(f"^{label}"))
    box.fill(value)
    box.press("Tab")


def generate(explorer):
    explorer.button("Generate").click()
    going_on = explorer.page.get_by_text(re.compile(r"^Generating: "))
    expect(going_on).to_be_visible()
    expect(going_on).to_be_hidden()
    expect(explorer.button("Generate")).to_be_enabled()


def newest(workspace, layer):
    return workspace.catalog.generations(layer.run_id)[0].run_id


def recipe_of(workspace, run):
    return GenerationRecipe.from_json(workspace.folder(run).path("recipe.json").read_text())


def heading(explorer, text):
    return explorer.page.get_by_role("button", name=text, exact=True)


@pytest.fixture
def copied(explorer):
    """What was last copied."""
    explorer.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    return lambda: explorer.page.evaluate("navigator.clipboard.readText()")


def test_marked_group_masks_and_its_seeds_stand_side_by_side(explorer, layer_map, workspace, copied):
    page = explorer.open(grouped(layer_map, 40)).page
    explorer.tab("Generate")
    expect(page.get_by_text("the average of 40 samples")).to_be_visible()
    generate(explorer)
    run = newest(workspace, layer_map.layer)
    assert recipe_of(workspace, run).sample_ids == tuple(members_of(layer_map, 40))

    # Every column is one seed: what was generated over its baseline over their difference, to the pixel.
    folder = workspace.folder(run)
    for row, kind in (("Generated", "images"), ("Baseline", "baseline")):
        shown = page.get_by_role("group", name="Samples side by side").get_by_role("img", name=re.compile(f"^{row}"))
        expect(shown).to_have_count(4)
        for index in range(4):
            from diffviews.data.pictures import decode_image

            logged = decode_image(folder.path(f"{kind}/{index:03d}.png").read_bytes(), kind)
            assert (explorer.picture(shown.nth(index)) == logged).all()
    explorer.settle()
    page.get_by_role("button", name="Copy the recipe as JSON").scroll_into_view_if_needed()
    keep(explorer, "generation-seeds")

    # Another column's steps: frames, the noised input, play, pause and speed.
    steps = np.load(folder.path("steps.npz"))["intermediates"]
    page.get_by_role("button", name="Sample 3", exact=True).click()
    frame = page.locator(".screen .frame")
    explorer.wait(lambda: (explorer.picture(frame) == steps[-1][2]).all())
    note = page.get_by_text(re.compile(r"Step \d+ of \d+, σ"))
    page.get_by_role("button", name=re.compile("^Frame 1, σ")).click()
    expect(note).to_have_text(re.compile("^Step 1 of"))
    assert (explorer.picture(frame) == steps[0][2]).all()
    expect(page.get_by_role("img", name="The model's noisy input at this step")).to_be_visible()
    page.get_by_label("Speed").select_option("0.25")
    page.get_by_role("button", name="Play the steps").click()
    expect(note).to_have_text(re.compile("^Step [2-9] of"))
    page.get_by_role("button", name="Pause").click()
    stopped = note.inner_text()
    page.wait_for_timeout(1200)
    assert note.inner_text() == stopped

    # A click on a picture shows it large, and it can be kept at print size.
    page.get_by_role("group", name="Samples side by side").get_by_role("img").first.click()
    large = page.get_by_role("dialog").get_by_role("img")
    expect(large).to_be_visible()
    assert large.bounding_box()["width"] > 500
    with page.expect_download() as download:
        page.get_by_role("button", name="Save this picture at print size").click()
    from PIL import Image

    with Image.open(download.value.path()) as saved:
        assert min(saved.size) >= 1024
        small = np.asarray(saved.convert("RGB").resize((16, 16), Image.Resampling.NEAREST))
    assert (small == explorer.picture(large)).all()
    large.click()
    expect(page.get_by_role("dialog")).to_be_hidden()

    # The recipe goes along as JSON and as a command line.
    asked = recipe_of(workspace, run)
    page.get_by_role("button", name="Copy the recipe as JSON").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert GenerationRecipe.from_json(copied()) == asked
    page.get_by_role("button", name=re.compile("^Copy as a command line")).click()
    explorer.wait(lambda: copied().startswith("diffviews generate "))
    assert jobs.recipe_of(GenerationRecipe, "generate", shlex.split(copied())[2:]) == asked


def test_gallery_shows_loads_and_replays_what_was_logged(explorer, layer_map, lonely, workspace):
    page = explorer.open(f"?sample={lonely[0]}").page
    explorer.tab("Generate")
    heading(explorer, "Sampling").click()

    # A contradiction is told while it is typed, and nothing can be ordered.
    fill(explorer, "σ from", "0.001")
    expect(page.get_by_text(re.compile("^σ goes from 0.001 to"))).to_be_visible()
    expect(explorer.button("Generate")).to_be_disabled()
    fill(explorer, "σ from", "")
    expect(page.get_by_text(re.compile("^σ goes from"))).to_be_hidden()
    expect(explorer.button("Generate")).to_be_enabled()

    fill(explorer, "Steps", "6")
    fill(explorer, "Seed", "41")
    generate(explorer)
    run = newest(workspace, layer_map.layer)

    # Another visit finds it again, newest first, with its first image and its run.
    page.goto("about:blank")
    page = explorer.open().page
    explorer.tab("Generate")
    heading(explorer, "Logged generations").click()
    listed = page.get_by_role("list", name="Logged generations").get_by_role("listitem")
    first = listed.first
    expect(first.get_by_text("seed 41")).to_be_visible()
    expect(first.get_by_role("img")).to_be_visible()
    assert f"/runs/{run}?" in first.get_by_role("link", name="MLflow run").get_attribute("href")

    first.get_by_role("button", name=re.compile("^Show")).click()
    expect(page.get_by_text("Baseline, no mask")).to_be_visible()
    expect(page.get_by_text(re.compile("Step 6 of 6, σ"))).to_be_visible()

    first.get_by_role("button", name=re.compile("^Load into form")).click()
    expect(page.get_by_text(re.compile("with 1 sample$"))).to_be_visible()
    heading(explorer, "Sampling").click()
    expect(page.get_by_role("textbox", name=re.compile("^Steps"))).to_have_value("6")
    expect(page.get_by_role("textbox", name=re.compile("^Seed"))).to_have_value("41")

    first.get_by_role("button", name=re.compile("^Replay")).click()
    expect(first.get_by_text(re.compile("^Replayed: 4 images equal"))).to_be_visible()
    page.get_by_role("list", name="Logged generations").scroll_into_view_if_needed()
    keep(explorer, "generation-gallery")
    assert newest(workspace, layer_map.layer) == run


@pytest.mark.slow
def test_layer_that_is_not_extracted_can_be_ordered_and_opens(explorer, layer_map, workspace):
    page = explorer.open().page
    before = {record.run_id for record in workspace.catalog.extractions()}
    page.get_by_role("combobox", name=re.compile("^Layers")).last.click()
    page.get_by_text("decoder_block_2", exact=True).last.click()
    page.keyboard.press("Escape")
    fill(explorer, "Noise levels σ", "1")
    explorer.button("Extract").click()
    expect(page.get_by_text(re.compile("^Extracting: "))).to_be_visible()
    expect(page.get_by_text("decoder_block_2 at σ 1")).to_be_visible(timeout=240_000)
    (new,) = {record.run_id for record in workspace.catalog.extractions()} - before
    record = workspace.catalog.extraction(new)
    assert record.params["num_samples"] == str(len(layer_map.samples))
    for layer in workspace.catalog.layers(new):  # a first visit opens the newest extraction, which others rely on
        workspace.catalog.connection.call(lambda client, run=layer.run_id: client.delete_run(run))
    workspace.catalog.connection.call(lambda client: client.delete_run(new))
