"""What a generation is asked for: a prompt, a class, or nothing, as the model on show takes it."""

from typing import Any

import panel as pn
import panel_material_ui as pmui

from diffviews.recipes.generation import GenerationRecipe
from panel_app.cards import quiet
from panel_app.generation.fields import field
from panel_app.layer_map import LayerMap
from panel_app.session import Session

UNIFORM, RANDOM = -1, None


class AskedFor(pn.viewable.Viewer):
    """Prompt and negative prompt, or the class; `recipe_fields()` reads them."""

    def __init__(self, session: Session, **params: Any) -> None:
        super().__init__(**params)
        self.session = session
        self._filled = ""
        self.wanted = pmui.Select(
            label="Class to ask for",
            value=UNIFORM,
            options={"Uniform: all classes alike": UNIFORM},
            description="The label the model is given. With the uniform label, only the mask can decide the class.",
            **field(),
        )
        self.prompt = pmui.TextAreaInput(
            label="Prompt",
            rows=3,
            max_rows=8,
            auto_grow=True,
            max_length=5000,
            description="The text the model is given. An empty one lets the mask decide.",
            **field(),
        )
        self.negative = pmui.TextAreaInput(
            label="Negative prompt",
            rows=1,
            max_rows=4,
            auto_grow=True,
            max_length=5000,
            description="The text of the unconditional pass, which guidance above 1 leads away from.",
            **field(),
        )
        self.take = pmui.Button(
            label="Take the selected sample's prompt",
            icon="south",
            variant="text",
            size="small",
            margin=(0, 0, 4, 0),
            on_click=lambda _: self._fill(self._own() or ""),
        )
        self._note = quiet("Filled with the prompt of the point you select, until you type your own.")
        self._prompts = pn.Column(
            self.prompt, self._note, self.take, self.negative, sizing_mode="stretch_width", margin=0
        )
        self._layout = pn.Column(self.wanted, self._prompts, sizing_mode="stretch_width", margin=0)
        self.prompt.param.watch(lambda *_: self._offer_own(), "value")

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def follow(self) -> None:
        """Ask for what the model on show takes, and take over the selected sample's prompt."""
        layer_map: LayerMap | None = self.session.map
        if layer_map is None:
            return
        asks = layer_map.facts.asks
        self._prompts.visible, self.wanted.visible = asks == "prompt", asks == "class"
        if asks == "class":
            self._follow_classes(layer_map)
        elif asks == "prompt":
            own = self._own()
            if own is not None and (self.prompt.value or "") in ("", self._filled):
                self._fill(own)
            self._offer_own()

    def recipe_fields(self) -> dict[str, Any]:
        """Return the recipe's fields on what is asked for."""
        asks = self.session.map.facts.asks
        if asks == "prompt":
            return {"prompt": (self.prompt.value or "").strip(), "negative_prompt": (self.negative.value or "").strip()}
        return {"class_label": self.wanted.value} if asks == "class" else {}

    def load(self, recipe: GenerationRecipe) -> None:
        """Show what a recipe asks for."""
        if recipe.class_label in self.wanted.options.values():
            self.wanted.value = recipe.class_label
        self.prompt.value, self.negative.value = recipe.prompt or "", recipe.negative_prompt

    def _fill(self, prompt: str) -> None:
        self._filled = prompt
        self.prompt.value = prompt

    def _own(self) -> str | None:
        """Return the prompt of the selected sample."""
        layer_map, chosen = self.session.map, self.session.state.selection.sample_id
        return layer_map.prompt_of(chosen) if layer_map is not None and chosen in layer_map.row_of else None

    def _offer_own(self) -> None:
        own = self._own()
        self.take.visible = own is not None and own != self.prompt.value

    def _follow_classes(self, layer_map: LayerMap) -> None:
        """Offer the classes that occur, or all numbers where the samples have none; those the model lacks never."""
        count, named = layer_map.facts.num_classes, layer_map.samples.classes
        labels = list(named) or list(range(count or 0))
        classes = {_class_text(label, named.get(label)): label for label in labels if count is None or label < count}
        options = {"Uniform: all classes alike": UNIFORM, "Random per sample": RANDOM, **classes}
        if dict(self.wanted.options) != options:
            keep = self.wanted.value if self.wanted.value in options.values() else UNIFORM
            self.wanted.param.update(options=options, value=keep)


def _class_text(label: int, name: str | None) -> str:
    return f"{label}: {name}" if name and name != str(label) else str(label)
