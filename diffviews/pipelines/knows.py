"""What layers know of the classes, beside the noised input, the denoised output and a network of random weights.

The same samples pass through the network under several noise draws, the first of them the extraction's own; two readers
that answer about samples they have not seen (`processing.probes`) say what class each sample is, given one layer after
another. What is kept is whether each answer was right, so that every comparison is of answers to the same questions.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.extractor import noised_samples, observe
from diffviews.core.random_weights import with_random_weights
from diffviews.data.disk import format_bytes
from diffviews.data.files import write_atomically
from diffviews.data.layout import LayerKey
from diffviews.data.samples import stratified_rows
from diffviews.errors import ConfigError, CorruptDataError, SampleSetError
from diffviews.lightning.process_group import ALONE, ProcessGroup
from diffviews.noise import format_sigma
from diffviews.pipelines.capture.held import WIDEST, HeldActivations, held_bytes
from diffviews.pipelines.plan import FEWEST, ExtractionPlan
from diffviews.processing.blocks import in_order
from diffviews.processing.gains import Gains, measure_gains
from diffviews.processing.gains_figure import gains_figure
from diffviews.processing.probes import read_classes, stratified_folds
from diffviews.processing.umap_backend import fitting
from diffviews.recipes.extraction import without_class_measures
from diffviews.tracking.active_run import ActiveRun

logger = logging.getLogger(__name__)

MEMORY = 1 << 30
"""Bytes of activations that are held at once; layers that do not fit take a further pass."""

_DENOISED, _INPUT = "output: denoised", "input: "
"""Names, among the layers', of what is no layer."""

Task = tuple[float, int | None]
"""A noise level, and a noise draw; None: the first draw in a network of random weights."""
RightAnswers = dict[str, np.ndarray]
"""{representation: (2, N) bool}: which samples' classes k-NN and probe read rightly."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the layers of an extraction were found to know."""

    gains: Mapping[float, Gains] = field(default_factory=dict)
    """By noise level; empty where it was not asked for, or left out."""

    def metrics(self, key: LayerKey) -> dict[str, float]:
        """Return the measures of one layer run."""
        layer, sigma = key
        return self.gains[sigma].metrics(layer) if sigma in self.gains else {}

    def log(self, parent: ActiveRun) -> None:
        """Log the baselines, and a table and a figure of each noise level."""
        for sigma, found in self.gains.items():
            name = format_sigma(sigma)
            parent.log_metrics({f"{key}-{name}": value for key, value in found.baselines.items()})
            parent.log_text(found.table.to_csv(index=False), f"knows/{name}.csv")
            picture = gains_figure(found.table, title=f"Known beyond the noised input, σ {name}")
            parent.log_artifact_bytes(picture, f"knows/{name}.png")


def measure_knowledge(plan: ExtractionPlan, folder: Path, group: ProcessGroup = ALONE) -> Knowledge:
    """Measure what the layers of a plan know at each of its noise levels; nothing where it is not asked for.

    What `folder` holds already is not made again. Each process of the group does its share.

    Raises:
        CorruptDataError: if nothing could be read.
        WorkerError: if another process failed.
    """
    recipe = plan.recipe
    if not recipe.knows:
        return Knowledge()
    reason = "" if recipe.knows_permuted else without_class_measures(recipe.conditioning)
    if reason:
        group.from_first(lambda: logger.info("%s With knows_permuted it is told another sample's.", reason))
        return Knowledge()
    experiment = KnowsExperiment.of(plan, folder)
    group.from_first(experiment.announce)
    tasks = group.from_first(experiment.lacking)
    experiment.do(group.share(tasks), progress=group.leads)
    group.wait()
    return Knowledge({sigma: experiment.gains(sigma) for sigma in recipe.sigmas})


@dataclass(frozen=True, slots=True, eq=False)
class KnowsExperiment:
    """The samples, classes and folds that all layers of an extraction share, and the answers in a folder."""

    plan: ExtractionPlan
    folder: Path
    rows: np.ndarray
    """(N,) rows of the sample set, in an order that has nothing to do with their classes."""
    classes: np.ndarray
    """(N,) int from 0, of these rows."""
    folds: np.ndarray
    """(N,) int."""

    @classmethod
    def of(cls, plan: ExtractionPlan, folder: Path) -> Self:
        """Choose the samples; those without a class neither ask nor answer."""
        labels = plan.samples.class_labels
        labelled = np.flatnonzero(labels >= 0)
        names = np.unique(labels[labelled])
        rows = labelled[stratified_rows(labels[labelled].tolist(), plan.recipe.knows_samples)]
        rows = np.random.default_rng(0).permutation(rows)
        classes = np.searchsorted(names, labels[rows])
        return cls(plan, folder, rows, classes, stratified_folds(classes))

    def announce(self) -> None:
        """Say what it costs."""
        recipe, count, groups = self.plan.recipe, len(self.rows), self._layer_groups()
        levels, layers, draws = len(recipe.sigmas), len(recipe.layers), recipe.knows_draws
        logger.info(
            "knows: %d noise draws and a network of random weights over %s samples at %d noise levels: %s forward "
            "passes of one sample, %d representations to be read; %s of activations are held at once",
            draws,
            f"{count:,}",
            levels,
            f"{count * levels * (draws + 1) * len(groups):,}",
            levels * (draws * (layers + 1 + len(self._forms())) + layers),
            format_bytes(max(self._bytes(own) for own in groups)),
        )
        shapes = self.plan.adapter.get_layer_shapes()
        wide = [layer for layer in recipe.layers if np.prod(shapes[layer]) > WIDEST]
        if wide:
            logger.info("knows: layers wider than %d are projected at random: %s", WIDEST, ", ".join(wide))

    def lacking(self) -> list[Task]:
        """Return what is still to be done."""
        draws = (*range(self.plan.recipe.knows_draws), None)
        tasks: list[Task] = [(sigma, draw) for sigma in self.plan.recipe.sigmas for draw in draws]
        return [task for task in tasks if not self._path(task).exists()]

    def do(self, tasks: Sequence[Task], *, progress: bool) -> None:
        """Do some of it, and write the answers of each task as soon as they are known."""
        layers, forms = len(self.plan.recipe.layers), len(self._forms())
        total = sum(layers + (0 if draw is None else 1 + forms) for _, draw in tasks)
        with tqdm(total=total, desc="knows", unit="layer", disable=None if progress else True) as bar:
            for task in tasks:
                path, answers = self._path(task), self._answers(task, bar)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, lambda file, answers=answers: _write(file, answers))  # type: ignore[misc]

    def gains(self, sigma: float) -> Gains:
        """Bring together the answers of one noise level.

        Raises:
            CorruptDataError: if no layer, or neither input nor output, could be read.
        """
        draws = [_read(self._path((sigma, draw))) for draw in range(self.plan.recipe.knows_draws)]
        names = [name for name in draws[0] if all(name in own for own in draws)]
        answers = {name: np.stack([own[name] for own in draws]) for name in names}
        layers = {layer: answers[layer] for layer in self.plan.recipe.layers if layer in answers}
        inputs = {name: own for name, own in answers.items() if name in self._forms()}
        if not (layers and inputs and _DENOISED in answers):
            raise CorruptDataError(
                f"what layers know at sigma {format_sigma(sigma)} cannot be measured: values are not finite, or the "
                "same for all samples; leave knows out"
            )
        random = {name: own[None] for name, own in _read(self._path((sigma, None))).items()}
        return measure_gains(layers, inputs, answers[_DENOISED], random, self.folds)

    def _answers(self, task: Task, bar: Any) -> RightAnswers:
        """Return the answers at one noise level and draw."""
        (sigma, draw), network = task, self.plan.adapter
        if draw is None:
            try:
                network = self._random_network(sigma)
            except ConfigError as error:
                logger.info("a network of random weights is left out: %s", error)
                return {}
        found: RightAnswers = {}
        for number, layers in enumerate(self._layer_groups()):
            held = HeldActivations(len(self.rows), normalize=self.plan.recipe.maps.normalize)
            whole = draw is not None and number == 0  # input and output are read once
            for start in range(0, len(self.rows), self.plan.recipe.batch_size):
                self._pass(network, sigma, draw or 0, layers, start, held, whole=whole)
            found |= self._read_all(held, bar)
        return found

    def _random_network(self, sigma: float) -> GeneratorAdapter:
        """Return the network with random weights.

        Raises:
            ConfigError: if there is no copy of it, or the copy still runs with the weights of the original.
        """
        own = self.plan.adapter
        x0, ids, given = self.plan.inputs(self.rows[:FEWEST])
        drawn, noised = with_random_weights(own), noised_samples(x0, ids, sigma)
        one, other = (observe(each, noised, given, sigma, ()).denoised for each in (own, drawn))
        if one is None or other is None or torch.equal(one, other):
            raise ConfigError(f"a copy of model {own.model_type!r} runs with the weights of the original")
        return drawn

    def _pass(
        self,
        network: GeneratorAdapter,
        sigma: float,
        draw: int,
        layers: Sequence[str],
        start: int,
        held: HeldActivations,
        *,
        whole: bool,
    ) -> None:
        """Pass one batch, from row `start` on, through a network, and hold what its layers gave."""
        plan, part = self.plan, slice(start, start + self.plan.recipe.batch_size)
        with torch.inference_mode():
            x0, ids, given = plan.inputs(self.rows[part])
            if plan.recipe.knows_permuted:
                *_, given = plan.inputs(np.random.default_rng(1).permutation(self.rows)[part])
            noised = noised_samples(x0, ids, sigma, draw)
            keep = held.keep_from(start)
            seen = observe(network, noised, given, sigma, layers, keep=keep, stop_early=not whole)
        if whole and seen.denoised is not None:
            held.add(_DENOISED, start, seen.denoised)
            for name, form in _input_forms(noised).items():
                held.add(name, start, form)

    def _read_all(self, held: HeldActivations, bar: Any) -> RightAnswers:
        """Have both readers answer from everything that is held, which is let go of."""
        maps = self.plan.recipe.maps

        def read(name: str) -> tuple[str, np.ndarray | None]:
            try:
                return name, read_classes(held.values.pop(name), self.classes, self.folds, maps)
            except (SampleSetError, FloatingPointError) as error:
                logger.info("knows: nothing can be read from %s: %s", name, error)
                return name, None

        found: RightAnswers = {}
        with fitting():
            for name, right in in_order(read, list(held.values)):
                bar.update()
                if right is not None:
                    found[name] = right
        return found

    def _forms(self) -> list[str]:
        """Return the names of the forms in which the noised input is read."""
        return list(_input_forms(torch.zeros(1, *self.plan.adapter.input_shape)))

    def _bytes(self, layers: Sequence[str]) -> int:
        shapes = self.plan.adapter.get_layer_shapes()
        return held_bytes(len(self.rows), [shapes[layer] for layer in layers])

    def _layer_groups(self) -> list[list[str]]:
        """Return the layers, in network order, as many together as `MEMORY` holds."""
        groups: list[list[str]] = [[]]
        for layer in self.plan.recipe.layers:
            if groups[-1] and self._bytes([*groups[-1], layer]) > MEMORY:
                groups.append([])
            groups[-1].append(layer)
        return groups

    def _path(self, task: Task) -> Path:
        sigma, draw = task
        return self.folder / format_sigma(sigma) / ("random.npz" if draw is None else f"draw-{draw}.npz")


def _input_forms(noised: Tensor) -> dict[str, Tensor]:
    """Return the forms in which the noised input (B, C, H, W) is read: all of it, and the mean of its channels."""
    forms = {f"{_INPUT}all channels": noised}
    return forms if noised.shape[1] == 1 else {**forms, f"{_INPUT}channel mean": noised.mean(dim=1)}


def _write(file: IO[bytes], answers: RightAnswers) -> None:
    rows = np.stack(list(answers.values())) if answers else np.zeros((0, 2, 0), bool)
    np.savez_compressed(file, names=np.array(list(answers), dtype=np.str_), right=rows)


def _read(path: Path) -> RightAnswers:
    with np.load(path, allow_pickle=False) as file:
        return dict(zip(file["names"].tolist(), file["right"], strict=True))
