"""The export menu: a view as picture, table, images or report, saved by the browser and logged if wished."""

from functools import partial
from typing import Any
from urllib.parse import urlencode

import panel as pn
import panel_material_ui as pmui
import param

from diffviews.pipelines.job_queue import Job
from panel_app.cards import hint, hint_small, link
from panel_app.components import Downloader
from panel_app.computing.job_bar import JobBar, SessionJobs, processor_queue
from panel_app.export.figure import DPI, WIDTH, view_of
from panel_app.export.files import ExportedView, Format, Scope, make_file
from panel_app.fields import Part, choice, field, press, row, switch, text
from panel_app.generation.results import Results
from panel_app.map.embedding_map import EmbeddingMap
from panel_app.session import Session
from panel_app.theme import THEME_CONFIG

_KINDS: tuple[tuple[Format, str, str, str], ...] = (
    ("png", "Map as PNG", "image", "The map as it is shown, with legend and rings, at print size."),
    ("svg", "Map as SVG", "draw", "The same with rings, paths and words as shapes, to be edited; dots are pixels."),
    ("csv", "Table as CSV", "table_view", "The samples with class, prompt, place, all columns and distances."),
    ("json", "Table as JSON", "data_object", "The same with the run's ids and exact texts."),
    ("zip", "Images as zip", "folder_zip", "The samples' images as PNG files named by their ids."),
    ("html", "Report as HTML", "article", "One file with map, run, measures, selection and this visit's generations."),
)
_NAMES: dict[Scope, str] = {"selection": "Selected", "marked": "Marked", "shown": "Shown"}


class ExportMenu(Part):
    """A button that opens the menu; files are made in the background, what is shown then does not matter."""

    def __init__(self, session: Session, drawing: EmbeddingMap, results: Results) -> None:
        self.drawing, self.results = drawing, results
        self._queue = SessionJobs(processor_queue())
        self.button = press(
            "Export", self.open, "Save the map, the samples, their images or a report.", icon="download",
            variant="text", sizing_mode=None, margin=(0, 8, 0, 0), align="center",
            theme_config=THEME_CONFIG,  # a page bar makes its primary colour white for what stands in it
        )  # fmt: skip
        self.scope = choice(
            "Samples of tables and images", {name: scope for scope, name in _NAMES.items()}, "selection",
            "The selected sample with its neighbours, the samples marked together, or all that the filter shows.",
            margin=(4, 0, 10, 0),
        )  # fmt: skip
        self.width = field(
            pmui.IntInput, "Width of the map, mm", "180 mm is the text width of a page of paper.",
            value=int(WIDTH), start=40, end=600, margin=(4, 4, 4, 0),
        )  # fmt: skip
        self.dpi = field(
            pmui.IntInput, "Pixels an inch", "300 is what printers ask for; 180 mm are 2,126 pixels then.",
            value=DPI, start=72, end=600, margin=(4, 4, 4, 0),
        )  # fmt: skip
        self.log = switch(
            "Also log to MLflow", False,
            "The file becomes an artifact of a run of its own, of the kind 'export', that names this run.",
            margin=(8, 0),
        )  # fmt: skip
        look: dict[str, Any] = {"typed": True, "variant": "outlined", "margin": (4, 4, 4, 0)}
        self.buttons: dict[Format, pmui.Button] = {
            kind: press(label, partial(self.export, kind), help, icon=icon, **look)
            for kind, label, icon, help in _KINDS
        }
        self.bar = JobBar(session, self._queue, self._done, self._tell)
        self._message = text(margin=(6, 0))
        self.saver = Downloader(height=0, margin=0)
        buttons = list(self.buttons.values())
        self.dialog = pmui.Dialog(
            row(self.width, self.dpi, margin=(8, 0, 0, 0)),
            row(*buttons[:2], margin=(0, 0, 10, 0)),
            self.scope,
            row(*buttons[2:5], margin=(0, 0, 10, 0)),
            row(buttons[5], self.log),
            self.bar,
            self._message,
            title="Export this view",
            title_variant="h6",
            show_close_button=True,
            close_on_click=True,
            width_option="sm",
        )
        self._layout = pn.Column(self.dialog, self.saver, height=0, margin=0, sizing_mode="stretch_width")
        super().__init__(session=session)

    def open(self) -> None:
        """Open the menu."""
        if self.session.map is None:
            self.session.tell("There is no map to export yet.", "info")
            return
        counts = {scope: len(self._sample_ids(scope)) for scope in _NAMES}
        options = {f"{_NAMES[scope]} ({count:,})": scope for scope, count in counts.items()}
        kept = self.scope.value if counts.get(self.scope.value) else None
        self.scope.param.update(options=options, value=None)  # else the browser keeps the label of before
        self.scope.value = kept or next((s for s, count in counts.items() if count), "shown")
        self._message.object = ""
        self.dialog.open = True

    def export(self, kind: Format) -> None:
        """Make a file of the view, save it, and log it if the switch says so."""
        if self.session.map is None or self.bar.busy:
            return
        view, library = self.noted(), self.session.store.library
        logged = self.log.value
        title = f"{kind} of {view.seen.map.layer.layer} σ {view.seen.map.layer.sigma:g}"
        source, address = view.seen.map.map_run, view.links.get("This view in the dashboard", "")

        def work(job: Job) -> Any:
            job.report(0, 0)
            made = make_file(view, kind)
            job.report(0, 0, note="logging to MLflow" if logged else "")
            run = library.log_export(source, {made.name: made.content}, title=title, link=address) if logged else None
            return made, run

        self._message.object = ""
        self.bar.start("Making the file", work)

    def noted(self) -> ExportedView:
        """Return the view as it is now."""
        session, url = self.session, self.session.store.library.run_url
        layer_map, scope = session.map, self.scope.value
        runs = {
            "Layer run in MLflow": layer_map.layer.run_id,
            "Map run in MLflow": layer_map.map_run if layer_map.map_run != layer_map.layer.run_id else None,
            "Extraction in MLflow": layer_map.layer.parent_id,
        }
        links = {"This view in the dashboard": _address(session)}
        links |= {text: found for text, run in runs.items() if run and (found := url(run))}
        made = [entry for entry in self.results.entries if entry.map_run == layer_map.map_run]
        return ExportedView(
            seen=view_of(session, self.drawing),
            scope=scope,
            sample_ids=self._sample_ids(scope),
            distances=dict(session.distances),
            marked=tuple(s for s in session.state.group.sample_ids if s in layer_map.row_of),
            width=float(self.width.value or WIDTH),
            dpi=int(self.dpi.value or DPI),
            generations=made,
            links=links,
            generation_links={e.run_id: found for e in made if (found := url(e.run_id))},
        )

    def leave(self) -> None:
        """End what this visitor has still queued."""
        self._queue.leave()

    def _sample_ids(self, scope: Scope) -> tuple[str, ...]:
        layer_map, state = self.session.map, self.session.state
        if scope == "shown":
            return tuple(dict.fromkeys(layer_map.shown(state.filter)["sample_id"].astype(str)))
        chosen = state.selection.members if scope == "selection" else state.group.sample_ids
        return tuple(s for s in chosen if s in layer_map.row_of)

    def _done(self, result: Any) -> None:
        made, run = result
        self.saver.send(made.name, made.kind, made.content)
        size = len(made.content)
        size_text = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
        message = hint_small(f"Saved {made.name}, {size_text}.")
        if run is not None:
            where = link(self.session.store.library.run_url(run), "Logged to MLflow") or hint_small(
                f"Logged as run {run}."
            )
            message += f'<p class="small">{where}</p>'
        self._message.object = message

    def _tell(self, text: str, severity: str) -> None:
        """Say in the menu what went wrong, for it covers the page."""
        self._message.object = hint(text) if severity == "info" else f'<div role="alert">{hint(text)}</div>'

    @param.depends("bar.busy", watch=True)
    def _enable(self) -> None:
        for button in self.buttons.values():
            button.disabled = self.bar.busy


def _address(session: Session) -> str:
    """Return where this view is seen again: the page's address with the view as its query."""
    query = urlencode({key: value for key, value in session.state.to_query().items() if value is not None})
    place = pn.state.location
    page = (
        f"{place.protocol}//{place.hostname}{f':{place.port}' if place.port else ''}{place.pathname}" if place else ""
    )
    return f"{page}?{query}"
