"""Twenty visitors at once, each doing something else: no cross-talk, no error, nothing kept when they leave."""

import json
import os
import random
import re
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import psutil
import pytest
from explorer import PATIENCE, Explorer
from playwright.sync_api import expect
from scipy.spatial import cKDTree

from diffviews.pipelines.viz import SESSION_WAITS
from diffviews.recipes.generation import GenerationRecipe
from tests.dashboard_server import served

VISITORS = 20
SECONDS = float(os.environ.get("DIFFVIEWS_VISIT_SECONDS", "300"))
FORGOTTEN = SESSION_WAITS + 60
"""Seconds within which the server lets go of visitors who left: it waits for them to come back, and looks seldom."""
VIEWS = {None: "Map", "compare": "Compare", "noise": "Noise levels", "3d": "3-D"}
COLOURS = {None: "Class", "distance_to_data": "Distance to data"}


@dataclass
class Visitor:
    """One page, and what it must show because of what was done on it, whatever the others do."""

    explorer: Explorer
    choices: random.Random
    maps: dict[tuple[str, str], object]
    """The opened map of each (layer, noise level as an address has it)."""
    workspace: object
    expected: dict[str, str | None] = field(default_factory=dict)
    """What the address must say; None where it must say nothing."""
    todo: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    answer: object = None
    """What is still to be looked at of what was begun last."""

    def begin(self):
        """Do the next thing, in an order of one's own; its answer is looked at once the others have begun theirs."""
        if not self.todo:
            self.todo = ["arrive", "layer", "click", "click", "suggest", "zoom", "view", "colour", "generate"]
            self.choices.shuffle(self.todo)
        self.done.append(self.todo.pop())
        self.answer = getattr(self, self.done[-1])()

    @contextmanager
    def witnessed(self):
        """Add to a failure what this visitor had done, and a picture of the page."""
        try:
            yield
        except Exception as error:
            picture = Path(tempfile.gettempdir()) / "diffviews-visitor.png"
            self.page.screenshot(path=picture)
            error.add_note(f"after {self.done} the address must say {self.expected} and is {self.page.url}: {picture}")
            raise

    def check(self):
        """See one's own layer, sample, colour and view, in the address and in words, and what was begun last."""
        if self.answer is not None:
            self.answer()
            self.answer = None
        self.explorer.wait(self.is_as_expected)
        sample = self.expected["sample"]
        if sample is not None and self.expected["view"] is None:
            self.explorer.tab("Sample")
            named = self.page.get_by_text(re.compile(rf"^{re.escape(sample)}\b")).filter(visible=True)
            expect(named.first).to_be_visible()
        assert self.page.get_by_text("did not work").count() == 0

    def is_as_expected(self):
        query = self.query()
        return all(query.get(key) == value for key, value in self.expected.items())

    def query(self):
        return {k: v[0] for k, v in parse_qs(urlsplit(self.page.url).query).items()}

    @property
    def page(self):
        return self.explorer.page

    @property
    def layer_map(self):
        return self.maps[self.expected["layer"], self.expected["sigma"]]

    # -- what a visitor does; each returns what is to be looked at afterwards ------------------

    def arrive(self):
        """Follow a link to a sample on some layer's map."""
        layer, sigma = self.choices.choice(list(self.maps))
        self.expected = {"layer": layer, "sigma": sigma, "view": None, "colour": None}
        self.expected["sample"] = self.choices.choice(self.map.samples.sample_ids)
        asked = {key: value for key, value in self.expected.items() if value is not None}
        query = urlencode({"run": self.map.layer.parent_id, **asked})
        self.page.goto(f"{self.explorer.url}?{query}")
        return self.see_map

    def see_map(self):
        shown = self.page.get_by_text(re.compile(r"[\d,]+ of [\d,]+ shown")).first
        expect(shown).to_be_visible()
        expect(self.page.locator(".bk-events").first).to_be_visible()

    def return_to_map(self):
        if self.expected["view"] is not None:
            self.expected["view"] = None
            self.turn()
            self.explorer.wait(self.is_as_expected)
        self.see_map()

    def layer(self):
        self.expected["layer"] = self.choices.choice([m[0] for m in self.maps if m[0] != self.expected["layer"]])
        self.explorer.choose("Layer", self.expected["layer"])

    def view(self):
        self.expected["view"] = self.choices.choice([view for view in VIEWS if view != self.expected["view"]])
        self.turn()

    def turn(self):
        """Go to the view that is to be looked at."""
        views = self.page.get_by_role("group", name="View", exact=True).last
        views.get_by_role("button", name=VIEWS[self.expected["view"]], exact=True).click()

    def colour(self):
        colour = self.choices.choice([colour for colour in COLOURS if colour != self.expected["colour"]])
        self.explorer.choose("Colour by", COLOURS[colour])
        self.expected["colour"] = colour

    def clear(self):
        """Select nothing, for a further click would choose a neighbour."""
        self.return_to_map()
        self.explorer.tab("Sample")
        if self.expected["sample"] is not None:
            self.explorer.button("Clear").click()
            self.expected["sample"] = None
            self.explorer.wait(self.is_as_expected)

    def click(self):
        """Select a sample by its place on the map."""
        self.clear()
        self.page.get_by_role("button", name="Reset view").click()
        self.explorer.away()
        self.explorer.map = self.map
        self.explorer.settle()
        self.expected["sample"] = self.choices.choice(lonely(self.map))
        self.explorer.click(self.expected["sample"])

    def suggest(self):
        if self.expected["sample"] is None:
            self.click()
            self.check()
        self.return_to_map()
        self.explorer.tab("Sample")
        self.explorer.button("Suggest nearest").click()
        return lambda: self.explorer.wait(self.has_own_neighbours)

    def has_own_neighbours(self):
        """Whether the neighbours in the address are those of one's own sample on one's own layer."""
        near = [n.sample_id for n in self.map.neighbours(self.expected["sample"], 5, "activation")]
        return json.loads(self.query().get("near", "[]")) == near

    def zoom(self):
        self.return_to_map()
        self.explorer.away()
        self.explorer.settle()
        before, box = self.explorer.map_pixels(), self.explorer.box
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.page.mouse.wheel(0, -300)
        self.explorer.away()
        return lambda: self.explorer.wait(lambda: (self.explorer.map_pixels() != before).any())

    def generate(self):
        """Generate from one's own selection."""
        if self.expected["sample"] is None:
            self.click()
            self.check()
        self.return_to_map()
        self.explorer.tab("Generate")
        before = self.shown_runs()
        self.explorer.button("Generate").click()
        return lambda: self.see_own_generation(before)

    def shown_runs(self):
        return self.page.get_by_text(re.compile(r"^run [0-9a-f]{12}$")).all_inner_texts()

    def see_own_generation(self, before):
        self.explorer.wait(lambda: self.shown_runs() not in ([], before), 2 * PATIENCE)
        run = self.shown_runs()[0].removeprefix("run ")
        made = next(g for g in self.workspace.catalog.generations(self.map.layer.run_id) if g.run_id.startswith(run))
        recipe = self.workspace.folder(made.run_id).path("recipe.json").read_text()
        assert GenerationRecipe.from_json(recipe).sample_ids[0] == self.expected["sample"]


def lonely(layer_map):
    """Samples that no other overlaps on the screen, so that a click can only mean them."""
    (x0, x1), (y0, y1) = layer_map.bounds
    table = layer_map.table
    points = np.stack([(table["x"] - x0) / (x1 - x0) * 580, (table["y"] - y0) / (y1 - y0) * 400], axis=1)
    gaps = cKDTree(points).query(points, k=2)[0][:, 1]
    return [str(s) for s in table["sample_id"].iloc[np.argsort(-gaps)[:12]]]


@pytest.fixture
def server(store):
    """A dashboard of its own, whose memory nobody else uses."""
    with served(store) as (program, address):
        yield psutil.Process(program.pid), address


@pytest.fixture
def maps(data, layer_map):
    """What each layer and noise level must show, read from the store by the test itself."""
    records = data.library.layers(layer_map.layer.parent_id)
    return {(r.layer, f"{r.sigma:g}"): data.open(r) for r in records}


def memory(process):
    """Resident bytes of the server and its children."""
    return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)])


def visit(new_page, address, maps, workspace, *, seconds=0.0, things=0):
    """Let twenty visitors do things at once for some seconds, and so many things at least; return how many."""
    pages = [new_page(1280, 800)]
    pages += [new_page() for _ in range(VISITORS - 1)]
    visitors = [
        Visitor(Explorer(page, address, next(iter(maps.values()))), random.Random(number), maps, workspace)
        for number, page in enumerate(pages)
    ]
    for visitor in visitors:
        visitor.answer = visitor.arrive()
    check_all(visitors)
    end, done = time.monotonic() + seconds, 0
    while time.monotonic() < end or done < things * VISITORS:
        for visitor in visitors:
            with visitor.witnessed():
                visitor.begin()
        check_all(visitors)
        done += VISITORS
    check_all(visitors)
    for visitor in visitors:
        visitor.page.close()
    return done


def check_all(visitors):
    for visitor in visitors:
        with visitor.witnessed():
            visitor.check()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_visitors_do_not_meet_and_leave_nothing_behind(server, new_page, maps, workspace):
    process, address = server
    visit(new_page, address, maps, workspace, things=3)  # between them everything: what all share is loaded now
    time.sleep(FORGOTTEN)
    before = memory(process)
    done = visit(new_page, address, maps, workspace, seconds=SECONDS)
    assert done >= VISITORS
    most = memory(process)
    deadline = time.monotonic() + FORGOTTEN
    while memory(process) > 1.05 * before and time.monotonic() < deadline:
        time.sleep(2)
    after = memory(process)
    told = f"{before / 1e6:.0f} MB before, {most / 1e6:.0f} MB with {VISITORS} visitors, {after / 1e6:.0f} MB after"
    print(f"{done} things done; {told}")
    assert after <= 1.05 * before
