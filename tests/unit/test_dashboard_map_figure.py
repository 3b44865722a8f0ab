"""The figure under the map: who may change it when, and which part of the map it shows."""

import threading
import weakref

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.models import BoxSelectTool
from bokeh.plotting import figure
from dashboard_synthetic import SyntheticRuns

from panel_app.clustering import Clustering, find
from panel_app.data import DataStore
from panel_app.map.embedding_map import EmbeddingMap
from panel_app.map.figure import MapFigure
from panel_app.map.tools import BOX, HAND
from panel_app.session import Session
from panel_app.state import Address

POINT = {"x": [1.0], "y": [2.0], "size": [9.0]}


class Visit:
    """Stands for a page that a browser looks at."""


@pytest.fixture
def visit():
    return Visit()


@pytest.fixture
def seen(visit):
    """A figure on a page that a browser looks at: its models may change only on the page's own tick."""
    plot, drawn, document = MapFigure(), figure(tools="pan", x_range=(0, 1), y_range=(0, 1)), Document()
    plot.adopt(drawn, HAND)
    document.add_root(drawn)
    document._session_context = weakref.ref(visit)
    return plot


def hovered(plot):
    return next(r.data_source.data for r in plot.figure.renderers if set(r.data_source.data) == set(POINT))


@pytest.mark.parametrize("in_thread", [True, False], ids=["thread", "stream"])
def test_figure_on_a_page_changes_on_the_pages_own_tick_only(seen, in_thread):
    def change():
        seen.put(hover=POINT)
        seen.move_to((3.0, 4.0), (5.0, 6.0))
        seen.take(BOX)

    if in_thread:
        thread = threading.Thread(target=change)
        thread.start()
        thread.join()
    else:
        change()
    drawn = seen.figure
    assert hovered(seen)["x"] == []
    assert drawn.x_range.start == 0
    assert not isinstance(drawn.toolbar.active_drag, BoxSelectTool)

    for waiting in drawn.document.session_callbacks:
        waiting.callback()
    assert hovered(seen) == POINT
    assert seen.view == ((3.0, 4.0), (5.0, 6.0))
    assert isinstance(drawn.toolbar.active_drag, BoxSelectTool)


def test_figure_that_nobody_looks_at_changes_at_once():
    plot = MapFigure()
    plot.adopt(figure(tools="pan", x_range=(0, 1), y_range=(0, 1)), HAND)
    plot.put(hover=POINT)
    assert hovered(plot) == POINT


# -- the part of the map that is on show -----------------------------------------------


@pytest.fixture
def session():
    session = Session(DataStore(SyntheticRuns(120)))
    session.start(Address())
    return session


@pytest.fixture
def near(session):
    """A map whose visitor has come nearer, and where to."""
    drawing = EmbeddingMap(session)
    drawing.plot.pane.get_root()
    (x0, x1), (y0, y1) = session.map.bounds
    view = (x0, (x0 + x1) / 2), ((y0 + y1) / 2, y1)
    drawing.look_at(*view)
    assert (drawing.view, drawing.seen[0]) == (view, view)
    return drawing, view


def test_zoom_stays_while_the_same_points_get_other_columns_and_colours(session, near):
    drawing, view = near
    session.show_clusters(find(session.map, Clustering()))
    session.map = session.map.with_columns(change=np.zeros(120))
    session.state.colour_by = "distance_to_data"
    session.drop_clusters()
    session.choose_map(None)
    assert (drawing.view, drawing.seen[0]) == (view, view)
    assert drawing.plot.range.contents == dict(zip(("x_range", "y_range"), view, strict=True))


def test_card_stays_while_the_same_points_get_other_columns_and_goes_with_another_map(session, near):
    drawing, _ = near
    drawing.pointed(*session.map.position("digits-0003"))
    card = drawing._pointing.card
    session.map = session.map.with_columns(change=np.zeros(120))
    assert (card.visible, session.state.hovered) == (True, "digits-0003")
    session.choose_layer(session.map.layer.layer, 0.5 if session.map.layer.sigma == 2.0 else 2.0)
    assert (card.visible, session.state.hovered) == (False, None)


def test_points_of_another_map_are_all_shown(session, near):
    drawing, view = near
    first = session.map
    session.choose_layer(first.layer.layer, 0.5 if first.layer.sigma == 2.0 else 2.0)
    assert session.map.bounds != first.bounds
    assert (drawing.view, drawing.seen[0]) == (None, session.map.bounds)
    session.choose_layer(first.layer.layer, first.layer.sigma)
    assert drawing.seen[0] == first.bounds != view
