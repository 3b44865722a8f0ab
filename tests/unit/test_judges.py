"""What every judge keeps, the notation that names them, and that one which is not good enough is refused."""

import logging
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from diffviews.adapters.registry import load_adapter
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.errors import ConfigError, JudgeError, LayerNotFoundError, SampleSetError, ShapeError
from diffviews.judges import knn, registry
from diffviews.judges.base import HeldOut, Judge, Verdicts
from diffviews.judges.registry import floor_of, make_judge
from tests.fakes import SPREAD, GaussianAdapter

STATIC_SEEDS = (0, 1, 2)


def gaussian_samples(count: int = 80, seed: int = 0) -> SampleSet:
    """Return images of the four classes that `GaussianAdapter` denoises exactly."""
    labels = np.arange(count) % 4
    means = (labels - 1.5) / 4
    x0 = means[:, None, None, None] + SPREAD * np.random.default_rng(seed).normal(size=(count, 8, 8, 3))
    images = np.clip(np.rint(127.5 * (x0 + 1)), 0, 255).astype(np.uint8)
    ids = [f"gauss-{seed}-{row}" for row in range(count)]
    return SampleSet.from_images(images, ids, class_labels=labels, class_names=[f"class {c}" for c in labels])


@pytest.fixture(scope="module")
def digits() -> SampleSet:
    return open_source("digits", max_samples=150)


@pytest.fixture(scope="module")
def model():
    return load_adapter("edm-digits", device="cpu")


@pytest.fixture(scope="module", params=["svc", "knn", "factors"])
def judged(request, digits, model) -> tuple[Judge, SampleSet]:
    """A judge of each kind, and samples that it was made with."""
    if request.param == "factors":
        scenes = open_source("shapes:60")
        return make_judge("factors", scenes), scenes
    notation = {"knn": "knn:encoder_block_3@0.2"}.get(request.param, request.param)
    return make_judge(notation, digits, model), digits


def test_judge_has_the_name_of_its_notation_and_says_how_good_it_is(judged) -> None:
    judge, _ = judged
    assert judge.name.startswith(("svc", "knn:encoder_block_3@0.2", "factors"))
    assert judge.accuracy == judge.held_out.accuracy >= 0.9
    assert judge.held_out.rejects <= 0.02


def test_verdicts_are_classes_of_the_samples_and_do_not_depend_on_neighbours_in_the_batch(judged) -> None:
    judge, samples = judged
    images = samples.images[:9]
    verdicts = judge.classify(images)
    assert isinstance(verdicts, Verdicts)
    assert verdicts.labels.shape == verdicts.scores.shape == (9,)
    assert verdicts.labels.dtype.kind == "i"
    assert verdicts.scores.dtype == np.float64
    assert set(verdicts.labels) <= {-1, *samples.classes}
    again = judge.classify(images[::-1][:4])
    np.testing.assert_array_equal(again.labels, verdicts.labels[::-1][:4])
    np.testing.assert_allclose(again.scores, verdicts.scores[::-1][:4], rtol=1e-4, atol=1e-6)


def test_nothing_judged_is_nothing_said(judged) -> None:
    judge, samples = judged
    assert len(judge.classify(samples.images[:0]).labels) == 0


@pytest.mark.parametrize("seed", STATIC_SEEDS)
@pytest.mark.parametrize("channels", [3, 1])
def test_static_coloured_or_grey_is_rejected(judged, seed: int, channels: int) -> None:
    judge, samples = judged
    side = samples.images.shape[1]
    static = np.random.default_rng(seed).integers(0, 256, (30, side, side, channels))
    assert judge.classify(np.broadcast_to(static, (30, side, side, 3)).astype(np.uint8)).rejects.all()


@pytest.mark.parametrize("wrong", [lambda i: i.astype(np.float32), lambda i: i[..., :1], lambda i: i[0]])
def test_what_are_no_images_are_refused(judged, wrong) -> None:
    judge, samples = judged
    with pytest.raises(ShapeError, match="images"):
        judge.classify(wrong(samples.images[:2]))


def test_images_of_another_size_are_refused(judged) -> None:
    judge, samples = judged
    with pytest.raises(ShapeError, match=r"pixels|resize"):
        judge.classify(samples.images[:2, :-1])


def test_neighbours_vote_by_what_the_layer_gives() -> None:
    samples = gaussian_samples(400)
    judge = make_judge("knn:input@0.3", samples, GaussianAdapter())
    fresh = gaussian_samples(200, seed=5)
    assert np.mean(judge.classify(fresh.images).labels == fresh.class_labels) > 0.9
    assert judge.classify(samples.images[:1]).scores[0] in np.arange(11) / 10


def test_wide_layers_are_projected_without_loss_of_neighbours(digits, model, monkeypatch) -> None:
    images = digits.images[:40]
    narrow = knn.activations_of(model, "decoder_block_7", 0.5)(images)
    monkeypatch.setattr(knn, "DIMENSIONS", 10**6)
    whole = knn.activations_of(model, "decoder_block_7", 0.5)(images)
    assert narrow.shape == (40, 1024)
    assert whole.shape == (40, 64 * 16 * 16)
    pairs = np.triu_indices(40, 1)
    ratio = [np.linalg.norm(one[pairs[0]] - one[pairs[1]], axis=1) for one in (narrow, whole)]
    assert np.abs(ratio[0] / ratio[1] - 1).mean() < 0.04


@pytest.mark.parametrize(
    ("notation", "error", "words"),
    [
        ("sv", ConfigError, r"judge 'sv' is not one of: svc, knn:<layer>@<sigma>, diffusion, clip:<folder>, factors"),
        ("svc:7", ConfigError, "takes nothing after its name"),
        ("knn", ConfigError, r"write knn:<layer>@<sigma>"),
        ("knn:input", ConfigError, r"write knn:<layer>@<sigma>"),
        ("knn:input@-1", ConfigError, r"write knn:<layer>@<sigma>"),
        ("knn:imput@1", LayerNotFoundError, "did you mean 'input'"),
        ("factors", ConfigError, "none of the shapes"),
        ("factors:a", ConfigError, "takes nothing"),
    ],
)
def test_what_no_judge_can_be_made_of_is_refused(notation: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make_judge(notation, gaussian_samples(), GaussianAdapter())


def test_judge_that_looks_through_a_model_needs_one() -> None:
    with pytest.raises(ConfigError, match="looks through a model"):
        make_judge("knn:input@1", gaussian_samples())


def test_judge_below_its_floor_is_refused_with_both_numbers(digits) -> None:
    labels = np.random.default_rng(0).integers(10, size=len(digits))
    shuffled = SampleSet.from_images(digits.images, digits.sample_ids, class_labels=labels)
    with pytest.raises(JudgeError, match=r"right on 0\.\d{3} of 150 held-out images .* below its floor of 0\.900"):
        make_judge("svc", shuffled)
    assert make_judge("svc", shuffled, floor=0.0).accuracy < 0.3
    with pytest.raises(JudgeError, match=r"floor of 1\.000"):
        make_judge("svc", digits, floor=1.0)


def test_floors_fall_with_the_number_of_classes_to_one_half() -> None:
    assert [floor_of(classes) for classes in (1, 2, 10, 1000, 21_841)] == [0.9, 0.9, 0.9, 0.5, 0.5]
    assert floor_of(100) == pytest.approx(0.7)


def test_judge_without_labelled_images_says_that_it_is_not_measured(caplog) -> None:
    scenes = open_source("shapes:4")
    bare = SampleSet.from_images(scenes.images, list("abcd"))
    with caplog.at_level(logging.WARNING, "diffviews"):
        judge = make_judge("factors", bare)
    assert judge.accuracy is judge.held_out is None
    assert "not measured" in caplog.text
    with pytest.raises(SampleSetError, match="two classes"):
        make_judge("svc", bare)


@dataclass(frozen=True)
class Constant:
    """Says 7 of everything; what a stranger's package might bring."""

    name: str = "constant"
    held_out: HeldOut | None = None
    accuracy: float | None = None

    def classify(self, images: np.ndarray) -> Verdicts:
        return Verdicts(np.full(len(images), 7), np.zeros(len(images)))


def constant_judge(request) -> Constant:
    return Constant(request.notation)


def offer(monkeypatch, **points: str) -> None:
    made = [EntryPoint(name, value, registry.ENTRY_POINT_GROUP) for name, value in points.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: made if group == "diffviews.judges" else [])


def test_judge_of_a_plug_in_is_found_by_its_entry_point(monkeypatch) -> None:
    offer(monkeypatch, constant=f"{__name__}:constant_judge", broken="no_such_module_at_all:judge")
    judge = make_judge("constant:with this", gaussian_samples())
    assert judge.name == "constant:with this"
    assert list(judge.classify(gaussian_samples(4).images).labels) == [7] * 4
    with pytest.raises(ConfigError, match=r"svc, .*, broken, constant; did you mean 'constant'"):
        make_judge("constan", gaussian_samples())


def test_broken_plug_in_is_named_with_its_reason_and_leaves_others_alone(monkeypatch) -> None:
    offer(monkeypatch, broken="no_such_module_at_all:judge", number=f"{__name__}:STATIC_SEEDS")
    make_judge("svc", open_source("digits", max_samples=60))
    with pytest.raises(ConfigError, match="'broken' is installed, but its plug-in cannot be loaded: ModuleNotFound"):
        make_judge("broken", gaussian_samples())
    with pytest.raises(ConfigError, match="no function that makes a judge"):
        make_judge("number", gaussian_samples())
