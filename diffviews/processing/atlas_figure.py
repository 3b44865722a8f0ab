"""The decision atlas as a picture: cut by step window, each cell with its interval."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from diffviews.processing.figures import DECIDES, FAINT, INK, PAPER, new_figure, png_of, require_some
from diffviews.processing.palette import ramp


def atlas_figure(
    table: pd.DataFrame, *, title: str = "What decides, and when", caption: str = "", window_names: Sequence[str] = ()
) -> bytes:
    """Draw rates as a heat map: a row a cut and part in the order given, a column a window of the steps.

    Cells hold the rate and its interval; those whose images are off the manifold are hatched.

    Args:
        table: columns cut, part, first_step, last_step, rate, low, high, off_manifold.
        title: heading.
        caption: what stands below it.
        window_names: name of each window in the order of the table; none: its steps.
    """
    require_some("cells", len(table))
    rows = list(dict.fromkeys(zip(table["cut"], table["part"], strict=True)))
    windows = list(dict.fromkeys(zip(table["first_step"], table["last_step"], strict=True)))
    width, height = 2.9 + 0.92 * len(windows), 2.0 + 0.44 * len(rows)
    figure = new_figure(width, height)
    axes = figure.add_axes((2.7 / width, 0.85 / height, (width - 2.9) / width, (height - 1.85) / height))
    places = {key: at for at, key in enumerate(rows)}, {key: at for at, key in enumerate(windows)}
    cells: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    rates = np.full((len(rows), len(windows)), np.nan)
    for cell in cells:
        row, column = places[0][cell["cut"], cell["part"]], places[1][cell["first_step"], cell["last_step"]]
        rates[row, column] = cell["rate"]
    axes.imshow(rates, vmin=0, vmax=1, cmap=ramp(), aspect="auto")
    for cell in cells:
        row, column = places[0][cell["cut"], cell["part"]], places[1][cell["first_step"], cell["last_step"]]
        shade = PAPER if cell["rate"] > 0.5 else INK
        text = "{}\n{} – {}".format(*(_short(cell[name]) for name in ("rate", "low", "high")))
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=shade, linespacing=1.15)
        if cell["off_manifold"]:
            axes.fill(
                column + np.array([-0.5, 0.5, 0.5, -0.5]), row + np.array([-0.5, -0.5, 0.5, 0.5]), fill=False,
                hatch="////", edgecolor=DECIDES, linewidth=0, alpha=0.55,
            )  # fmt: skip
    names = list(window_names) or [f"{first + 1} – {last}" for first, last in windows]
    axes.set_xticks(range(len(windows)), names, fontsize=8, color=INK)
    axes.set_yticks(range(len(rows)), [f"{cut} · {part}" for cut, part in rows], fontsize=8, color=INK)
    axes.set_xticks(np.arange(len(windows) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=PAPER, linewidth=1.4)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    figure.text(0.02, 1 - 0.34 / height, title, fontsize=13, fontweight="bold", color=INK, va="center")
    figure.text(0.02, 1 - 0.66 / height, caption, fontsize=8.5, color=FAINT, va="center")
    told = "share that lands in the donor's class, with its 95 % interval; hatched: images are off the manifold"
    figure.text(0.02, 0.2 / height, told, fontsize=8, color=FAINT, va="center")
    return png_of(figure)


def _short(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{value:.2f}".removeprefix("0") if value < 1 else "1"
