"""Whose denoising paths are on show, each in a colour of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from panel_app.theme import PATHS


@dataclass(frozen=True, slots=True)
class Track:
    """One generation whose path is on show, wherever it can be placed."""

    shown: Any
    """The `Shown` generation."""
    sample: int
    """Which of its samples."""
    colour: str
    has_baseline: bool
    """Whether the path without the mask is on show beside it."""


def path_colours(run_ids: Sequence[str], before: Mapping[str, str]) -> dict[str, str]:
    """Return a colour for each generation's path; one that had a colour keeps it while it is on show.

    Args:
        run_ids: generations on show.
        before: colours of those that were on show, by run id.
    """
    colours = {run: before[run] for run in run_ids if run in before}
    for run in run_ids:
        if run not in colours:
            taken = list(colours.values())
            colours[run] = min(PATHS, key=taken.count)  # more paths than colours start over
    return colours
