"""Activations along the denoising of generated samples: kept span by span, then one array a (layer, sigma)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.generator import GenerationResult
from diffviews.data.activations import ActivationReader, ActivationWriter, DoesNotFitError
from diffviews.data.files import write_atomically
from diffviews.data.layout import LayerKey
from diffviews.data.samples import SampleSet
from diffviews.lightning.chunks import ChunkBuffer, WriteBehind
from diffviews.lightning.runner import Span
from diffviews.pipelines.capture.layer_array import LayerArray, array_path, overflow_note


def trajectory_path(folder: Path, span: Span) -> Path:
    """Return where the activations of one span are kept while the job runs."""
    return folder / f"{span.first:08d}-{span.count}.npz"


def write_trajectory(folder: Path, span: Span, result: GenerationResult) -> None:
    """Keep what the recorded layers put out at each step, {layer: (S, n, *layer_shape)}, whole or not at all."""
    if result.trajectory:
        arrays: dict[str, Any] = dict(result.trajectory)
        write_atomically(trajectory_path(folder, span), lambda file: np.savez(file, **arrays))


@dataclass(frozen=True, slots=True)
class TrajectoryArrays:
    """Makes the arrays of a generated sample set's layer runs.

    At step s a layer run holds what the layer put out when the sampler was at sigma s, on its way
    from noise to each sample: not a noised copy of the sample, as an extraction has it.
    """

    adapter: GeneratorAdapter
    samples: SampleSet
    folder: Path
    """Where the spans' trajectories are kept."""
    spans: Sequence[Span]
    sigmas: Sequence[float]
    """Noise level of each step."""
    earlier: Mapping[LayerKey, ActivationReader]
    """Activations of the samples before the first span, when an earlier run made them."""

    def build(self, key: LayerKey) -> None:
        """Write one array below `folder`, in float16 or, where a value does not fit, in float32."""
        try:
            self._write(key)
        except DoesNotFitError:
            overflow_note(self.folder, key).touch()
            self._write(key)

    def array(self, key: LayerKey) -> LayerArray:
        """Return where an array lies, or will lie."""
        dtype = "float32" if overflow_note(self.folder, key).exists() else "float16"
        return LayerArray(array_path(self.folder, key, dtype))

    def _write(self, key: LayerKey) -> None:
        (layer, sigma), path = key, self.array(key).path
        dtype, step = path.parent.name, self.sigmas.index(sigma)
        writer = ActivationWriter(
            path,
            sample_ids=self.samples.sample_ids,
            layer=layer,
            shape=self.adapter.get_layer_shapes()[layer],
            dtype=dtype,
            sigma=sigma,
            model_digest=self.adapter.digest(),
            dataset_digest=self.samples.digest,
        )

        def refuse() -> None:
            raise DoesNotFitError(f"layer {layer!r} does not fit {dtype}")

        last = len(self.samples)
        with WriteBehind() as behind:
            buffer = ChunkBuffer(writer, behind, refuse)
            for first, rows in self._rows(layer, step):
                buffer.put(first, torch.from_numpy(rows if rows.flags.writeable else rows.copy()))
                buffer.pass_on(first + len(rows), ends_block=first + len(rows) == last)
        writer.finish()

    def _rows(self, layer: str, step: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield first row and activations, (n, *layer_shape), of that row and those after it, in order of the rows."""
        known = self.earlier.get((layer, self.sigmas[step]))
        if known is not None:
            yield from known.chunks()
        for span in self.spans:
            with np.load(trajectory_path(self.folder, span), allow_pickle=False) as arrays:
                yield span.first, arrays[layer][step]
