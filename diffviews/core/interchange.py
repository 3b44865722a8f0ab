"""Interchange: a recipient goes on with what a donor's layer gives in the very same forward pass.

request = GenerationRequest(num_samples=2 * 100, class_labels=(0, 3, 1, 7, …))      # donor, recipient, donor, …
cells = cells_of(find_cuts(adapter), windows=[(0, 18), (0, 3)])
exchanged = interchange(adapter, request, cells)
exchanged.images[cells[0]]                                                          # one a pair

Donor and recipient differ in noise and class and are at the same step of the same sampler. At a cut C the `trunk`
takes the donor's output of C alone; `skips` takes everything that reaches past C and keeps C's own; `together` takes
both. What conditions a recipient stays its own in every block: it is no layer's output.

What reaches past a cut is found without knowing the network, by the cut O that everything goes through. Where O comes
before C, the recipient takes O from the donor and C from its own run without an exchange. Where it comes after C (of
a Stable Diffusion network only the last block is such), a further row of the batch is given the donor's input and the
recipient's C, and the recipient takes O from that row. Both are the same exchange.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.cuts import Cut, Cuts
from diffviews.core.extractor import FEWEST
from diffviews.core.plan import GenerationPlan
from diffviews.core.request import GenerationRequest
from diffviews.core.rows import RowCopy, blocks
from diffviews.core.session import InterventionSession
from diffviews.core.walk import PassInputs, start, walk
from diffviews.errors import ConfigError
from diffviews.sampling.samplers import SamplerStep

Part = Literal["trunk", "skips", "together"]
"""What of a cut is the donor's: the cut itself, all that reaches past it, or both."""
PARTS: tuple[Part, ...] = get_args(Part)

Window = tuple[int, int]
"""Sampler steps [first, stop)."""

Tell = Callable[[int], None]
"""Told after each step how many samples went through it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One exchange: at which cut, what of it, in which steps."""

    cut: Cut
    part: Part
    window: Window
    around: Cut | None = None
    """The outermost cut, through which all goes that reaches past `cut`; `skips` needs it."""
    after: bool = False
    """Whether `around` comes after `cut` in the forward pass, so that the exchange needs a row of its own."""

    def __post_init__(self) -> None:
        if not 0 <= self.window[0] < self.window[1]:
            raise ConfigError(f"the window {self.window} of {self.cut} is no [first, stop) with 0 <= first < stop")
        if self.part == "skips" and self.around is None:
            raise ConfigError(f"what reaches past {self.cut} needs the cut that it goes through; name it as `around`")


@dataclass(frozen=True, slots=True, eq=False)
class Exchanged:
    """Images of n pairs, each (n, H, W, 3) uint8."""

    donors: np.ndarray
    """Unpatched."""
    recipients: np.ndarray
    """Unpatched."""
    images: dict[Cell, np.ndarray]
    """Recipients after each exchange."""


def cells_of(cuts: Cuts, windows: Sequence[Window], only: Sequence[str] = ()) -> list[Cell]:
    """Return every exchange there is: trunk and skips of each cut, and together, which is the same at all cuts.

    Skips are left out where no layer has everything go through it.

    Args:
        cuts: of the network.
        windows: sampler steps, each [first, stop).
        only: layers whose cuts are wanted; none: all.
    """
    outermost, found = cuts.outermost, list[Cell]()
    for window in windows:
        for cut in cuts.cuts:
            if only and not set(only) & set(cut.layers):
                continue
            if cut == outermost:
                found.append(Cell(cut, "together", window))
                continue
            found.append(Cell(cut, "trunk", window))
            if outermost is not None:
                after = cuts.cuts.index(outermost) > cuts.cuts.index(cut)
                found.append(Cell(cut, "skips", window, outermost, after))
    return found


def work_per_pair(cells: Sequence[Cell], num_steps: int) -> int:
    """Return how many samples go through a step for one pair: a donor, a recipient, and one for each cell."""
    total = 2 * num_steps
    for window, own in _by_window(cells).items():
        total += (window[1] - window[0]) * (2 + _rows(own)) + (num_steps - window[1]) * len(own)
    return total


@torch.no_grad()
def interchange(
    adapter: GeneratorAdapter, request: GenerationRequest, cells: Sequence[Cell], *, tell: Tell = lambda samples: None
) -> Exchanged:
    """Generate pairs of donor and recipient, and each recipient again for every cell.

    Sample 2i of the request is the donor of pair i, sample 2i + 1 its recipient; both start from their own noise, as
    in `generate`, and a recipient's noise is the same in every cell. Donors and recipients go through all steps once;
    the cells of a window begin where their recipient is at its first step. In the window donors, recipients and
    recipients of all cells share their forward passes, in which rows are copied; after it the cells go on by
    themselves. On the CPU in float32 a cell's images do not depend on the other cells, nor on the number of pairs.

    Args:
        adapter: the model.
        request: of 2n samples, without interventions; `batch_size` limits the rows of a pass, but for a single pair.
        cells: the exchanges, each once.
        tell: called after every step.

    Raises:
        ConfigError: if the samples are no pairs, all start from the same noise, or a window goes beyond the steps.
        LayerNotFoundError: if the model lacks a layer.
    """
    plan = _plan(adapter, request, cells)
    windows = _by_window(cells)
    base = _base(adapter, plan, {first for first, _ in windows}, tell)
    images: dict[Cell, np.ndarray] = {}
    for window, own in windows.items():
        pairs = max(1, request.batch_size // (2 + _rows(own)))
        chunks = torch.arange(request.num_samples // 2).split(pairs)
        made = [_exchange(adapter, plan, base, chunk, window, own, tell) for chunk in chunks]
        images |= {cell: np.concatenate([part[n] for part in made]) for n, cell in enumerate(own)}
    return Exchanged(base.images[0::2], base.images[1::2], {cell: images[cell] for cell in cells})


def _plan(adapter: GeneratorAdapter, request: GenerationRequest, cells: Sequence[Cell]) -> GenerationPlan:
    if request.num_samples % 2 or request.interventions or len(set(cells)) < len(cells):
        raise ConfigError("an interchange needs pairs of samples, no interventions, and each cell once")
    if request.noise_mode == "zero":
        raise ConfigError("donor and recipient start from noise of their own; take noise_mode stochastic or fixed")
    plan = GenerationPlan.of(adapter, request)
    for cell in cells:
        if cell.window[1] > len(plan.sigmas):
            raise ConfigError(f"the window {cell.window} of {cell.cut} goes beyond the {len(plan.sigmas)} steps")
    return plan


def _rows(cells: Sequence[Cell]) -> int:
    """Return how many rows the cells of one pair have in their window."""
    return len(cells) + sum(cell.after for cell in cells)


def _by_window(cells: Sequence[Cell]) -> dict[Window, list[Cell]]:
    found: dict[Window, list[Cell]] = defaultdict(list)
    for cell in cells:
        found[cell.window].append(cell)
    return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True, eq=False)
class _Base:
    """All samples without an exchange."""

    inputs: PassInputs
    images: np.ndarray
    starts: dict[int, Tensor]
    """Where they are at the first step of each window, (2n, C, H, W) on the CPU."""


def _base(adapter: GeneratorAdapter, plan: GenerationPlan, firsts: set[int], tell: Tell) -> _Base:
    count = plan.request.num_samples
    inputs = PassInputs.of(adapter, plan, plan.conditions(range(count)))
    images, starts = list[np.ndarray](), defaultdict[int, list[Tensor]](list)
    for rows in torch.arange(count).split(max(2, plan.request.batch_size)):
        with InterventionSession(adapter) as session:
            x = _x0(adapter, plan, rows)
            if 0 in firsts:
                starts[0].append(x.cpu())
            for step in _steps(adapter, plan, session, inputs, rows, x, 0):
                x = step.x_next
                if step.index + 1 in firsts:
                    starts[step.index + 1].append(x.cpu())
                tell(len(rows))
        images.append(adapter.decode(x * plan.ending.scale))
    return _Base(inputs, np.concatenate(images), {first: torch.cat(parts) for first, parts in starts.items()})


def _exchange(
    adapter: GeneratorAdapter, plan: GenerationPlan, base: _Base, pairs: Tensor, window: Window,
    cells: Sequence[Cell], tell: Tell,
) -> list[np.ndarray]:  # fmt: skip
    """Return the images of some pairs for each cell of a window; pairs: (n,) int64."""
    count, (first, stop) = len(pairs), window
    # A batch has donors, recipients, the recipients of each cell, and then those that are given the donors' input.
    own = blocks(count, 2 + _rows(cells))
    rows = torch.cat([2 * pairs, (2 * pairs + 1).repeat(len(own) - 1)])
    sees = torch.cat([*own[: 2 + len(cells)], *[own[0]] * (len(own) - 2 - len(cells))])
    x = base.starts[first][rows].to(adapter.device)
    with InterventionSession(adapter, _copies(cells, own)) as session:
        for step in _steps(adapter, plan, session, base.inputs, rows, x, first, sees):
            x = step.x_next
            tell(len(rows))
            if step.index + 1 == stop:
                break
    of_cells = slice(2 * count, (2 + len(cells)) * count)
    rows, x = rows[of_cells], x[of_cells]
    if stop < len(plan.sigmas):
        with InterventionSession(adapter) as session:
            for step in _steps(adapter, plan, session, base.inputs, rows, x, stop):
                x = step.x_next
                tell(len(rows))
    images = adapter.decode(x * plan.ending.scale)
    return [images[n * count : (n + 1) * count] for n in range(len(cells))]


def _copies(cells: Sequence[Cell], batch: Sequence[Tensor]) -> list[RowCopy]:
    """Return which rows take which at each layer, one change a layer."""
    (donors, recipients), given = batch[:2], iter(batch[2 + len(cells) :])
    wanted: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for cell, own in zip(cells, batch[2 : 2 + len(cells)], strict=True):
        if cell.around is None or cell.part != "skips":
            wanted[cell.cut.name].append((donors, own))
        elif cell.after:
            between = next(given)
            wanted[cell.cut.name].append((recipients, between))
            wanted[cell.around.name].append((between, own))
        else:
            wanted[cell.around.name].append((donors, own))
            wanted[cell.cut.name].append((recipients, own))
    return [RowCopy(layer, *map(torch.cat, zip(*pairs, strict=True))) for layer, pairs in wanted.items()]


def _x0(adapter: GeneratorAdapter, plan: GenerationPlan, rows: Tensor) -> Tensor:
    return start(adapter, plan, plan.noise(rows.tolist()))


def _steps(
    adapter: GeneratorAdapter, plan: GenerationPlan, session: InterventionSession, inputs: PassInputs, rows: Tensor,
    x: Tensor, first: int, sees: Tensor | None = None,
) -> Iterator[SamplerStep]:  # fmt: skip
    """Yield some samples' steps from one on; a small batch is filled up, since kernels for such round otherwise."""
    count, filled = len(rows), rows.repeat(-(-FEWEST // len(rows))) if len(rows) < FEWEST else rows
    noise = plan.noise(filled.tolist())
    noise(adapter.input_shape)  # the start
    x = x.repeat(len(filled) // count, *[1] * (x.ndim - 1))
    sees = None if sees is None else sees.repeat(len(filled) // count)
    for step in walk(adapter, plan, session, inputs.rows(filled), x, noise, first, sees):
        yield SamplerStep(step.index, step.sigma, step.x[:count], step.denoised[:count], step.x_next[:count])
