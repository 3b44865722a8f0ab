"""`python -m experiments.documents docs/digits.md` makes a document's tables again, from runs of its commands.

A document holds `<!-- table NAME COMMAND -->` … `<!-- end -->`. The command, such as `extract --config
experiments/configs/control-digits.yaml`, is run in the current store (a finished run of the same answers at once), and
between the two lines goes the table of that name, made of what its run logged. Nothing else of the document is touched.
"""

import io
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import pandas as pd

from diffviews.cli import call, load_function, parse_arguments
from diffviews.noise import format_sigma
from diffviews.pipelines.workspace import Workspace, open_workspace

_PLACE = re.compile(r"(<!-- table (?P<name>\S+) (?P<command>[^\n]*?) -->\n).*?(<!-- end -->)", re.DOTALL)

Frame = pd.DataFrame
Column = tuple[str, Callable[[pd.Series], str]]
"""Its heading, and what a row says in it."""


def rewritten(text: str, workspace: Workspace) -> str:
    """Return a document with its tables made again.

    Raises:
        KeyError: if a table has a name that is none of `TABLES`.
    """
    def table(place: re.Match[str]) -> str:
        name, _, argument = place["name"].partition(":")
        return f"{place[1]}{TABLES[name](_run(place['command']), argument, workspace)}\n{place[4]}"

    return _PLACE.sub(table, text)


@cache
def _run(command: str) -> str:
    """Run a command of `diffviews`, or take its finished run, and return the run's id."""
    name, *words = shlex.split(command)
    return str(call(load_function(name), parse_arguments(name, words)).run_id)


def knows(run: str, sigma: str, workspace: Workspace) -> str:
    """What the layers know at one noise level, beside input, output and random weights."""
    found = _csv(workspace, run, f"knows/{sigma}.csv")
    own = workspace.catalog.extraction(run).metrics
    columns: list[Column] = [("layer", lambda row: f"`{row['layer']}`" + (" **·**" if row["knows_best"] else ""))]
    for reader, title in (("knn", "k-NN"), ("probe", "probe")):
        columns += [
            (title, partial(_spread, key=f"knows_{reader}")),
            (f"gain, {title}", partial(_between, key=f"gain_{reader}", form="+.3f")),
            ("p", partial(_p, key=f"gain_{reader}_holm")),
            ("random weights", partial(_number, key=f"random_{reader}")),
        ]
    said = [
        f"{place} {own[f'{place}_knn-{sigma}']:.3f} by k-NN, {own[f'{place}_probe-{sigma}']:.3f} by the probe"
        for place in ("input", "denoised")
    ]
    return f"{_markdown(found, columns)}\n\nNoised {said[0]}; {said[1]}."


def masks(run: str, sigma: str, workspace: Workspace) -> str:
    """What masks by class averages do at each layer, with controls and costs."""
    layers = [r for r in workspace.catalog.layers(run) if format_sigma(r.sigma) == sigma]
    found = pd.DataFrame([{"layer": r.layer, **r.metrics} for r in layers if "control_rate" in r.metrics])
    titles = {
        "control_matched": "matched", "control_rate_early": "early", "control_rate_late": "late",
        "control_baseline": "unmasked", "control_global_mean": "global mean", "control_mixed_means": "mixed means",
        "control_random_direction": "random direction", "control_other_layer": "another layer's",
        "control_on_manifold": "near real images", "control_loss_ratio": "loss ratio",
        "control_diversity": "diversity",
    }  # fmt: skip
    columns: list[Column] = [
        ("layer", lambda row: f"`{row['layer']}`"),
        ("lands in the class", partial(_between, key="control_rate")),
        ("p", partial(_p, key="control_p")),
        *((title, partial(_number, key=key)) for key, title in titles.items() if key in found),
    ]
    return _markdown(found, columns)


TABLES: Mapping[str, Callable[[str, str, Workspace], str]] = {"knows": knows, "masks": masks}
"""By the name in the document; `knows:2` is the table at noise level 2."""


def _csv(workspace: Workspace, run: str, name: str) -> Frame:
    return pd.read_csv(io.BytesIO(workspace.folder(run).path(name).read_bytes()))


def _between(row: pd.Series, key: str, form: str = ".3f") -> str:
    value, low, high = (f"{row[name]:{form}}".replace("-", "−") for name in (key, f"{key}_low", f"{key}_high"))
    return f"{value} [{low}, {high}]"


def _spread(row: pd.Series, key: str) -> str:
    return f"{row[key]:.3f} ± {row[f'{key}_sd']:.3f}"


def _number(row: pd.Series, key: str) -> str:
    return "" if pd.isna(row[key]) else f"{row[key]:.3f}"


def _p(row: pd.Series, key: str) -> str:
    return "" if pd.isna(row[key]) else "< 0.001" if row[key] < 0.001 else f"{row[key]:.3f}"


def _markdown(frame: Frame, columns: Sequence[Column]) -> str:
    lines = [[heading for heading, _ in columns], ["---"] * len(columns)]
    lines += [[say(row) for _, say in columns] for _, row in frame.iterrows()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(paths: Sequence[str]) -> None:
    """Make the tables of documents again."""
    workspace = open_workspace()
    for path in map(Path, paths):
        path.write_text(rewritten(path.read_text(encoding="utf-8"), workspace), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
