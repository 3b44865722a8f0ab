"""Twenty visitors at once, each looking at something else: no cross-talk, no error, nothing kept when they leave."""

import os
import random
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from conftest import serve, stop
from explorer import Explorer
from playwright.sync_api import expect

VISITORS = 20
SECONDS = float(os.environ.get("DIFFVIEWS_VISIT_SECONDS", "300"))
FORGOTTEN = 90
"""Seconds within which the server lets go of visitors who left: it waits 15 for them to come back, and looks seldom."""


@dataclass
class Visitor:
    """One page, and what it must show because of what was done on it, whatever the others do."""

    explorer: Explorer
    choices: random.Random
    layers: list[tuple[str, float]]
    samples: list[str]
    expected: dict[str, str | None] = field(default_factory=dict)
    done: int = 0

    def act(self):
        """Do one thing that a visitor does."""
        action = self.choices.choice((self.look_at_layer, self.select, self.select, self.suggest, self.zoom))
        action()
        self.done += 1
        self.check()

    def look_at_layer(self):
        layer, sigma = self.choices.choice(self.layers)
        expected = {"layer": layer, "sigma": f"{sigma:g}"}
        run = self.explorer.opened.layer.parent_id
        self.explorer.page.goto(f"{self.explorer.url}?layer={layer}&sigma={sigma:g}&run={run}")
        expect(self.explorer.page.locator(".bk-events").first).to_be_visible(timeout=120_000)
        self.expected = {"sample": None, **expected}

    def select(self):
        sample = self.choices.choice([s for s in self.samples if s != self.expected.get("sample")])
        layer, sigma = self.expected["layer"], self.expected["sigma"]
        query = f"?run={self.explorer.opened.layer.parent_id}&layer={layer}&sigma={sigma}&sample={sample}"
        self.explorer.page.goto(f"{self.explorer.url}{query}")
        self.expected["sample"] = sample

    def suggest(self):
        if self.expected.get("sample") is None:
            self.select()
        self.explorer.button("Suggest nearest").click(timeout=120_000)
        self.explorer.wait(lambda: "near" in self.query(), seconds=120)

    def zoom(self):
        box = self.explorer.box
        self.explorer.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.explorer.page.mouse.wheel(0, self.choices.choice((-300, 300)))

    def query(self):
        return {k: v[0] for k, v in parse_qs(urlsplit(self.explorer.page.url).query).items()}

    def check(self):
        """The page shows this visitor's layer and sample, in its address and in words."""
        page, sample = self.explorer.page, self.expected.get("sample")
        self.explorer.wait(lambda: self.expected.items() <= {"sample": None, **self.query()}.items(), seconds=120)
        if sample is not None:
            expect(page.get_by_text(sample, exact=True).first).to_be_visible(timeout=120_000)
        assert page.get_by_text("did not work").count() == 0


@pytest.fixture
def server(store):
    """A dashboard of its own, whose memory nobody else uses; glibc gives what is freed back at once."""
    program, address = serve(store, MALLOC_TRIM_THRESHOLD_="131072", MALLOC_ARENA_MAX="2")
    yield psutil.Process(program.pid), address
    complaint = stop(program)
    assert not complaint, complaint


def memory(process):
    """Resident bytes of the server and its children."""
    return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)])


def visit(new_page, address, data, opened, seconds):
    """Let twenty visitors do things in turn for a while; return what was done."""
    layers = [(r.layer, r.sigma) for r in data.library.layers(opened.layer.parent_id)]
    samples = list(opened.samples.sample_ids[:60])
    visitors = []
    for number in range(VISITORS):
        explorer = Explorer(new_page(1280, 800), address, opened)
        visitor = Visitor(explorer, random.Random(number), layers, samples)
        visitor.look_at_layer()
        visitors.append(visitor)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for visitor in visitors:
            visitor.act()
    for visitor in visitors:
        visitor.check()
        visitor.explorer.page.context.close()
    return sum(visitor.done for visitor in visitors)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_visitors_do_not_meet_and_leave_nothing_behind(new_page, server, data, opened):
    process, address = server
    visit(new_page, address, data, opened, 0)  # everything that is shared by all is opened and compiled now
    time.sleep(FORGOTTEN)
    before = memory(process)
    done = visit(new_page, address, data, opened, SECONDS)
    assert done >= VISITORS
    deadline = time.monotonic() + FORGOTTEN
    while memory(process) > 1.05 * before and time.monotonic() < deadline:
        time.sleep(2)
    after = memory(process)
    print(f"{done} actions of {VISITORS} visitors; memory {before / 1e6:.0f} MB before, {after / 1e6:.0f} MB after")
    assert after <= 1.05 * before
