"""Drawing pairs until every cell of an atlas is known well enough: what was judged, kept from round to round."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np

from diffviews.core.interchange import Cell
from diffviews.data.files import write_atomically
from diffviews.errors import ConfigError, CorruptDataError
from diffviews.processing.exchange_rate import ExchangeRate, exchange_rate, rate_interval

ROUND = 40
"""Pairs drawn at a time: after each, cells that are known well enough are drawn no more."""


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """What the judge said of n pairs, in F ways: by class, or by each of several factors; -1 is rejected."""

    first: int
    """Number of the first pair."""
    cells: np.ndarray
    """(C,) int64 which cells were drawn, ascending."""
    donors: np.ndarray
    """(n, F) int64 of the unpatched donors."""
    recipients: np.ndarray
    """(n, F) int64 of the unpatched recipients."""
    plain_near: np.ndarray
    """(n,) bool, whether the unpatched recipients are on the manifold."""
    landed: np.ndarray
    """(C, n, F) int64 of the patched recipients."""
    near: np.ndarray
    """(C, n) bool, whether they are on the manifold."""

    def write(self, path: Path) -> None:
        """Write it to an .npz file, whole or not at all."""
        arrays: dict[str, Any] = {each.name: np.asarray(getattr(self, each.name)) for each in fields(self)}
        write_atomically(path, lambda file: np.savez(file, **arrays))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            CorruptDataError: if the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
            return cls(first=int(arrays.pop("first")), **arrays)
        except (BadZipFile, OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise CorruptDataError(f"{path} is no round of an atlas: {error}; delete it and run again") from error


@dataclass(slots=True)
class Drawing:
    """The rounds so far, and what is still to be drawn.

    A cell's pairs are the first so many of all, so that what it comes to depends on no other cell.
    """

    cells: Sequence[Cell]
    ways: int
    half_width: float
    max_pairs: int
    seed: int = 0
    rounds: list[Round] = field(default_factory=list)
    _open: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._open = list(range(len(self.cells)))

    @property
    def pairs(self) -> int:
        """How many were drawn."""
        return sum(len(each.donors) for each in self.rounds)

    @property
    def open_cells(self) -> list[int]:
        """Cells that the next round is drawn for; none once all is known well enough or the budget is spent."""
        return self._open if self.pairs < self.max_pairs else []

    @property
    def next_round(self) -> int:
        """How many pairs it has."""
        return min(ROUND, self.max_pairs - self.pairs)

    def add(self, drawn: Round) -> None:
        """Take a round, and close the cells that it makes known well enough."""
        self.rounds.append(drawn)
        self._open = [cell for cell in self._open if not self._known(cell)]

    def _known(self, cell: int) -> bool:
        for way in range(self.ways):
            landed, donors, _, _ = self._of(cell, way)
            interval = rate_interval(landed == donors, donors)
            if (interval.high - interval.low) / 2 > self.half_width:
                return False
        return True

    def rate(self, cell: int, way: int) -> ExchangeRate:
        """Measure a cell over the pairs that were drawn for it and can be used."""
        return exchange_rate(*self._of(cell, way), seed=self.seed)

    def _of(self, cell: int, way: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return landed, donors, recipients and near of a cell's pairs that can be used."""
        landed, near, donors, recipients = [], [], [], []
        for each in self.rounds:
            place = int(np.searchsorted(each.cells, cell))
            if place == len(each.cells) or each.cells[place] != cell:
                continue
            use = usable(each.donors[:, way], each.recipients[:, way])
            landed.append(each.landed[place, use, way])
            near.append(each.near[place, use])
            donors.append(each.donors[use, way])
            recipients.append(each.recipients[use, way])
        joined = (np.concatenate([*parts, np.zeros(0, parts[0].dtype)]) for parts in (landed, donors, recipients, near))
        return tuple(joined)  # type: ignore[return-value]

    def left_out(self, way: int) -> tuple[int, int]:
        """Return how many pairs cannot be used: one of them rejected, or both of one class."""
        donors = np.concatenate([each.donors[:, way] for each in self.rounds])
        recipients = np.concatenate([each.recipients[:, way] for each in self.rounds])
        rejected = (donors < 0) | (recipients < 0)
        return int(rejected.sum()), int((~rejected & (donors == recipients)).sum())

    def check_usable(self, ways: Sequence[str]) -> None:
        """Refuse to go on when no pair can be used.

        Raises:
            ConfigError: with how many were rejected or alike, and what to do.
        """
        for way, name in enumerate(ways):
            rejected, alike = self.left_out(way)
            if rejected + alike == self.pairs:
                raise ConfigError(
                    f"no pair of {self.pairs} can be used: of {rejected} the judge rejects donor or recipient, and "
                    f"{alike} are of the same {name}; take more steps, other conditioning or another judge"
                )

    def plain_on_manifold(self) -> float:
        """Return the share of unpatched recipients on the manifold."""
        return float(np.concatenate([each.plain_near for each in self.rounds]).mean())


def usable(donors: np.ndarray, recipients: np.ndarray) -> np.ndarray:
    """Return which pairs can be used, (n,) bool: both are of a class, and of different ones."""
    used: np.ndarray = (donors >= 0) & (recipients >= 0) & (donors != recipients)
    return used
