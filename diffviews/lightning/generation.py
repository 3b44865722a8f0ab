"""Generation under Lightning: spans of sample indices are dealt to the devices, each index its own noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.generator import GenerationRequest, GenerationResult, generate


@dataclass(frozen=True, slots=True)
class Span:
    """Samples [first, first + count) of a job."""

    first: int
    count: int


class Spans(Dataset[Span]):
    """A list of spans as a map-style data set."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = list(spans)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> Span:
        return self._spans[index]


class GenerationData(lightning.LightningDataModule):
    """Deals spans of sample indices to the ranks in turn."""

    def __init__(self, spans: Sequence[Span]) -> None:
        super().__init__()
        self._spans = list(spans)

    def predict_dataloader(self) -> DataLoader[Span]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return DataLoader(Spans(self._spans[rank::world]), batch_size=None, collate_fn=_as_is)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch


def _as_is(span: Span) -> Span:
    return span


class GenerationModule(lightning.LightningModule):
    """Generates each span by the one `generate` and hands the result to `write`.

    Args:
        request: what to generate; each span is a part of it.
        write: called with the span and its result, on the rank that made it.
    """

    def __init__(
        self,
        adapter: GeneratorAdapter,
        request: GenerationRequest,
        write: Callable[[Span, GenerationResult], None],
    ) -> None:
        super().__init__()
        self._held = (adapter,)  # in a tuple: Lightning moves modules it knows back to the CPU at the end
        self._request, self._write = request, write

    def on_predict_start(self) -> None:
        if self.trainer.world_size > 1:
            self._held[0].to(self.device)

    def predict_step(self, batch: Span, batch_idx: int) -> int:
        """Generate one span; return its number of samples."""
        self._write(batch, generate(self._held[0], self._request.span(batch.first, batch.count)))
        return batch.count
