"""The form's section on conditioning: a prompt, a class, or nothing, as the model on show takes it."""

from collections.abc import Collection

import panel_material_ui as pmui

from panel_app.cards import quiet
from panel_app.fields import Part, offer, press, section
from panel_app.generation.form_model import FormModel
from panel_app.layer_map import LayerMap
from panel_app.session import Session

UNIFORM, RANDOM = -1, None


class ConditioningSection(Part):
    """Prompt and negative prompt, or the class."""

    def __init__(self, session: Session, model: FormModel) -> None:
        super().__init__(session=session)
        self._filled = ""
        self.label = model.field(
            "class_label", pmui.Select, "Class to ask for",
            "The label the model is given. With the uniform label, only the mask can decide the class.",
            options={"Uniform: all classes alike": UNIFORM},
        )  # fmt: skip
        self.prompt = model.field(
            "prompt", pmui.TextAreaInput, "Prompt", "The text the model is given. An empty one lets the mask decide.",
            read=_stripped, write=lambda prompt: prompt or "", rows=3, max_rows=8, auto_grow=True, max_length=5000,
        )  # fmt: skip
        self.negative = model.field(
            "negative_prompt", pmui.TextAreaInput, "Negative prompt",
            "The text of the unconditional pass, which guidance above 1 leads away from.",
            read=_stripped, rows=1, max_rows=4, auto_grow=True, max_length=5000,
        )  # fmt: skip
        self.take = press(
            "Take the selected sample's prompt", lambda: self._fill(self._own() or ""), icon="south", variant="text",
            sizing_mode=None, margin=(0, 0, 4, 0),
        )  # fmt: skip
        note = quiet("Filled with the prompt of the point you select, until you type your own.")
        self._prompts = section(self.prompt, note, self.take, self.negative)
        self._layout = section(self.label, self._prompts)
        self.prompt.param.watch(lambda *_: self._offer_own(), "value")

    @property
    def idle(self) -> Collection[str]:
        """Fields that the model on show does not take."""
        asks = self.session.map.facts.asks
        label, prompts = ("class_label",), ("prompt", "negative_prompt")
        return label if asks == "prompt" else prompts if asks == "class" else (*label, *prompts)

    def follow(self) -> None:
        """Ask for what the model on show takes, and take over the selected sample's prompt."""
        layer_map: LayerMap | None = self.session.map
        if layer_map is None:
            return
        asks = layer_map.facts.asks
        self._prompts.visible, self.label.visible = asks == "prompt", asks == "class"
        if asks == "class":
            self._follow_classes(layer_map)
        elif asks == "prompt":
            own = self._own()
            if own is not None and (self.prompt.value or "") in ("", self._filled):
                self._fill(own)
            self._offer_own()

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
        """Offer the model's classes, those that occur where the samples' are the same; those the model lacks never."""
        count, named = layer_map.facts.num_classes, layer_map.model_classes
        labels = list(named) or list(range(count or 0))
        classes = {_class_text(label, named.get(label)): label for label in labels if count is None or label < count}
        offer(
            self.label,
            {"Uniform: all classes alike": UNIFORM, "Random per sample": RANDOM, **classes},
            self.label.value,
        )


def _stripped(text: str | None) -> str:
    return (text or "").strip()


def _class_text(label: int, name: str | None) -> str:
    return f"{label}: {name}" if name and name not in (str(label), f"class {label}") else str(label)
