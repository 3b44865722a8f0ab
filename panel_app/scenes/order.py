"""Ordering the map that a view needs: what is missing in a sentence, a button, and the job's progress."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import panel_material_ui as pmui
import param

from diffviews.pipelines.model_runner import Runner
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes import EmbeddingRecipe
from panel_app.cards import hint
from panel_app.computing.job_bar import JobBar, SessionJobs
from panel_app.fields import Part, section, text
from panel_app.session import Session


@dataclass(frozen=True, slots=True)
class Order:
    """A map to be made."""

    title: str
    """Of the job."""
    button: str
    description: str
    recipe: EmbeddingRecipe
    """Of a map of any layer run."""


ALIGNED = Order(
    "Computing the aligned map",
    "Compute the aligned map",
    "One map a noise level, fitted together so that each sample stays near itself. It is logged as a run.",
    EmbeddingRecipe("", "aligned"),
)
SOLID = Order(
    "Computing the map in 3-D",
    "Compute a map in 3-D",
    "UMAP with three components, of this layer at this noise level. It is logged as a run.",
    EmbeddingRecipe("", maps=MapParameters(n_components=3)),
)


class MapOrder(Part):
    """Says what is missing or under way, and offers to make it of the layer run on show.

    Args:
        session: of the visitor.
        runner: what computes.
        queue: where the job waits.
        on_made: called with the layer record that was on show when the map was ordered, and the map's run id.
    """

    def __init__(
        self, session: Session, runner: Runner, queue: SessionJobs, on_made: Callable[[Any, str], None], **params: Any
    ) -> None:
        self.runner, self._on_made = runner, on_made
        self._order, self._possible, self._ordered_for = ALIGNED, False, None
        self.text = text(margin=(0, 0, 10, 0))
        self.button = pmui.Button(
            icon="scatter_plot", size="small", margin=(0, 0, 4, 0), align="center", on_click=lambda _: self.make()
        )
        self.bar = JobBar(session, queue, self._done)
        self._layout = section(
            self.text, self.button, self.bar, visible=False, max_width=560, margin=(110, 24), align="center",
            styles={"text-align": "center"},
        )  # fmt: skip
        super().__init__(session=session, **params)

    def hide(self) -> None:
        """Show nothing; there is something to see."""
        self._layout.visible = False

    def say(self, sentence: str) -> None:
        """Show a sentence alone."""
        self._say("", sentence, button=False)

    def offer(self, order: Order, title: str, sentence: str, *, possible: bool = True) -> None:
        """Say what is missing, and offer to make it where that is possible."""
        self._order, self._possible = order, possible
        self.button.param.update(label=order.button, description=order.description)
        self._say(title, sentence, button=possible)
        self._enable()

    def make(self) -> None:
        """Queue the map."""
        layer_map, runner, order = self.session.map, self.runner, self._order
        if layer_map is None:
            return
        self._ordered_for = layer_map.layer
        run = layer_map.layer.run_id
        self.bar.start(order.title, lambda job: runner.embed(replace(order.recipe, layer_run=run), job))

    def _say(self, title: str, sentence: str, *, button: bool) -> None:
        heading = f'<div style="font-size:16px;font-weight:600;margin-bottom:6px">{title}</div>' if title else ""
        self.text.object = f'<div style="text-align:center">{heading}{hint(sentence)}</div>'
        self.button.visible = button
        self._layout.visible = True

    @param.depends("bar.busy", watch=True)
    def _enable(self) -> None:
        self.button.disabled = self.bar.busy or not self._possible

    def _done(self, run_id: str) -> None:
        self.session.refresh()
        self._on_made(self._ordered_for, run_id)
