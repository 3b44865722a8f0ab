"""What is drawn over the map's picture: rings, the hovered point, denoising paths with their noise levels."""

from dataclasses import dataclass

import numpy as np
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure as Figure

from diffviews.noise import format_sigma


@dataclass(frozen=True, slots=True)
class DrawnPath:
    """One sample's way over the map, step by step."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    sigmas: tuple[float, ...]
    distances: tuple[float, ...]
    baseline: bool = False


def short_sigma(sigma: float) -> str:
    """Return a noise level with three significant digits, for tight places."""
    return format_sigma(float(f"{sigma:.3g}"))


def label_steps(path: DrawnPath, span: tuple[float, float], apart: float = 0.06) -> list[int]:
    """Return the steps whose sigma is written: first, last, and those at least `apart` of the view from one another."""
    chosen: list[int] = []
    last = len(path.x) - 1
    for index in (0, last, *range(1, last)):
        spot = np.array([path.x[index] / span[0], path.y[index] / span[1]])
        others = [np.array([path.x[i] / span[0], path.y[i] / span[1]]) for i in chosen]
        if all(np.linalg.norm(spot - other) >= apart for other in others):
            chosen.append(index)
    return sorted(set(chosen))


def empty_sources() -> dict[str, ColumnDataSource]:
    """Return the overlays' data, by overlay, without rows."""
    columns = {
        "hover": ("x", "y", "size"),
        "rings": ("x", "y", "size", "width", "colour", "halo"),
        "lines": ("xs", "ys", "colour", "dash", "width", "paper"),
        "dots": ("x", "y", "colour", "size", "edge"),
        "labels": ("x", "y", "text", "ink", "paper"),
    }
    return {name: ColumnDataSource({column: [] for column in keys}) for name, keys in columns.items()}


def add_glyphs(figure: Figure, sources: dict[str, ColumnDataSource]) -> None:
    """Add the glyphs; later ones lie above. Each ring has a pale halo, so that it shows on any colour."""
    figure.multi_line(
        "xs",
        "ys",
        source=sources["lines"],
        line_color="paper",
        line_width=6,
        line_alpha=0.85,
        line_join="round",
        line_cap="round",
    )
    figure.multi_line(
        "xs",
        "ys",
        source=sources["lines"],
        line_color="colour",
        line_width="width",
        line_dash="dash",
        line_join="round",
        line_cap="round",
    )
    figure.scatter(
        "x", "y", size="size", source=sources["dots"], fill_color="colour", line_color="edge", line_width=1.5
    )
    figure.scatter("x", "y", size="size", source=sources["hover"], fill_color=None, line_color="#8a8f98", line_width=2)
    figure.scatter(
        "x",
        "y",
        size="size",
        source=sources["rings"],
        fill_color=None,
        line_color="halo",
        line_width=6,
        line_alpha=0.75,
    )
    figure.scatter(
        "x", "y", size="size", source=sources["rings"], fill_color=None, line_color="colour", line_width="width"
    )
    figure.text(
        "x",
        "y",
        "text",
        source=sources["labels"],
        x_offset=9,
        y_offset=-9,
        text_color="ink",
        text_font={"value": "Roboto"},
        text_font_size={"value": "12px"},
        text_font_style={"value": "bold"},
        background_fill_color="paper",
        background_fill_alpha=0.82,
        border_radius=4,
        padding=3,
    )
