"""The gallery of logged generations: each can be shown again, loaded into the form, or replayed."""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import param

from diffviews.errors import DiffViewsError
from diffviews.pipelines.generate import LoggedGeneration
from diffviews.pipelines.model_runner import Runner
from diffviews.recipes.generation import GenerationRecipe
from diffviews.recipes.naming import generation_detail, generation_name
from diffviews.tracking.records import GenerationRecord
from panel_app.cards import hint
from panel_app.components import HistoryList
from panel_app.computing.background import Background
from panel_app.computing.job_bar import JobBar, SessionJobs
from panel_app.fields import Part, choice, folded, press, row, section, text
from panel_app.generation.archive import GenerationArchive, Preview
from panel_app.generation.gallery_entry import subject_on
from panel_app.session import Session

PAGE = 8
"""Generations shown at once; only these are fetched."""
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class _Entry:
    """A generation in the list; its recipe and picture come later, or never where the store is down."""

    record: GenerationRecord
    preview: Preview | None = None
    trouble: str = ""
    note: str = ""


class GenerationHistory(Part):
    """Lists what was logged of the layer, or of the whole extraction, on show, newest first, page by page.

    Args:
        session: whose layer is on show.
        runner: that replays.
        queue: that replays wait in.
        on_show: called with a generation that is to be shown again.
        on_load: called with the recipe that is to be filled into the form.
    """

    def __init__(
        self,
        session: Session,
        runner: Runner,
        queue: SessionJobs,
        *,
        on_show: Callable[[LoggedGeneration], None],
        on_load: Callable[[GenerationRecipe], None],
    ) -> None:
        self.runner = runner
        self._on_show, self._on_load = on_show, on_load
        self._records: Sequence[GenerationRecord] = ()
        self._entries: list[_Entry] = []
        self._page, self._replayed = 0, ""
        self._lists = Background(self._fail)
        self._previews = Background(self._fail)
        self._shows = Background(self._fail)
        self.bar = JobBar(session, queue, self._compared, self._tell)
        self._build()
        super().__init__(session=session)

    def _build(self) -> None:
        self.scope = choice(
            "Made from", {"This layer run": "layer", "This extraction": "extraction"}, "layer",
            "Generations drawn on the map of this layer run, or of any layer run of this extraction.",
        )  # fmt: skip
        self.list = HistoryList(self._on_list, margin=0)
        self._range = text(margin=(6, 0))
        self.newer, self.older = (
            press(label, functools.partial(self._turn, by), variant="text", sizing_mode=None, margin=0)
            for label, by in (("Newer", -1), ("Older", 1))
        )
        self._pages = row(self.newer, self._range, self.older, margin=(4, 0))
        body = section(self.scope, self.bar, self.list, self._pages)
        self._layout = folded({"Logged generations": body}, margin=(10, 0))

    @property
    def is_open(self) -> bool:
        """Whether the list is unfolded; nothing is read before."""
        return bool(self._layout.active)

    @param.depends("session.map", "scope.value", "_layout.active", watch=True)
    def refresh(self) -> None:
        """Look what is logged, once the list is unfolded."""
        layer_map = self.session.map
        if not self.is_open or layer_map is None:
            return
        of_layer = self.scope.value == "layer"
        runs = {layer_map.layer.run_id} if of_layer else {record.run_id for record in self.session.layers}
        archive = self.session.store.library.generations
        if not self._entries:
            self.list.empty = "Looking for generations…"
        self._lists.start(lambda: archive.of_layers(runs), self._listed)

    def _listed(self, records: Sequence[GenerationRecord]) -> None:
        self._records, self._page = records, 0
        self.list.empty = "None yet. What you generate is logged, and can be found here again."
        self._turn(0)

    def _turn(self, by: int) -> None:
        """Show another page, first without pictures."""
        last = max(-(-len(self._records) // PAGE) - 1, 0)
        self._page = min(max(self._page + by, 0), last)
        first = self._page * PAGE
        shown = self._records[first : first + PAGE]
        known = {entry.record.run_id: entry for entry in self._entries}
        self._entries = [known.get(record.run_id) or _Entry(record) for record in shown]
        self._draw()
        archive = self.session.store.library.generations
        wanted = [entry for entry in self._entries if entry.preview is None]
        if wanted:
            self._previews.start(lambda: _with_previews(wanted, archive), self._fill)

    def _fill(self, filled: Sequence[_Entry]) -> None:
        by_id = {entry.record.run_id: entry for entry in filled}
        self._entries = [by_id.get(entry.record.run_id, entry) for entry in self._entries]
        self._draw()

    @param.depends("bar.busy", watch=True)
    def _draw(self) -> None:
        self.list.param.update(entries=[self._row(entry) for entry in self._entries], busy=self.bar.busy)
        first, total = self._page * PAGE, len(self._records)
        self._pages.visible = total > PAGE
        self._range.object = hint(f"{first + 1}–{min(first + PAGE, total)} of {total:,}")
        self.newer.disabled, self.older.disabled = first == 0, first + PAGE >= total

    def _row(self, entry: _Entry) -> dict[str, Any]:
        record, layer_map = entry.record, self.session.map
        title, detail, src = record.name, entry.trouble, ""
        if entry.preview is not None and layer_map is not None:
            recipe, src = entry.preview.recipe, entry.preview.thumbnail
            layer = next((r for r in self.session.layers if r.run_id == recipe.layer_run), None)
            subject = subject_on(recipe, layer_map, layer)
            title, detail = generation_name(recipe, subject), generation_detail(recipe, subject)
        return {
            "id": record.run_id,
            "src": src,
            "title": title,
            "detail": detail,
            "when": record.start_time.astimezone().strftime("%d %b %Y %H:%M"),
            "url": self.session.store.library.run_url(record.run_id),
            "note": entry.note,
        }

    def leave(self) -> None:
        """Let go of what is being read: the visitor has left."""
        for work in (self._lists, self._previews, self._shows):
            work.leave()

    # -- what can be done with one ---------------------------------------------------------

    def _on_list(self, message: dict[str, Any]) -> None:
        for key, action in (("show", self.show), ("load", self.load), ("replay", self.replay)):
            entry = next((e for e in self._entries if e.record.run_id == message.get(key)), None)
            if entry is not None:
                action(entry.record)

    def show(self, record: GenerationRecord) -> None:
        """Read a generation's result from what it logged, and show it."""
        archive = self.session.store.library.generations

        def done(generation: LoggedGeneration) -> None:
            self._note(record.run_id, "")
            self._open(generation.recipe)
            self._on_show(generation)

        self._note(record.run_id, "Reading its images…")
        self._shows.start(lambda: archive.generation(record.run_id), done)

    def load(self, record: GenerationRecord) -> None:
        """Fill a generation's recipe into the form, on the map that it was made on."""
        archive = self.session.store.library.generations

        def done(preview: Preview) -> None:
            self._open(preview.recipe)
            self._on_load(preview.recipe)
            self._entries = [replace(entry, note="") for entry in self._entries]
            self._note(record.run_id, "Its settings are in the form above.")

        self._shows.start(lambda: archive.preview(record.run_id), done)

    def replay(self, record: GenerationRecord) -> None:
        """Make a generation once more and compare the images."""
        runner, run_id = self.runner, record.run_id
        self._replayed = run_id
        self._note(run_id, "")
        self.bar.start("Replaying", lambda job: runner.replay(run_id, job))

    def _compared(self, replay: Any) -> None:
        images = "1 image" if replay.num_images == 1 else f"{replay.num_images} images"
        gap = replay.largest_difference
        same = "equal, to the pixel" if gap == 0 else f"equal, within {gap} grey level"
        self._note(self._replayed, f"Replayed: {images} {same}.")

    def _tell(self, text: str, severity: Any) -> None:
        self.session.tell(text, severity)
        self._note(self._replayed, "")

    def _open(self, recipe: GenerationRecipe) -> None:
        """Bring the map to the front that a recipe was made on."""
        layer_map, session = self.session.map, self.session
        wanted = next((r for r in session.layers if r.run_id == recipe.layer_run), None)
        if wanted is None or layer_map is None:
            return
        if (layer_map.layer.run_id, layer_map.map_run) != (wanted.run_id, recipe.map_run or wanted.run_id):
            session.choose(wanted.parent_id, wanted.layer, wanted.sigma, recipe.map_run)

    def _note(self, run_id: str, text: str) -> None:
        self._entries = [replace(e, note=text) if e.record.run_id == run_id else e for e in self._entries]
        self._draw()

    def _fail(self, text: str) -> None:
        self._entries = [replace(entry, note="") for entry in self._entries]
        self._draw()
        self.session.tell(text)


def _with_previews(entries: Sequence[_Entry], archive: GenerationArchive) -> list[_Entry]:
    """Fetch what the list shows of each, a few at a time; one that cannot be read says so."""

    def fetch(entry: _Entry) -> _Entry:
        try:
            return replace(entry, preview=archive.preview(entry.record.run_id))
        except DiffViewsError as error:
            return replace(entry, trouble=str(error))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(fetch, entries))
