"""The order of a sample set: which row holds which sample."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffviews.errors import SampleSetError, SelectionError

MAX_ID_LENGTH = 200


@dataclass(frozen=True, slots=True)
class SampleIndex:
    """Unique sample ids in the order of the rows they name.

    An id is 1 to 200 printable characters without surrounding spaces. It may hold '/', as ids of
    files in folders do, and is therefore never used as a path component.
    """

    sample_ids: tuple[str, ...]
    """Row i belongs to sample_ids[i]."""
    _rows: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for sample_id in self.sample_ids:
            check_sample_id(sample_id)
        rows = {sample_id: row for row, sample_id in enumerate(self.sample_ids)}
        if len(rows) != len(self.sample_ids):
            repeated = next(s for row, s in enumerate(self.sample_ids) if rows[s] != row)
            raise SampleSetError(f"sample id {repeated!r} occurs more than once; ids must be unique")
        object.__setattr__(self, "_rows", rows)

    def __len__(self) -> int:
        return len(self.sample_ids)

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._rows

    def row(self, sample_id: str) -> int:
        """Return the row of one id.

        Raises:
            KeyError: if it is unknown.
        """
        return self._rows[sample_id]

    def rows_of(self, sample_ids: Iterable[str]) -> np.ndarray:
        """Return the row of each id, (n,) int64, in the order asked, repeats included.

        Raises:
            SelectionError: if the selection is empty or an id is unknown.
        """
        wanted = [sample_ids] if isinstance(sample_ids, str) else list(sample_ids)
        if not wanted:
            raise SelectionError("the selection is empty; choose at least one sample")
        try:
            return np.fromiter(map(self._rows.__getitem__, wanted), dtype=np.int64, count=len(wanted))
        except KeyError:
            unknown = [sample_id for sample_id in wanted if sample_id not in self._rows]
        shown = ", ".join(map(repr, unknown[:3])) + (" …" if len(unknown) > 3 else "")
        raise SelectionError(
            f"{len(unknown)} of {len(wanted)} selected samples are not among these {len(self)}: {shown}"
        )

    def find(self, sample_ids: Iterable[str]) -> np.ndarray:
        """Return the row of each id, (n,) int64, -1 for an id that is not here."""
        return np.fromiter((self._rows.get(sample_id, -1) for sample_id in sample_ids), dtype=np.int64)

    def check_rows(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return row numbers as (n,) int64 after checking that there are any and each is in range."""
        checked = np.asarray(rows)
        if checked.size == 0:
            raise SelectionError("the selection is empty; choose at least one sample")
        if checked.ndim != 1 or not np.issubdtype(checked.dtype, np.integer):
            raise SelectionError(f"rows must be a list of integers, not {checked.dtype} {checked.shape}")
        outside = checked[(checked < 0) | (checked >= len(self))]
        if outside.size:
            raise SelectionError(f"row {outside[0]} is outside 0 … {len(self) - 1}")
        return checked.astype(np.int64)


def check_sample_id(sample_id: object) -> None:
    """Refuse a sample id that could not be written everywhere ids are written."""
    if not isinstance(sample_id, str) or not sample_id or sample_id != sample_id.strip():
        raise SampleSetError(f"sample id {sample_id!r} must be a text that is not empty or padded with spaces")
    if len(sample_id) > MAX_ID_LENGTH:
        raise SampleSetError(f"sample id {sample_id[:40]!r}… is longer than {MAX_ID_LENGTH} characters; shorten it")
    if not sample_id.isprintable():
        raise SampleSetError(f"sample id {sample_id!r} holds characters that cannot be printed; rename it")
