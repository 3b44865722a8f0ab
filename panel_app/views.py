"""The main views beside the panel, of which one is on show: the map, and whatever else is in the table below."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import panel as pn
import panel_material_ui as pmui

from diffviews.pipelines.model_runner import Runner
from panel_app.compare.view import CompareView
from panel_app.computing.session_jobs import SessionJobs
from panel_app.fields import Part, section
from panel_app.generation.results import Results
from panel_app.places import COMPARE, NOISE, SPACE
from panel_app.scenes.view import SceneView
from panel_app.session import Session
from panel_app.state import MAP, ViewState
from panel_app.theme import LABEL_BESIDE, ONE_LINE


@dataclass(frozen=True, slots=True)
class MainView:
    """A view that can take the map's place; it is built when it is first looked at."""

    name: str
    """What the address calls it."""
    label: str
    build: Callable[[], pn.viewable.Viewable | pn.viewable.Viewer]
    wide: bool = False
    """Whether it takes the side panel's room as well."""


def further_views(session: Session, runner: Runner, queue: SessionJobs, results: Results) -> Sequence[MainView]:
    """Return the views beside the map, in the order of their buttons."""
    scene = partial(SceneView, session, runner, queue, results)
    return (
        MainView(COMPARE, "Compare", lambda: CompareView(session, results.drawing), wide=True),
        MainView(NOISE, "Noise levels", lambda: scene(solid=False)),
        MainView(SPACE, "3-D", lambda: scene(solid=True)),
    )


class Views(Part):
    """Shows the view that the state names, with a button for each.

    Args:
        state: whose `view` says which is on show; a name that no view has shows the map.
        on_map: the view named 'map'.
        further: the others.
    """

    def __init__(self, state: ViewState, on_map: pn.viewable.Viewable, further: Sequence[MainView]) -> None:
        super().__init__()
        self._state = state
        self._further = {view.name: view for view in further}
        self._on_map = on_map
        self._built: dict[str, pn.viewable.Viewable] = {}
        labels = {"Map": MAP, **{view.label: view.name for view in further}}
        self.switch = pmui.RadioButtonGroup(
            label="View", options=labels, value=self._known(), size="small", margin=(0, 0, 10, 0),
            visible=bool(further), sx=ONE_LINE, stylesheets=[LABEL_BESIDE],
        )  # fmt: skip
        self._stage = section()
        self._layout = section(self.switch, self._stage, min_width=480)
        self.switch.param.watch(lambda event: setattr(state, "view", event.new), "value")
        state.param.watch(lambda _: self.show(), "view")

    @property
    def wide(self) -> bool:
        """Whether the view on show takes the side panel's room as well."""
        name = self._known()
        return name != MAP and self._further[name].wide

    def _known(self) -> str:
        return self._state.view if self._state.view in self._further else MAP

    def show(self) -> None:
        """Bring the view that is asked for to the front; the others stay as they are, unseen.

        A view joins the page when it is first looked at, the map too: a plot that is hidden before it was ever
        drawn makes Bokeh fail in the browser.
        """
        name = self._known()
        self.switch.value = name
        if name not in self._built:
            self._built[name] = self._on_map if name == MAP else pn.panel(self._further[name].build())
            self._stage.append(self._built[name])
        for other, view in self._built.items():
            view.visible = other == name
