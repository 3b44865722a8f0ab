"""Control rate: how often a layer's averaged activations decide which class a generation lands in.

Ten samples of a class are averaged at the layer; generations whose label is left uniform run with
the layer's output replaced by that average. The control rate is the share that a judge puts into
the averaged class; the baseline is the same share for the same noise without the mask.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.generator import GenerationRequest, generate
from diffviews.core.interventions import FixedTarget, Intervention
from diffviews.errors import SampleSetError
from diffviews.processing.judge import Judge

BATCH = 128
"""Generations in one forward pass, each with its own class's average as target."""

ReadRows = Callable[[np.ndarray], np.ndarray]
"""Takes row numbers of the sample set, returns those activations (n, *layer_shape)."""


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """How the control rate is measured."""

    seeds_per_class: int = 10
    """Generations for each averaged class."""
    samples_per_class: int = 10
    """Samples averaged, the first of each class in the sample set."""
    num_steps: int = 18
    seed: int = 0
    windows: bool = True
    """Measure masks on the first and on the second half of the steps as well."""


class ControlExperiment:
    """The seeds, classes and unmasked baseline that all layers of one extraction share."""

    def __init__(
        self, adapter: GeneratorAdapter, class_labels: np.ndarray, judge: Judge, settings: ControlSettings
    ) -> None:
        classes = np.unique(class_labels)
        if len(classes) < 2:
            raise SampleSetError(f"a control rate needs two classes or more, the sample set has {len(classes)}")
        self._adapter, self._judge, self._settings = adapter, judge, settings
        self._members = [np.flatnonzero(class_labels == c)[: settings.samples_per_class] for c in classes]
        self._wanted = np.repeat(classes, settings.seeds_per_class)
        landed = self._land(None, None, None)
        self.baseline = float(np.mean(landed == self._wanted))
        """Share of unmasked generations that land in the class in question by chance."""

    def measure(self, layer: str, rows: ReadRows) -> dict[str, float]:
        """Return the metrics of one layer: its control rate by step window, and the baseline."""
        means = np.stack([rows(members).astype(np.float32).mean(axis=0) for members in self._members])
        targets = torch.from_numpy(np.repeat(means, self._settings.seeds_per_class, axis=0))
        steps, half = self._settings.num_steps, self._settings.num_steps // 2
        windows: dict[str, tuple[int, int] | None] = {"control_rate": None}
        if self._settings.windows:
            windows |= {"control_rate_early": (0, half), "control_rate_late": (half, steps)}
        rates = {
            key: float(np.mean(self._land(layer, targets, window) == self._wanted)) for key, window in windows.items()
        }
        return {**rates, "control_baseline": self.baseline, "control_seeds": float(len(self._wanted))}

    def _land(self, layer: str | None, targets: torch.Tensor | None, window: tuple[int, int] | None) -> np.ndarray:
        """Return the class in which each generation lands, (N,)."""
        landed = []
        for first in range(0, len(self._wanted), BATCH):
            count = min(BATCH, len(self._wanted) - first)
            interventions: tuple[Intervention, ...] = ()
            if layer is not None and targets is not None:
                own_targets = FixedTarget(targets[first : first + count])
                interventions = (Intervention(layer, own_targets, steps=window),)
            request = GenerationRequest(
                class_labels=-1,
                num_samples=count,
                seed=self._settings.seed,
                first_index=first,
                num_steps=self._settings.num_steps,
                interventions=interventions,
                baseline=False,
                batch_size=count,
            )
            landed.append(self._judge.classify(generate(self._adapter, request).images))
        return np.concatenate(landed)
