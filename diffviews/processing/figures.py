"""Pictures of maps and of layers, as PNG bytes, on a light ground and without a display."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffviews.errors import ShapeError
from diffviews.processing.palette import UNLABELLED, class_colours, ramp
from diffviews.processing.realism import is_off_manifold

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, LINE, PAPER = "#1b1f24", "#5b6470", "#e3e6ea", "#ffffff"
KNOWS, DECIDES = "#0b7edd", "#c94b85"

LEGEND_CLASSES = 24
"""With more classes than this a colour bar takes the legend's place."""

DPI = 110

ClassNames = Mapping[Any, str] | Sequence[str]


def map_figure(
    embedding: np.ndarray,
    labels: Sequence[Any] | np.ndarray | None = None,
    *,
    class_names: ClassNames | None = None,
    title: str = "",
    caption: str = "",
) -> bytes:
    """Draw a map, coloured by class, each class also named in its midst so that colour is not needed.

    Args:
        embedding: (N, 2) or (N, 3) coordinates.
        labels: (N,) class of each sample, None or NaN for none.
        class_names: name of each class, by class.
        title: heading, such as layer and sigma.
        caption: what follows the number of samples below it.
    """
    figure = new_figure(7.2, 5.6)
    deep = embedding.shape[1] >= 3
    axes = figure.add_axes((0.02, 0.02, 0.78, 0.83), projection="3d" if deep else None)
    classes = _classes(labels, len(embedding))
    _scatter(axes, embedding, classes, size=_dot_size(len(embedding)))
    if classes is not None:
        if not deep:
            _name_clusters(axes, embedding, classes, class_names)
        _legend(figure, classes, class_names)
    figure.text(0.035, 0.945, title, fontsize=13, fontweight="bold", color=INK, va="center")
    facts = " · ".join(part for part in (f"n = {len(embedding):,}", caption) if part)
    figure.text(0.035, 0.895, facts, fontsize=9.5, color=FAINT, va="center")
    return png_of(figure)


def maps_figure(
    maps: Mapping[str, np.ndarray],
    labels: Sequence[Any] | np.ndarray | None = None,
    *,
    class_names: ClassNames | None = None,
    title: str = "",
    captions: Mapping[str, str] | None = None,
) -> bytes:
    """Draw many maps of the same samples as small multiples with one legend, in the order given.

    Args:
        maps: (N, 2 or more) coordinates by heading, such as layers in network order.
        labels: (N,) class of each sample, the same in all maps.
        class_names: name of each class, by class.
        title: heading of the whole.
        captions: a fact to stand beside a map's heading.
    """
    require_some("maps", len(maps))
    columns = min(len(maps), 5 if len(maps) > 8 else 4)
    rows, side = -(-len(maps) // columns), 0.15 if labels is None else 1.6
    width, height, top = 0.15 + side + 2.5 * columns, 0.75 + 2.7 * rows, 0.75
    figure = new_figure(width, height)
    grid = figure.add_gridspec(
        rows, columns, left=0.012, right=1 - side / width, bottom=0.012, top=1 - (top + 0.2) / height,
        wspace=0.05, hspace=0.16,
    )
    classes = None
    for place, (heading, embedding) in enumerate(maps.items()):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        classes = _classes(labels, len(embedding))
        _scatter(axes, embedding[:, :2], classes, size=_dot_size(len(embedding)) / 4)
        axes.set_title(heading, fontsize=9, color=INK, loc="left", pad=4)
        axes.set_title((captions or {}).get(heading, ""), fontsize=8.5, color=FAINT, loc="right", pad=4)
    if classes is not None:
        _legend(figure, classes, class_names, left=1 - (side - 0.1) / width)
    figure.text(0.16 / width, 1 - 0.36 / height, title, fontsize=14, fontweight="bold", color=INK, va="center")
    return png_of(figure)


def cka_figure(names: Sequence[str], matrix: np.ndarray, *, title: str = "linear CKA") -> bytes:
    """Draw the similarity of every pair of layers, at most 1, as a heat map with its values.

    Its scale begins at 0, or at the lowest value where that is below.

    Raises:
        ShapeError: if the matrix is not (len(names), len(names)).
    """
    count = len(names)
    if np.shape(matrix) != (count, count):
        raise ShapeError(f"a CKA matrix of {count} layers is {count} × {count}, but this is {np.shape(matrix)}")
    side = max(4.2, 1.9 + 0.46 * count)
    width, height = side + 0.7, side - 0.05
    figure = new_figure(width, height)
    axes = figure.add_axes((1.65 / width, 1.3 / height, (side - 1.75) / width, (side - 1.95) / height))
    image = axes.imshow(matrix, vmin=np.nanmin(matrix, initial=0.0), vmax=1, cmap=ramp())
    axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8.5, color=INK)
    axes.set_yticks(range(count), names, fontsize=8.5, color=INK)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=PAPER, linewidth=1.2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    for row, column in np.ndindex(count, count):
        value = matrix[row, column]
        if np.isfinite(value) and count <= 24:
            shade = PAPER if value > 0.55 else INK
            text = f"{value:.2f}".replace("-0.00", "0.00").replace("0.", ".").replace("-", "−")
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=shade)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=FAINT)
    axes.set_title(title, fontsize=12.5, fontweight="bold", color=INK, loc="left", pad=10)
    return png_of(figure)


def ranking_figure(rows: pd.DataFrame, *, title: str = "What each layer knows, and what it decides") -> bytes:
    """Draw, by layer in the order given, k-NN accuracy ('knows') beside control rate ('decides').

    A rate has its interval where there is one; its bar is hollow where the images are unlike real ones, with ◌ beside
    its number, which is bold where it is not told from the best.

    Args:
        rows: columns layer, knn_accuracy_activation, control_rate; control_baseline, control_rate_low,
            control_rate_high, control_on_manifold and control_best if measured; NaN where something was not.
    """
    require_some("layers", len(rows))
    height = 1.75 + 0.42 * len(rows)
    figure = new_figure(7.6, height)
    axes = figure.add_axes((0.235, 0.55 / height, 0.735, 1 - 1.85 / height))
    places = np.arange(len(rows))
    hollow = [is_off_manifold(share) for share in _column(rows, "control_on_manifold")]
    best = _column(rows, "control_best") == 1
    low, high = (_column(rows, f"control_rate_{end}") for end in ("low", "high"))
    _bars(axes, places - 0.19, _column(rows, "knn_accuracy_activation"), KNOWS)
    _bars(axes, places + 0.19, _column(rows, "control_rate"), DECIDES, hollow=hollow, bold=best, low=low, high=high)
    _baseline(axes, rows)
    axes.set_yticks(places, [str(name) for name in rows["layer"]], fontsize=9, color=INK)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0, 1.12)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.tick_params(length=0, labelcolor=INK, labelsize=8.5)
    axes.grid(axis="x", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    figure.text(0.03, 1 - 0.34 / height, title, fontsize=13, fontweight="bold", color=INK, va="center")
    entries = [("knows: k-NN class accuracy", KNOWS), ("decides: control rate", DECIDES)]
    draw_keys(figure, entries, (0.02, 1 - 0.7 / height), "s", 8, ncols=2, handletextpad=0.2)
    told = ["line: 95 % interval"] if np.isfinite(low).any() else []
    told += ["hollow, ◌: images unlike real ones"] if any(hollow) else []
    told += [f"bold: not told from the best{' of the others' if any(hollow) else ''}"] if best.any() else []
    figure.text(0.03, 1 - 0.98 / height, " · ".join(told), fontsize=8.5, color=FAINT, va="center")
    return png_of(figure)


def _column(rows: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column as float64, NaN where it or a value is missing."""
    return rows[name].to_numpy(dtype=np.float64, na_value=np.nan) if name in rows else np.full(len(rows), np.nan)


def _bars(
    axes: "Axes", places: np.ndarray, values: np.ndarray, colour: str, *, hollow: Sequence[bool] | None = None,
    bold: np.ndarray | None = None, low: np.ndarray | None = None, high: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Draw a series of horizontal bars with their numbers, behind the intervals' upper ends where there are any."""
    empty = np.zeros(len(values), bool) if hollow is None else np.asarray(hollow)
    fills = [PAPER if open_ else colour for open_ in empty]
    reach, edges = np.nan_to_num(values), np.where(empty, 1.2, 0)
    axes.barh(places, reach, height=0.34, color=fills, edgecolor=colour, linewidth=edges)
    if low is not None and high is not None:
        axes.hlines(places, low, high, color=INK, linewidth=1.6)
        reach = np.fmax(reach, high)
    for number, (place, value) in enumerate(zip(places, values, strict=True)):
        text = f"{value:.2f}" + " ◌" * bool(empty[number]) if np.isfinite(value) else "not measured"
        strong = bold is not None and bool(bold[number])
        axes.text(
            reach[number] + 0.008, place, text, va="center", fontsize=7.5, color=INK if strong else FAINT,
            fontweight="bold" if strong else "normal",
        )  # fmt: skip


def _baseline(axes: "Axes", rows: pd.DataFrame) -> None:
    if "control_baseline" not in rows or rows["control_baseline"].isna().all():
        return
    level = float(rows["control_baseline"].mean())
    axes.axvline(level, color=DECIDES, linewidth=1.1, linestyle=(0, (3, 2)))
    axes.text(level, -0.6, "unmasked", fontsize=7.5, color=DECIDES, ha="center", va="bottom")


def draw_keys(
    figure: "Figure", entries: Sequence[tuple[str, str]], place: tuple[float, float], marker: str, size: float,
    **options: Any,
) -> None:  # fmt: skip
    """Draw a legend of (name, colour) whose left end is at `place`."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker=marker, linestyle="", markersize=size, color=colour) for _, colour in entries]
    figure.legend(
        handles, [name for name, _ in entries], loc="center left", bbox_to_anchor=place, frameon=False, fontsize=9,
        labelcolor=INK, **options,
    )  # fmt: skip


def new_figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)


def _scatter(axes: Any, embedding: np.ndarray, classes: pd.Categorical | None, *, size: float) -> None:
    """Draw all points in one mixed order, so that no class lies on top of another by its number."""
    order = np.random.default_rng(0).permutation(len(embedding))
    colours = np.full(len(embedding), UNLABELLED, dtype=object)
    if classes is not None:
        palette = np.array([*class_colours(len(classes.categories)), UNLABELLED], dtype=object)
        colours = palette[classes.codes]
    points = embedding[order, :3].T
    axes.scatter(*points, c=list(colours[order]), s=size, linewidths=0, alpha=0.85)
    if embedding.shape[1] >= 3:
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.set_pane_color(PAPER)
            axis.line.set_color(LINE)
            axis.set_tick_params(labelcolor=PAPER, color=PAPER)
            axis._axinfo["grid"].update(color=LINE, linewidth=0.8)
        return
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.03)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(LINE)


def _name_clusters(
    axes: "Axes", embedding: np.ndarray, classes: pd.Categorical, class_names: ClassNames | None
) -> None:
    from matplotlib.patheffects import withStroke

    if len(classes.categories) > LEGEND_CLASSES:
        return
    for number, category in enumerate(classes.categories):
        points = embedding[classes.codes == number]
        # The member nearest the median: a median alone can fall into another class's gap.
        middle = points[np.argmin(np.linalg.norm(points - np.median(points, axis=0), axis=1))]
        axes.text(
            middle[0], middle[1], _name(category, class_names, 12), fontsize=11, fontweight="bold", color=INK,
            ha="center", va="center", path_effects=[withStroke(linewidth=3.2, foreground=PAPER)],
        )


def _legend(
    figure: "Figure", classes: pd.Categorical, class_names: ClassNames | None, *, left: float = 0.81
) -> None:
    colours = class_colours(len(classes.categories))
    if len(classes.categories) > LEGEND_CLASSES:
        _colour_bar(figure, classes, colours, left)
        return
    counts = np.bincount(classes.codes[classes.codes >= 0], minlength=len(colours))
    entries = [(f"{_name(c, class_names, 16)}  ({n})", colour)
               for c, n, colour in zip(classes.categories, counts, colours, strict=True)]
    if (classes.codes < 0).any():
        entries.append((f"no class  ({np.count_nonzero(classes.codes < 0)})", UNLABELLED))
    draw_keys(figure, entries, (left, 0.44), "o", 7, handletextpad=0.1, labelspacing=0.75)


def _colour_bar(figure: "Figure", classes: pd.Categorical, colours: Sequence[str], left: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    axes = figure.add_axes((left + 0.2 * (1 - left), 0.15, 0.12 * (1 - left), 0.58))
    last = len(colours) - 1
    bar = figure.colorbar(ScalarMappable(Normalize(0, last), ListedColormap(list(colours))), cax=axes)
    bar.set_ticks([0, last], labels=[str(classes.categories[0]), str(classes.categories[last])])
    bar.ax.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    bar.outline.set_visible(False)
    axes.set_title(f"{len(colours)} classes", fontsize=9, color=INK, loc="left")


def _classes(labels: Sequence[Any] | np.ndarray | None, count: int) -> pd.Categorical | None:
    if labels is None:
        return None
    if len(labels) != count:
        raise ShapeError(f"there are {len(labels)} labels for {count} points")
    classes = pd.Categorical(list(labels))
    return classes if len(classes.categories) else None


def _name(category: Any, class_names: ClassNames | None, longest: int) -> str:
    name = str(category)
    if isinstance(class_names, Mapping):
        name = str(class_names.get(category) or category)
    elif class_names is not None and isinstance(category, int | np.integer) and 0 <= category < len(class_names):
        name = str(class_names[int(category)])
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _dot_size(count: int) -> float:
    """Return the area of a dot in square points: about the same ink for 500 points as for 50,000."""
    return float(np.clip(15_000 / max(count, 1), 0.6, 30.0))


def require_some(what: str, count: int) -> None:
    if not count:
        raise ShapeError(f"there are no {what} to draw; give at least one")


def png_of(figure: "Figure") -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
