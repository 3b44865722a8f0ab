"""The dashboard as a person uses it: pointer, words on the page, pixels on the screen."""

import base64
import io
import os
import re
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

SELECTED, NEIGHBOUR, PATH = (47, 111, 237), (229, 72, 77), (15, 157, 138)

PATIENCE = 180
"""Seconds that a test waits for a page: the machine may be busy, and a person would wait."""

STILL = 4
"""Equal pictures in a row, while the line that says that the server is at work is not to be seen: a busy server draws
anew long after the page has its size."""
AT_WORK = "document.getElementById('busy-line')?.style.visibility === 'visible'"


class Explorer:
    """One visitor's page; `opened` is what it should show, read from the store by the test itself."""

    def __init__(self, page: Page, url: str, layer_map):
        self.page, self.url, self.map = page, url, layer_map

    def open(self, query=""):
        self.page.goto(f"{self.url}{query}")
        expect(self.page.get_by_text(re.compile(r"[\d,]+ of [\d,]+ shown"))).to_be_visible()
        expect(self.page.locator(".bk-events").first).to_be_visible()
        self.settle()
        return self

    def wait(self, condition, seconds=PATIENCE):
        """Wait for a condition; the page goes on meanwhile."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{condition.__qualname__} never came true at {self.page.url}"
            self.page.wait_for_timeout(100)

    def settle(self, maps=1, seconds=PATIENCE):
        """Wait until the pictures of so many maps have stood still for a while and none is empty."""
        deadline, before, still = time.monotonic() + seconds, None, 0
        while time.monotonic() < deadline:
            now = [self.pixels(self.page.locator(".bk-events:visible").nth(i).bounding_box()) for i in range(maps)]
            same = before is not None and all(map(np.array_equal, now, before))
            full = all(np.ptp(pixels) > 40 for pixels in now)
            still = still + 1 if same and full and not self.page.evaluate(AT_WORK) else 0
            if still == STILL:
                return
            before = now
            self.page.wait_for_timeout(150)
        raise AssertionError("the map does not come to rest")

    # -- the map -----------------------------------------------------------------------

    @property
    def box(self):
        return self.page.locator(".bk-events").first.bounding_box()

    def place(self, sample_id):
        """Where a sample is on the screen while all of the map is shown."""
        (x0, x1), (y0, y1) = self.map.bounds
        x, y = self.map.position(sample_id)
        box = self.box
        return box["x"] + (x - x0) / (x1 - x0) * box["width"], box["y"] + (y1 - y) / (y1 - y0) * box["height"]

    def hover(self, sample_id):
        x, y = self.place(sample_id)
        self.page.mouse.move(x - 3, y - 3)
        self.page.mouse.move(x, y)

    def click(self, sample_id):
        self.hover(sample_id)
        self.page.mouse.click(*self.place(sample_id))

    def away(self):
        """Take the pointer off the map."""
        self.page.mouse.move(5, 400)

    def map_pixels(self):
        return self.pixels(self.box)

    def pixels(self, clip):
        shot = self.page.screenshot(clip={k: clip[k] for k in ("x", "y", "width", "height")})
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)

    def count_near(self, sample_id, colour, reach=22):
        """How many pixels around a sample have a colour."""
        x, y = self.place(sample_id)
        clip = {"x": x - reach, "y": y - reach, "width": 2 * reach, "height": 2 * reach}
        return count_colour(self.pixels(clip), colour)

    # -- the panels --------------------------------------------------------------------

    def tab(self, name):
        self.page.get_by_role("tab", name=name, exact=True).click()

    def button(self, text):
        return self.page.get_by_role("button").filter(has_text=re.compile(rf"^\w*\s*{re.escape(text)}$"))

    def neighbours(self, count=5):
        """Ids and distances as listed, once there are so many."""
        items = self.page.get_by_role("list", name="Neighbours").get_by_role("listitem")
        self.wait(lambda: items.count() == count)
        return [
            (item.locator(".id").inner_text(), float(item.locator(".distance").inner_text())) for item in items.all()
        ]

    def choose(self, label, option):
        self.page.get_by_role("combobox", name=re.compile(rf"^{re.escape(label)}\b")).click()
        self.page.get_by_role("menuitem", name=option, exact=True).click()

    def picture(self, locator):
        """The pixels of an <img> as it was sent."""
        data = locator.get_attribute("src").partition(",")[2]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def count_colour(pixels, colour, tolerance=40):
    return int((np.abs(pixels - np.array(colour)).max(axis=-1) <= tolerance).sum())


def keep(page, name):
    """Keep a picture of the page where DIFFVIEWS_SCREENSHOTS says; those in the README are made this way."""
    folder = os.environ.get("DIFFVIEWS_SCREENSHOTS")
    if folder:
        getattr(page, "page", page).screenshot(path=Path(folder) / f"{name}.png")


def query(explorer):
    """What the address says, {name: text}."""
    return {key: values[0] for key, values in parse_qs(urlsplit(explorer.page.url).query).items()}
