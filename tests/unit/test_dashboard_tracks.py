"""Denoising paths of several generations: each has a colour of its own, the same wherever it is drawn or listed."""

import itertools

import numpy as np
import pytest
from dashboard_synthetic import SyntheticRunner, SyntheticRuns
from test_dashboard_past import generate

from panel_app.computing.job_bar import SessionJobs
from panel_app.dashboard import Dashboard
from panel_app.data import DataStore
from panel_app.generation.gallery_entry import path_colours
from panel_app.map.overlays import DARK, LIGHT, path_columns
from panel_app.theme import BASELINE_PATH, NEIGHBOUR, PATH, PATHS, SELECTED


@pytest.fixture
def dashboard():
    runs = SyntheticRuns(120)
    page = Dashboard(DataStore(runs), SyntheticRunner(runs), SessionJobs())
    page.open({})
    yield page
    page.close()


def linear(colour):
    share = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """Contrast ratio of WCAG, 1 to 21."""
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(colour):
    """CIE 1976 L*a*b*, white D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.maximum(to_xyz @ linear(colour) / [0.9505, 1, 1.089], 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_paths_can_be_read_on_light_and_dark_pages_and_told_apart():
    assert min(contrast(colour, look.paper) for colour in PATHS for look in (LIGHT, DARK)) >= 3
    pairs = itertools.combinations((*PATHS, BASELINE_PATH, SELECTED, NEIGHBOUR), 2)
    assert min(np.linalg.norm(lab(one) - lab(other)) for one, other in pairs if {one, other} & set(PATHS)) > 30


def test_path_keeps_its_colour_while_it_is_on_show_and_then_it_is_free():
    first = path_colours(["a", "b"], {})
    assert first == {"a": PATH, "b": PATHS[1]}
    assert path_colours(["c", "b"], first) == {"c": PATH, "b": PATHS[1]}
    many = path_colours([str(i) for i in range(len(PATHS) + 1)], {})
    assert list(many.values()) == [*PATHS, PATH]


def test_colour_in_the_gallery_is_that_of_the_path_on_the_map(dashboard):
    dashboard.session.click("digits-0007")
    generate(dashboard, 3)
    results = dashboard.results
    for number, shown in enumerate(results.entries):  # the runner here gives them all one way
        shown.generation.path = shown.generation.path.assign(x=shown.generation.path["x"] + number)
    for run in ("gen-1", "gen-2"):
        results._on_gallery({"path": run, "on": True})
    listed = {entry["id"]: entry["colour"] for entry in results.gallery.entries}
    assert len(set(listed.values())) == 3
    paths = dashboard.drawing.paths
    assert [path.baseline for path in paths] == [True, False, False, False]
    drawn = {path.x: path.colour for path in paths[1:]}
    for shown in results.entries:
        path = shown.generation.path
        rows = path[(path["variant"] == "masked") & (path["sample"] == 0)]
        assert drawn[tuple(rows["x"])] == listed[shown.generation.run_id]
    lines, dots, _ = path_columns(paths, -1, (1.0, 1.0), LIGHT)
    assert lines["colour"] == [BASELINE_PATH, *(path.colour for path in paths[1:])]
    assert set(dots["colour"]) == set(lines["colour"])

    # Showing another changes no colour; what is no longer drawn has none in the list.
    before = dict(listed)
    results.gallery._on_message({"show": "gen-1"})
    listed = {entry["id"]: entry["colour"] for entry in results.gallery.entries}
    assert listed == {**before, "gen-3": ""}
    dashboard.session.choose_layer("encoder_block_0", 2.0)
    assert {entry["colour"] for entry in results.gallery.entries} == {""}


def test_tracks_name_the_sample_on_show_for_every_view(dashboard):
    dashboard.session.click("digits-0007")
    generate(dashboard, 2)
    results = dashboard.results
    results._on_gallery({"path": "gen-1", "on": True})
    results._on_view({"sample": 2})
    told = [(t.entry.generation.run_id, t.sample, t.colour, t.has_baseline) for t in results.tracks]
    assert told == [("gen-2", 2, PATH, True), ("gen-1", 0, PATHS[1], False)]
