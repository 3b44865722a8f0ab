"""One visitor's page: everything that is seen is put together here."""

from typing import Any
from urllib.parse import urlencode

import panel as pn
import panel_material_ui as pmui
import param

from diffviews.pipelines.model_runner import Runner
from panel_app.analysis.tab import AnalysisPanel
from panel_app.cards import link
from panel_app.components import AddressBar, BusyLine, ConnectionNotice, Html
from panel_app.computing.background import Background
from panel_app.computing.job_bar import SessionJobs
from panel_app.computing.order import OrderPanel
from panel_app.computing.pending import PendingPanel
from panel_app.computing.remap import RemapPanel
from panel_app.data import DataStore
from panel_app.export.menu import ExportMenu
from panel_app.fields import Part, Tabs, section
from panel_app.generation.panel import GenerationPanel, Results
from panel_app.generation.sampling_section import MODELS_OWN, FirstValues
from panel_app.inspector import LayersPanel, RunPanel, SamplePanel
from panel_app.map.embedding_map import EmbeddingMap
from panel_app.navigation import Navigation, heading
from panel_app.session import Notice, Session
from panel_app.state import ADDRESSED, Address
from panel_app.theme import CSS_VARIABLES, PAGE_SX, THEME_CONFIG
from panel_app.views import Views

SIDEBAR_WIDTH, PANEL_WIDTH = 276, 372
_ANALYSIS = "Analysis"
_KEPT = "What this host has fetched before can still be looked at; other maps and new generations need the store."
_THEME, _DARK = "theme", "dark"
"""As panel-material-ui reads them from the address too."""

_INSTEAD = (
    '<div style="max-width:560px;margin:12vh auto;text-align:center;line-height:1.6">'
    '<div style="font-size:20px;font-weight:600;margin-bottom:8px">{}</div><p class="muted">{}</p></div>'
)
WELCOME = _INSTEAD.format(
    "No extractions yet",
    "This tracking store holds no finished extraction. Run <code>diffviews demo</code>, or "
    "<code>diffviews extract --model edm-digits</code>, then press “Look for new runs”.",
)
UNOPENED = _INSTEAD.format(
    "The map could not be opened",
    "The reason stands above. Choose another extraction at the left, or press “Look for new runs”.",
)


class Dashboard:
    """One visitor's page."""

    def __init__(
        self,
        store: DataStore,
        runner: Runner,
        queue: SessionJobs,
        *,
        ui_url: str | None = None,
        first: FirstValues = MODELS_OWN,
    ) -> None:
        self.session, self._queue = Session(store), queue
        self.drawing = EmbeddingMap(self.session)
        self.results = Results(self.session, self.drawing)
        self.navigation = Navigation(self.session)
        self.remap = RemapPanel(self.session, runner, queue)
        self.navigation.add(heading("Re-compute the map"), self.remap)
        self.order, self.pending = OrderPanel(self.session, runner, queue), PendingPanel(self.session)
        self.navigation.add(heading("Extract further layers"), self.order, self.pending)
        self.banner = StoreBanner(self.session)
        self.samples = SamplePanel(self.session)
        self.generation = GenerationPanel(self.session, runner, queue, self.results, first)
        self.analysis = AnalysisPanel(self.session)
        self.exports = ExportMenu(self.session, self.drawing, self.results)
        self.layers = LayersPanel(self.session)
        self.run = RunPanel(self.session)
        self._ui_url = ui_url
        on_map = pn.Column(self.drawing, self.results, sizing_mode="stretch_width", margin=0)
        self.views = Views(self.session, on_map, runner, queue, self.results)
        self._build()
        self.session.param.watch(self._tell, "notice")
        self.session.param.watch(lambda *_: self._show_welcome(), "map")
        self.session.state.param.watch(lambda *_: self._write_address(), list(ADDRESSED))
        self._show_welcome()

    def _build(self) -> None:
        self.alert = _alert(severity="error", margin=(0, 0, 12, 0))
        self.address = AddressBar(keys=[*self.session.state.to_query(), _THEME], height=0, margin=0)
        panels = {
            "Sample": self.samples,
            "Generate": self.generation,
            _ANALYSIS: self.analysis,
            "Layers": self.layers,
            "Run": self.run,
        }
        self.tabs = Tabs(panels, on_show=lambda name: setattr(self.analysis, "active", name == _ANALYSIS))
        self.welcome = Html(WELCOME, sizing_mode="stretch_width", visible=False)
        side = pmui.Paper(
            self.tabs,
            elevation=0,
            variant="outlined",
            width=PANEL_WIDTH,
            margin=(0, 0, 0, 14),
            styles={
                "flex": "none",
                "align-self": "flex-start",
                "max-height": "calc(100vh - 92px)",
                "overflow-y": "auto",
            },
        )
        self._body = pn.Row(self.views, side, sizing_mode="stretch_width", margin=0)
        side.visible = not self.views.wide
        self.session.state.param.watch(lambda *_: setattr(side, "visible", not self.views.wide), "view")
        unseen = (self.address, ConnectionNotice(height=0, margin=0), self.exports)
        told = (*unseen, self.banner, self.alert, self.welcome)
        main = pn.Column(*told, self._body, sizing_mode="stretch_width", margin=(16, 16))
        self.page = pmui.Page(
            title="DiffViews",
            sidebar=[self.navigation],
            main=[main],
            header=[self._header(), self.exports.button],
            sidebar_width=SIDEBAR_WIDTH,
            busy_indicator=None,
            theme_config=THEME_CONFIG,
            sx=PAGE_SX,
            raw_css=[CSS_VARIABLES],
            meta_name="DiffViews",
            meta_description="What the layers of a diffusion model know, and which of them decide",
        )
        self.busy = Busy(self.page)
        main.append(self.busy)
        self.page.param.watch(self._turn, "dark_theme")

    def _header(self) -> pn.viewable.Viewable:
        return Html(
            '<div style="display:flex;align-items:baseline;gap:14px;white-space:nowrap">'
            '<span class="muted" style="flex:1">what the layers of a diffusion model know, and which decide</span>'
            f"<span>{link(self._ui_url, 'MLflow')}</span></div>",
            sizing_mode="stretch_width",
            align="center",
            margin=(0, 16, 0, 14),
        )

    def open(self, query: dict[str, Any], *, experiment: str | None = None, model: str | None = None) -> None:
        """Open what the address names, else the newest extraction of an experiment and a model, else of any."""
        self.page.dark_theme = self.drawing.dark = query.get(_THEME) == _DARK
        self.session.start(Address.from_query(query), experiment, model)
        self._show_welcome()
        self.views.show()
        self.banner.look()

    def close(self) -> None:
        """Let go of the page when its visitor has left."""
        history = self.generation.history
        for part in (self._queue, history, self.pending, self.banner, self.busy, self.analysis, self.exports):
            part.leave()
        let_go(self.page)

    def _turn(self, event: Any) -> None:
        """Follow the page into dark or light; what is drawn later reads it from the address."""
        self.drawing.dark = event.new
        self._write_address()

    def _write_address(self) -> None:
        """Keep the address bar at this view, so that it can be sent to a colleague."""
        present = {key: value for key, value in self.session.state.to_query().items() if value is not None}
        if self.page.dark_theme:
            present[_THEME] = _DARK
        self.address.search = urlencode(present)

    def _tell(self, event: Any) -> None:
        notice: Notice | None = event.new
        if notice is None:
            self.alert.visible = False
            return
        self.alert.param.update(object=notice.text, severity=notice.severity, visible=True, closed=False)

    def _show_welcome(self) -> None:
        empty = self.session.map is None
        self.welcome.object = UNOPENED if self.session.extractions else WELCOME
        self.welcome.visible, self._body.visible = empty, not empty


def _alert(**looks: Any) -> pmui.Alert:
    """Return what says something at the top of the page once there is something to say."""
    return pmui.Alert(object="", closeable=True, visible=False, sizing_mode="stretch_width", **looks)


class StoreBanner(Part):
    """Says that the artifact store does not answer; looks once for each visit, and again when asked."""

    def __init__(self, session: Session) -> None:
        self._work = Background(self._answer)
        self.alert = _alert(title="The artifact store cannot be reached", severity="warning", margin=(0, 0, 6, 0))
        self.retry = pmui.Button(
            label="Try again", icon="refresh", variant="outlined", size="small", visible=False, margin=(0, 0, 12, 0),
            on_click=lambda _: self.look(again=True),
        )  # fmt: skip
        self._layout = section(self.alert, self.retry)
        super().__init__(session=session)

    def look(self, *, again: bool = False) -> None:
        """Ask the store beside the page whether it answers."""
        self.retry.param.update(disabled=True, label="Looking…")
        self._work.start(self.session.store.library.trouble, self._answer_again if again else self._answer)

    def leave(self) -> None:
        """Look no more: the visitor has left."""
        self._work.leave()

    def _answer(self, trouble: str | None) -> None:
        self.retry.param.update(disabled=False, label="Try again")
        if trouble is None:
            self.alert.visible = False
            return
        self.alert.param.update(object=f"{trouble}. {_KEPT}", visible=True, closed=False)

    def _answer_again(self, trouble: str | None) -> None:
        self._answer(trouble)
        if trouble is None:
            self.session.tell("The artifact store answers again.", "info")
            if self.session.map is None:
                self.session.refresh()

    @param.depends("alert.closed", "alert.visible", watch=True)
    def _follow_alert(self) -> None:
        self.retry.visible = self.alert.visible and not self.alert.closed


class Busy(Part):
    """Moves a line while the page's own document is at work.

    Panel has one state for all visitors. A page of its template follows that state: it moves for everybody at each
    event of anybody, and looks through all its models each time, which took most of a busy server's time.

    Args:
        page: which no longer follows.
    """

    def __init__(self, page: pmui.Page) -> None:
        super().__init__()
        self._line = self._layout = BusyLine(height=0, margin=0)
        self._document = pn.state.curdoc
        for watchers in pn.state.param.watchers.get("busy", {}).values():
            for watcher in list(watchers):
                if getattr(getattr(watcher.fn, "__self__", None), "self", None) is page:
                    pn.state.param.unwatch(watcher)
        self._watcher = pn.state.param.watch(self._follow, "busy")

    def _follow(self, event: Any) -> None:
        busy = event.new and pn.state.curdoc is self._document
        if busy != self._line.busy:
            self._line.busy = busy

    def leave(self) -> None:
        """Follow no longer; the visitor has left."""
        pn.state.param.unwatch(self._watcher)


def let_go(page: pmui.Page) -> None:
    """Take a page out of what lives as long as the process; call it once its session has ended.

    HoloViews lists the callbacks of each plot in `Callback._callbacks`, with its streams. Panel means to clean them up
    when a session ends. By then Bokeh has emptied the models, and for a component written in JavaScript, as the page
    is, Panel asks the emptied model which children to clean up (`ReactiveESM._cleanup`).
    """
    for pane in page.select(pn.pane.HoloViews):
        for plot, _ in pane._plots.values():
            plot.cleanup()
