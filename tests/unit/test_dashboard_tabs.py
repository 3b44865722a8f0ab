"""Tabs: a panel joins the page when it is first looked at, and stays."""

import panel as pn
import pytest

from panel_app.fields import Tabs


class Said(pn.viewable.Viewer):
    def __init__(self, text):
        super().__init__()
        self.pane = pn.pane.Str(text)

    def __panel__(self):
        return self.pane


@pytest.fixture
def shown():
    return []


@pytest.fixture
def tabs(shown):
    return Tabs({name: Said(name) for name in ("first", "second", "third")}, on_show=shown.append)


def texts(tabs):
    return sorted(pane.object for pane in tabs.__panel__().select(pn.pane.Str) if pane.object)


def test_first_panel_is_there_from_the_beginning_and_no_other(tabs, shown):
    assert texts(tabs) == ["first"]
    assert shown == ["first"]


def test_panel_joins_once_when_first_looked_at_and_stays(tabs, shown):
    for name in ("third", "first", "third"):
        tabs.show(name)
    assert texts(tabs) == ["first", "third"]
    assert shown == ["first", "third", "first", "third"]
