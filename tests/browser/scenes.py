"""The views over noise levels and in space as a person uses them; where a sample is follows from the logged maps.

The formulas are those that `panel_app/esm/cloud_places.js` documents, written again: a page that draws samples
elsewhere than it says fails.
"""

import json
from urllib.parse import urlencode

import numpy as np
from explorer import count_colour
from playwright.sync_api import expect
from scipy.spatial import cKDTree

TOP = 0.85
BOXES = "views => views.map(view => JSON.stringify(view.getBoundingClientRect()))"


class Slices:
    """An aligned map read from the store: positions (L, N, 2) by ascending sigma."""

    def __init__(self, workspace, run_id, sigmas, sample_ids):
        tables = [_table(workspace, run_id, f"points-{text}") for text in sigmas]
        self.run_id, self.ats, self.sample_ids = run_id, np.log([float(s) for s in sigmas]), list(sample_ids)
        self.places = np.stack([table.loc[self.sample_ids, ["x", "y"]].to_numpy(np.float64) for table in tables])

    def at(self, at):
        """Positions (N, 2) between the slices, linear in log sigma."""
        first = min(max(int(np.searchsorted(self.ats, at)) - 1, 0), len(self.ats) - 2)
        share = (at - self.ats[first]) / (self.ats[first + 1] - self.ats[first])
        return self.places[first] + (self.places[first + 1] - self.places[first]) * share


def _table(workspace, run_id, name):
    import pandas as pd

    return pd.read_parquet(workspace.folder(run_id).path(f"map/{name}.parquet")).set_index("sample_id")


def solid_places(workspace, run_id, sample_ids):
    """Positions (N, 3) of a map with three components."""
    return _table(workspace, run_id, "points").loc[list(sample_ids), ["x", "y", "z"]].to_numpy(np.float64)


class Stage:
    """The canvas of one of these views."""

    def __init__(self, explorer):
        self.explorer, self.page = explorer, explorer.page
        self.element = explorer.page.locator("[data-camera]:visible")

    def open(self, layer_map, view, **query):
        layer = layer_map.layer
        named = {"run": layer.parent_id, "layer": layer.layer, "sigma": layer.sigma, "view": view, **query}
        self.page.goto(f"{self.explorer.url}?{urlencode(named)}")
        return self

    def ready(self):
        """Wait until one view is there and keeps its place: of two that take turns the one that goes stays a moment."""
        boxes = []

        def settled():
            boxes.append(self.element.evaluate_all(BOXES))
            return len(boxes[-1]) == 1 and boxes[-10:] == [boxes[-1]] * 10

        self.explorer.wait(settled)
        return self

    @property
    def camera(self):
        return json.loads(self.element.get_attribute("data-camera"))

    @property
    def at(self):
        return float(self.element.get_attribute("data-at"))

    @property
    def box(self):
        return self.element.bounding_box()

    # -- where places are, (N, 2) pixels of the page -----------------------------------

    def plane(self, slices, at):
        low, high = slices.places.min(axis=(0, 1)), slices.places.max(axis=(0, 1))
        scaled = (slices.at(at) - (low + high) / 2) / ((high - low) / 2 * 1.12)
        camera = self.camera
        x = camera["width"] / 2 * (1 + (scaled[:, 0] - camera["cx"]) * camera["zoom"])
        y = camera["height"] / 2 * (1 - (scaled[:, 1] - camera["cy"]) * camera["zoom"])
        return self._on_page(x, y)

    def stack(self, slices):
        """All slices one after the other, (L · N, 2)."""
        low, high = slices.places.min(axis=(0, 1)), slices.places.max(axis=(0, 1))
        flat = (slices.places - (low + high) / 2) / ((high - low) / 2).max()
        heights = (2 * (slices.ats - slices.ats[0]) / (slices.ats[-1] - slices.ats[0]) - 1) * TOP
        lifted = np.broadcast_to(heights[:, None, None], (*flat.shape[:2], 1))
        return self.space(np.concatenate([flat, lifted], axis=2).reshape(-1, 3))

    def solid(self, places):
        low, high = places.min(axis=0), places.max(axis=0)
        return self.space((places - (low + high) / 2) / ((high - low) / 2).max())

    def space(self, scaled):
        camera, (x, y, z) = self.camera, scaled.T
        yaw, pitch = camera["yaw"], camera["pitch"]
        across, along = x * np.cos(yaw) - y * np.sin(yaw), x * np.sin(yaw) + y * np.cos(yaw)
        depth = along * np.cos(pitch) - z * np.sin(pitch)
        shrunk = camera["scale"] * camera["distance"] / (camera["distance"] + depth)
        up = (z * np.cos(pitch) + along * np.sin(pitch)) * shrunk
        return self._on_page(camera["width"] / 2 + across * shrunk, camera["height"] / 2 - up)

    def _on_page(self, x, y):
        box = self.box
        return np.stack([x + box["x"], y + box["y"]], axis=1)

    # -- pointer and pixels ------------------------------------------------------------

    def alone(self, places, least=26):
        """Indices of places that no other is near on the screen and that lie well inside, the loneliest first."""
        gaps, box = cKDTree(places).query(places, k=2)[0][:, 1], self.box
        corner, size = np.array([box["x"], box["y"]]), np.array([box["width"], box["height"]])
        inside = ((places > corner + 30) & (places < corner + size - 30)).all(axis=1)
        order = np.argsort(-np.where(inside, gaps, 0))
        found = [int(index) for index in order[:40] if gaps[index] > least / 2 and inside[index]]
        assert found, "no sample lies alone on the screen"
        return found

    def hover(self, place):
        self.page.mouse.move(place[0] - 4, place[1] - 3)
        self.page.mouse.move(*place)

    def click(self, place):
        self.hover(place)
        self.page.mouse.down()
        self.page.mouse.up()

    def count(self, place, colour, reach=18):
        """How many pixels around a place have a colour; so narrowly that the blue of a class is none of a ring's."""
        clip = {"x": place[0] - reach, "y": place[1] - reach, "width": 2 * reach, "height": 2 * reach}
        return count_colour(self.explorer.pixels(clip), colour, tolerance=20)

    def expect_card_of(self, sample_id, layer_map):
        """The hover card tells of this sample, with its own picture."""
        card = self.element.locator(".card")
        expect(card.get_by_text(sample_id, exact=True)).to_be_visible()
        shown = self.explorer.picture(card.locator("img"))
        assert (shown == layer_map.samples.images_of([sample_id])[0]).all()
        return card
