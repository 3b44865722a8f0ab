"""The map as a person uses it: lasso, pictures, names, highlight, keys."""

import json
import math
import re

import numpy as np
import pytest
from explorer import keep, query
from PIL import Image
from playwright.sync_api import expect

from panel_app.map.thumbnails import MOST, thumbnails_in

ACTIVE = """() => {
  let element = document.activeElement
  while (element && element.shadowRoot && element.shadowRoot.activeElement) element = element.shadowRoot.activeElement
  return element ? [element.className, element.getAttribute("role"), element.getAttribute("aria-label")] : null
}"""


def marked(explorer):
    return set(json.loads(query(explorer).get("group", "[]")))


def take(explorer, name):
    """Take a tool, and wait until the map has made room for the bar that tells of marks."""
    explorer.page.get_by_role("button", name=name).first.click()
    expect(explorer.page.get_by_text(re.compile(r"^(Nothing marked yet: |[\d,]+ marked$)"))).to_be_visible()
    explorer.away()
    explorer.settle()


def drag_round(explorer, corners):
    mouse = explorer.page.mouse
    mouse.move(*corners[0])
    mouse.down()
    for corner in [*corners[1:], corners[0]]:
        mouse.move(*corner, steps=4)
    mouse.up()
    explorer.away()


def drag(explorer, start, end, hold=0):
    mouse = explorer.page.mouse
    mouse.move(*start)
    mouse.down()
    explorer.page.wait_for_timeout(hold)
    mouse.move(*end, steps=6)
    mouse.up()
    explorer.away()


def circle(middle, radius, count=24):
    turns = [2 * math.pi * i / count for i in range(count)]
    return [(middle[0] + radius * math.cos(turn), middle[1] + radius * math.sin(turn)) for turn in turns]


def gaps_to(explorer, middle):
    """How far each sample is from a place of the screen."""
    return {s: math.dist(explorer.place(s), middle) for s in explorer.map.row_of}


def test_lasso_marks_exactly_the_samples_within_and_adds_removes_and_clears(explorer, lonely):
    page = explorer.open().page
    take(explorer, "Lasso")
    gaps = gaps_to(explorer, explorer.place(lonely[0]))
    radius = sorted(gaps.values())[18] + 2
    drag_round(explorer, circle(explorer.place(lonely[0]), radius))
    explorer.wait(lambda: marked(explorer))
    edge = {s for s, gap in gaps.items() if abs(gap - radius) < 5}  # within a pixel or two of the line
    inside = {s for s, gap in gaps.items() if gap < radius}
    first = marked(explorer)
    assert first - edge == inside - edge
    assert len(inside - edge) >= 5
    expect(page.get_by_text(f"{len(first)} marked", exact=True)).to_be_visible()
    explorer.settle()
    keep(explorer, "map-lasso")

    # Shift adds what a box holds, Alt takes it away again, and a slow hand's box is one too.
    take(explorer, "Box")
    other = next(s for s in lonely if s not in first and gaps[s] > radius + 30)
    x, y = explorer.place(other)
    for key, is_in, hold in (("Shift", True, 0), ("Alt", False, 500)):
        page.keyboard.down(key)
        drag(explorer, (x - 6, y - 6), (x + 6, y + 6), hold)
        page.keyboard.up(key)
        explorer.wait(lambda is_in=is_in: (other in marked(explorer)) == is_in)
        assert first <= marked(explorer)
    page.locator(".bk-events").first.focus()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Nothing marked yet: drag on the map.")).to_be_visible()
    explorer.wait(lambda: not marked(explorer))


def zoomed(layer_map, times):
    """The view after zooming in so many times."""
    view = []
    for low, high in layer_map.bounds:
        middle, half = (low + high) / 2, (high - low) / 2 * 0.65**times
        view.append((middle - half, middle + half))
    return view


def isolated(layer_map, view, box):
    """Samples in a view, where they are in it in pixels, and how far from the next."""
    table = layer_map.table
    (x0, x1), (y0, y1) = view
    inside = table[(table["x"] > x0) & (table["x"] < x1) & (table["y"] > y0) & (table["y"] < y1)]
    x = (inside["x"].to_numpy() - x0) / (x1 - x0) * box["width"]
    y = (y1 - inside["y"].to_numpy()) / (y1 - y0) * box["height"]
    apart = np.maximum(np.abs(x[:, None] - x), np.abs(y[:, None] - y)) + 1e9 * np.eye(len(x))
    return inside["sample_id"].tolist(), list(zip(x.tolist(), y.tolist(), strict=True)), apart.min(axis=1)


def test_pictures_take_the_dots_place_when_near_and_belong_to_their_samples(explorer, layer_map):
    page = explorer.open().page
    keep(explorer, "map-labels")
    box = explorer.box
    times = next(n for n in range(1, 12) if 0 < len(isolated(layer_map, zoomed(layer_map, n), box)[0]) <= MOST)
    view = zoomed(layer_map, times)
    ids, places, apart = isolated(layer_map, view, box)
    side = thumbnails_in(layer_map.grid, view, (box["width"], box["height"])).side
    page.locator(".bk-events").first.focus()
    for _ in range(times):
        page.keyboard.press("+")
        page.wait_for_timeout(400)
    explorer.settle()
    keep(explorer, "map-thumbnails")
    images = np.stack(
        [np.asarray(Image.fromarray(i).convert("L").resize((8, 8))) for i in layer_map.samples.images_of(ids)]
    )
    alone = [
        (sample_id, place)
        for sample_id, place, gap in zip(ids, places, apart, strict=True)
        if gap > 1.3 * side and side < place[0] < box["width"] - side and side < place[1] < box["height"] - side
    ]
    assert alone

    def is_its_own(sample_id, place):
        clip = {"x": box["x"] + place[0] - side / 2, "y": box["y"] + place[1] - side / 2, "width": side, "height": side}
        shown = Image.fromarray(explorer.pixels(clip).astype(np.uint8)).convert("L")
        shown = np.asarray(shown.resize((8, 8), Image.Resampling.BOX), int)
        best = images[np.abs(images.astype(int) - shown).mean(axis=(1, 2)).argmin()]
        return (best == images[ids.index(sample_id)]).all()

    explorer.wait(lambda: all(is_its_own(*one) for one in alone))  # a busy server is still at an earlier zoom
    page.get_by_text("Pictures when near", exact=True).click()
    with_pictures = explorer.map_pixels()
    explorer.wait(lambda: (np.abs(explorer.map_pixels() - with_pictures).max(axis=-1) > 30).mean() > 0.005)


def test_click_in_the_legend_highlights_and_another_shows_only_that_class(explorer, layer_map, lonely):
    page = explorer.open().page
    page.get_by_text("Labels", exact=True).click()
    explorer.settle()
    lit = layer_map.text_of(lonely[0])
    other = next(s for s in lonely if layer_map.text_of(s) != lit)
    colouring = layer_map.colouring("class")
    colour_of = {
        s: tuple(
            int(colouring.colours[colouring.categories.index(layer_map.text_of(s))][i : i + 2], 16) for i in (1, 3, 5)
        )
        for s in (lonely[0], other)
    }
    before = explorer.count_near(other, colour_of[other], reach=5)
    assert before > 3
    button = page.get_by_role("button").filter(has_text=lit)
    button.click()
    explorer.away()
    explorer.wait(lambda: explorer.count_near(other, colour_of[other], reach=5) == 0)
    assert explorer.count_near(lonely[0], colour_of[lonely[0]], reach=5) > 3
    total = len(layer_map.table)
    expect(page.get_by_text(f"{total:,} of {total:,} shown")).to_be_visible()
    button.click()
    count = int((layer_map.table["class"] == lit).sum())
    expect(page.get_by_text(f"{count:,} of {total:,} shown")).to_be_visible()


def test_map_is_reached_by_tab_and_answers_to_keys_buttons_and_wheel(explorer, lonely):
    page = explorer.open(f"?sample={lonely[0]}").page
    page.get_by_role("button", name="Keys and gestures").focus()
    for _ in range(4):
        page.keyboard.press("Tab")
        active = page.evaluate(ACTIVE)
        if "bk-events" in active[0]:
            break
    assert active[1] == "application"
    assert "Map of the samples" in active[2]
    explorer.settle()

    def inside():
        """The map without the ring that it has while the keys are its."""
        return explorer.map_pixels()[8:-8, 8:-8]

    whole = inside()

    def changed():
        now = inside()
        return 1.0 if now.shape != whole.shape else (np.abs(now - whole).max(axis=-1) > 30).mean()

    def press(name):
        page.get_by_role("button", name=name).click()
        explorer.away()

    for nearer, back in (
        (lambda: page.keyboard.press("+"), lambda: page.keyboard.press("0")),
        (lambda: press("Zoom in"), lambda: press("Reset view")),
    ):
        nearer()
        explorer.wait(lambda: changed() > 0.01)
        back()
        explorer.wait(lambda: changed() < 0.01)  # names may come to lie a pixel beside
    page.locator(".bk-events").first.focus()
    page.keyboard.press("ArrowLeft")
    explorer.wait(lambda: changed() > 0.01)
    page.keyboard.press("0")
    page.keyboard.press("s")
    expect(page.get_by_text("5 suggested, 0 chosen")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_text("Keys and gestures of the map")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Keys and gestures of the map")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Hover over the map to see samples.")).to_be_visible()

    # Zooming out ends where the map is a quarter of the view.
    def share():
        """How much of the view's width the samples take."""
        drawn = np.ptp(explorer.map_pixels()[10:-10, 10:-10], axis=-1).max(axis=0) > 60
        return np.ptp(np.flatnonzero(drawn)) / len(drawn)

    box = explorer.box
    for turn in (lambda: page.mouse.wheel(0, 600), lambda: page.keyboard.press("-")):
        assert share() > 0.8
        page.locator(".bk-events").first.focus()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        for _ in range(8):
            turn()
            page.wait_for_timeout(200)
        explorer.away()
        explorer.settle()
        assert 0.18 < share() < 0.3
        page.keyboard.press("0")
        explorer.wait(lambda: share() > 0.8)


@pytest.mark.slow
def test_click_that_is_held_selects_too(explorer, lonely):
    """A slow hand, or a busy machine, means a click."""
    page = explorer.open().page
    explorer.hover(lonely[0])
    page.mouse.down()
    page.wait_for_timeout(700)
    page.mouse.up()
    expect(page.get_by_text("Selected", exact=True)).to_be_visible()
    explorer.wait(lambda: query(explorer).get("sample") == lonely[0])
