"""Control rates as a part of an extraction: what they cost, and the measure that each layer run is given."""

import logging
from collections.abc import Callable, Mapping

from diffviews.data.activations import ActivationReader
from diffviews.data.layout import LayerKey
from diffviews.data.parquet import write_table
from diffviews.judges.base import Judge
from diffviews.judges.calibration import corrected_rate
from diffviews.judges.registry import make_judge, measures_of
from diffviews.pipelines.capture.layer_array import LayerArray
from diffviews.pipelines.control.experiment import ControlExperiment
from diffviews.pipelines.control.measures import OUTCOMES
from diffviews.pipelines.layers.runs import Further
from diffviews.pipelines.plan import ExtractionPlan

logger = logging.getLogger(__name__)


def control_measure(
    plan: ExtractionPlan, layer_runs: int, log_metrics: Callable[[Mapping[str, float]], object] | None
) -> Further:
    """Return what measures a layer's control rate and writes what became of each generation beside its map.

    Args:
        plan: the extraction, with control rates.
        layer_runs: how many are to be measured.
        log_metrics: takes what is known of the judge; None leaves that to another process.

    Raises:
        ConfigError, JudgeError: if there is no such judge, or it is not good enough.
    """
    settings = plan.control
    assert settings is not None
    logger.info("%s", settings.cost(layer_runs, len(plan.samples.classes)))
    judge, second = (
        None if name is None else make_judge(name, plan.samples, plan.adapter)
        for name in (settings.judge, settings.second_judge)
    )
    assert judge is not None
    control = ControlExperiment(plan, judge, settings, second)
    if log_metrics is not None:
        log_metrics(measures_of(judge) | _on_generations(control, second))

    def measure(key: LayerKey, array: LayerArray) -> dict[str, float]:
        layer, sigma = key
        if plan.control_of(layer) is None:
            return {}
        stored = array.sketch is None  # of all samples; a sketch does not hold them
        read = ActivationReader.open(array.path).rows if stored else control.captured_anew(layer, sigma)
        measured = control.measure(layer, sigma, read)
        write_table(measured.outcomes, array.results / OUTCOMES)
        if judge.held_out is None:
            return measured.metrics
        own = measured.outcomes[measured.outcomes["mask"] == "own"]
        landed, wanted = own["masked"].to_numpy(), own["target_class"].to_numpy()
        return measured.metrics | {"control_corrected": corrected_rate(landed, wanted, judge.held_out)}

    return measure


def _on_generations(control: ControlExperiment, second: Judge | None) -> dict[str, float]:
    """Return what a run is told of a judge on the unmasked generations."""
    found, both = {"judge_rejects_unmasked": float((control.unmasked < 0).mean())}, control.agreement
    if both is None or second is None:
        return found
    found |= {"judge_agreement": both.raw, "judge_kappa": both.kappa}
    if second.accuracy is not None:
        found["judge_accuracy_unmasked"] = both.accuracy(second.accuracy, len(control.classes))
    return found
