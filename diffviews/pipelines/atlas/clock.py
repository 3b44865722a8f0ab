"""What an atlas costs, said before it starts and while it runs; a sample through a sampler step is the unit."""

import logging
import time

import torch

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.interchange import work_per_pair
from diffviews.core.plan import GenerationPlan
from diffviews.pipelines.atlas.drawing import Drawing
from diffviews.pipelines.atlas.pairs import Pairs

logger = logging.getLogger(__name__)

TIMED_ROWS = 64
"""Samples in the pass that is timed, or a batch if that has fewer."""


class Clock:
    """Says what is to come, at most, and how far it is."""

    def __init__(self, adapter: GeneratorAdapter, pairs: Pairs, cuts: int) -> None:
        self._adapter, self._pairs, self._cuts = adapter, pairs, cuts
        self._plan = GenerationPlan.of(adapter, pairs.request(0, max(1, min(pairs.batch_size, TIMED_ROWS) // 2)))
        self._began: float | None = None
        self._done = 0

    @property
    def started(self) -> bool:
        """Whether `start` was called."""
        return self._began is not None

    def count(self, samples: int) -> None:
        """Take note of so many samples that went through a step."""
        self._done += samples

    def start(self, drawing: Drawing) -> None:
        """Say what is to come, at most, from one pass that is timed."""
        passes = len(self._plan.passes(self._adapter)) * (2 if self._plan.sampler == "heun" else 1)
        evaluations, cells = self._left(drawing) * passes, drawing.cells
        logger.info(
            "%d cells: %d cuts, their trunk and skips apart, in %d windows of %d steps; at most %d pairs, that is %s "
            "network evaluations of one sample, about %s at the speed of a first pass; cells whose interval is narrow "
            "enough end earlier",
            len(cells), self._cuts, len({cell.window for cell in cells}), len(self._plan.sigmas),
            drawing.max_pairs - drawing.pairs, f"{evaluations:,}", _duration(evaluations * self._second_per_sample()),
        )  # fmt: skip
        self._began = time.monotonic()

    def tell(self, drawing: Drawing) -> None:
        """Say how far it is."""
        pace = (time.monotonic() - (self._began or 0)) / max(self._done, 1)
        left = self._left(drawing)
        logger.info(
            "%d of at most %d pairs, %d of %d cells still drawn%s",
            drawing.pairs, drawing.max_pairs, len(drawing.open_cells), len(drawing.cells),
            f", at most {_duration(left * pace)} left" if left else "",
        )  # fmt: skip

    def _left(self, drawing: Drawing) -> int:
        cells = [drawing.cells[number] for number in drawing.open_cells]
        steps = len(self._plan.sigmas)
        return (drawing.max_pairs - drawing.pairs) * work_per_pair(cells, steps) if cells else 0

    @torch.inference_mode()
    def _second_per_sample(self) -> float:
        """Return how long the network takes for one sample, in a batch as they will be."""
        adapter, rows = self._adapter, self._plan.request.num_samples
        x = torch.zeros(rows, *adapter.input_shape, device=adapter.device)
        levels = torch.full((rows,), float(self._plan.sigmas[0]), dtype=torch.float32, device=x.device)
        given = adapter.condition(self._plan.conditions(range(rows))) | self._plan.embedded_guidance(adapter, rows)

        def seconds() -> float:
            began = time.monotonic()
            adapter.forward(x, levels, **given).sum().item()
            return time.monotonic() - began

        return min(seconds() for _ in range(2)) / rows  # the first one warms up


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
