"""The control rate on a model whose deciding layer is known."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffviews.errors import SampleSetError
from diffviews.pipelines.control import ControlExperiment, ControlSettings
from tests.fakes import _Fake

LEVELS = np.array([40, 120, 200])
"""Grey value of the images of each class."""


class DecidingAdapter(_Fake):
    """Its layer 'decides' is the image; what its layer 'idle' gives reaches nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layers["decides"] = nn.Identity()
        self.layers["idle"] = nn.Identity()

    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        self.layers["idle"](x.to(torch.float32))
        return self.layers["decides"](torch.zeros_like(x, dtype=torch.float32))

    def get_layer_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(self.layers, (3, self.resolution, self.resolution))


class GreyJudge:
    """Puts an image into the class of the nearest grey value."""

    def classify(self, images: np.ndarray) -> np.ndarray:
        grey = images.reshape(len(images), -1).mean(axis=1)
        return np.abs(grey[:, None] - LEVELS).argmin(axis=1)


@pytest.fixture
def experiment():
    labels = np.arange(60) % 3
    settings = ControlSettings(seeds_per_class=4, samples_per_class=5, num_steps=4)
    return ControlExperiment(DecidingAdapter(), labels, GreyJudge(), settings), labels


def rows_of(labels):
    size = DecidingAdapter().resolution
    values = (LEVELS[labels] / 127.5 - 1).astype(np.float32)
    return lambda rows: np.broadcast_to(values[rows][:, None, None, None], (len(rows), 3, size, size))


def test_layer_that_makes_the_image_has_control_rate_one(experiment):
    control, labels = experiment
    metrics = control.measure("decides", rows_of(labels))
    assert metrics["control_rate"] == 1.0
    assert metrics["control_seeds"] == 12


def test_layer_that_reaches_nothing_has_the_rate_of_the_baseline(experiment):
    control, labels = experiment
    metrics = control.measure("idle", rows_of(labels))
    assert metrics["control_rate"] == metrics["control_baseline"] == pytest.approx(1 / 3)


def test_step_windows_are_told_apart(experiment):
    control, labels = experiment
    metrics = control.measure("decides", rows_of(labels))
    assert metrics["control_rate_late"] == 1.0
    assert metrics["control_rate_early"] == pytest.approx(1 / 3)


def test_wrong_rows_would_be_noticed(experiment):
    control, labels = experiment
    assert control.measure("decides", rows_of((labels + 1) % 3))["control_rate"] == 0.0


def test_one_class_alone_is_refused():
    with pytest.raises(SampleSetError, match="two classes"):
        ControlExperiment(DecidingAdapter(), np.zeros(10, int), GreyJudge(), ControlSettings())
