"""The picture shown is that of the sample clicked, wherever it was clicked and whatever happened before and after.

Where samples lie, which classes they have and how they look is read from the files of the logged runs: a row that the
dashboard's own reading mixes up cannot be mixed up alike here.
"""

import io
import json
import re
from itertools import product
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pandas as pd
import pytest
from explorer import Explorer
from PIL import Image
from playwright.sync_api import expect
from scenes import Slices, Stage
from scipy.spatial import cKDTree

SIGMAS = ("0.5", "2")
MARGIN = 0.06
"""Share of its points' range that a map leaves free on each side."""
PLACES = ("Map", "3-D", "left", "right")
CHANGES = ("view", "sigma", "layer", "reload")
"""What happens before each click: another view, another noise level, another layer, the page loaded again."""
ALL = tuple(product(PLACES, CHANGES))
FEW = tuple(
    (place, change) for place, other in zip(PLACES, (*CHANGES[1:], "layer"), strict=True) for change in ("view", other)
)
"""Each place as one comes to it, and after another change."""


class Logged:
    """What an extraction's runs hold."""

    def __init__(self, workspace, extraction):
        self.workspace, self.extraction = workspace, extraction
        table = pd.read_parquet(workspace.folder(extraction).path("samples.parquet"))
        self._png = dict(zip(table["sample_id"], (image["bytes"] for image in table["image"]), strict=True))
        names = (f"{label}: {name}" for label, name in zip(table["class_label"], table["class_name"], strict=True))
        self.class_of = dict(zip(table["sample_id"], names, strict=True))
        self.runs = {(r.layer, f"{r.sigma:g}"): r.run_id for r in workspace.catalog.layers(extraction)}

    def picture(self, sample_id):
        return np.asarray(Image.open(io.BytesIO(self._png[sample_id])).convert("RGB"))

    def places(self, layer, sigma):
        """Ids, and where they are on a layer's own map as shares of its width and height from the top left, (N, 2)."""
        table = pd.read_parquet(self.workspace.folder(self.runs[layer, sigma]).path("map/points.parquet"))
        points = table[["x", "y"]].to_numpy(np.float64)
        low, high = points.min(axis=0), points.max(axis=0)
        shares = (points - low + MARGIN * (high - low)) / ((1 + 2 * MARGIN) * (high - low))
        return table["sample_id"].tolist(), np.stack([shares[:, 0], 1 - shares[:, 1]], axis=1)


@pytest.fixture(scope="module")
def logged(workspace, layer_map):
    return Logged(workspace, layer_map.layer.parent_id)


@pytest.fixture(scope="module")
def stacks(workspace, logged, layer_map):
    """The aligned maps of two layers, by layer."""
    from diffviews.processing.map_parameters import MapParameters
    from diffviews.tracking.schema import MapKind
    from tests.jobs import embed

    layers = [layer_map.layer.layer, next(layer for layer, _ in logged.runs if layer != layer_map.layer.layer)]
    made = {}
    for layer in layers:
        run = embed(logged.runs[layer, "2"], MapParameters(), workspace, kind=MapKind.ALIGNED).run_id
        made[layer] = Slices(workspace, run, SIGMAS, sorted(logged.class_of))
    return made


class Visit:
    """One page, clicked on in every place; what it should show follows from what is logged."""

    def __init__(self, page, url, logged, stacks, classes):
        self.explorer, self.page = Explorer(page, url, None), page
        self.logged, self.stacks, self.classes = logged, stacks, classes
        self.stage, self.view, self.clicked = Stage(self.explorer), "Map", []

    def open(self, layer, sigma):
        asked = {"run": self.logged.extraction, "layer": layer, "sigma": sigma}
        asked |= {"classes": json.dumps(self.classes)} if self.classes else {}
        self.page.goto(f"{self.explorer.url}?{urlencode(asked)}")
        self.ready()

    def asked(self, name):
        return parse_qs(urlsplit(self.page.url).query).get(name, [None])[0]

    # -- what happens before a click ---------------------------------------------------

    def change(self, what, place):
        if what == "view":
            self.look_at(place)
        elif what == "reload":
            self.page.reload()
            self.ready()
        else:
            self.switch(what)
        self.expect_pictures()

    def look_at(self, place):
        """Show the map, clear what was clicked there, then come to the view where the next clicks are."""
        if self.view != "Map":
            self.turn_to("Map")
            self.expect_pictures()
        if self.clicked:
            self.page.get_by_role("button", name="Clear", exact=True).click()
            self.explorer.wait(lambda: self.asked("sample") is None)
            self.clicked = []
        self.turn_to({"left": "Compare", "right": "Compare"}.get(place, place))

    def turn_to(self, view):
        self.page.get_by_role("group", name="View").get_by_role("button", name=view, exact=True).click()
        self.view = view
        self.ready()

    def switch(self, what):
        """Open the other noise level or the other layer, by the sidebar."""
        before, was = self.asked(what), self.pixels()
        other = next(value for value in (SIGMAS if what == "sigma" else self.stacks) if value != before)
        if what == "sigma":
            levels = self.page.get_by_role("group", name="Noise level σ")
            levels.get_by_role("button", name=other, exact=True).click()
        else:
            self.page.get_by_role("combobox", name=re.compile("^Layer")).first.click()
            self.page.get_by_role("menuitem", name=other, exact=True).click()
        self.explorer.wait(lambda: self.asked(what) == other)
        self.explorer.away()
        if self.view != "3-D":  # in space both noise levels are on show, and the map tells which it is
            self.explorer.wait(lambda: (self.pixels() or was)[0] != was[0])
        self.ready()

    def boxes(self):
        """The maps on show, on the screen."""
        if self.view == "3-D":
            return [self.stage.box]
        return [self.page.locator(".bk-events:visible").nth(n).bounding_box() for n in range(1 + (self.view != "Map"))]

    def ready(self):
        """Wait until everything has been drawn."""
        self.explorer.away()
        if self.view == "3-D":
            stack = self.stacks[self.asked("layer")].run_id
            expect(self.page.locator(f"[data-key='{stack}']:visible")).to_be_visible()
            self.rest(lambda: (self.stage.camera, self.stage.box), 6)
        else:
            expect(self.page.locator(".bk-events:visible")).to_have_count(1 + (self.view != "Map"))
            self.rest(self.pixels, 3)

    def pixels(self):
        """What is seen of the maps on show; None where one is not there yet or still empty."""
        boxes = self.boxes()
        if None in boxes:
            return None
        seen = [self.explorer.pixels(box) for box in boxes]
        return [pixels.tobytes() for pixels in seen] if all(np.ptp(pixels) > 40 for pixels in seen) else None

    def rest(self, look, times):
        """Wait until a look finds the same several times in a row."""
        seen = []
        self.explorer.wait(lambda: seen.append(look()) or (seen[-1] and seen[-times:] == [seen[-1]] * times))

    # -- the click ---------------------------------------------------------------------

    def spots(self, place):
        """Where each sample shown is on the screen: ids and (N, 2)."""
        layer = self.asked("layer")
        if place == "3-D":
            stack = self.stacks[layer]
            ids, spots = stack.sample_ids * len(SIGMAS), self.stage.stack(stack)
        else:
            right = json.loads(self.asked("against")) if place == "right" else None
            at = (layer, self.asked("sigma")) if right is None else (right["layer"], f"{right['sigma']:g}")
            (ids, shares), box = self.logged.places(*at), self.boxes()[int(place == "right")]
            spots = shares * [box["width"], box["height"]] + [box["x"], box["y"]]
        shown = np.array([not self.classes or self.logged.class_of[s] in self.classes for s in ids])
        return [s for s, is_shown in zip(ids, shown, strict=True) if is_shown], spots[shown]

    def click_one(self, place):
        """Click on a sample that no other lies near, and that nobody clicked on yet."""
        chosen, spot = self.lonely(place)
        self.stage.hover(spot)
        self.expect_picture(self.page.locator(f'div:has(> div > .small:text-is("{chosen}")) > div > img'), chosen)
        self.page.mouse.click(*spot)  # both halves at once: Bokeh takes a slow click for a press
        self.clicked.append(chosen)
        self.explorer.wait(lambda: self.chosen() == self.clicked)
        self.explorer.away()

    def lonely(self, place):
        """The loneliest sample well inside a map that nobody clicked on yet, and its spot; in space it comes nearer."""
        for _ in range(8):
            ids, spots = self.spots(place)
            gaps, box = cKDTree(spots).query(spots, k=2)[0][:, 1], self.boxes()[int(place == "right")]
            size = np.array([box["width"], box["height"]])
            inside = (np.abs(spots - [box["x"], box["y"]] - size / 2) < size / 2 - 20).all(axis=1)
            free = inside & ~np.isin(ids, self.clicked)
            at = int(np.argmax(np.where(free, gaps, 0)))
            if gaps[at] > 5 and free[at]:
                return ids[at], spots[at]
            assert place == "3-D", f"no sample lies alone: {gaps[at]:.1f} pixels to the nearest"
            self.stage.element.focus()
            self.page.keyboard.press("+")
            self.rest(lambda: self.stage.camera, 3)
        raise AssertionError("no sample lies alone in space")

    def chosen(self):
        """The samples clicked on, as the address has them: the selected one, then the neighbours chosen."""
        return [self.asked("sample"), *json.loads(self.asked("also") or "[]")] if self.asked("sample") else []

    # -- what is shown -----------------------------------------------------------------

    def expect_picture(self, image, sample_id):
        expect(image.locator("visible=true").first).to_be_visible()
        shown, own = self.explorer.picture(image.locator("visible=true").first), self.logged.picture(sample_id)
        assert shown.shape == own.shape
        assert (shown == own).all(), f"another picture than that of {sample_id}"

    def expect_pictures(self):
        """Every sample clicked on is shown with its own picture: beside the map, or below the compared ones."""
        self.explorer.wait(lambda: self.chosen() == self.clicked)
        if not self.clicked:
            return
        first, *others = self.clicked
        if self.view == "Compare":
            face = f'div:has(> div > .small:text-is("{first}")) > img'
            self.expect_picture(self.page.locator(face), first)
            return
        self.expect_picture(self.page.get_by_role("img", name=first, exact=True), first)
        listed = self.page.get_by_role("list", name="Neighbours").get_by_role("listitem")
        expect(listed).to_have_count(len(others))
        for other in others:
            self.expect_picture(listed.filter(has=self.page.get_by_text(other, exact=True)).get_by_role("img"), other)


@pytest.mark.parametrize(
    ("classes", "clicks"),
    [
        pytest.param((), FEW, id="all classes"),
        pytest.param((), ALL, id="all classes, everywhere", marks=pytest.mark.slow),
        pytest.param(("3: three", "8: eight"), ALL, id="two classes, everywhere", marks=pytest.mark.slow),
    ],
)
def test_picture_is_that_of_the_sample_clicked_in_every_view_after_every_change(
    new_page, url, logged, stacks, layer_map, classes, clicks
):
    visit = Visit(new_page(), url, logged, stacks, classes)
    visit.open(layer_map.layer.layer, f"{layer_map.layer.sigma:g}")
    for place, change in clicks:
        visit.change(change, place)
        visit.click_one(place)
        visit.expect_pictures()
