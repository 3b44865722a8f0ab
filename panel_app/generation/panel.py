"""Generating: from the form over the queue to the results."""

import panel as pn
import param

from diffviews.errors import DiffViewsError
from diffviews.pipelines.generate import LoggedGeneration
from diffviews.pipelines.model_runner import Runner
from panel_app.cards import quiet
from panel_app.computing.job_bar import JobBar, SessionJobs
from panel_app.fields import Part, press
from panel_app.generation.form import GenerationForm
from panel_app.generation.gallery_entry import GalleryEntry
from panel_app.generation.history import GenerationHistory
from panel_app.generation.results import Results
from panel_app.generation.sampling_section import MODELS_OWN, FirstValues
from panel_app.layer_map import LayerMap
from panel_app.session import Session


class GenerationPanel(Part):
    """Form, button and the job's bar."""

    def __init__(
        self, session: Session, runner: Runner, queue: SessionJobs, results: Results, first: FirstValues = MODELS_OWN
    ) -> None:
        self.runner, self.results = runner, results
        self._order_map: LayerMap | None = None
        self.form = GenerationForm(session, first)
        self.button = press(
            "Generate", self.generate, typed=True, icon="auto_awesome", size="medium", margin=(10, 0, 4, 0)
        )
        self.bar = JobBar(session, queue, self._done)
        note = quiet("Made twice from the same noise, with the mask and without, and logged as an MLflow run.")
        self.history = GenerationHistory(session, runner, queue, on_show=self._show_again, on_load=self.form.load)
        self._layout = pn.Column(
            self.form, self.button, note, self.bar, results.gallery_section, self.history,
            sizing_mode="stretch_width", margin=(0, 16, 16, 16),
        )  # fmt: skip
        super().__init__(session=session)

    def generate(self) -> None:
        """Queue what the form asks for."""
        try:
            recipe = self.form.recipe()
        except DiffViewsError as error:
            self.session.tell(str(error))
            return
        self._order_map = self.session.map
        runner = self.runner
        self.bar.start("Generating", lambda job: runner.generate(recipe, job))

    def _done(self, generation: LoggedGeneration) -> None:
        if self._order_map is not None:
            self.results.add(GalleryEntry.on_map(generation, self._order_map))
            self.history.refresh()

    def _show_again(self, generation: LoggedGeneration) -> None:
        """Show a logged generation; its map has been opened."""
        if self.session.map is not None:
            self.results.add(GalleryEntry.on_map(generation, self.session.map))

    @param.depends("bar.busy", "form.trouble", "session.map", watch=True, on_init=True)
    def _enable(self) -> None:
        self.button.disabled = self.bar.busy or self.session.map is None or bool(self.form.trouble)
