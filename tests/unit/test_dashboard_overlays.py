"""What is drawn over the map: rings at their samples, paths with readable labels."""

import pytest
from dashboard_synthetic import SyntheticRuns

from panel_app.data import DataStore
from panel_app.map.overlays import (
    DARK,
    LIGHT,
    DrawnPath,
    add_glyphs,
    empty_sources,
    label_steps,
    path_columns,
    ring_columns,
    stretches,
)
from panel_app.state import Selection
from panel_app.theme import BASELINE_PATH, NEIGHBOUR, PATH, SELECTED


@pytest.fixture(scope="module")
def layer_map():
    store = DataStore(SyntheticRuns(60))
    return store.open(store.layer_run("ext-1", "midblock", 2.0))


def test_rings_lie_at_their_samples_thin_thick_and_blue(layer_map):
    rings = ring_columns(layer_map, Selection("digits-0001", ("digits-0002",), ("digits-0003",)), 4.0, LIGHT)
    places = [layer_map.position(f"digits-000{i}") for i in (2, 3, 1)]
    assert list(zip(rings["x"], rings["y"], strict=True)) == places
    assert rings["colour"] == [NEIGHBOUR, NEIGHBOUR, SELECTED]
    suggested, manual, selected = rings["width"]
    assert suggested < manual < selected
    assert min(rings["size"]) > 2 * 4.0


def test_samples_that_the_map_lacks_get_no_ring(layer_map):
    rings = ring_columns(layer_map, Selection("digits-0001", ("elsewhere",)), 4.0, DARK)
    assert rings["colour"] == [SELECTED]


def test_path_is_drawn_step_by_step_and_the_marked_step_stands_out():
    masked = DrawnPath((0.0, 1.0, 2.0), (0.0, 1.0, 0.0), (80.0, 2.0, 0.002), (9.0, 2.0, 1.0))
    baseline = DrawnPath((0.0, 3.0, 4.0), (0.0, 3.0, 4.0), (80.0, 2.0, 0.002), (9.0, 2.0, 1.0), baseline=True)
    lines, dots, labels = path_columns([baseline, masked], 1, (4.0, 4.0), LIGHT)
    assert lines["xs"] == [[0.0, 3.0, 4.0], [0.0, 1.0, 2.0]]
    assert lines["colour"] == [BASELINE_PATH, PATH]
    assert lines["dash"] == ["dashed", "solid"]
    assert len(dots["x"]) == 6
    assert dots["size"].index(max(dots["size"])) == 4
    assert labels["text"] == ["σ 80", "σ 2", "σ 0.002"]
    assert (labels["x"], labels["y"]) == ([0.0, 1.0, 2.0], [0.0, 1.0, 0.0])


def test_steps_beyond_held_out_samples_are_hollow_and_dotted():
    far = DrawnPath((0.0, 1, 2, 3), (0.0,) * 4, (80.0, 5, 1, 0.1), (9.0,) * 4, unusual=(True, True, False, False))
    lines, dots, _ = path_columns([far], 3, (4.0, 4.0), LIGHT)
    assert lines["xs"] == [[0.0, 1, 2], [2, 3]]
    assert lines["dash"] == ["dotted", "solid"]
    assert dots["colour"] == [LIGHT.paper, LIGHT.paper, PATH, PATH]
    assert dots["edge"] == [PATH, PATH, LIGHT.paper, LIGHT.ink]
    assert stretches((False, True, False), 3) == [(0, 2, True)]
    assert stretches((False, False, True, False, False, False), 6) == [(0, 1, False), (1, 3, True), (3, 5, False)]
    assert stretches((True,), 1) == [(0, 0, True)]
    assert stretches((), 3) == [(0, 2, False)]


def test_labels_keep_apart_and_always_name_both_ends():
    steps = 40
    crowded = DrawnPath(
        (*(0.001 * i for i in range(steps - 1)), 1.0), (0.0,) * steps,
        tuple(float(steps - i) for i in range(steps)), (0.0,) * steps,
    )  # fmt: skip
    assert label_steps(crowded, (1.0, 1.0)) == [0, steps - 1]
    straight = DrawnPath(tuple(i / 10 for i in range(11)), (0.0,) * 11, tuple(range(11, 0, -1)), (0.0,) * 11)
    assert label_steps(straight, (1.0, 1.0)) == list(range(11))
    assert label_steps(straight, (4.0, 1.0)) == [0, 3, 6, 10]


def test_no_path_draws_nothing():
    assert not any(column for columns in path_columns([], -1, (1.0, 1.0), DARK) for column in columns.values())


def test_every_glyph_finds_its_columns():
    from bokeh.plotting import figure

    plot, sources = figure(), empty_sources()
    add_glyphs(plot, sources)
    for renderer in plot.renderers:
        values = renderer.glyph.properties_with_values().values()
        fields = {value.field for value in values if hasattr(value, "field")}
        assert fields
        assert fields <= set(renderer.data_source.data)
