"""The `atlas` job: interchange at every cut, in every window of the steps, until each rate is known well enough."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from diffviews.adapters.base import GeneratorAdapter
from diffviews.core.cuts import Cuts, find_cuts
from diffviews.core.interchange import Cell, Exchanged, Window, cells_of, interchange
from diffviews.core.plan import GenerationPlan
from diffviews.data.prompts import read_prompts
from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError
from diffviews.judges.registry import make_judge, measures_of
from diffviews.pipelines.atlas.clock import Clock
from diffviews.pipelines.atlas.drawing import Drawing, Round
from diffviews.pipelines.atlas.judging import Ways
from diffviews.pipelines.atlas.pairs import Pairs, Told, different, equal_windows
from diffviews.pipelines.atlas.result import atlas_table, log_atlas
from diffviews.pipelines.conditioning import mapped, resolve_conditioning
from diffviews.pipelines.extract import open_dataset
from diffviews.pipelines.layers.runs import log_inputs
from diffviews.pipelines.models import absolute, left_out, load_model
from diffviews.pipelines.plan import choose_layers
from diffviews.pipelines.workspace import Workspace, samples_file
from diffviews.processing.realism import RealImages
from diffviews.recipes import AtlasRecipe, Execution, ExtractionRecipe
from diffviews.recipes.options import flatten
from diffviews.tracking.active_run import ActiveRun
from diffviews.tracking.notes import Note, code
from diffviews.tracking.schema import Kind, RunTags, fingerprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AtlasResult:
    """The logged atlas."""

    run_id: str
    reused: bool
    """True when a finished run with the same fingerprint answered."""
    told: str = ""
    """Its cuts, the rates over all steps and those above chance in a part of them, a line each."""

    def __str__(self) -> str:
        return f"{self.told}atlas {self.run_id} {'re-used' if self.reused else 'finished'}"


def atlas(recipe: AtlasRecipe, workspace: Workspace, execution: Execution = Execution(resume=True)) -> AtlasResult:
    """Measure which cut of a network decides the class of what it makes, and at which steps, logged as a run.

    Args:
        recipe: what is measured, how exactly, and who judges.
        workspace: where the extraction is found and the atlas logged.
        execution: device; whether a killed job is gone on with, or a finished one made again.

    Raises:
        DiffViewsError: with the reason, for any input it refuses.
    """
    if execution.devices > 1:
        raise ConfigError(f"an atlas runs on one device, not on {execution.devices}; leave devices out")
    recipe = _of_extraction(recipe, workspace)
    adapter = load_model(recipe, workspace, device=execution.device)
    choose_layers(adapter, recipe.layers)  # what the model has not is refused before its samples are read
    samples = mapped(_samples(recipe, adapter, workspace), recipe.class_map, adapter)
    return AtlasJob(adapter, samples, recipe, workspace, execution).run()


def _of_extraction(recipe: AtlasRecipe, workspace: Workspace) -> AtlasRecipe:
    """Return a recipe with model and samples of the extraction that it names, if it names one."""
    if recipe.run is None:
        return recipe
    record = workspace.catalog.extraction(recipe.run)
    if record.kind is not Kind.EXTRACT:
        raise ConfigError(
            f"run {recipe.run} is no extraction but {record.kind.value}; name its model, and its samples as --dataset "
            f"run:{recipe.run}"
        )
    held = ExtractionRecipe.from_json(workspace.folder(recipe.run).path("config.json").read_bytes())
    taken = ("model", "checkpoint", "precision", "adapter_partial", "dataset", "class_map", "max_samples")
    return replace(recipe, **{name: getattr(held, name) for name in taken})


def _samples(recipe: AtlasRecipe, adapter: GeneratorAdapter, workspace: Workspace) -> SampleSet:
    if recipe.run is not None:
        return SampleSet.read_parquet(samples_file(workspace, recipe.run))
    named = ExtractionRecipe(
        recipe.model, recipe.checkpoint, dataset=recipe.dataset, max_samples=recipe.max_samples,
        adapter_partial=recipe.adapter_partial,
    )  # fmt: skip
    return open_dataset(named, adapter, workspace)


@dataclass(frozen=True)
class AtlasJob:
    """An atlas under way."""

    adapter: GeneratorAdapter
    samples: SampleSet
    recipe: AtlasRecipe
    workspace: Workspace
    execution: Execution

    def run(self) -> AtlasResult:
        """Draw what is missing and log the atlas, or find the run that holds it."""
        tracker, wanted = self.workspace.tracker, self.fingerprint()
        finished = None if self.execution.force else tracker.find_finished(wanted)
        if finished is not None:
            tracker.mark_reused(finished)
            return AtlasResult(finished, reused=True)
        judge = make_judge(self.recipe.judge, self.samples, self.adapter)
        ways, cells = Ways(judge, self.recipe.factors), self.cells
        if not cells:
            raise ConfigError("no layer has an effect on the result, so there is nothing to decide; name other layers")
        logger.info("%d cuts: %s", len(self.cuts.cuts), self.cuts)
        if self.cuts.idle:
            logger.info("without any effect: %s", ", ".join(self.cuts.idle))
        with ExitStack() as ending:
            run = self._begin(ending, wanted)
            log_inputs(run, self.adapter, self.samples, self.recipe, dataset=self.recipe.dataset)
            drawing = self._draw(run, ways)
            table = atlas_table(drawing, ways.names, self.sigmas)
            told = log_atlas(run, table, drawing, ways.names, self.cuts, model=self.adapter.model_type,
                             measures=measures_of(judge), conditioning=self.pairs.told)  # fmt: skip
        return AtlasResult(run.run_id, reused=False, told=told)

    @cached_property
    def pairs(self) -> Pairs:
        """What donors and recipients are told."""
        recipe, adapter = self.recipe, self.adapter
        prompts = different(self.samples.prompts)
        if recipe.prompts is not None:
            prompts = different([prompt.prompt for prompt in read_prompts(recipe.prompts).prompts])
        told = self._told(len(prompts))
        return Pairs(told, recipe.seed, recipe.sampling, adapter.num_classes, prompts, recipe.batch_size)

    def _told(self, prompts: int) -> Told:
        asked, adapter = self.recipe.conditioning, self.adapter
        if asked == "auto":
            if adapter.takes_prompts:
                return "prompt" if prompts > 1 else "none"
            return "label" if adapter.num_classes else "none"
        if asked == "prompt" and not adapter.takes_prompts:
            resolve_conditioning(adapter, self.samples, asked)  # refuses it
        if asked in ("label", "uniform") and not adapter.num_classes:
            resolve_conditioning(adapter, self.samples, asked)
        return asked

    @cached_property
    def cuts(self) -> Cuts:
        """The cuts of the network, by the noise level at which each window begins."""
        return find_cuts(self.adapter, sigmas=sorted({self.sigmas[first] for first, _ in self.windows}))

    @property
    def windows(self) -> list[Window]:
        """All steps, and the parts of them."""
        return equal_windows(self.num_steps, self.recipe.windows)

    @cached_property
    def sigmas(self) -> list[float]:
        """Noise level of each step, and that at which the last one ends."""
        plan = GenerationPlan.of(self.adapter, self.pairs.request(0, 1))
        return [*plan.sigmas.tolist(), plan.ending.sigma]

    @property
    def num_steps(self) -> int:
        """Sampler steps."""
        return len(self.sigmas) - 1

    @cached_property
    def cells(self) -> list[Cell]:
        """Every exchange that is measured."""
        wanted = choose_layers(self.adapter, self.recipe.layers)
        return cells_of(self.cuts, self.windows, wanted)

    def fingerprint(self) -> str:
        """Digest of everything that determines the atlas."""
        recipe = self.recipe
        return fingerprint(
            kind="atlas",
            model=self.adapter.digest(),
            defaults=self.adapter.defaults,
            dataset=self.samples.digest,
            layers=choose_layers(self.adapter, recipe.layers),
            told=self.pairs.told,
            prompts=self.pairs.prompts if self.pairs.told == "prompt" else (),
            device=self.adapter.device.type,
            **recipe.determining(),
        )

    def _begin(self, ending: ExitStack, wanted: str) -> ActiveRun:
        """Open the run that is to be written until `ending`."""
        tracker, recipe, model = self.workspace.tracker, self.recipe, self.adapter.model_type
        unfinished = tracker.find_unfinished(wanted) if self.execution.resume else None
        if unfinished is not None:
            logger.info("going on with run %s", unfinished)
            ending.callback(tracker.mark_reused, unfinished)
            return ending.enter_context(tracker.resume(unfinished))
        tags = RunTags(model, recipe.dataset, wanted, source_run=recipe.run, adapter_partial=left_out(self.adapter))
        params = {
            **flatten(recipe),
            "checkpoint": absolute(recipe.checkpoint) or "",
            "class_map": "" if recipe.class_map is None else len(recipe.class_map),
            "layers": len(choose_layers(self.adapter, recipe.layers)),
            "conditioning": self.pairs.told,
            "cuts": len(self.cuts.cuts),
            "cells": len(self.cells),
            "num_steps": self.num_steps,
            "device": self.adapter.device.type,
        }
        told = f"Which of {len(self.cuts.cuts)} cuts of {code(model)} decides, and when, judged by {code(recipe.judge)}"
        note = Note(f"{told} that knows {code(recipe.dataset)}.", recipe.command(), shown=False)
        name = f"atlas of {model} on {recipe.dataset}"
        started = tracker.start("atlas", name, tags, params=params, note=note, system_metrics=True)
        return ending.enter_context(started)

    def _draw(self, run: ActiveRun, ways: Ways) -> Drawing:
        """Draw round after round; those that lie in the run's work folder are not drawn again."""
        recipe, folder = self.recipe, run.work.absolute() / "rounds"
        folder.mkdir(parents=True, exist_ok=True)
        drawing = Drawing(self.cells, len(ways.names), recipe.half_width, recipe.max_pairs, recipe.seed)
        real = RealImages.of(self.samples.pictures, self.samples.class_labels)
        clock = Clock(self.adapter, self.pairs, len(self.cuts.cuts))
        while drawing.open_cells:
            path = folder / f"{drawing.pairs:06d}.npz"
            if path.exists():
                drawing.add(Round.read(path))
                continue
            if not clock.started:
                clock.start(drawing)
            drawn = self._round(drawing, ways, real, clock)
            drawing.add(drawn)
            drawing.check_usable(ways.names)
            drawn.write(path)
            clock.tell(drawing)
        return drawing

    def _round(self, drawing: Drawing, ways: Ways, real: RealImages, clock: Clock) -> Round:
        numbers, first, count = drawing.open_cells, drawing.pairs, drawing.next_round
        cells = [self.cells[number] for number in numbers]
        made = interchange(self.adapter, self.pairs.request(first, count), cells, tell=clock.count)
        return _judged(made, first, numbers, cells, ways, real)


def _judged(
    made: Exchanged, first: int, numbers: Sequence[int], cells: Sequence[Cell], ways: Ways, real: RealImages
) -> Round:
    images = np.concatenate([made.images[cell] for cell in cells])
    count, shape = len(made.donors), (len(cells), len(made.donors))
    plain = ways.of(np.concatenate([made.donors, made.recipients]))
    return Round(
        first=first,
        cells=np.asarray(numbers, dtype=np.int64),
        donors=plain[:count],
        recipients=plain[count:],
        plain_near=real.distances(made.recipients) <= real.limit,
        landed=ways.of(images).reshape(*shape, -1),
        near=(real.distances(images) <= real.limit).reshape(shape),
    )
