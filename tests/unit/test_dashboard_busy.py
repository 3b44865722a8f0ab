"""The line that moves while the server works: for the visitor it works for."""

import panel as pn
import panel_material_ui as pmui
import pytest
from bokeh.document import Document
from panel.io.state import set_curdoc

from panel_app.dashboard import Busy


@pytest.fixture
def documents():
    return [Document(), Document()]


@pytest.fixture
def pages(documents):
    made = []
    for document in documents:
        with set_curdoc(document):
            page = pmui.Page()
            made.append((page, Busy(page)))
    yield made
    for _, busy in made:
        busy.leave()


def work_for(document, look):
    with set_curdoc(document):
        pn.state._add_busy_event("work")
        found = look()
        pn.state._remove_busy_event("work")
    return found


def test_line_moves_for_the_visitor_alone_for_whom_the_server_works(documents, pages):
    lines = [busy._line for _, busy in pages]
    assert work_for(documents[1], lambda: [line.busy for line in lines]) == [False, True]
    assert [line.busy for line in lines] == [False, False]


def test_page_itself_follows_nobody(documents, pages):
    assert work_for(documents[0], lambda: [page.busy for page, _ in pages]) == [False, False]


def test_line_of_a_visitor_who_left_stays_still(documents, pages):
    pages[0][1].leave()
    assert not work_for(documents[0], lambda: pages[0][1]._line.busy)
