"""The program: `panel serve panel_app/app.py`. Runs once for every visitor; what they share is in `shared`."""

import sys

import panel as pn
import panel_material_ui as pmui
from panel.io.resources import get_dist_path

from diffviews.errors import DiffViewsError
from panel_app.computing.job_bar import SessionJobs, accelerator_queue
from panel_app.dashboard import Dashboard
from panel_app.settings import Settings
from panel_app.shared import shared
from panel_app.theme import THEME_CONFIG

STYLES = "dist_url"
"""Template variable with the address of Panel's own style sheets. Panel sets it when it has written a page; until then,
and always for a session that a browser opens anew, it would send the visitor to another host for them."""


def page() -> pmui.Page:
    """Return a new visitor's page; what cannot be opened becomes a sentence on it."""
    pn.extension(respect_explicit_sizing=True)
    try:
        settings = Settings.read(sys.argv[1:])
        store, runner = shared(settings)
    except DiffViewsError as error:
        alert = pmui.Alert(object=str(error), title="The dashboard cannot open", severity="error", margin=24)
        return pmui.Page(title="DiffViews", main=[alert], theme_config=THEME_CONFIG)
    queue = SessionJobs(accelerator_queue())
    dashboard = Dashboard(store, runner, queue, ui_url=settings.mlflow_ui, first=settings.first_values)
    location = pn.state.location
    query = ({"run": settings.run} if settings.run else {}) | (dict(location.query_params) if location else {})
    dashboard.open(query, experiment=settings.experiment, model=settings.model)
    pn.state.on_session_destroyed(lambda _: dashboard.close())
    return dashboard.page


if pn.state.served:
    pn.state.curdoc.template_variables.setdefault(STYLES, get_dist_path(cdn=False))
    page().servable()
