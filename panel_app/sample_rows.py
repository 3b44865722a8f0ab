"""Which row of a table holds which sample: four bytes a sample over the index that an extraction's maps share."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from diffviews.data.sample_index import SampleIndex


class SampleRows(Mapping[str, int]):
    """The row of each sample, in the order of the rows; never changed.

    Args:
        index: the extraction's samples; ids that it lacks are left out.
        sample_ids: id of each row.
        chosen: (N,) bool, which row counts where a sample has several; None: the last.
    """

    def __init__(self, index: SampleIndex, sample_ids: Sequence[str], chosen: np.ndarray | None = None) -> None:
        samples = index.find(sample_ids)
        kept = np.flatnonzero(samples >= 0 if chosen is None else chosen & (samples >= 0))
        self._index = index
        self._rows = np.full(len(index), -1, np.int32)
        self._rows[samples[kept]] = kept
        self._count = int(np.count_nonzero(self._rows >= 0))

    def __getitem__(self, sample_id: str) -> int:
        row = int(self._rows[self._index.row(sample_id)])
        if row < 0:
            raise KeyError(sample_id)
        return row

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._index and int(self._rows[self._index.row(str(sample_id))]) >= 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        samples = np.flatnonzero(self._rows >= 0)
        ids = self._index.sample_ids
        return (ids[sample] for sample in samples[np.argsort(self._rows[samples])].tolist())
