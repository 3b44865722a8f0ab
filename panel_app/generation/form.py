"""The form that makes a recipe of what a visitor selects and sets."""

from html import escape
from typing import Any, get_args

import panel as pn
import panel_material_ui as pmui
import param
from panel.widgets import WidgetBase

from diffviews.errors import DiffViewsError, SelectionError
from diffviews.recipes.base import Precision
from diffviews.recipes.generation import GenerationRecipe
from panel_app.generation.asked_for import AskedFor
from panel_app.generation.averaged import Averaged
from panel_app.generation.contradictions import check_recipe, remarks
from panel_app.generation.fields import slider
from panel_app.generation.mask_section import MaskSection
from panel_app.generation.sampling_section import MODELS_OWN, FirstValues, SamplingSection
from panel_app.html import Html
from panel_app.session import Session
from panel_app.theme import PANE_CSS


class GenerationForm(pn.viewable.Viewer):
    """Every choice of a generation; `recipe()` reads it and `load()` fills it in."""

    _loading = False
    trouble = param.String("", doc="sentence on what contradicts itself in the form, '' where nothing does")

    def __init__(self, session: Session, first: FirstValues = MODELS_OWN, **params: Any) -> None:
        super().__init__(**params)
        self.session = session
        self.averaged = Averaged(session)
        self.asked, self.mask, self.sampling = AskedFor(session), MaskSection(session), SamplingSection(first)
        self.count = pmui.IntSlider(
            label="Samples",
            start=1,
            end=16,
            value=4,
            description="How many images to make; each starts from noise of its own.",
            **slider(),
        )
        self._told = Html("", stylesheets=[PANE_CSS], sizing_mode="stretch_width", margin=(6, 0), visible=False)
        self.sampling.steps.param.watch(lambda *_: self._follow_steps(), "value")
        self._build()
        for widget in self._layout.select(WidgetBase):
            widget.param.watch(lambda *_: self.check(), "value")
        session.state.param.watch(lambda *_: self.follow(), ["selection", "group"])
        session.param.watch(lambda *_: self.follow(), "map")
        self.follow()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def _build(self) -> None:
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
            self.averaged, self.asked, self.count, more, self._told, sizing_mode="stretch_width", margin=0
        )

    def follow(self) -> None:
        """Offer what the model on show takes, and show what would be averaged."""
        layer_map = self.session.map
        if layer_map is None:
            return
        self.sampling.follow(layer_map.facts)
        self.asked.follow()
        self.mask.follow()
        self.averaged.follow()
        self.check()

    def check(self) -> None:
        """Tell what contradicts itself, or may surprise, before anything is ordered."""
        if self.session.map is None or self._loading:
            return
        try:
            told = remarks(self.recipe(), self.session.map.facts)
            self.trouble = ""
        except DiffViewsError as error:
            told = (str(error),)
            self.trouble = str(error)
        colour = "var(--dv-neighbour)" if self.trouble else "inherit"
        self._told.object = "".join(f'<p class="small" style="color:{colour}">{escape(text)}</p>' for text in told)
        self._told.visible = bool(told)

    def _follow_steps(self) -> None:
        self.mask.follow_steps(max(int(self.sampling.steps.value or 1), 1))

    def recipe(self) -> GenerationRecipe:
        """Return what the form asks for.

        Raises:
            DiffViewsError: if its fields contradict each other.
        """
        layer_map = self.session.map
        if layer_map is None:
            raise SelectionError("open a layer first; generations are drawn on its map")
        averaged, captured = self.averaged.sample_ids, layer_map.layer.params
        own = layer_map.map_run != layer_map.layer.run_id
        recipe = GenerationRecipe(
            model=layer_map.layer.model,
            checkpoint=captured.get("checkpoint") or None,
            precision=_precision(captured.get("precision")),
            layer_run=layer_map.layer.run_id,
            map_run=layer_map.map_run if own else None,
            sample_ids=averaged,
            num_samples=int(self.count.value),
            **self.asked.recipe_fields(),
            **(self.mask.recipe_fields() if averaged else {}),
            **self.sampling.recipe_fields(),
        )
        check_recipe(recipe, layer_map.facts)
        return recipe

    def load(self, recipe: GenerationRecipe) -> None:
        """Fill in what a recipe says; the layer that it was made on is on show already."""
        self._loading = True
        try:
            self.averaged.load(recipe.sample_ids)
            self.asked.load(recipe)
            self.count.param.update(end=max(self.count.end, recipe.num_samples), value=recipe.num_samples)
            self.sampling.load(recipe)
            self._follow_steps()
            self.mask.load(recipe)
        finally:
            self._loading = False
        self.check()


def _precision(captured: str | None) -> Precision:
    """Return the floating-point format that the activations were captured in, 'auto' where no run says it."""
    known: dict[str | None, Precision] = {name: name for name in get_args(Precision)}
    return known.get(captured, "auto")
