"""Control rates as a part of an extraction: what they cost, and the measure that each layer run is given."""

import logging
from collections.abc import Callable, Mapping

import numpy as np

from diffviews.data.activations import ActivationReader
from diffviews.data.layout import LayerKey
from diffviews.data.parquet import write_table
from diffviews.judges.base import Verdicts
from diffviews.pipelines.capture.layer_array import LayerArray
from diffviews.pipelines.control.experiment import ControlExperiment
from diffviews.pipelines.control.measures import OUTCOMES
from diffviews.pipelines.layers.runs import Further
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.processing.judge import fit_judge

logger = logging.getLogger(__name__)


def control_measure(
    plan: ExtractionPlan, layer_runs: int, log_metrics: Callable[[Mapping[str, float]], object] | None
) -> Further:
    """Return what measures a layer's control rate and writes what became of each generation beside its map.

    Args:
        plan: the extraction, with control rates.
        layer_runs: how many are to be measured.
        log_metrics: takes the judge's accuracy; None leaves that to another process.
    """
    settings = plan.control
    assert settings is not None
    logger.info("%s", settings.cost(layer_runs, len(plan.samples.classes)))
    judge = fit_judge(plan.samples.images, plan.samples.class_labels)
    if log_metrics is not None:
        log_metrics({"judge_accuracy": judge.accuracy})
    control = ControlExperiment(plan, _Fitted(judge.classify), settings)

    def measure(key: LayerKey, array: LayerArray) -> dict[str, float]:
        layer, sigma = key
        if plan.control_of(layer) is None:
            return {}
        stored = array.sketch is None  # of all samples; a sketch does not hold them
        read = ActivationReader.open(array.path).rows if stored else control.captured_anew(layer, sigma)
        measured = control.measure(layer, sigma, read)
        write_table(measured.outcomes, array.results / OUTCOMES)
        return measured.metrics

    return measure


class _Fitted:
    """The classifier of pixels as a judge."""

    name = "svc"

    def __init__(self, classify: Callable[[np.ndarray], np.ndarray]) -> None:
        self._classify = classify

    def classify(self, images: np.ndarray) -> Verdicts:
        labels = self._classify(images)
        return Verdicts(labels, np.ones(len(labels)))
