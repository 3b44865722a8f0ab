"""What an atlas gives: its table, its picture, its report, and the rates over all steps as metrics."""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, Template

from diffviews.core.cuts import Cuts
from diffviews.noise import format_sigma
from diffviews.pipelines.atlas.drawing import Drawing
from diffviews.pipelines.report import base64_text
from diffviews.processing.atlas_figure import atlas_figure
from diffviews.processing.realism import OFF_MANIFOLD, is_off_manifold
from diffviews.tracking.active_run import ActiveRun

TOLD = {
    "label": "told a class each, which stays the recipient's own in every block",
    "prompt": "told a prompt each, which stays the recipient's own in every block",
    "uniform": "told the uniform label",
    "none": "told nothing",
}
_LINE = (
    "{cut} {part}{of}, {when}: {rate:.3f} [{low:.3f}, {high:.3f}], by chance {null:.3f}, p {p:.3f}, n {n}, "
    "own class {own:.3f}, rejected {rejects:.3f}, on the manifold {on_manifold:.3f}"
)


def atlas_table(drawing: Drawing, ways: Sequence[str], sigmas: Sequence[float]) -> pd.DataFrame:
    """Return a row for each cell and factor.

    Args:
        drawing: what was drawn.
        ways: name of each factor, or of the class.
        sigmas: noise level of each step, and where the last one ends.
    """
    rows = []
    for way, name in enumerate(ways):
        for number, cell in enumerate(drawing.cells):
            measured, (first, last) = drawing.rate(number, way), cell.window
            rows.append({
                "factor": name, "cut": cell.cut.name, "layers": ", ".join(cell.cut.layers), "part": cell.part,
                "first_step": first, "last_step": last, "sigma_from": sigmas[first], "sigma_to": sigmas[last],
                "n": measured.n, "rate": measured.rate, "low": measured.low, "high": measured.high,
                "null": measured.null, "p": measured.p, "own": measured.own, "rejects": measured.rejects,
                "on_manifold": measured.on_manifold,
                "off_manifold": is_off_manifold(measured.on_manifold),
            })  # fmt: skip
    return pd.DataFrame(rows)


def log_atlas(
    run: ActiveRun, table: pd.DataFrame, drawing: Drawing, ways: Sequence[str], cuts: Cuts, *, model: str,
    conditioning: str, measures: Mapping[str, float],
) -> str:  # fmt: skip
    """Log table, picture, report and metrics; return in words cuts, rates over all steps, and those above chance.

    A rate is above chance where its whole interval is.
    """
    run.log_table(table, "atlas.parquet")
    run.log_table(table, "atlas.csv")
    metrics = {**measures, "pairs": float(drawing.pairs), "plain_on_manifold": drawing.plain_on_manifold()}
    pictures = dict[str, bytes]()
    for way, name in enumerate(ways):
        rejected, equal = drawing.left_out(way)
        end = "" if len(ways) == 1 else f"_{_key(name)}"
        metrics |= {f"pairs_rejected{end}": float(rejected), f"pairs_alike{end}": float(equal)}
        own = table[table["factor"] == name]
        metrics |= {f"interchange_{_key(c['cut'])}_{c['part']}{end}": c["rate"] for c in _records(_whole(own))}
        said = f"{model} · {drawing.pairs} pairs, {TOLD[conditioning]}"
        pictures[name] = atlas_figure(
            own, title="What decides, and when" + ("" if len(ways) == 1 else f": {name}"), caption=said,
            window_names=_window_names(own),
        )  # fmt: skip
        run.log_artifact_bytes(pictures[name], f"atlas{end}.png")
        run.log_image(f"atlas{end}", pictures[name])
    run.log_metrics({name: value for name, value in metrics.items() if value == value})
    page = _template().render(
        model=model, table=table, cuts=cuts, pictures=pictures, pairs=drawing.pairs, told=TOLD[conditioning],
        measures=metrics, least=OFF_MANIFOLD, half_width=drawing.half_width,
    )  # fmt: skip
    run.log_artifact_bytes(page.encode("utf-8", "replace"), "atlas.html")
    return _in_words(table, ways, cuts)


def _whole(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows over all steps."""
    return table[(table["first_step"] == 0) & (table["last_step"] == table["last_step"].max())]


def _window_names(table: pd.DataFrame) -> list[str]:
    windows = table.drop_duplicates(["first_step", "last_step"])
    whole = _whole(windows).index
    return [
        ("all steps" if index in whole else f"{row['first_step'] + 1} – {row['last_step']}")
        + f"\nσ {format_sigma(float(f'{row.sigma_from:.2g}'))} – {format_sigma(float(f'{row.sigma_to:.2g}'))}"
        for index, row in windows.iterrows()
    ]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.to_dict("records")  # type: ignore[return-value]


def _in_words(table: pd.DataFrame, ways: Sequence[str], cuts: Cuts) -> str:
    lines = [f"cut {cut}" for cut in map(str, cuts.cuts)]
    lines += [f"layer {layer} has no effect" for layer in cuts.idle]
    whole = _whole(table).index
    told = table[table.index.isin(whole) | (table["low"] > table["null"])]
    for index, cell in zip(told.index, _records(told), strict=True):
        of = "" if len(ways) == 1 else f" {cell['factor']}"
        when = "all steps" if index in whole else f"steps {cell['first_step'] + 1} to {cell['last_step']}"
        lines.append(_LINE.format(of=of, when=when, **cell) + ("; off the manifold" if cell["off_manifold"] else ""))
    return "".join(f"{line}\n" for line in lines)


def _key(name: str) -> str:
    """Return a name as MLflow takes it in a metric's."""
    return re.sub(r"[^\w.-]", "-", name)


@functools.cache
def _template() -> Template:
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    templates.filters["base64"] = base64_text
    return templates.get_template("atlas.html")
