"""The views over noise levels and in space on a whole page: what they open, order and say, without a browser."""

import gc
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from dashboard_synthetic import SyntheticRunner, SyntheticRuns

from diffviews.errors import TrackingError
from diffviews.tracking.schema import MapKind
from panel_app.computing.job_bar import SessionJobs
from panel_app.dashboard import Dashboard
from panel_app.data import DataStore
from panel_app.places import SIGMA_AXIS, THREE_AXES, Across
from panel_app.scenes.view import SceneView
from panel_app.state import Address


@pytest.fixture
def runs():
    return SyntheticRuns(60)


def aligned(run_id="aligned-1", layer="midblock"):
    params = {"map": "aligned", "sigmas": "0.5,2", "n_neighbors": "15", "min_dist": "0.1"}
    return SimpleNamespace(run_id=run_id, source_run=f"ext-1/{layer}/0.5", params=params)


def finish(waiting):
    deadline = time.monotonic() + 20
    while waiting.busy:
        assert time.monotonic() < deadline, "it does not end"
        time.sleep(0.01)
        waiting.follow()


@pytest.fixture
def visit(runs):
    def make(**query):
        page = Dashboard(DataStore(runs), SyntheticRunner(runs), SessionJobs())
        page.open({"layer": "midblock", "sigma": "2", **query})
        assert page.session.notice is None, page.session.notice
        solid = query["view"] == "3d"
        view = SceneView(page.session, SyntheticRunner(runs), SessionJobs(), page.results, solid=solid)
        finish(view._background)
        return page, view

    return make


def test_noise_view_opens_the_slices_at_the_layers_own_noise_level(visit, runs):
    runs.added_maps = [aligned()]
    _, view = visit(view="noise")
    assert view.pane.scene.map_run == "aligned-1"
    assert view.pane.cloud.at == pytest.approx(np.log(2.0))
    assert "midblock" in view.caption.object
    assert "σ 0.5, 2" in view.caption.object
    assert not view.order._layout.visible
    assert not view.chooser.visible


def test_address_restores_where_the_player_stood_and_on_which_map(visit, runs):
    runs.added_maps = [aligned("newer"), aligned("older")]
    page, view = visit(view="noise", across=Across("older", 0.9).to_json())
    assert view.pane.scene.map_run == "older"
    assert view.pane.cloud.at == pytest.approx(np.log(0.9))
    assert view.chooser.visible
    view.pane._answer({"at": float(np.log(1.5)), "of": "older"})
    assert page.session.state.across == Across("older", 1.5)
    assert "1.5" in page.session.state.to_query()["across"]


def test_player_stays_within_the_slices(visit, runs):
    runs.added_maps = [aligned()]
    _, view = visit(view="noise", across=Across(sigma=80.0).to_json())
    assert view.pane.cloud.at == pytest.approx(np.log(2.0))


def test_noise_level_of_the_sidebar_moves_the_player(visit, runs):
    runs.added_maps = [aligned()]
    page, view = visit(view="noise", across=Across(sigma=0.9).to_json())
    page.session.choose_layer("midblock", 0.5)
    assert view.pane.cloud.at == pytest.approx(np.log(0.5))


def test_layer_without_aligned_map_says_so_and_offers_one_which_then_opens(visit, runs):
    _, view = visit(view="noise")
    assert view.pane.scene is None
    assert not view.pane.cloud.visible
    assert "No aligned map of this layer yet" in view.order.text.object
    view.order.make()
    finish(view.order.bar)
    finish(view._background)
    assert runs.added_maps[0].params["map"] == "aligned"
    assert view.pane.scene.map_run == runs.added_maps[0].run_id
    assert not view.order._layout.visible


def test_another_layer_brings_its_own_slices_or_none(visit, runs):
    runs.added_maps = [aligned(), aligned("other", "decoder_block_2")]
    page, view = visit(view="noise")
    page.session.choose_layer("decoder_block_2")
    finish(view._background)
    assert view.pane.scene.map_run == "other"
    page.session.choose_layer("encoder_block_0")
    finish(view._background)
    assert view.pane.scene is None
    assert view.order.button.visible


def test_view_that_nobody_looks_at_opens_nothing(visit, runs, monkeypatch):
    runs.added_maps = [aligned(), aligned("other", "decoder_block_2")]
    page, view = visit(view="noise")
    page.session.state.view = "map"
    page.session.choose_layer("decoder_block_2")
    assert not view._background.busy
    assert view.pane.scene.map_run == "aligned-1"
    page.session.state.view = "noise"
    finish(view._background)
    assert view.pane.scene.map_run == "other"


def test_unreadable_slices_are_a_sentence_and_are_tried_again(visit, runs, monkeypatch):
    runs.added_maps = [aligned()]
    whole, broken = runs.points, [True]

    def points(run, sigma=None):
        if sigma == 0.5 and broken:
            raise TrackingError("run aligned-1 has no artifact map/points-0.5.parquet")
        return whole(run, sigma)

    monkeypatch.setattr(runs, "points", points)
    page, view = visit(view="noise")
    assert "no artifact map/points-0.5.parquet" in view.order.text.object
    broken.clear()
    page.session.state.view = "map"
    page.session.state.view = "noise"
    finish(view._background)
    assert view.pane.scene is not None


def test_space_shows_the_stack_then_a_map_in_three_dimensions_made_to_order(visit, runs):
    runs.added_maps = [aligned()]
    page, view = visit(view="3d")
    assert view.chooser.value == SIGMA_AXIS
    assert view.pane.scene.positions.shape == (2, 60, 2)
    view.chooser.value = THREE_AXES
    assert page.session.state.across.axis == THREE_AXES
    finish(view._background)
    assert view.pane.scene is None
    assert "No map in 3-D" in view.order.text.object
    view.order.make()
    finish(view.order.bar)
    finish(view._background)
    assert view.pane.scene.positions.shape == (1, 60, 3)
    assert view.pane.cloud.levels == []


def test_map_in_three_dimensions_on_show_is_shown_in_space(visit, runs):
    solid = SimpleNamespace(run_id="solid", source_run="ext-1/midblock/2.0", params={"n_components": "3"})
    runs.added_maps = [solid]
    page, view = visit(view="3d", map="solid")
    assert view.chooser.value == THREE_AXES
    assert view.pane.scene.map_run == "solid"
    page.session.click("digits-0007")
    assert view.pane.cloud.marks == [{"index": view.pane.scene.index_of["digits-0007"], "kind": "selected"}]


@pytest.mark.parametrize(
    ("kind", "dimensions", "view", "made"),
    [
        (MapKind.JOINT, 2, "map", ("joint", "2")),
        (MapKind.ALIGNED, 3, "noise", ("aligned", "2")),
        (MapKind.SINGLE, 3, "3d", ("single", "3")),
    ],
)
def test_recomputed_maps_of_every_kind_open_where_they_are_seen(runs, kind, dimensions, view, made):
    page = Dashboard(DataStore(runs), SyntheticRunner(runs), SessionJobs())
    page.open({"layer": "midblock", "sigma": "2"})
    page.remap.dimensions.value, page.remap.kind.value = dimensions, kind
    assert page.remap.dimensions.disabled == (kind is MapKind.ALIGNED)
    page.remap.compute()
    finish(page.remap.bar)
    assert page.session.notice is None or page.session.notice.text.startswith("The re-computed map is on show")
    logged = runs.added_maps[0]
    assert (logged.params["map"], logged.params["n_components"]) == made
    assert page.session.state.view == view
    shown = page.session.state.across.map if kind is MapKind.ALIGNED else page.session.state.map_run
    assert shown == logged.run_id


def test_views_go_when_their_visitor_goes(visit, runs):
    runs.added_maps = [aligned()]
    page, view = visit(view="noise")
    gone = weakref.ref(view), weakref.ref(page.session)
    page.close()
    del page, view
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_address_that_names_an_aligned_map_alone_opens_its_slices(runs):
    runs.added_maps = [aligned("newer"), aligned("older")]
    runs.places["older"] = Address(
        run="ext-1", layer="midblock", sigma=0.5, view="noise", across=Across(map="older")
    )
    page = Dashboard(DataStore(runs), SyntheticRunner(runs), SessionJobs())
    page.open({"run": "older"})
    assert page.session.notice is None, page.session.notice
    assert page.session.state.view == "noise"
    assert page.session.state.across == Across(map="older")
