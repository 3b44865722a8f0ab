"""The form that makes a recipe of what a visitor selects and sets."""

from html import escape
from typing import get_args

import panel_material_ui as pmui
import param
from panel.widgets import WidgetBase

from diffviews.errors import DiffViewsError, SelectionError
from diffviews.recipes.base import Precision
from diffviews.recipes.generation import GenerationRecipe
from diffviews.recipes.naming import generation_name
from diffviews.recipes.options import options_of
from panel_app.cards import hint_small
from panel_app.fields import Part, folded, section, text
from panel_app.generation.average_section import AverageSection
from panel_app.generation.conditioning_section import ConditioningSection
from panel_app.generation.contradictions import check_recipe, remarks
from panel_app.generation.form_model import form_model
from panel_app.generation.gallery_entry import subject_on
from panel_app.generation.mask_section import MaskSection
from panel_app.generation.sampling_section import MODELS_OWN, FirstValues, SamplingSection
from panel_app.session import Session

_FIRST_SAMPLES = 4
_GIVEN = ("model", "checkpoint", "precision", "adapter_partial", "layer_run", "map_run", "sample_ids", "mask_steps")
"""Fields that the map and the selection give, or that another stands for."""


class GenerationForm(Part):
    """Every choice of a generation; `recipe()` reads it and `load()` fills it in."""

    _loading = False
    name_of_order = ""
    """What the generation that is asked for will be called, '' where something contradicts itself."""
    trouble = param.String("", doc="sentence on what contradicts itself in the form, '' where nothing does")

    def __init__(self, session: Session, first: FirstValues = MODELS_OWN) -> None:
        super().__init__(session=session)
        self.model = form_model()()
        self.model.num_samples = _FIRST_SAMPLES
        self.average, self.conditioning = AverageSection(session, self.model), ConditioningSection(session, self.model)
        self.count = self.model.field(
            "num_samples", pmui.IntSlider, "Samples", "How many images to make; each starts from noise of its own.",
            start=1, end=16,
        )  # fmt: skip
        self.sampling = SamplingSection(self.model, first)
        self.mask = MaskSection(session, self.model)
        more = section(*filter(None, map(self.model.plain_field, self._further())), margin=(0, 2))
        parts = {"Mask": self.mask, "Sampling": self.sampling, **({"More": more} if len(more) else {})}
        self._remarks, self._name = text(margin=(6, 0), visible=False), text(margin=(6, 0, 0, 0))
        chosen = (self.average, self.conditioning, self.count, folded(parts, toggle=False))
        self._layout = section(*chosen, self._name, self._remarks)
        self.sampling.steps.param.watch(lambda *_: self._follow_steps(), "value")
        for widget in self._layout.select(WidgetBase):
            widget.param.watch(lambda *_: self.check(), "value")
        session.state.param.watch(lambda *_: self.follow(), ["selection", "group"])
        session.param.watch(lambda *_: self.follow(), "map")
        self.follow()

    def _further(self) -> list[str]:
        """Return the fields of the recipe that no section shows."""
        shown = {*_GIVEN, *self.model.bound}
        return [option.name for option in options_of(GenerationRecipe) if option.name not in shown]

    def follow(self) -> None:
        """Offer what the model on show takes, and show what would be averaged."""
        layer_map = self.session.map
        if layer_map is None:
            return
        self.sampling.follow(layer_map.facts)
        self.conditioning.follow()
        self.mask.follow()
        self.average.follow()
        self.check()

    def check(self) -> None:
        """Say what contradicts itself, or may surprise, before anything is ordered."""
        if self.session.map is None or self._loading:
            return
        try:
            recipe = self.recipe()
            sentences = remarks(recipe, self.session.map.facts)
            self.trouble, self.name_of_order = "", generation_name(recipe, subject_on(recipe, self.session.map))
        except DiffViewsError as error:
            sentences = (str(error),)
            self.trouble, self.name_of_order = str(error), ""
        self._name.object = hint_small(self.name_of_order)
        colour = "var(--dv-neighbour)" if self.trouble else "inherit"
        self._remarks.object = "".join(f'<p class="small" style="color:{colour}">{escape(s)}</p>' for s in sentences)
        self._remarks.visible = bool(sentences)

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
        samples, captured = self.average.sample_ids, layer_map.layer.params
        own = layer_map.map_run != layer_map.layer.run_id
        recipe = self.model.recipe(
            {*self.conditioning.idle, *self.sampling.idle, *(() if samples else self.mask.fields)},
            model=layer_map.layer.model,
            checkpoint=captured.get("checkpoint") or None,
            precision=precision if (precision := captured.get("precision")) in get_args(Precision) else "auto",
            adapter_partial=captured.get("adapter_partial") == "True",
            layer_run=layer_map.layer.run_id,
            map_run=layer_map.map_run if own else None,
            sample_ids=samples,
            mask_steps=None,
        )
        check_recipe(recipe, layer_map.facts, self.mask.shapes)
        return recipe

    def load(self, recipe: GenerationRecipe) -> None:
        """Fill in what a recipe says; the layer that it was made on is on show already."""
        facts, sampling = self.session.map.facts, recipe.sampling
        guidance = sampling.guidance_scale
        self._loading = True
        try:
            self.average.load(recipe.sample_ids)
            self.model.load(
                recipe,
                num_steps=sampling.num_steps or facts.default_steps,
                guidance_scale=facts.default_guidance if guidance is None else guidance,
                window=recipe.steps,
                layers=tuple(layer for layer in recipe.layers if layer in self.mask.layers.options),
            )
        finally:
            self._loading = False
        self.check()
