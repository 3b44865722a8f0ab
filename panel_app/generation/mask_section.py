"""The form's section on the mask: how the average acts, on which layers, steps, channels and part of the grid."""

from typing import Any

import panel as pn
import panel_material_ui as pmui

from diffviews.recipes.generation import GenerationRecipe
from panel_app.generation.fields import Shapes, check_region, field, grid_text, read_channels, slider, write_channels
from panel_app.html import Html
from panel_app.session import Session
from panel_app.theme import PANE_CSS

_BY_CLASS = "Guidance runs the model twice, with the class and without; this says which pass is masked."
_BY_PROMPT = "Guidance runs the model twice, with the prompt and with the negative prompt; this says which is masked."


class MaskSection(pn.viewable.Viewer):
    """Fields on the mask; `recipe_fields()` reads them."""

    def __init__(self, session: Session, **params: Any) -> None:
        super().__init__(**params)
        self.session = session
        self._build_kind()
        self._build_place()
        self._layout = pn.Column(
            self.mode, self.strength, self.target, self.window, self.layers, self.passes,
            self.channels, self.limited, self._region, self._grid,
            sizing_mode="stretch_width", margin=(0, 2),
        )  # fmt: skip
        self.mode.param.watch(lambda *_: self._adapt(), "value")
        self.limited.param.watch(lambda event: self._open_region(event.new), "value")
        self.layers.param.watch(lambda *_: self._show_grid(), "value")
        self._adapt()

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def _build_kind(self) -> None:
        self.mode = pmui.Select(
            label="How the average acts",
            value="replace",
            options={"Replaces the layer's output": "replace", "Mixes with it": "interpolate", "Steers it": "add"},
            description="Replace: the average alone. Mix: (1 − strength) own + strength × average. "
            "Steer: own + strength × (average of the selected − average of all).",
            **field(),
        )
        self.strength = pmui.FloatSlider(
            label="Strength",
            start=0,
            end=1,
            step=0.05,
            value=1.0,
            description="How strongly the average acts.",
            **slider(),
        )
        self.target = pmui.Select(
            label="Average taken",
            value="fixed",
            options={"At this map's noise level": "fixed", "Anew at every step's noise level": "matched"},
            description="Fixed: as captured at this σ. Matched: the same samples are captured again at each step's σ.",
            **field(),
        )
        self.window = pmui.IntRangeSlider(
            label="Masked steps",
            start=1,
            end=18,
            value=(1, 18),
            description="Sampler steps at which the mask acts: early ones decide the layout, late ones the detail.",
            **slider(),
        )

    def _build_place(self) -> None:
        self.layers = pmui.MultiChoice(
            label="Masked layers",
            searchable=True,
            placeholder="This layer",
            chip=True,
            description="Layers to replace at once, each by its own average; empty masks the layer on show.",
            visual_size="small",
            sizing_mode="stretch_width",
            margin=(5, 0),
        )
        self.passes = pmui.Select(
            label="Acts on",
            value="both",
            options={"Both passes": "both", "Conditional pass": "conditional", "Unconditional pass": "unconditional"},
            description=_BY_CLASS,
            **field(),
        )
        self.channels = pmui.TextInput(
            label="Channels",
            placeholder="all",
            description="Channels of the layer that the mask acts on, such as 0-15, 32; the others keep their own.",
            **field(),
        )
        self.limited = pmui.Switch(
            label="Only a part of the layer's grid",
            value=False,
            size="small",
            margin=(4, 0),
            description="The mask acts inside a rectangle of the layer's own grid; around it the layer keeps its own.",
        )
        self.top, self.left, self.height, self.width = (
            pmui.IntInput(label=label, value=value, start=start, description=text, **field())
            for label, value, start, text in (
                ("Top row", 0, 0, "First masked row, from 0 at the top."),
                ("Left column", 0, 0, "First masked column, from 0 at the left."),
                ("Rows", 1, 1, "How many rows are masked."),
                ("Columns", 1, 1, "How many columns are masked."),
            )
        )
        gap = pn.Spacer(width=10)
        self._region = pn.Column(
            pn.Row(self.top, gap, self.left, sizing_mode="stretch_width", margin=0),
            pn.Row(self.height, gap.clone(), self.width, sizing_mode="stretch_width", margin=0),
            sizing_mode="stretch_width",
            margin=0,
        )
        self._grid = Html("", stylesheets=[PANE_CSS], sizing_mode="stretch_width", margin=(2, 0, 6, 0))

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
        grids = [shape[1:] for shape in self._shapes().values() if len(shape) == 3]
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

    def recipe_fields(self) -> dict[str, Any]:
        """Return the recipe's fields on a mask.

        Raises:
            ConfigError: if channels or region do not fit the masked layers.
        """
        shapes = self._shapes()
        region = (self.top.value or 0, self.left.value or 0, self.height.value or 0, self.width.value or 0)
        return {
            "layers": tuple(self.layers.value),
            "target": self.target.value,
            "mode": self.mode.value,
            "strength": float(self.strength.value),
            "window": self._window(),
            "passes": self.passes.value,
            "channels": read_channels(self.channels.value, shapes),
            "region": check_region(region, shapes) if self.limited.value else None,
        }

    def load(self, recipe: GenerationRecipe) -> None:
        """Show what a recipe says; the number of sampler steps is known already."""
        self.mode.value = recipe.mode
        end = max(self.strength.end, recipe.strength)
        self.strength.param.update(end=end, value=recipe.strength)
        self.target.value, self.passes.value = recipe.target, recipe.passes
        first, stop = recipe.steps or (0, self.window.end)
        self.window.value = (first + 1, min(stop, self.window.end))
        self.layers.value = [layer for layer in recipe.layers if layer in self.layers.options]
        self.channels.value = write_channels(recipe.channels)
        self.limited.value = recipe.region is not None
        if recipe.region is not None:
            self.top.value, self.left.value, self.height.value, self.width.value = recipe.region

    def _window(self) -> tuple[int, int] | None:
        first, last = self.window.value
        return None if (first, last) == (1, self.window.end) or self.window.disabled else (first - 1, last)

    def _shapes(self) -> Shapes:
        """Return the shapes of the masked layers, as far as they are known."""
        layer_map = self.session.map
        known = layer_map.facts.layers if layer_map is not None else {}
        return {layer: known[layer] for layer in self.layers.value or [layer_map.layer.layer] if layer in known}

    def _show_grid(self) -> None:
        if self.session.map is None:
            return
        shapes = self._shapes()
        self._grid.object = f'<p class="muted small">{grid_text(shapes)}</p>'
        has_grid = not shapes or all(len(shape) == 3 for shape in shapes.values())
        self.limited.disabled = not has_grid
        if not has_grid:
            self.limited.value = False
