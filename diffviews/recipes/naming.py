"""What a generation is called: title, card, run name, tags, parameters, description and report have it from here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, Self

from diffviews.data.samples import SampleSet
from diffviews.errors import SelectionError
from diffviews.noise import format_sigma
from diffviews.recipes.generation import GenerationRecipe

Asks = Literal["prompt", "class", "nothing"]
"""What a model is asked for by."""
_NAMED = 3
"""Classes that an average names; of more it says how many samples."""
_PART, _NAME = 60, 250
"""Characters of a part of a name, and of the whole: MLflow's database keeps so many."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What the ids and numbers of a recipe stand for: the layer, the samples, the model's classes."""

    layer: str | None = None
    """Of the layer run, on whose map the path is drawn; None: there is none."""
    sigma: float | None = None
    """Of the layer run."""
    averaged: str = ""
    """Name of the class, or classes, of all averaged samples, or how many there are."""
    asks: Asks = "class"
    class_names: Mapping[int, str] = field(default_factory=dict)
    """The model's, by class."""

    @classmethod
    def of(
        cls,
        recipe: GenerationRecipe,
        *,
        layer: str | None = None,
        sigma: float | None = None,
        samples: SampleSet | None = None,
        asks: Asks = "class",
        class_names: Mapping[int, str] | None = None,
    ) -> Self:
        """Look up what a recipe names; `samples` are those of the layer run's extraction, where they are at hand."""
        return cls(layer, sigma, averaged(recipe.sample_ids, samples), asks, class_names or {})


def asks_of(takes_prompts: bool, num_classes: int | None) -> Asks:
    """Return what a model is asked for by; `num_classes` None: not known."""
    return "prompt" if takes_prompts else "nothing" if num_classes == 0 else "class"


def averaged(sample_ids: tuple[str, ...], samples: SampleSet | None) -> str:
    """Return what is averaged: `zero`, `zero + one`, a prompt, or `12 samples`; '' where nothing is."""
    count = "1 sample" if len(sample_ids) == 1 else f"{len(sample_ids):,} samples"
    if samples is None or not sample_ids:
        return count if sample_ids else ""
    try:
        rows = samples.index_of(sample_ids)
    except SelectionError:  # said by who reads their activations
        return count
    labels = sorted({int(label) for label in samples.class_labels[rows]})
    if labels[0] >= 0 and len(labels) <= _NAMED:
        names = " + ".join(samples.classes.get(label) or f"class {label}" for label in labels)
        return names if len(names) <= _PART else count
    prompts = {samples.prompts[row] for row in rows}
    return quoted(prompts.pop() or "") if labels == [-1] and len(prompts) == 1 and None not in prompts else count


def masked_layers(recipe: GenerationRecipe, layer: str | None) -> tuple[str, ...]:
    """Return every layer that a recipe masks, given that of its layer run; none where it averages no sample."""
    if not recipe.sample_ids:
        return ()
    return recipe.layers or ((layer,) if layer is not None else ())


def joined_layers(layers: Sequence[str]) -> str:
    """Write layers in short: `decoder_block_6 + 7`, `encoder_block_2 + midblock`, of very many `… + 9 more`."""
    written, before = list[str](), ""
    for index, layer in enumerate(layers):
        if sum(map(len, written)) > _PART:
            return " + ".join([*written, f"{len(layers) - index} more"])
        stem, underscore, number = layer.rpartition("_")
        shared = bool(underscore) and number.isdecimal() and stem == before
        written.append(number if shared else layer)
        before = stem if underscore and number.isdecimal() else ""
    return " + ".join(written)


def asked_for(recipe: GenerationRecipe, subject: Subject) -> str:
    """Return what the model is asked for: `42: goldfish`, `random classes`, `uniform label`, a prompt in quotes."""
    label = recipe.class_label
    if recipe.prompt is not None:
        return quoted(recipe.prompt) if recipe.prompt.strip() else "empty prompt"
    if subject.asks == "prompt":
        return "empty prompt"
    if subject.asks == "nothing":
        return "unconditional"
    if label is None:
        return "random classes"
    if label == -1:
        return "uniform label"
    name = subject.class_names.get(label)
    return cut(f"{label}: {name}", _PART) if name and name not in (str(label), f"class {label}") else f"class {label}"


def mask_in_words(recipe: GenerationRecipe) -> list[str]:
    """Return how the average acts: `add 1.0`, `part 8×8`, `channels 0–3`, `steps 1–4`; steps count from 1."""
    words = ["replace" if recipe.mode == "replace" else f"{recipe.mode} {float(recipe.strength)}"]
    if recipe.target != "fixed":
        words.append(recipe.target)
    if recipe.region is not None:
        top, left, height, width = recipe.region
        words.append(f"part {height}×{width}" + (f" at {top},{left}" if top or left else ""))
    if recipe.channels is not None:
        words.append(f"channels {spans(recipe.channels)}")
    if recipe.steps is not None:
        first, stop = recipe.steps
        words.append(f"step {stop}" if stop == first + 1 else f"steps {first + 1}–{stop}")
    if recipe.passes != "both":
        words.append(f"{recipe.passes} pass")
    return words


def noise_in_words(recipe: GenerationRecipe) -> str:
    """Return which noise the samples start from: `seed 7`, `seeds 0–3`, which are the draws of seed 0, `no noise`."""
    last = recipe.num_samples - 1
    if recipe.sampling.noise_mode == "zero":
        return f"no noise, samples 0–{last}" if last else "no noise"
    if recipe.seed is None:
        return f"fresh seed, samples 0–{last}" if last else "fresh seed"
    if not last:
        return f"seed {recipe.seed}"
    return f"seeds 0–{last}" if recipe.seed == 0 else f"seed {recipe.seed}, samples 0–{last}"


def generation_name(recipe: GenerationRecipe, subject: Subject) -> str:
    """Name a generation: `zero → decoder_block_6 + 7, add 1.0, part 8×8, seeds 0–3`, or `42: goldfish, seed 7`."""
    layers, wanted = masked_layers(recipe, subject.layer), asked_for(recipe, subject)
    if not layers:
        return f"{wanted}, {noise_in_words(recipe)}"
    # The plain label, or none, goes without saying: the mask is what the generation is about.
    told = [] if wanted in ("uniform label", "unconditional", "empty prompt") else [f"asked for {wanted}"]
    head = f"{subject.averaged} → {joined_layers(layers)}"
    return cut(", ".join([head, *mask_in_words(recipe), *told, noise_in_words(recipe)]), _NAME)


def generation_detail(recipe: GenerationRecipe, subject: Subject) -> str:
    """Return what the name leaves out: how many samples are averaged, from which level, and whose map has the path."""
    at = "" if subject.sigma is None else f" at σ {format_sigma(subject.sigma)}"
    count = len(recipe.sample_ids)
    samples = "1 sample" if count == 1 else f"average of {count:,} samples"
    told = [f"{samples}{at}"] if masked_layers(recipe, subject.layer) else ["no mask"]
    if subject.layer is not None:
        told.append(f"path on the map of {subject.layer}{at}")
    return "; ".join(told)


def quoted(text: str) -> str:
    """Return a text in quotes on one line, cut to a title's length."""
    return f"“{cut(' '.join(text.split()), _PART)}”"


def cut(text: str, length: int) -> str:
    """Return a text of at most `length` characters, which says by `…` that it was longer."""
    return text if len(text) <= length else f"{text[: length - 2].rstrip()} …"


def spans(numbers: Iterable[int]) -> str:
    """Write numbers as spans: 0, 1, 2, 7 → `0–2, 7`; of very many spans the first, and how many numbers there are."""
    ordered = sorted(set(numbers))
    if not ordered:
        return "none"
    breaks = [(a, b) for a, b in pairwise(ordered) if b != a + 1]
    starts, ends = [ordered[0], *(b for _, b in breaks)], [*(a for a, _ in breaks), ordered[-1]]
    written = ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True))
    return written if len(written) <= _PART else f"{cut(written, _PART)} ({len(ordered)})"
