"""What every judge gives: a class or factors of each image, how sure it is, and which images it takes for nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import pandas as pd

from diffviews.adapters.base import GeneratorAdapter
from diffviews.data.class_order import named_classes
from diffviews.data.samples import SampleSet, stratified_rows
from diffviews.errors import SampleSetError, ShapeError

REJECTED = -1
"""Label of an image that is none of the classes."""


@dataclass(frozen=True, slots=True, eq=False)
class Verdicts:
    """What a judge says of N images."""

    labels: np.ndarray
    """Class of each, (N,) int64; -1: rejected."""
    scores: np.ndarray
    """How sure the judge is, (N,) float64, by a measure of its own; more is surer."""
    factors: pd.DataFrame | None = None
    """Names of each factor, a column each, '' where there is none; None from a judge of classes alone."""

    def __post_init__(self) -> None:
        count, rows = len(self.labels), len(self.labels if self.factors is None else self.factors)
        if not count == len(self.scores) == rows:
            raise ShapeError(f"{count} labels, {len(self.scores)} scores and {rows} rows do not go together")

    @property
    def rejects(self) -> np.ndarray:
        """Which images are none of the classes, (N,) bool."""
        return self.labels < 0


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """What a judge said of labelled images that it was not fitted on."""

    truth: np.ndarray
    """Class of each, (N,) int64 of at least 0."""
    said: np.ndarray
    """Class that the judge gave, (N,) int64; -1: rejected."""

    def __post_init__(self) -> None:
        if not (len(self.truth) == len(self.said) > 0 and (self.truth >= 0).all()):
            raise ShapeError(f"{len(self.truth)} classes, none below 0, and {len(self.said)} verdicts must be as many")

    @property
    def accuracy(self) -> float:
        """Share of the images given their own class; one that is rejected is not."""
        return float(np.mean(self.truth == self.said))

    @property
    def rejects(self) -> float:
        """Share of the images that are rejected, though they are real."""
        return float(np.mean(self.said < 0))

    @property
    def classes(self) -> np.ndarray:
        """The classes that occur, (K,) int64 ascending."""
        return np.unique(self.truth)


class Judge(Protocol):
    """Says what is in images."""

    @property
    def name(self) -> str:
        """As `judge=` has it."""

    @property
    def held_out(self) -> HeldOut | None:
        """How it does on labelled images that it was not fitted on; None: it was given none with labels."""

    @property
    def accuracy(self) -> float | None:
        """Share of them given their own class; None where there are none."""

    def classify(self, images: np.ndarray) -> Verdicts:
        """Judge images, (N, H, W, 3) uint8, each by itself.

        Raises:
            ShapeError: if it does not know such images.
        """


@dataclass(frozen=True, eq=False)
class JudgeRequest:
    """What a judge is made of."""

    samples: SampleSet
    """Real images, those with a class being fitted on and held out."""
    adapter: GeneratorAdapter | None = None
    """Model whose generations are judged, for judges that look through it."""
    prompts: tuple[str, ...] = ()
    """Texts to choose between, the class being their number; none: the classes of the samples."""
    argument: str = ""
    """What the notation says after the judge's name and a colon."""
    notation: str = ""
    """The whole of it, the judge's name."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Name of each class to choose between where the samples have none."""

    @cached_property
    def labels(self) -> np.ndarray:
        """Class of each sample among what is chosen between, (N,) int64; -1: none."""
        if not self.prompts:
            return self.samples.class_labels
        numbers = {prompt: number for number, prompt in enumerate(self.prompts)}
        return np.array([numbers.get(prompt or "", REJECTED) for prompt in self.samples.prompts], np.int64)

    @cached_property
    def candidates(self) -> dict[int, str]:
        """What is chosen between, {class: name or prompt}; a class without a name is 'class 7'."""
        return dict(enumerate(self.prompts)) if self.prompts else named_classes(self.samples) or dict(self.names)

    def labelled_rows(self, most: int) -> np.ndarray:
        """Return rows of samples that have a class, at most so many, evenly over the classes."""
        rows = np.flatnonzero(self.labels >= 0)
        return rows if len(rows) <= most else rows[stratified_rows(self.labels[rows].tolist(), most)]

    def rows_to_fit(self, most: int) -> np.ndarray:
        """Return `labelled_rows`, two of a class at least, for a judge that is fitted.

        Raises:
            SampleSetError: if there are fewer than two classes or a class has a single image.
        """
        classes, counts = np.unique(self.labels[self.labels >= 0], return_counts=True)
        if len(classes) < 2 or counts.min() < 2:
            raise SampleSetError(
                f"a judge needs two classes of two images or more, this set has {len(classes)} classes, "
                f"the smallest of {counts.min() if len(counts) else 0}; use a larger labelled sample set"
            )
        return self.labelled_rows(max(most, 2 * len(classes)))


JudgeFactory = Callable[[JudgeRequest], Judge]
"""Makes a judge, measured on held-out images where it can be; what an entry point of `diffviews.judges` names."""


def check_images(images: np.ndarray, size: tuple[int, int] | None = None) -> None:
    """Refuse what is no batch of images, of one size where it is given.

    Raises:
        ShapeError: with shape and dtype.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] != 3:
        raise ShapeError(f"images are {images.shape} {images.dtype}; give (N, H, W, 3) uint8")
    if size is not None and images.shape[1:3] != size:
        raise ShapeError(
            f"images have {images.shape[1]} × {images.shape[2]} pixels, but the judge was fitted on "
            f"{size[0]} × {size[1]}; resize them first"
        )
