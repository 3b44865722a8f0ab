"""Capturing what layers put out: for chosen samples at a noise level, or whenever the model runs.

captured = capture(adapter, x0, sample_ids, conditioning, sigma, ["midblock"])      # one pass, ended early
with ActivationExtractor(adapter, ["midblock"]) as extractor: …                     # the caller's own passes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.condition import Conditioning, conditioning_rows
from diffviews.adapters.hooks import HookedLayers, attach_hooks, check_layers, extraction_hook, known_layers
from diffviews.core.activation_files import StrPath, save_activations
from diffviews.core.activation_files import convert_to_fast_format as convert_to_fast_format
from diffviews.core.activation_files import flatten_activations as flatten_activations
from diffviews.core.activation_files import load_activations as load_activations
from diffviews.core.activation_files import load_fast_activations as load_fast_activations
from diffviews.core.session import GuidancePass, InterventionSession, Keep, copy_of
from diffviews.errors import ConfigError, ShapeError
from diffviews.noise import sample_noise

CAPTURE_BATCH = 64
"""Samples in one forward pass of `mean_activations`."""
FEWEST = 16
"""Rows of a forward pass from which on each row's result is that of any larger batch, bit by bit, as measured."""


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What was kept of one forward pass."""

    layers: Mapping[str, Any]
    """{layer: (B, *layer_shape)} on the model's device, in the layer's own dtype; or what `keep` returned."""
    denoised: Tensor | None
    """(B, C, H, W); None where the pass was ended early."""


def noised_samples(x0: Tensor, sample_ids: Sequence[str], sigma: float, draw: int = 0) -> Tensor:
    """Return x0 + sigma · noise(sample_id, draw), (B, C, H, W) float32 on the CPU.

    Raises:
        ShapeError: if there is not one id for each sample.
    """
    if len(sample_ids) != len(x0):
        raise ShapeError(f"{len(sample_ids)} sample ids for {len(x0)} samples; give one for each")
    return x0.to("cpu", torch.float32) + sigma * sample_noise(sample_ids, x0.shape[1:], draw)


def capture(
    adapter: GeneratorAdapter,
    x0: Tensor,
    sample_ids: Sequence[str],
    conditioning: Conditioning,
    sigma: float,
    layers: Sequence[str],
    keep: Keep = copy_of,
) -> dict[str, Any]:
    """Return layers' activations for samples at a noise level, from one forward pass.

    The input is x0 + sigma · noise(sample_id), the same noise at every sigma and for every layer.
    The pass ends after the last of the layers. No hook stays on the adapter afterwards.

    Args:
        adapter: the model.
        x0: samples, (B, C, H, W) float32, data in [-1, 1].
        sample_ids: their ids, which fix their noise.
        conditioning: what `adapter.condition` gave for them; empty for an unconditional pass.
        sigma: noise level > 0.
        layers: layers to capture.
        keep: what is kept of a layer's output, called while the model runs; the default is a copy.

    Returns:
        {layer: (B, *layer_shape)} on the model's device, in the layer's own dtype; or what `keep` returned.

    Raises:
        LayerNotFoundError: if the adapter has no such layer.
        ShapeError: if there is not one id for each sample.
    """
    noised = noised_samples(x0, sample_ids, sigma)
    return dict(observe(adapter, noised, conditioning, sigma, layers, keep=keep, stop_early=True).layers)


@torch.no_grad()
def observe(
    adapter: GeneratorAdapter,
    noised: Tensor,
    conditioning: Conditioning,
    sigma: float,
    layers: Sequence[str],
    *,
    keep: Keep = copy_of,
    stop_early: bool = False,
) -> Observation:
    """Run the model once over noised samples and return what its layers gave, and the denoised samples.

    Args:
        adapter: the model.
        noised: (B, C, H, W) float32.
        conditioning: what `adapter.condition` gave for them; empty for an unconditional pass.
        sigma: their noise level > 0.
        layers: layers to capture.
        keep: what is kept of a layer's output, called while the model runs; the default is a copy.
        stop_early: end the pass after the last of the layers.

    Raises:
        LayerNotFoundError: if the adapter has no such layer.
    """
    denoised = None
    levels = torch.full((len(noised),), sigma, dtype=torch.float32, device=adapter.device)
    given = {name: values.to(adapter.device) for name, values in conditioning.items()}
    passing: GuidancePass = "conditional" if given else "unconditional"
    with (
        InterventionSession(adapter, record_layers=layers, keep=keep) as session,
        session.evaluation(0, sigma, passing, stop_early=stop_early),
    ):
        denoised = adapter.forward(noised.to(adapter.device), levels, **given)
    return Observation(dict(session.natural), denoised)


def mean_activations(
    adapter: GeneratorAdapter,
    x0: Tensor,
    sample_ids: Sequence[str],
    conditioning: Conditioning,
    sigma: float,
    layers: Sequence[str],
) -> dict[str, Tensor]:
    """Return the mean over the samples of what `capture` returns, {layer: (1, *layer_shape)} float32."""
    sums: dict[str, Tensor] = {}
    for start in range(0, len(x0), CAPTURE_BATCH):
        rows = slice(start, start + CAPTURE_BATCH)
        given = conditioning_rows(conditioning, rows)
        captured = capture(adapter, x0[rows], sample_ids[rows], given, sigma, layers)
        for layer, values in captured.items():
            part = values.to(torch.float32).sum(dim=0, keepdim=True)
            sums[layer] = sums[layer] + part if layer in sums else part
    return {layer: total / len(x0) for layer, total in sums.items()}


class ActivationExtractor(HookedLayers):
    """Keeps what chosen layers put out in the last forward pass.

        with ActivationExtractor(adapter, ["midblock"]) as extractor:
            adapter.forward(x, sigma, labels)
        activations = extractor.get_activations()       # {"midblock": (B, C, H, W)}

    Args:
        adapter: the model.
        layers: layers to capture; None: all.

    Raises:
        LayerNotFoundError: if the adapter has no such layer.
    """

    def __init__(self, adapter: GeneratorAdapter, layers: Sequence[str] | None = None) -> None:
        super().__init__()
        self.adapter = adapter
        self.layers = list(adapter.hookable_layers if layers is None else layers)
        check_layers(known_layers(adapter), self.layers)
        self.activations: dict[str, Tensor] = {}

    def register_hooks(self) -> None:
        """Start capturing; a second call changes nothing."""
        if not self._handles:
            hooks = {layer: extraction_hook(self.activations, layer) for layer in self.layers}
            self._handles = attach_hooks(self.adapter, hooks)

    def clear(self) -> None:
        """Forget what was captured."""
        self.activations.clear()

    def get_activations(self) -> dict[str, Tensor]:
        """Return {layer: (B, *layer_shape)} on the CPU."""
        return dict(self.activations)

    def save(self, output_path: StrPath, metadata: Mapping[str, Any] | None = None) -> Path:
        """Write `<output_path>.npz`, one array (B, D) a layer, and the metadata as `.json` beside it.

        Raises:
            ConfigError: if nothing was captured.
        """
        if not self.activations:
            raise ConfigError("nothing was captured yet; run a forward pass while the hooks are registered")
        return save_activations(output_path, self.activations, metadata)
