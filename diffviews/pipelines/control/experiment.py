"""The experiment that all layers of an extraction share, and the measure of one layer."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from diffviews.core.generator import GenerationRequest, generate
from diffviews.core.interventions import FixedTarget, Intervention, MatchedTarget, Target
from diffviews.errors import SampleSetError
from diffviews.judges.base import Judge
from diffviews.judges.calibration import agreement
from diffviews.pipelines.control.averages import Averages, Draws, EachOwn, Group, ReadRows
from diffviews.pipelines.control.loss import loss_ratio
from diffviews.pipelines.control.measures import control_metrics
from diffviews.pipelines.control.settings import ControlSettings, Mask, other_layer
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.processing.realism import RealImages

logger = logging.getLogger(__name__)

BATCH = 128
"""Most generations in one forward pass, each with its own average as target."""

TARGET_BYTES = 1 << 30
"""Of a batch's averages at all noise levels."""


@dataclass(frozen=True, slots=True)
class LayerControl:
    """What was measured of one layer."""

    metrics: dict[str, float]
    """By MLflow key."""
    outcomes: pd.DataFrame
    """One row a masked generation: mask, layer (whose averages), target_class, seed, draw, unmasked and masked (the
    class it landed in without and with the mask, -1: rejected), distance and unmasked_distance (to the nearest real
    image)."""


class ControlExperiment:
    """The noise, classes, draws, real images and unmasked generations that all layers of one extraction share.

    Generation i has the noise of (seed, i) and is meant for class i mod C, so that fewer seeds are the first of more,
    and any two layers can be compared generation by generation.

    Args:
        plan: the extraction, whose model generates and whose samples are averaged.
        judge: says where an image landed.
        settings: how many of what.
        second: judge that the first is compared with on the unmasked generations.

    Raises:
        SampleSetError: if there are fewer than two classes.
    """

    def __init__(
        self, plan: ExtractionPlan, judge: Judge, settings: ControlSettings, second: Judge | None = None
    ) -> None:
        labels = plan.samples.class_labels
        classes = np.unique(labels)
        if len(classes) < 2:
            raise SampleSetError(f"a control rate needs two classes or more, the sample set has {len(classes)}")
        self._plan, self._judge, self._settings, self.classes = plan, judge, settings, classes
        self._draws = Draws(labels, settings.samples_per_class, settings.seed)
        self._real = RealImages.of(plan.samples.pictures, labels)
        seeds = np.repeat(np.arange(settings.seeds_per_class), len(classes))
        self.generations = pd.DataFrame(
            {
                "target_class": np.tile(classes, settings.seeds_per_class),
                "seed": seeds,
                "draw": seeds % settings.draws,
            }
        )
        """(N,) all generations of the longest masks, in order."""
        images = np.concatenate([self._generate(rows) for rows in self._batches(len(seeds), BATCH)])
        self._unmasked = self._judged(images, "unmasked", "unmasked_distance")
        self.agreement = None if second is None else agreement(self.unmasked, second.classify(images).labels)
        """How two judges agree on the unmasked generations; None without a second one."""

    @property
    def unmasked(self) -> np.ndarray:
        """Class in which each generation lands without a mask, (N,) int64; -1: rejected."""
        return self._unmasked["unmasked"].to_numpy()

    def measure(self, layer: str, sigma: float, read: ReadRows) -> LayerControl:
        """Measure masks of one layer.

        Args:
            layer: that is masked.
            sigma: at which its averages were captured.
            read: its activations by row of the sample set.
        """
        plan, settings = self._plan, self._settings
        shapes = plan.adapter.get_layer_shapes()
        other = other_layer(layer, shapes, plan.adapter.hookable_layers)
        read_other = None if other is None else self.captured_anew(other, sigma)
        averages = Averages(self._draws, read, tuple(shapes[layer]), read_other)
        outcomes, images = [], []
        masks = settings.masks(other_layer=other is not None)
        for rows in self._batches(len(self.generations), self._batch_size(shapes[layer])):
            for mask in masks:
                stop = min(rows.stop, mask.seeds * len(self.classes))
                if rows.start >= stop:
                    continue
                part = range(rows.start, stop)
                target = self._target(mask, layer, averages, part)
                made = self._generate(part, Intervention(layer, target, steps=mask.steps))
                if mask.name == "own":
                    images.append(made)
                outcomes.append(self._outcomes(mask, part, made, other if mask.name == "other_layer" else layer))
        frame = pd.concat(outcomes, ignore_index=True)
        frame = frame.sort_values(["mask", "seed", "target_class"], kind="stable", ignore_index=True)
        metrics = control_metrics(frame, {mask.name: mask.metric for mask in masks}, self._real.limit)
        diversity = self._real.diversity(np.concatenate(images), self.generations["target_class"].to_numpy())
        ratio = loss_ratio(plan, averages, layer, sigma, self.classes)
        costs = {"control_diversity": diversity, "control_loss_ratio": ratio}
        return LayerControl(metrics | {name: value for name, value in costs.items() if np.isfinite(value)}, frame)

    def captured_anew(self, layer: str, sigma: float) -> ReadRows:
        """Return what reads a layer's activations by running the model again."""

        def read(rows: np.ndarray) -> np.ndarray:
            step = self._plan.recipe.batch_size
            parts = [rows[start : start + step] for start in range(0, len(rows), step)]
            captured = [self._plan.capture_rows(sigma, [layer], part)[layer].float().cpu() for part in parts]
            return torch.cat(captured).numpy()

        return read

    def _target(self, mask: Mask, layer: str, averages: Averages, rows: range) -> Target:
        """Return what a mask puts into the place of the layer's output, one row a generation."""
        of_rows = self.generations.iloc[rows.start : rows.stop]
        groups: list[Group] = list(zip(of_rows["target_class"].tolist(), of_rows["draw"].tolist(), strict=True))
        if mask.name == "matched":
            distinct = list(dict.fromkeys(groups))
            return EachOwn(
                [self._matched(layer, group) for group in distinct], torch.tensor([distinct.index(g) for g in groups])
            )
        values: Mapping[str, Callable[[list[Group]], np.ndarray]] = {
            "global_mean": averages.global_mean,
            "mixed_means": averages.mixed_means,
            "random_direction": averages.random_direction,
            "other_layer": averages.other_layer,
        }
        return FixedTarget(torch.from_numpy(np.array(values.get(mask.name, averages.own)(groups))))

    def _matched(self, layer: str, group: Group) -> MatchedTarget:
        x0, ids, given = self._plan.inputs(self._draws.of_class(group))
        return MatchedTarget(self._plan.adapter, layer, x0, ids, given)

    def _generate(self, rows: range, *interventions: Intervention) -> np.ndarray:
        """Return the images of some generations, (n, H, W, 3) uint8."""
        request = GenerationRequest(
            class_labels=-1,
            num_samples=len(rows),
            seed=self._settings.seed,
            first_index=rows.start,
            num_steps=self._settings.num_steps,
            interventions=interventions,
            baseline=False,
            batch_size=len(rows),
        )
        return generate(self._plan.adapter, request, notices=False).images

    def _judged(self, images: np.ndarray, label: str, distance: str) -> pd.DataFrame:
        return pd.DataFrame({label: self._judge.classify(images).labels, distance: self._real.distances(images)})

    def _outcomes(self, mask: Mask, rows: range, images: np.ndarray, layer: str | None) -> pd.DataFrame:
        known = (self.generations, self._unmasked)
        parts = [part.iloc[rows.start : rows.stop].reset_index(drop=True) for part in known]
        frame = pd.concat([*parts, self._judged(images, "masked", "distance")], axis=1)
        frame.insert(0, "layer", layer)
        frame.insert(0, "mask", mask.name)
        return frame

    def _batch_size(self, shape: tuple[int, ...]) -> int:
        levels = self._settings.num_steps if self._settings.matched else 1
        return int(np.clip(TARGET_BYTES // (4 * int(np.prod(shape)) * levels), 1, BATCH))

    @staticmethod
    def _batches(count: int, size: int) -> list[range]:
        return [range(start, min(start + size, count)) for start in range(0, count, size)]
