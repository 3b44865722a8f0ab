"""What layers know beyond the noised input, as a picture with intervals."""

import numpy as np
import pandas as pd

from diffviews.processing.figures import (
    DECIDES,
    FAINT,
    INK,
    KNOWS,
    LINE,
    PAPER,
    draw_keys,
    new_figure,
    png_of,
    require_some,
)


def gains_figure(rows: pd.DataFrame, *, title: str) -> bytes:
    """Draw, by layer in the order given, what k-NN and a probe read beyond the noised input, with 95 % intervals.

    Layers that are not told from the best one have a filled mark.

    Args:
        rows: the table of `gains.Gains`.
        title: heading.
    """
    require_some("layers", len(rows))
    height = 1.5 + 0.42 * len(rows)
    figure = new_figure(7.6, height)
    axes = figure.add_axes((0.235, 0.55 / height, 0.735, 1 - 1.6 / height))
    axes.axvline(0, color=FAINT, linewidth=1.1)
    series = (("knn", "knows_best", KNOWS, -0.16), ("probe", "knows_best_probe", DECIDES, 0.16))
    for reader, best, colour, shift in series:
        middle, low, high = (rows[f"gain_{reader}{end}"].to_numpy() for end in ("", "_low", "_high"))
        places = np.arange(len(rows)) + shift
        axes.hlines(places, low, high, color=colour, linewidth=1.4)
        fills = np.where(rows[best] == 1, colour, PAPER).tolist()
        axes.scatter(middle, places, s=26, c=fills, edgecolors=colour, zorder=3)
    axes.set_yticks(range(len(rows)), [str(name) for name in rows["layer"]], fontsize=9, color=INK)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.tick_params(length=0, labelcolor=INK, labelsize=8.5)
    axes.grid(axis="x", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    figure.text(0.03, 1 - 0.34 / height, title, fontsize=13, fontweight="bold", color=INK, va="center")
    entries = [("k-NN accuracy minus the input's", KNOWS), ("probe accuracy minus the input's", DECIDES)]
    draw_keys(figure, entries, (0.02, 1 - 0.7 / height), "o", 6, ncols=2, handletextpad=0.2)
    return png_of(figure)
