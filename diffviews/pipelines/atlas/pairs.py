"""Pairs of donor and recipient: what each is told, by their number and the seed alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch

from diffviews.core.request import GenerationRequest
from diffviews.errors import ConfigError
from diffviews.noise import keyed_generator
from diffviews.recipes.generation import Sampling

Told = Literal["label", "prompt", "uniform", "none"]


@dataclass(frozen=True, slots=True)
class Pairs:
    """All pairs of an atlas.

    Raises:
        ConfigError: if there are fewer than two classes or prompts to choose from.
    """

    told: Told
    seed: int
    sampling: Sampling
    classes: int = 0
    """Number of the model's classes."""
    prompts: tuple[str, ...] = ()
    batch_size: int = 128

    def __post_init__(self) -> None:
        if self.told in ("label", "prompt") and self._choices < 2:
            raise ConfigError(
                f"donor and recipient are told different {self.told}s, but there are {self._choices} to choose from; "
                "take two or more, or conditioning none"
            )

    @property
    def _choices(self) -> int:
        return len(self.prompts) if self.told == "prompt" else self.classes

    def choice(self, pair: int) -> tuple[int, int]:
        """Return which class or prompt a pair's donor and its recipient are told.

        Donors go through all choices in a random order, then through another: so classes are as many as can be.
        """
        turn, place = divmod(pair, self._choices)
        order = torch.randperm(self._choices, generator=keyed_generator("atlas donors", self.seed, turn))
        donor = int(order[place])
        step = torch.randint(1, self._choices, (1,), generator=keyed_generator("atlas recipient", self.seed, pair))
        return donor, (donor + int(step)) % self._choices

    def request(self, first: int, count: int) -> GenerationRequest:
        """Return the generation of some pairs: sample 2i is the donor of pair i, sample 2i + 1 its recipient."""
        fields = self.sampling.request_fields()
        if self.told == "none" and self.classes:
            fields["guidance_scale"] = 0.0  # the unconditional pass alone
        chosen: list[int] = []
        if self.told in ("label", "prompt"):
            chosen = [each for pair in range(first, first + count) for each in self.choice(pair)]
        return GenerationRequest(
            class_labels=tuple(chosen) if self.told == "label" else -1,
            prompts=tuple(self.prompts[each] for each in chosen) if self.told == "prompt" else None,
            num_samples=2 * count,
            seed=self.seed,
            first_index=2 * first,
            batch_size=self.batch_size,
            **fields,
        )


def equal_windows(num_steps: int, parts: int) -> list[tuple[int, int]]:
    """Return all steps, then parts of them of about equal length, each [first, stop); no more parts than steps."""
    ends = [round(part * num_steps / min(parts, num_steps)) for part in range(min(parts, num_steps) + 1)]
    divided = list(pairwise(ends))
    return [(0, num_steps), *(divided if len(divided) > 1 else [])]


def different(texts: Sequence[str | None]) -> tuple[str, ...]:
    """Return the texts that there are, each once, in their order."""
    return tuple(dict.fromkeys(text for text in texts if text))
