"""Export in Chromium: every file is saved, and holds what was on the page."""

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
import zipfile

import numpy as np
import pytest
from explorer import NEIGHBOUR, SELECTED, Explorer, count_colour, keep
from PIL import Image
from playwright.sync_api import expect

from diffviews.tracking.schema import Kind


@pytest.fixture(scope="module")
def explorer(shared_explorer):
    return shared_explorer


@pytest.fixture(scope="module")
def menu(explorer, layer_map, lonely):
    """A page with a selected sample and five neighbours, its export menu open; saves what a button makes."""
    near = [n.sample_id for n in layer_map.neighbours(lonely[0], 5, "activation")]
    explorer.open(f"?sample={lonely[0]}&near={json.dumps(near)}")
    explorer.button("Export").click()
    expect(explorer.page.get_by_text("Export this view")).to_be_visible()

    def save(button):
        with explorer.page.expect_download() as download:
            explorer.button(button).click()
        name = download.value.suggested_filename
        expect(explorer.page.get_by_text(f"Saved {name}")).to_be_visible()
        return name, download.value.path().read_bytes()

    save.members = (lonely[0], *near)
    return save


def stem(layer_map):
    return f"edm-digits_{layer_map.layer.layer}_sigma{layer_map.layer.sigma:g}"


def test_map_png_has_print_size_and_the_rings(menu, layer_map):
    name, data = menu("Map as PNG")
    assert name == f"{stem(layer_map)}_map.png"
    picture = Image.open(io.BytesIO(data))
    assert picture.width == round(180 / 25.4 * 300)
    assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert count_colour(pixels, SELECTED, 12) > 200
    assert count_colour(pixels, NEIGHBOUR, 12) > 200


def test_map_svg_parses_with_rings_and_words_as_shapes(menu, layer_map):
    name, data = menu("Map as SVG")
    assert name == f"{stem(layer_map)}_map.svg"
    root = ElementTree.fromstring(data)
    assert float(root.get("width").removesuffix("pt")) == pytest.approx(180 / 25.4 * 72, abs=0.1)
    looks = [e.get("style", "") for e in root.iter()]
    assert sum("stroke: #2f6fed" in look for look in looks) == 1
    assert sum("stroke: #e5484d" in look for look in looks) == 5
    words = {e.text for e in root.iter() if e.tag.endswith("}text")}
    assert f"{layer_map.layer.layer} at σ {layer_map.layer.sigma:g}" in words


def test_tables_hold_the_selection(menu, layer_map):
    _, data = menu("Table as CSV")
    rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    assert tuple(row["sample_id"] for row in rows) == menu.members
    assert [row["class"] for row in rows] == [layer_map.text_of(s) for s in menu.members]
    places = [(float(row["x"]), float(row["y"])) for row in rows]
    assert np.array(places) == pytest.approx(np.array([layer_map.position(s) for s in menu.members]))
    expected = layer_map.distances(menu.members[0], menu.members[1:], "activation")
    assert [float(r["distance_to_selected"]) for r in rows[1:]] == pytest.approx(list(expected.values()))
    _, data = menu("Table as JSON")
    read = json.loads(data)
    assert tuple(row["sample_id"] for row in read["samples"]) == menu.members
    assert read["layer_run"] == layer_map.layer.run_id


def test_zip_holds_the_samples_own_images(menu, layer_map):
    _, data = menu("Images as zip")
    archive = zipfile.ZipFile(io.BytesIO(data))
    listed = list(csv.DictReader(io.StringIO(archive.read("samples.csv").decode(), newline="")))
    assert tuple(row["sample_id"] for row in listed) == menu.members
    for row in listed:
        pixels = np.asarray(Image.open(io.BytesIO(archive.read(row["file"]))))
        assert (pixels == layer_map.samples.images_of([row["sample_id"]])[0]).all()


def test_report_opens_offline_without_a_request(menu, layer_map, chromium, tmp_path):
    name, data = menu("Report as HTML")
    (tmp_path / name).write_bytes(data)
    context = chromium.new_context(offline=True, viewport={"width": 1100, "height": 1300})
    page = context.new_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / name).as_uri())
    expect(page.get_by_role("heading", name=f"edm-digits: {layer_map.layer.layer}")).to_be_visible()
    images = page.locator("img")
    assert images.count() == 1 + len(menu.members)
    assert page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    for sample_id in menu.members:
        expect(page.get_by_role("cell", name=sample_id, exact=True).last).to_be_visible()
    (link,) = page.get_by_role("link", name="This view in the dashboard").all()
    assert f"sample={menu.members[0]}" in link.get_attribute("href")
    assert page.get_by_role("link", name="Layer run in MLflow").count() == 1
    keep(Explorer(page, "", layer_map), "report")
    context.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert complaints == []


def test_export_is_logged_as_a_run_that_names_its_source(menu, layer_map, explorer, workspace):
    before = {record.run_id for record in workspace.catalog.runs(Kind.EXPORT)}
    layer = workspace.catalog.artifacts(layer_map.layer.run_id).names()
    maps = {record.run_id for record in workspace.catalog.maps(layer_map.layer.run_id)}
    explorer.page.get_by_text("Also log to MLflow").click()
    name, data = menu("Table as CSV")
    expect(explorer.page.get_by_role("link", name="Logged to MLflow")).to_be_visible()
    (made,) = [record for record in workspace.catalog.runs(Kind.EXPORT) if record.run_id not in before]
    assert (made.source_run, made.layer, made.sigma) == (
        layer_map.layer.run_id,
        layer_map.layer.layer,
        layer_map.layer.sigma,
    )
    assert workspace.catalog.artifacts(made).path(f"export/{name}").read_bytes() == data
    assert workspace.catalog.artifacts(layer_map.layer.run_id).names() == layer
    assert {record.run_id for record in workspace.catalog.maps(layer_map.layer.run_id)} == maps
