"""`judge=` notation → a judge: those built in, and those of installed plug-ins.

    make_judge("svc", samples)
    make_judge("knn:midblock@2", samples, adapter)
    make_judge("diffusion", samples, adapter, prompts=("a red circle", "a blue square"))
"""

import logging
import math
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from diffviews.adapters.base import GeneratorAdapter
from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError, JudgeError, unknown_name
from diffviews.judges.base import Judge, JudgeFactory, JudgeRequest

ENTRY_POINT_GROUP = "diffviews.judges"
"""Entry-point group by which a third-party package offers judges: `name = "module:factory"`, a `JudgeFactory`."""

BUILT_IN = {
    "clip": "diffviews.judges.clip:clip_judge",
    "diffusion": "diffviews.judges.diffusion:diffusion_judge",
    "factors": "diffviews.judges.factors:factors_judge",
    "knn": "diffviews.judges.knn:knn_judge",
    "svc": "diffviews.judges.svc:svc_judge",
}
"""Factories of this package, imported when first asked for."""

FORMS = ("svc", "knn:<layer>@<sigma>", "diffusion", "clip:<folder>", "factors")
"""Notations of the built-in judges."""

FLOOR = 0.9
"""Held-out accuracy below which a judge of up to ten classes is refused."""

logger = logging.getLogger(__name__)


def make_judge(
    notation: str,
    samples: SampleSet,
    adapter: GeneratorAdapter | None = None,
    *,
    prompts: Sequence[str] = (),
    floor: float | None = None,
) -> Judge:
    """Return the judge that a notation names, measured on held-out samples.

    Args:
        notation: one of FORMS, or the name of a plug-in's judge, with a colon and what it takes.
        samples: real images with their classes.
        adapter: model whose generations are judged, for `knn` and `diffusion`.
        prompts: texts to choose between in place of classes; the class is the prompt's number.
        floor: least held-out accuracy; None: `floor_of` the number of classes.

    Raises:
        ConfigError: if there is no such judge, or it needs what is not given.
        JudgeError: if it is less accurate than the floor.
        SampleSetError: if the samples are too few to fit it.
    """
    name, _, argument = notation.partition(":")
    names = dict(enumerate(adapter.class_names or ())) if adapter is not None else {}
    request = JudgeRequest(samples, adapter, tuple(prompts), argument, notation, names)
    return check_accuracy(_factory(name, notation)(request), floor)


def floor_of(classes: int) -> float:
    """Return the least held-out accuracy of a judge of so many classes: 0.9 up to ten, 0.5 from 1,000 on.

    Of many classes most errors are between look-alikes, and rates are corrected for them; between, it falls with the
    logarithm. At accuracy a the corrected rate's error is 1 / (a − (1 − a) / (K − 1)) of what a faultless judge
    would have: 1.1 times at the floor of ten classes, twice at that of 1,000.
    """
    return min(FLOOR, max(0.5, FLOOR - 0.2 * math.log10(max(classes, 1) / 10)))


def check_accuracy(judge: Judge, floor: float | None = None) -> Judge:
    """Return a judge that is good enough; one without held-out images passes, with a line in the log.

    Raises:
        JudgeError: with both numbers and what to do.
    """
    held_out = judge.held_out
    if held_out is None:
        logger.warning("judge %r is not measured: there are no images whose class is known", judge.name)
        return judge
    classes = len(held_out.classes)
    least = floor_of(classes) if floor is None else floor
    if held_out.accuracy < least:
        raise JudgeError(
            f"judge {judge.name!r} is right on {held_out.accuracy:.3f} of {len(held_out.truth)} held-out images of "
            f"{classes} classes, below its floor of {least:.3f}; give more images of each class, or take another "
            f"judge: {', '.join(FORMS)}"
        )
    return judge


def measures_of(judge: Judge) -> dict[str, float]:
    """Return what a run is told of a judge: `judge_accuracy`, `judge_rejects`, `judge_held_out` images; or nothing."""
    known = judge.held_out
    if known is None:
        return {}
    told = {"accuracy": known.accuracy, "rejects": known.rejects, "held_out": float(len(known.truth))}
    return {f"judge_{name}": value for name, value in told.items()}


def _factory(name: str, notation: str) -> JudgeFactory:
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        factory: JudgeFactory = getattr(import_module(module), attribute)
        return factory
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in points:
        raise ConfigError(unknown_name("judge", notation, (*FORMS, *sorted(points))))
    return _loaded(points[name])


def _loaded(point: EntryPoint) -> JudgeFactory:
    try:
        factory = point.load()
    except Exception as error:  # a plug-in's import may fail in any way
        raise ConfigError(
            f"judge {point.name!r} is installed, but its plug-in cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not callable(factory):
        raise ConfigError(f"judge {point.name!r}: {point.value} is no function that makes a judge")
    loaded: JudgeFactory = factory
    return loaded
