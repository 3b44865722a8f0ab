"""Comparing two maps without a browser: which two, what they share, how they differ, and who follows whom."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import holoviews as hv
import numpy as np
import pytest
from dashboard_synthetic import LAYERS, FlatProjector, SyntheticRuns
from scipy.spatial.distance import cdist

from diffviews.errors import CorruptDataError, SelectionError, TrackingError
from diffviews.processing.similarity import centered_gram, compare_grams
from panel_app.compare.comparison import Comparison
from panel_app.compare.heading import extraction_options
from panel_app.compare.view import CompareView
from panel_app.comparisons import CHANGE, measure, nearest, pair
from panel_app.data import DataStore
from panel_app.filter import Filter
from panel_app.map.embedding_map import EmbeddingMap
from panel_app.places import BETWEEN, CKA, COMPARE, Against
from panel_app.session import Session
from panel_app.state import Address, Group, Selection


class TwoSets(SyntheticRuns):
    """Two extractions of which the second lacks the first ten samples."""

    def __init__(self, count=200, **options):
        super().__init__(count, extractions=("ext-1", "ext-2"), **options)

    def projector(self, map_run, slice_sigma=None):
        whole = super().projector(map_run, slice_sigma)
        if not map_run.startswith("ext-2"):
            return whole
        return FlatProjector(whole.sample_ids[10:], self._features[10:])


@pytest.fixture
def runs():
    return TwoSets()


@pytest.fixture
def session(runs):
    session = Session(DataStore(runs))
    session.start(Address(view=COMPARE))
    return session


def finish(comparison):
    deadline = time.monotonic() + 30
    while comparison.opening or comparison.measuring:
        assert time.monotonic() < deadline, "the comparison does not end"
        time.sleep(0.005)
        comparison._opener.follow()
        comparison._measurer.follow()
    return comparison


@pytest.fixture
def comparison(session):
    return finish(Comparison(session))


def brute_force_change(left, right, k):
    ids = [s for s in left.row_of if s in right.row_of]
    points = [o.projector.pca_points[[o.projector_row_of[s] for s in ids]].astype(float) for o in (left, right)]
    near = []
    for gaps in (cdist(p, p) for p in points):
        np.fill_diagonal(gaps, np.inf)
        near.append([{ids[i] for i in np.argsort(row, kind="stable")[:k]} for row in gaps])
    return {s: len(a - b) / k for s, a, b in zip(ids, *near, strict=True)}


# -- which two ---------------------------------------------------------------------------


def test_comparison_first_suggests_another_layer_at_the_same_noise_level(comparison, session):
    assert (session.state.layer, session.state.sigma) == ("decoder_block_2", 0.5)
    assert comparison.against.place == ("ext-1", "midblock", 0.5, None)
    assert comparison.right.map.layer.layer == "midblock"
    assert comparison.left.map is session.map


def test_comparison_opens_nothing_while_another_view_is_on_show(runs):
    session = Session(DataStore(runs))
    session.start(Address())
    comparison = Comparison(session)
    assert comparison.right.map is None
    assert session.state.against == Against()
    session.state.view = COMPARE
    finish(comparison)
    assert comparison.right.map is not None


def test_single_layer_run_has_nothing_to_be_compared_with_and_the_sentence_says_what_to_run(runs, monkeypatch):
    first = runs.layers("ext-1")[0]
    monkeypatch.setattr(runs, "layers", lambda extraction: [first])
    monkeypatch.setattr(runs, "extraction_ids", ("ext-1",))
    session = Session(DataStore(runs))
    session.start(Address(view=COMPARE))
    comparison = finish(Comparison(session))
    assert "diffviews extract" in comparison.problem
    assert comparison.right.map is None


def test_right_hand_layer_and_extraction_are_chosen(comparison, session):
    comparison.choose("ext-2", "encoder_block_3", 2.0)
    finish(comparison)
    layer = comparison.right.map.layer
    assert (layer.parent_id, layer.layer, layer.sigma) == ("ext-2", "encoder_block_3", 2.0)
    assert session.map.layer.parent_id == "ext-1"


def test_layer_that_the_right_hand_extraction_lacks_gives_way_to_another_and_it_is_said(comparison, session):
    comparison.choose("ext-2", "no_such_layer", 1.9)
    finish(comparison)
    assert comparison.right.map.layer.sigma == 2.0
    assert "no_such_layer" in session.notice.text or "sigma" in session.notice.text
    assert comparison.against.place == ("ext-2", comparison.right.map.layer.layer, 2.0, None)


def test_failure_on_the_right_is_a_sentence_and_the_left_map_stays(comparison, session, runs, monkeypatch):
    def broken(*_):
        raise TrackingError("the tracking server does not answer; is it running?")

    monkeypatch.setattr(runs, "points", broken)
    before = session.map
    comparison.choose("ext-2", "encoder_block_0", 2.0)
    finish(comparison)
    assert comparison.problem == session.notice.text == "the tracking server does not answer; is it running?"
    assert session.map is before


def test_swap_puts_each_map_in_the_others_place(comparison, session):
    comparison.choose("ext-2", "encoder_block_3", 2.0)
    finish(comparison)
    comparison.swap()
    finish(comparison)
    left, right = session.map.layer, comparison.right.map.layer
    assert (left.parent_id, left.layer, left.sigma) == ("ext-2", "encoder_block_3", 2.0)
    assert (right.parent_id, right.layer, right.sigma) == ("ext-1", "decoder_block_2", 0.5)
    assert comparison.left.map is session.map


def test_swap_that_fails_leaves_both_maps_where_they_are(comparison, session, monkeypatch):
    comparison.choose("ext-2", "encoder_block_3", 2.0)
    finish(comparison)
    before = session.map, comparison.against

    def broken(*_):
        raise TrackingError("the tracking server does not answer; is it running?")

    monkeypatch.setattr(session.store, "open", broken)
    comparison.swap()
    assert (session.map, comparison.against) == before
    assert "does not answer" in session.notice.text


def test_pair_of_layers_opens_on_both_sides(comparison, session):
    comparison.choose_pair("encoder_block_0", "encoder_block_3", 2.0)
    finish(comparison)
    assert (session.state.layer, session.state.sigma) == ("encoder_block_0", 2.0)
    assert comparison.right.map.layer.layer == "encoder_block_3"


def test_recomputed_map_can_stand_on_the_right_and_a_gone_one_is_replaced(comparison, session, runs):
    source = "ext-1/midblock/0.5"
    runs.added_maps.append(SimpleNamespace(run_id="map-1", source_run=source, params={}))
    comparison.choose("ext-1", "midblock", 0.5, "map-1")
    finish(comparison)
    assert comparison.right.map.map_run == "map-1"
    comparison.choose("ext-1", "midblock", 0.5, "map-9")
    finish(comparison)
    assert comparison.right.map.map_run == source
    assert "no longer logged" in session.notice.text


def test_address_restores_the_whole_comparison(comparison, session, runs):
    comparison.choose("ext-2", "encoder_block_3", 2.0)
    comparison.set(tool=CKA, k=7, coloured=True, together=True, follow=True)
    finish(comparison)
    query = {key: value for key, value in session.state.to_query().items() if value is not None}
    colleague = Session(DataStore(runs))
    colleague.start(Address.from_query(query))
    other = finish(Comparison(colleague))
    assert colleague.state.against == session.state.against
    assert other.right.map.layer.run_id == comparison.right.map.layer.run_id
    assert other.left.map.painted == other.right.map.painted == CHANGE


def test_checkpoints_of_one_training_and_runs_of_one_minute_are_told_apart():
    when = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)

    def record(run_id, checkpoint):
        return SimpleNamespace(
            run_id=run_id, model="edm", dataset="digits", start_time=when, params={"checkpoint": checkpoint}
        )

    options = extraction_options([record("run-1", "/a/step-100.ckpt"), record("run-2", "/a/step-200.ckpt")])
    assert [label.rpartition(" · ")[2] for label in options] == ["step-100.ckpt", "step-200.ckpt"]
    assert list(extraction_options([record("run-1", ""), record("run-2", "")]).values()) == ["run-1", "run-2"]


def test_against_reads_nothing_that_does_not_fit():
    asked = Against("run", "mid", 2.0, None, BETWEEN, 12, True, True, False, 0.25)
    assert Against.from_json(asked.to_json()) == asked
    assert Against().to_json() is None
    bad = '{"run": 3, "layer": "", "sigma": "x", "tool": "rm", "k": 0, "coloured": 1, "together": null, "x": 2}'
    assert Against.from_json(bad) == Against()
    for text in ("[1]", "no json", None, '{"k": true}', '{"k": 51}', '{"share": 1.5}', '{"sigma": NaN}'):
        assert Against.from_json(text) == Against()


# -- linked samples ----------------------------------------------------------------------


def test_click_on_either_side_selects_on_both(comparison, session):
    comparison.right.click("digits-0030")
    assert session.state.selection == comparison.left.state.selection == Selection("digits-0030")
    comparison.left.click("digits-0031")
    assert comparison.right.state.selection == Selection("digits-0030", manual=("digits-0031",))


def test_hover_group_and_filter_of_one_side_are_the_others_too(comparison, session):
    comparison.right.state.hovered = "digits-0020"
    assert comparison.left.state.hovered == session.state.hovered == "digits-0020"
    comparison.left.mark(("digits-0020", "digits-0021"))
    assert comparison.right.state.group == session.state.group == Group(("digits-0020", "digits-0021"))
    only_threes = Filter().with_values("class", ("3: three",))
    comparison.right.state.filter = only_threes
    assert comparison.left.state.filter == session.state.filter == only_threes
    session.state.selection = Selection("digits-0020")
    assert comparison.left.state.selection == comparison.right.state.selection == Selection("digits-0020")


def test_sample_of_the_right_map_alone_cannot_be_selected_and_it_is_said(comparison, session):
    comparison.choose("ext-2", "midblock", 0.5)
    finish(comparison)
    comparison.swap()  # now the right map has ten samples more
    finish(comparison)
    comparison.right.click("digits-0003")
    assert session.state.selection == Selection()
    assert "digits-0003 is only on the right map" in session.notice.text
    comparison.right.mark(("digits-0003", "digits-0040"))
    assert session.state.group == Group(("digits-0040",))


def test_right_hand_map_without_a_column_does_not_take_the_sessions_filter_away(comparison, session, runs, monkeypatch):
    wanted = Filter().with_range("distance_to_data", (0.0, 1e9)).with_values("class", ("3: three",))
    session.state.filter = wanted
    whole = runs.points
    monkeypatch.setattr(runs, "points", lambda *a: whole(*a).drop(columns="distance_to_data"))
    comparison.choose("ext-2", "encoder_block_0", 2.0)
    finish(comparison)
    assert session.state.filter == wanted
    shown = comparison.right.map.shown(session.state.filter)
    assert 0 < len(shown) < 190
    assert set(shown["class"]) == {"3: three"}


# -- what they share and how they differ -------------------------------------------------


def test_samples_are_paired_by_id_and_missing_ones_counted(comparison, session):
    comparison.choose("ext-2", "midblock", 0.5)
    finish(comparison)
    pairing = comparison.pairing
    assert set(pairing.sample_ids) == {f"digits-{i:04d}" for i in range(10, 200)}
    assert (pairing.only_left, pairing.only_right) == (10, 0)


def test_change_is_that_of_brute_force_among_the_common_samples(comparison, session):
    comparison.choose("ext-2", "encoder_block_0", 2.0)
    comparison.set(k=6)
    finish(comparison)
    expected = brute_force_change(session.map, comparison.right.plain, 6)
    assert comparison.change.values == pytest.approx(expected)
    assert len(set(expected.values())) > 3


def test_change_is_measured_once_for_all_visitors(session, comparison, monkeypatch):
    import panel_app.comparisons as compare_data

    monkeypatch.setattr(compare_data, "measure", None)  # a second visitor must not need it
    other = Session(session.store)
    other.start(Address(view=COMPARE))
    assert finish(Comparison(other)).change is comparison.change


def test_change_of_a_large_set_is_measured_for_some_samples_and_says_so(session, comparison):
    left, right = session.map, comparison.right.plain
    ids = pair(left, right).sample_ids
    some = measure(left, right, ids, 5, most_pairs=200 * 20)
    assert (len(some.values), some.total, some.is_whole) == (20, 200, False)
    whole = measure(left, right, ids, 5)
    assert all(whole.values[s] == share for s, share in some.values.items())


def test_change_needs_three_common_samples(session, comparison):
    with pytest.raises(SelectionError, match="share 2 samples"):
        measure(session.map, comparison.right.plain, ["digits-0001", "digits-0002"], 5)


def test_colour_by_change_colours_both_maps_and_leaves_the_sessions_colour(comparison, session):
    comparison.set(coloured=True)
    for side in (comparison.left, comparison.right):
        assert side.map.colouring(session.state.colour_by).column == CHANGE
        row = side.map.row_of["digits-0042"]
        assert side.map.table[CHANGE].iloc[row] == comparison.change.values["digits-0042"]
    assert session.state.colour_by == "class"
    assert CHANGE not in session.map.table
    comparison.set(coloured=False)
    for side in (comparison.left, comparison.right):
        assert side.map.colouring(session.state.colour_by).column == "class"


def test_nearest_among_the_common_samples_leaves_out_those_of_one_map(comparison, session):
    ids = [f"digits-{i:04d}" for i in range(10, 200)]
    found = nearest(session.map, ids, "digits-0050", 8)
    points = session.map.projector.pca_points
    row_of = session.map.projector_row_of
    gaps = {s: np.linalg.norm(points[row_of[s]] - points[row_of["digits-0050"]]) for s in ids if s != "digits-0050"}
    assert list(found) == sorted(gaps, key=gaps.get)[:8]


# -- the page ----------------------------------------------------------------------------


@pytest.fixture
def page(session):
    view = CompareView(session, EmbeddingMap(session))
    finish(view.comparison)
    return view


def test_table_lists_what_changes_most_first_and_a_click_selects(page, session):
    values = page.comparison.change.values
    shown = [entry["id"] for entry in page.changes.table.rows]
    assert shown == sorted(values, key=lambda s: (-values[s], s))[: len(shown)]
    page.changes.table._handle_msg({"open": shown[4]})
    assert session.state.selection.sample_id == shown[4]
    page.changes.table._handle_msg({"sort": "change"})
    assert page.changes.table.rows[0]["change"] == min(values.values())
    page.changes.table._handle_msg({"more": True})
    assert len(page.changes.table.rows) == 2 * len(shown)
    page.changes.table._handle_msg({"open": "not-a-sample"})
    assert session.state.selection.sample_id == shown[4]


def test_sentence_says_how_many_samples_are_on_both(page, session):
    assert "200 samples in both" in page.shared.object
    page.comparison.choose("ext-2", "midblock", 0.5)
    finish(page.comparison)
    assert "190 samples in both" in page.shared.object
    assert "10 of these samples are not on the right map" in page.choosers[0].missing.object


def test_selectors_of_each_side_open_what_is_chosen(page, session):
    left, right = page.choosers
    right.layer.value = "encoder_block_0"
    finish(page.comparison)
    assert page.comparison.right.map.layer.layer == "encoder_block_0"
    right.sigma.value = 2.0
    finish(page.comparison)
    assert page.comparison.right.map.layer.sigma == 2.0
    left.layer.value = "encoder_block_3"
    finish(page.comparison)
    assert session.state.layer == "encoder_block_3"
    assert page.comparison.right.map.layer.layer == "encoder_block_0"


def test_similarity_shows_the_logged_table_and_a_cell_opens_its_pair(page, session, runs, monkeypatch):
    page.comparison.set(tool=CKA)
    cka, table = page.cka, runs.similarity("ext-1", 0.5).frame()
    cells, outline = cka.plot.object
    for value in ("decoder_block_2", "midblock"):
        drawn = cells[value, "encoder_block_0"]  # column, then row
        assert drawn == pytest.approx(table.loc["encoder_block_0", value])
    assert list(cells.dimension_values("Left", expanded=False)) == list(LAYERS)
    assert outline.data.to_numpy().tolist() == [["midblock", "decoder_block_2"]]
    assert f"{table.loc['decoder_block_2', 'midblock']:.3f}" in cka.summary.object
    assert "Debiased" in cka.summary.object
    assert "p 0.005" in cka.summary.object
    cells_tapped(cells).event(x="decoder_block_2", y="encoder_block_0")
    finish(page.comparison)
    assert (session.state.layer, page.comparison.right.map.layer.layer) == ("encoder_block_0", "decoder_block_2")
    cka.open("encoder_block_0", "no_such_layer")
    assert page.comparison.right.map.layer.layer == "decoder_block_2"
    monkeypatch.setattr(runs, "similarity", lambda *_: None)
    session.choose_layer("encoder_block_0", 2.0)
    assert not cka.plot.visible
    assert "no similarity" in cka.summary.object

    def broken(*_):
        raise CorruptDataError("the table cka/0.5.csv cannot be read")

    monkeypatch.setattr(runs, "similarity", broken)
    page.comparison.session.store.comparisons._similarities._values.clear()
    session.choose_layer("midblock", 0.5)
    assert "the table cka/0.5.csv cannot be read" in cka.summary.object


def test_similarity_of_layers_that_share_no_table_is_measured_on_their_common_samples(page, session, runs, monkeypatch):
    page.comparison.set(tool=CKA)
    page.choosers[1].sigma.value = 2.0
    finish(page.comparison)
    left, right = session.map.projector, page.comparison.right.map.projector
    gram = {side: centered_gram(of.pca_points @ of.pca_components) for side, of in (("a", left), ("b", right))}
    expected = compare_grams(gram)
    values = page.comparison.alike
    assert values.frame().loc["left", "right"] == pytest.approx(expected.cka[0, 1], abs=1e-5)
    assert f"{expected.cka[0, 1]:.3f}" in page.cka.summary.object
    assert f"RSA {expected.rsa[0, 1]:.3f}" in page.cka.summary.object
    assert "Measured on the samples that both maps have" in page.cka.summary.object
    old = replace(runs.similarity("ext-1", 0.5), mutual_knn=None, rsa=None, p_value=None, debiased=False)
    monkeypatch.setattr(runs, "similarity", lambda *_: old)
    page.comparison.session.store.comparisons._similarities._values.clear()
    page.choosers[1].sigma.value = 0.5
    finish(page.comparison)
    assert "earlier version" in page.cka.summary.object
    assert "Biased linear CKA" in page.cka.summary.object
    assert "RSA 0" not in page.cka.summary.object


def cells_tapped(cells):
    return next(s for s in hv.streams.Stream.registry[cells] if isinstance(s, hv.streams.Tap))


def test_quality_table_has_every_measure_and_opens_a_layer_on_either_side(page, session):
    keys = [column["key"] for column in page.quality.table.columns]
    assert {"knn_accuracy_activation", "control_rate", "trustworthiness"} <= set(keys)
    assert "control_baseline" not in keys
    assert len(page.quality.table.rows) == 8
    page.quality.table._handle_msg({"open": "ext-1/encoder_block_0/2.0"})
    assert (session.state.layer, session.state.sigma) == ("encoder_block_0", 2.0)
    page.quality.table._handle_msg({"open": "ext-1/encoder_block_3/2.0", "beside": True})
    finish(page.comparison)
    assert page.comparison.right.map.layer.run_id == "ext-1/encoder_block_3/2.0"
    assert session.state.layer == "encoder_block_0"


def test_quality_table_holds_both_extractions_where_they_differ(page, session):
    page.comparison.choose("ext-2", "midblock", 0.5)
    finish(page.comparison)
    assert page.quality.table.columns[0]["key"] == "run"
    assert len(page.quality.table.rows) == 16
    page.quality.table._handle_msg({"open": "ext-2/encoder_block_0/2.0"})
    assert session.state.extraction == "ext-2"


def test_empty_comparison_says_so_on_the_page(runs, monkeypatch):
    first = runs.layers("ext-1")[0]
    monkeypatch.setattr(runs, "layers", lambda extraction: [first])
    monkeypatch.setattr(runs, "extraction_ids", ("ext-1",))
    session = Session(DataStore(runs))
    session.start(Address(view=COMPARE))
    page = CompareView(session, EmbeddingMap(session))
    assert page.problem.visible
    assert "nothing to compare" in page.problem.object


def test_stale_comparison_is_never_shown_for_another_map(page, session):
    page.comparison.set(tool=BETWEEN)
    before = page.comparison.change
    session.choose_layer("encoder_block_0", 2.0)
    assert page.comparison.change is None
    assert page.changes.table.rows == []
    finish(page.comparison)
    assert page.comparison.change is not before
    assert replace(page.comparison.against, tool=CKA).place == page.comparison.against.place
