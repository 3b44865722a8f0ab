"""Generating: from the form over the queue to the results."""

from typing import Any

import panel as pn
import panel_material_ui as pmui

from diffviews.errors import DiffViewsError
from diffviews.pipelines.recipe import GenerationRecipe
from panel_app.cards import quiet
from panel_app.clicks import after_typing
from panel_app.data import OpenMap
from panel_app.form import GenerationForm
from panel_app.job_bar import JobBar
from panel_app.jobs import JobQueue
from panel_app.model_facts import Asks
from panel_app.points import shortened
from panel_app.results import Results, Shown
from panel_app.session import Session
from panel_app.studio import Studio


class GenerationPanel(pn.viewable.Viewer):
    """Form, button and the job's bar."""

    def __init__(self, session: Session, studio: Studio, queue: JobQueue, results: Results, **params: Any) -> None:
        super().__init__(**params)
        self.session, self.studio, self.results = session, studio, results
        self._asked_on: OpenMap | None = None
        self.form = GenerationForm(session)
        self.button = pmui.Button(
            label="Generate",
            icon="auto_awesome",
            sizing_mode="stretch_width",
            margin=(10, 0, 4, 0),
            on_click=after_typing(self.generate),
        )
        self.bar = JobBar(queue, on_over=self._enable, on_done=self._done, on_told=session.tell)
        note = quiet("Made twice from the same noise, with the mask and without, and logged as an MLflow run.")
        self._layout = pn.Column(
            self.form, self.button, note, self.bar, results.past, sizing_mode="stretch_width", margin=(0, 16, 16, 16)
        )
        session.param.watch(lambda *_: self._enable(), "opened")
        self._enable()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def generate(self) -> None:
        """Queue what the form asks for."""
        try:
            recipe = self.form.recipe()
        except DiffViewsError as error:
            self.session.tell(str(error))
            return
        self._asked_on = self.session.opened
        studio = self.studio
        self.button.disabled = True
        self.bar.start("Generating", lambda report: studio.generate(recipe, report))

    def _done(self, outcome: Any) -> None:
        opened = self._asked_on
        if opened is None:
            return
        title, detail = describe(outcome.recipe, opened.samples.classes, opened.facts.asks)
        far = opened.table["distance_to_data"].median() if "distance_to_data" in opened.numeric_columns else None
        shown = Shown(outcome, title, f"{opened.layer.layer}, {detail}", opened.map_run, far)
        self.results.add(shown)

    def _enable(self) -> None:
        self.button.disabled = self.bar.busy or self.session.opened is None


def describe(recipe: GenerationRecipe, classes: dict[int, str], asks: Asks = "class") -> tuple[str, str]:
    """Return a generation's title and detail: what was asked for, and what masked it."""
    label = recipe.class_label
    if asks == "prompt":
        title = f"“{shortened(recipe.prompt, 60)}”" if recipe.prompt else "empty prompt"
    elif asks == "nothing":
        title = "unconditional"
    elif label is None:
        title = "random class"
    elif label == -1:
        title = "uniform label"
    else:
        title = f"{label}: {classes[label]}" if classes.get(label) else f"class {label}"
    mask = f"{recipe.mode} by {len(recipe.sample_ids)}" if recipe.sample_ids else "no mask"
    return title, mask
