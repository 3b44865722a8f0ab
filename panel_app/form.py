"""The form that makes a recipe of what a visitor selects and sets."""

from html import escape
from typing import Any, get_args

import panel as pn
import panel_material_ui as pmui

from diffviews.errors import SelectionError
from diffviews.pipelines.recipe import GenerationRecipe, Precision
from panel_app.asked_for import AskedFor
from panel_app.cards import hint, thumbnail_strip
from panel_app.fields import slider
from panel_app.mask_section import MaskSection
from panel_app.sampling_section import SamplingSection
from panel_app.session import Session
from panel_app.theme import PANE_CSS


class GenerationForm(pn.viewable.Viewer):
    """Every choice of a generation; `recipe()` reads it."""

    def __init__(self, session: Session, **params: Any) -> None:
        super().__init__(**params)
        self.session = session
        self._average = pn.pane.HTML("", stylesheets=[PANE_CSS], sizing_mode="stretch_width", margin=(12, 0, 8, 0))
        self.asked, self.mask, self.sampling = AskedFor(session), MaskSection(session), SamplingSection()
        self._build_main()
        self.sampling.steps.param.watch(lambda *_: self._follow_steps(), "value")
        more = pmui.Accordion(
            ("Mask", self.mask),
            ("Sampling", self.sampling),
            elevation=0,
            disable_gutters=True,
            toggle=False,
            sizing_mode="stretch_width",
            margin=(4, 0),
            title_variant="subtitle2",
        )
        self._layout = pn.Column(
            self._average, self.asked, self.count, self.include, more, sizing_mode="stretch_width", margin=0
        )
        session.state.param.watch(lambda *_: self.follow(), "selection")
        session.param.watch(lambda *_: self.follow(), "opened")
        self.follow()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def _build_main(self) -> None:
        self.count = pmui.IntSlider(
            label="Samples",
            start=1,
            end=16,
            value=4,
            description="How many images to make; each starts from noise of its own.",
            **slider(),
        )
        self.include = pmui.Switch(
            label="Include the selected sample in the average",
            value=True,
            size="small",
            margin=(2, 0),
            description="Otherwise only its neighbours are averaged.",
        )
        self.include.param.watch(lambda *_: self.follow(), "value")

    def follow(self) -> None:
        """Offer what the model on show takes, and show what would be averaged."""
        opened = self.session.opened
        if opened is None:
            return
        self.sampling.follow(opened.facts)
        self.asked.follow()
        self.mask.follow()
        self.include.visible = bool(self.session.state.selection.neighbours)
        self._show_average()

    def _show_average(self) -> None:
        averaged = self.averaged()
        if not averaged:
            self._average.object = hint(
                "Select a point to mask this layer with its average; without one, nothing is masked."
            )
            return
        opened = self.session.opened
        samples = "1 sample" if len(averaged) == 1 else f"the average of {len(averaged)} samples"
        self._average.object = (
            f'<p style="margin-bottom:8px">Masks <b>{escape(opened.layer.layer)}</b> with {samples}</p>'
            + thumbnail_strip(opened, averaged)
        )

    def averaged(self) -> tuple[str, ...]:
        """Return the samples to average, those on this map only."""
        opened, chosen = self.session.opened, self.session.state.selection
        if opened is None:
            return ()
        members = chosen.members if self.include.value or not chosen.neighbours else chosen.neighbours
        return tuple(s for s in members if s in opened.row_of)

    def _follow_steps(self) -> None:
        self.mask.follow_steps(max(int(self.sampling.steps.value or 1), 1))

    def recipe(self) -> GenerationRecipe:
        """Return what the form asks for.

        Raises:
            DiffViewsError: if its fields contradict each other.
        """
        opened = self.session.opened
        if opened is None:
            raise SelectionError("open a layer first; generations are drawn on its map")
        averaged, captured = self.averaged(), opened.layer.params
        own = opened.map_run != opened.layer.run_id
        return GenerationRecipe(
            model=opened.layer.model,
            checkpoint=captured.get("checkpoint") or None,
            precision=_precision(captured.get("precision")),
            layer_run=opened.layer.run_id,
            map_run=opened.map_run if own else None,
            sample_ids=averaged,
            num_samples=int(self.count.value),
            **self.asked.recipe_fields(),
            **(self.mask.recipe_fields() if averaged else {}),
            **self.sampling.recipe_fields(),
        )


def _precision(captured: str | None) -> Precision:
    """Return the floating-point format that the activations were captured in, 'auto' where no run says it."""
    known: dict[str | None, Precision] = {name: name for name in get_args(Precision)}
    return known.get(captured, "auto")
