"""Judges of images: how often they are right, on real images and on generations, and what they cost."""

import time
from collections.abc import Sequence

import numpy as np
import torch

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.edm_digits import EDMDigitsAdapter
from diffviews.adapters.registry import load_adapter
from diffviews.core.generator import generate
from diffviews.core.request import GenerationRequest
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.judges.base import Judge, Verdicts
from diffviews.judges.calibration import agreement
from diffviews.judges.diffusion import stages_of
from diffviews.judges.registry import make_judge
from diffviews.models.adm_unet import ADMUNet
from diffviews.models.preconditioning import EDMPrecond
from experiments.benchmarks.benchmark import Measurement, Row, Setting, benchmark, seconds_of
from experiments.benchmarks.fresh import Answer, ask_fresh, peak_memory

KNN, DIFFUSION = "knn:encoder_block_3@0.2", "diffusion"
MANY, SIDE = 1000, 32
"""Classes and pixels of the network of many classes."""


@benchmark(
    "judges",
    "judges of images: edm-digits by its 1,797 digits, and a network of 1,000 classes with random weights, CPU",
    "`diffusion` judging an image of ten classes",
    "one forward pass of an image",
)
def judges(setting: Setting) -> Measurement:
    """Measure each judge of digits, then cost and memory of those that look through a model, of 1,000 classes."""
    adapter = load_adapter("edm-digits", device="cpu")
    samples = open_source("digits", max_samples=setting.size(10_000, 60), resolution=adapter.resolution)
    wanted = np.arange(setting.size(200, 4)) % 10
    request = GenerationRequest(
        class_labels=tuple(map(int, wanted)), num_samples=len(wanted), seed=0, num_steps=setting.size(18, 2),
        batch_size=100,
    )  # fmt: skip
    made, known = generate(adapter, request).images, list[tuple[Judge, Verdicts, float, float]]()
    for notation in ("svc", KNN, DIFFUSION):
        began = time.perf_counter()
        judge = make_judge(notation, samples, adapter, floor=0.0 if setting.quick else None)
        ready = time.perf_counter()
        verdicts = judge.classify(made)
        known.append((judge, verdicts, ready - began, (time.perf_counter() - ready) / len(made)))
    rows = [_row(wanted, one, [other for other in known if other is not one]) for one in known]
    compared = setting.compare(
        lambda: seconds_of(lambda: known[-1][0].classify(made[:16]))() / len(made[:16]),
        lambda: _pass(adapter, made[:16]), most=3, warm=True,
    )  # fmt: skip
    passing = float(np.median(compared.alternative))
    table = [*(_in_passes(row, passing) for row in rows), *_of_many_classes(setting)]
    facts = {
        "digits": len(samples), "generations, class told": len(wanted), "one forward pass, ms": round(1e3 * passing, 2),
        "passes an image of `diffusion`, 10 classes": _passes(10), f"{MANY:,} classes": _passes(MANY),
    }  # fmt: skip
    return Measurement(compared, facts, table)


def _row(
    wanted: np.ndarray,
    one: tuple[Judge, Verdicts, float, float],
    others: Sequence[tuple[Judge, Verdicts, float, float]],
) -> dict[str, str | float]:
    judge, verdicts, making, judging = one
    assert judge.held_out is not None
    known = judge.held_out
    agreed = [
        agreement(verdicts.labels, other[1].labels).accuracy(float(other[0].accuracy or 0), 10) for other in others
    ]
    return {
        "judge": judge.name,
        "classes": len(known.classes),
        "right, held out": round(known.accuracy, 4),
        "of images": len(known.truth),
        "rejected, held out": round(known.rejects, 4),
        "right, generations": round(float(np.mean(verdicts.labels == wanted)), 3),
        "the same by agreement with the others": " and ".join(f"{value:.3f}" for value in agreed),
        "rejected, generations": round(float(verdicts.rejects.mean()), 3),
        "making it, s": round(making, 1),
        "an image, forward passes": judging,
        "memory beside the model, MB": "",
    }


def _in_passes(row: dict[str, str | float], passing: float) -> Row:
    return {**row, "an image, forward passes": round(float(row["an image, forward passes"]) / passing, 2)}


def _of_many_classes(setting: Setting) -> list[Row]:
    """Return rows of what `knn` and `diffusion` cost on a network of many classes, each in a process of its own."""
    classes, rows = setting.size(MANY, 20), list[Row]()
    for notation in (KNN, DIFFUSION):
        found = ask_fresh(judge_here, notation, str(classes))
        rows.append(
            {
                "judge": notation, "classes": classes, "right, held out": "", "of images": "", "rejected, held out": "",
                "right, generations": "", "the same by agreement with the others": "", "rejected, generations": "",
                "making it, s": round(found["making"], 1),
                "an image, forward passes": round(found["judging"] / found["passing"], 1),
                "memory beside the model, MB": round((found["after"] - found["before"]) / 1e6),
            }
        )  # fmt: skip
    return rows


def judge_here(notation: str, classes: str) -> Answer:
    """Make a judge of many classes of a small random network, judge two images, and tell what that took."""
    adapter, count = random_network(int(classes)), int(classes)
    images = np.random.default_rng(0).integers(0, 256, (2 * count, SIDE, SIDE, 3), dtype=np.uint8)
    ids = [f"image-{row}" for row in range(len(images))]
    # Two images a class to be neighbours; what denoises needs none, and measuring it would take a day.
    labels = np.arange(len(images)) % count if notation != DIFFUSION else None
    samples = SampleSet.from_images(images, ids, class_labels=labels)
    _pass(adapter, images[:16])
    before, began = peak_memory(), time.perf_counter()
    judge = make_judge(notation, samples, adapter, floor=0.0)
    ready = time.perf_counter()
    judge.classify(images[:2])
    judging = (time.perf_counter() - ready) / 2
    return {
        "making": ready - began, "judging": judging, "passing": _pass(adapter, images[:128]),
        "before": before, "after": peak_memory(),
    }  # fmt: skip


def random_network(classes: int) -> GeneratorAdapter:
    """Return edm-digits' network for more pixels and classes, with random weights."""
    config = {**EDMDigitsAdapter.get_default_config(), "img_resolution": SIDE, "label_dim": classes}
    scaling = {key: float(config[key]) for key in ("sigma_min", "sigma_max", "sigma_data")}
    network = ADMUNet(**{key: value for key, value in config.items() if key not in scaling})
    model = EDMPrecond(network, **scaling)
    return EDMDigitsAdapter(model.requires_grad_(False), config).eval()


@torch.inference_mode()
def _pass(adapter: GeneratorAdapter, images: np.ndarray) -> float:
    """Return the seconds that one image takes in a forward pass of these."""
    x0 = adapter.encode(images)
    return seconds_of(lambda: adapter.forward(x0, 1.0))() / len(images)


def _passes(classes: int) -> int:
    return sum(stage.draws * stage.candidates for stage in stages_of(classes))
