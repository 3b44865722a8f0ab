"""The main views join the page when they are first looked at, never hidden before they were drawn."""

import subprocess
import sys

import pytest
from bokeh.models import Plot
from dashboard_synthetic import SyntheticRunner, SyntheticRuns

from panel_app.computing.job_bar import SessionJobs
from panel_app.dashboard import Dashboard
from panel_app.data import DataStore

VIEWS = ("map", "compare", "noise", "3d")


@pytest.fixture
def page():
    runs = SyntheticRuns(60)
    page = Dashboard(DataStore(runs), SyntheticRunner(runs), SessionJobs())
    yield page
    page.close()


def plots(page):
    """Plots that the browser is told of."""
    return list(page.views.__panel__().get_root().select({"type": Plot}))


@pytest.mark.parametrize("asked", VIEWS)
def test_address_brings_the_one_view_that_it_names_and_no_other(page, asked):
    page.open({"view": asked})
    assert page.session.notice is None, page.session.notice
    assert [view.visible for view in page.views._stage] == [True]
    assert len(plots(page)) == {"map": 1, "compare": 2}.get(asked, 0)


def test_view_joins_when_first_looked_at_and_stays_hidden_afterwards(page):
    page.open({"view": "noise"})
    joined = list(page.views._stage)
    for name in ("map", "3d", "noise", "map"):
        page.session.state.view = name
        assert list(page.views._stage)[: len(joined)] == joined  # what is drawn is not drawn anew
        joined = list(page.views._stage)
        assert [view.visible for view in joined].count(True) == 1
        assert page.views._built[name].visible
    assert len(joined) == 3


def test_nothing_is_on_the_page_before_the_address_is_read(page):
    assert plots(page) == []
    assert not page.views._built


def test_server_starts_without_what_only_jobs_need():
    script = (
        "import sys, panel_app.app\n"
        "print(*{'lightning', 'transformers', 'diffusers', 'umap', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
