"""The form's section on the mask: how the average acts, on which layers, steps, channels and part of the grid."""

from collections.abc import Collection

import panel_material_ui as pmui

from panel_app.cards import hint_small
from panel_app.fields import Part, field, row, section, switch, text
from panel_app.generation.contradictions import Shapes
from panel_app.generation.form_model import FormModel
from panel_app.generation.values import read_channels, write_channels
from panel_app.session import Session

_BY_CLASS = "Guidance runs the model twice, with the class and without; this says which pass is masked."
_BY_PROMPT = "Guidance runs the model twice, with the prompt and with the negative prompt; this says which is masked."


class MaskSection(Part):
    """Fields on the mask."""

    def __init__(self, session: Session, model: FormModel) -> None:
        super().__init__(session=session)
        self._model = model
        others = set(model.bound)
        self._build_kind()
        self._build_place()
        self.fields: Collection[str] = set(model.bound) - others
        self._layout = section(
            self.mode, self.strength, self.target, self.window, self.layers, self.passes, self.channels, self.limited,
            self._region, self._grid, margin=(0, 2),
        )  # fmt: skip
        self.mode.param.watch(lambda *_: self._adapt(), "value")
        self.limited.param.watch(lambda event: self._open_region(event.new), "value")
        self.layers.param.watch(lambda *_: self._show_grid(), "value")
        self._adapt()

    def _build_kind(self) -> None:
        make = self._model.field
        self.mode = make(
            "mode", pmui.Select, "How the average acts",
            "Replace: the average alone. Mix: (1 − strength) own + strength × average. "
            "Steer: own + strength × (average of the selected − average of all).",
            options={"Replaces the layer's output": "replace", "Mixes with it": "interpolate", "Steers it": "add"},
        )  # fmt: skip
        self.strength = make(
            "strength", pmui.FloatSlider, "Strength", "How strongly the average acts.", start=0, end=1, step=0.05
        )
        self.target = make(
            "target", pmui.Select, "Average taken",
            "Fixed: as captured at this σ. Matched: the same samples are captured again at each step's σ.",
            options={"At this map's noise level": "fixed", "Anew at every step's noise level": "matched"},
        )  # fmt: skip
        self.window = field(
            pmui.IntRangeSlider, "Masked steps",
            "Sampler steps at which the mask acts: early ones decide the layout, late ones the detail.",
            start=1, end=18, value=(1, 18),
        )  # fmt: skip
        self._model.bind("window", self.window, read=self._read_window, write=self._write_window)

    def _build_place(self) -> None:
        make = self._model.field
        self.layers = make(
            "layers", pmui.MultiChoice, "Masked layers",
            "Layers to replace at once, each by its own average; empty masks the layer on show.",
            placeholder="This layer", read=tuple, write=list,
        )  # fmt: skip
        self.passes = make(
            "passes", pmui.Select, "Acts on", _BY_CLASS,
            options={"Both passes": "both", "Conditional pass": "conditional", "Unconditional pass": "unconditional"},
        )  # fmt: skip
        self.channels = make(
            "channels", pmui.TextInput, "Channels",
            "Channels of the layer that the mask acts on, such as 0-15, 32; the others keep their own.",
            placeholder="all", read=read_channels, write=write_channels,
        )  # fmt: skip
        self.limited = switch(
            "Only a part of the layer's grid", False,
            "The mask acts inside a rectangle of the layer's own grid; around it the layer keeps its own.",
        )  # fmt: skip
        self._corner = self.top, self.left, self.height, self.width = [
            field(pmui.IntInput, label, help, value=least, start=least)
            for label, least, help in (
                ("Top row", 0, "First masked row, from 0 at the top."),
                ("Left column", 0, "First masked column, from 0 at the left."),
                ("Rows", 1, "How many rows are masked."),
                ("Columns", 1, "How many columns are masked."),
            )
        ]
        self._region = section(row(self.top, self.left, gap=10), row(self.height, self.width, gap=10))
        self._model.bind(
            "region", self.limited, *self._corner,
            read=lambda limited, *region: tuple(value or 0 for value in region) if limited else None,
            write=lambda region: (region is not None, *(region or [widget.value for widget in self._corner])),
        )  # fmt: skip
        self._grid = text(margin=(2, 0, 6, 0))

    def _adapt(self) -> None:
        """Offer only what has an effect."""
        mode = self.mode.value
        self.strength.disabled = mode == "replace"
        end = 4.0 if mode == "add" else 1.0
        self.strength.param.update(end=end, value=min(self.strength.value, end))
        self.target.disabled = mode == "add"
        if mode == "add":
            self.target.value = "fixed"
        self._region.visible = self.limited.value

    def _open_region(self, limited: bool) -> None:
        """Show the region's fields, which start with the whole grid."""
        grids = [shape[1:] for shape in self.shapes.values() if len(shape) == 3]
        if limited and grids and (self.height.value, self.width.value) == (1, 1):
            self.height.value, self.width.value = min(g[0] for g in grids), min(g[1] for g in grids)
        self._adapt()

    def follow(self) -> None:
        """Offer the layers of what is on show, and tell their grids."""
        layer_map = self.session.map
        layers = list(dict.fromkeys(r.layer for r in self.session.layers if r.sigma == layer_map.layer.sigma))
        if list(self.layers.options) != layers:
            self.layers.param.update(options=layers, value=[v for v in self.layers.value if v in layers])
        self.passes.description = _BY_PROMPT if layer_map.facts.takes_prompts else _BY_CLASS
        self._show_grid()

    def follow_steps(self, steps: int) -> None:
        """Let the window of masked steps span the steps there are; a window over all of them stays so."""
        first, last = self.window.value
        everything = (first, last) == (1, self.window.end)
        value = (1, steps) if everything else (min(first, steps), min(last, steps))
        self.window.param.update(end=max(steps, 2), value=value, disabled=steps < 2)

    def _read_window(self, value: tuple[int, int]) -> tuple[int, int] | None:
        first, last = value
        return None if (first, last) == (1, self.window.end) or self.window.disabled else (first - 1, last)

    def _write_window(self, window: tuple[int, int] | None) -> tuple[int, int]:
        first, stop = window or (0, self.window.end)
        return first + 1, min(stop, self.window.end)

    @property
    def shapes(self) -> Shapes:
        """The shapes of the masked layers, as far as they are known."""
        layer_map = self.session.map
        known = layer_map.facts.layers if layer_map is not None else {}
        return {layer: known[layer] for layer in self.layers.value or [layer_map.layer.layer] if layer in known}

    def _show_grid(self) -> None:
        if self.session.map is None:
            return
        shapes = self.shapes
        self._grid.object = hint_small(grid_text(shapes))
        has_grid = not shapes or all(len(shape) == 3 for shape in shapes.values())
        self.limited.disabled = not has_grid
        if not has_grid:
            self.limited.value = False


def grid_text(shapes: Shapes) -> str:
    """Return a sentence on the grids and channels of layers."""
    parts = []
    for layer, shape in shapes.items():
        if len(shape) == 3:
            parts.append(f"{layer}: grid {shape[1]} high, {shape[2]} wide, {shape[0]} channels")
        else:
            parts.append(f"{layer}: {shape[0]} tokens of {shape[1]} channels, no grid")
    return "; ".join(parts) if parts else "The size of this layer's grid was not noted; it is checked when generating."
