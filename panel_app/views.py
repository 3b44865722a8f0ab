"""The main views beside the panel, of which one is on show."""

from collections.abc import Callable
from functools import partial
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param

from diffviews.pipelines.model_runner import Runner
from panel_app.compare.view import CompareView
from panel_app.computing.job_bar import SessionJobs
from panel_app.fields import Part, section
from panel_app.generation.results import Results
from panel_app.places import COMPARE, NOISE, SPACE
from panel_app.scenes.view import SceneView
from panel_app.session import Session
from panel_app.state import MAP
from panel_app.theme import LABEL_BESIDE, ONE_LINE


class Views(Part):
    """Shows the view that the state names, with a button for each; a name that no view has shows the map.

    Args:
        session: the visit.
        on_map: the view named 'map'.
        runner: what computes the maps that a view lacks.
        queue: where they wait.
        results: whose denoising paths are drawn.
    """

    def __init__(
        self, session: Session, on_map: pn.viewable.Viewable, runner: Runner, queue: SessionJobs, results: Results
    ) -> None:
        scene = partial(SceneView, session, runner, queue, results)
        self._build: dict[str, Callable[[], Any]] = {
            MAP: lambda: on_map,
            COMPARE: lambda: CompareView(session, results.drawing),
            NOISE: lambda: scene(solid=False),
            SPACE: lambda: scene(solid=True),
        }
        self._built: dict[str, pn.viewable.Viewable] = {}
        self.switch = pmui.RadioButtonGroup(
            label="View", options={"Map": MAP, "Compare": COMPARE, "Noise levels": NOISE, "3-D": SPACE},
            size="small", margin=(0, 0, 10, 0), sx=ONE_LINE, stylesheets=[LABEL_BESIDE],
        )  # fmt: skip
        self._stage = section()
        self._layout = section(self.switch, self._stage, min_width=480)
        super().__init__(session=session)
        self.switch.value = self._known()
        self.switch.param.watch(lambda event: setattr(session.state, "view", event.new), "value")

    @property
    def wide(self) -> bool:
        """Whether the view on show takes the side panel's room as well."""
        return self._known() == COMPARE

    def _known(self) -> str:
        return self.session.state.view if self.session.state.view in self._build else MAP

    @param.depends("session.state.view", watch=True)
    def show(self) -> None:
        """Bring the view that is asked for to the front; the others stay as they are, unseen.

        A view is built, and joins the page, when it is first looked at, the map too: a plot that is hidden before it
        was ever drawn makes Bokeh fail in the browser.
        """
        name = self._known()
        self.switch.value = name
        if name not in self._built:
            self._built[name] = pn.panel(self._build[name]())
            self._stage.append(self._built[name])
        for other, view in self._built.items():
            view.visible = other == name
