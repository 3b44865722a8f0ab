"""What each sample of a generated set is asked for, in an order that growing never changes."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from diffviews.adapters.base import GeneratorAdapter
from diffviews.data.prompts import PromptSet
from diffviews.errors import ConfigError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Series:
    """Classes, prompts, or neither of the samples 0 … total - 1; sample i also has the noise of (seed, i)."""

    total: int
    """How many samples."""
    classes: tuple[int, ...] | None = None
    """Class of each; None: one drawn at random for each, where the model has classes."""
    prompts: tuple[str, ...] | None = None
    """Prompt of each; None: without prompts."""
    negative_prompts: tuple[str, ...] | None = None
    """Text of each one's unconditional pass, with `prompts`."""
    categories: tuple[str | None, ...] | None = None
    """What kind of prompt each one's is, with `prompts`; it labels samples and conditions nothing."""
    category_names: tuple[str, ...] = ()
    """The kinds of prompts, sorted; a category's label is its place among them."""

    def __post_init__(self) -> None:
        if self.total < 1:
            raise ConfigError(f"num_samples is {self.total}; ask for 1 or more")

    @classmethod
    def by_class(cls, adapter: GeneratorAdapter, samples_per_class: int) -> Self:
        """Return so many samples of each class, the classes taking turns.

        Raises:
            ConfigError: if the number is below 1 or the model has no classes.
        """
        if adapter.num_classes == 0 or samples_per_class < 1:
            raise ConfigError(
                f"samples_per_class {samples_per_class} needs a number above 0 and a model with classes; "
                f"{adapter.model_type!r} has {adapter.num_classes}"
            )
        total = samples_per_class * adapter.num_classes
        return cls(total, classes=tuple(i % adapter.num_classes for i in range(total)))

    @classmethod
    def of_prompts(cls, adapter: GeneratorAdapter, prompts: PromptSet, samples_per_prompt: int) -> Self:
        """Return so many samples of each prompt, the prompts taking turns, each sample with noise of its own.

        Raises:
            ConfigError: if the number is below 1 or the model takes no prompts.
        """
        if not adapter.takes_prompts or samples_per_prompt < 1:
            raise ConfigError(
                f"{samples_per_prompt} samples a prompt need a number above 0 and a model that takes prompts, "
                f"which {adapter.model_type!r} does{'' if adapter.takes_prompts else ' not'}"
            )
        if any(prompt.seed is not None for prompt in prompts):
            _log.warning("the seeds in the prompt file are not used: sample i starts from the noise of (seed, i)")
        rows = list(prompts) * samples_per_prompt
        return cls(
            len(rows),
            prompts=tuple(row.prompt for row in rows),
            negative_prompts=tuple(row.negative_prompt for row in rows),
            categories=tuple(row.category for row in rows),
            category_names=prompts.categories,
        )

    def digest(self, count: int) -> str:
        """Return the sha256 of what the first `count` samples are asked for."""
        asked = [
            None if values is None else list(values[:count])
            for values in (self.classes, self.prompts, self.negative_prompts, self.categories)
        ]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def category_labels(self, first: int, count: int) -> tuple[list[int | None], Sequence[str | None]]:
        """Return label and name of the category of samples [first, first + count), None where one has none."""
        names = [None] * count if self.categories is None else list(self.categories[first : first + count])
        return [None if name is None else self.category_names.index(name) for name in names], names
