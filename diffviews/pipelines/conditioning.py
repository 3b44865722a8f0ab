"""What the forward passes of an extraction are conditioned on, by a rule that never takes one class for another."""

import logging
from collections.abc import Mapping

from diffviews.adapters.base import GeneratorAdapter
from diffviews.data.class_order import in_words, map_classes, named_classes, numbered, same_classes
from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError
from diffviews.recipes.extraction import Conditioning

logger = logging.getLogger(__name__)


def resolve_conditioning(
    adapter: GeneratorAdapter, samples: SampleSet, conditioning: Conditioning
) -> Conditioning:
    """Return what the forward passes are conditioned on; see docs/adr/0001 and 0005.

    `auto` takes a sample's label only where it must be conditioned and the set's classes are the model's.

    Raises:
        ConfigError: if `label` or `prompt` is asked for and cannot be.
    """
    if conditioning in ("label", "uniform") and not adapter.num_classes:
        raise ConfigError(
            f"conditioning {conditioning!r} needs a model with classes, and {adapter.model_type!r} has none; take "
            "none, prompt or auto"
        )
    if conditioning == "label":
        _check_labels(adapter, samples)
    elif conditioning == "prompt":
        _check_prompts(adapter, samples)
    if conditioning != "auto":
        return conditioning
    if adapter.takes_prompts:
        return "none" if None in samples.prompts else "prompt"
    if adapter.label_dropout or not adapter.num_classes:
        return "none"
    unlabelled = int((samples.class_labels < 0).sum())
    if not unlabelled and same_classes(samples, model_classes(adapter)):
        return "label"
    why = f"{unlabelled} of {len(samples)} samples have no class" if unlabelled else _difference(adapter, samples)
    logger.info("conditioning is the uniform label: %s, and the model has no unconditional pass", why)
    return "uniform"


def model_classes(adapter: GeneratorAdapter) -> tuple[str, ...]:
    """Return the name of each class of a model, 'class 7' for one without."""
    return adapter.class_names or tuple(f"class {label}" for label in range(adapter.num_classes))


def mapped(samples: SampleSet, class_map: Mapping[str, int | str] | None, adapter: GeneratorAdapter) -> SampleSet:
    """Return the samples with the labels that a recipe's `class_map` gives them, those of the model.

    Raises:
        ConfigError: if the model has no classes, or the map leaves one out or names one that it has not.
    """
    if class_map is None:
        return samples
    if not adapter.num_classes:
        raise ConfigError(f"class_map needs a model with classes, and {adapter.model_type!r} has none; leave it out")
    if not samples.classes:
        raise ConfigError("class_map needs samples with classes, and these have none; leave it out")
    return map_classes(samples, class_map, model_classes(adapter))


def _check_labels(adapter: GeneratorAdapter, samples: SampleSet) -> None:
    unlabelled = int((samples.class_labels < 0).sum())
    if unlabelled:
        raise ConfigError(
            f"conditioning 'label' needs a class for each sample, but {unlabelled} have none; leave it out"
        )
    names = model_classes(adapter)
    if same_classes(samples, names):
        return
    if numbered(samples) and max(samples.classes) < len(names):
        logger.info("labels are taken for the model's, by number: %s", in_words({c: names[c] for c in samples.classes}))
        return
    raise ConfigError(f"conditioning 'label' is refused: {_difference(adapter, samples)}")


def _difference(adapter: GeneratorAdapter, samples: SampleSet) -> str:
    own = in_words(named_classes(samples))
    return (
        f"the classes of the samples ({own}) are not those of model {adapter.model_type!r} "
        f"({in_words(dict(enumerate(model_classes(adapter))))}); class_map says which is which"
    )


def _check_prompts(adapter: GeneratorAdapter, samples: SampleSet) -> None:
    if not adapter.takes_prompts:
        raise ConfigError(f"conditioning 'prompt' needs a model that takes prompts; {adapter.model_type!r} does not")
    lacking = sum(prompt is None for prompt in samples.prompts)
    if lacking:
        raise ConfigError(f"conditioning 'prompt' needs a prompt for each sample, but {lacking} have none")
