"""Generation under Lightning: spans of sample indices, each index its own noise."""

from collections.abc import Callable
from dataclasses import dataclass

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.generator import GenerationRequest, GenerationResult, generate
from diffviews.lightning.runner import PredictModule


@dataclass(frozen=True, slots=True)
class Span:
    """Samples [first, first + count) of a job."""

    first: int
    count: int


class GenerationModule(PredictModule):
    """Generates each span by the one `generate` and hands the result to `write`.

    Args:
        request: what to generate; each span is a part of it.
        write: called with the span and its result.
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

    def predict_step(self, batch: Span, batch_idx: int) -> int:
        """Generate one span; return its number of samples."""
        self._write(batch, generate(self._held[0], self._request.span(batch.first, batch.count)))
        return batch.count
