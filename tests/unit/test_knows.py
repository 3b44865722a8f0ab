"""What layers know, on networks whose layers are known."""

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffviews.core.extractor import capture, observe
from diffviews.core.random_weights import with_random_weights
from diffviews.data.samples import SampleSet
from diffviews.errors import ConfigError, CorruptDataError
from diffviews.noise import sample_noise
from diffviews.pipelines import knows
from diffviews.pipelines.capture import held
from diffviews.pipelines.capture.held import HeldActivations
from diffviews.pipelines.knows import KnowsExperiment, measure_knowledge
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes.extraction import ExtractionRecipe
from tests.fakes import _Fake

SIGMA, CLASSES, COUNT = 3.0, 4, 200
WHITE, BLACK = 230, 25


class KnowingAdapter(_Fake):
    """Layer 'turned' is a rotation of its grey input, 'cleaned' the mean of x0 given the input, 'told' its label."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        random = np.random.default_rng(seed)
        self.faces = random.integers(0, 2, (CLASSES, 64))
        self.layers.update({"turned": nn.Linear(64, 64, bias=False), "cleaned": nn.Identity(), "told": nn.Identity()})
        turn = np.linalg.qr(random.standard_normal((64, 64)))[0]
        self.layers["turned"].weight.data = torch.from_numpy(turn.astype(np.float32))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (1, 8, 8)

    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        flat = x.flatten(1)
        turned = self.layers["turned"](flat)
        faces = torch.from_numpy(np.where(self.faces, WHITE, BLACK) / 127.5 - 1).to(torch.float32)
        likely = torch.softmax(-torch.cdist(flat, faces) ** 2 / (2 * SIGMA**2), dim=1)
        result = self.layers["cleaned"](likely @ faces).reshape(x.shape)
        told = torch.zeros(len(x), CLASSES) if class_labels is None else class_labels
        self.layers["told"](told + 0.01 * flat[:, :CLASSES])
        return result + 0.001 * turned.reshape(x.shape)

    def get_layer_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"turned": (8, 8), "cleaned": (8, 8), "told": (4, 1)}


def plan_of(seed=0, *, labels=None, **changes):
    adapter = KnowingAdapter(seed)
    random = np.random.default_rng(100 + seed)
    classes = np.arange(COUNT) % CLASSES
    grey = np.where(adapter.faces[classes], WHITE, BLACK) + random.integers(-20, 20, (COUNT, 64))
    images = np.repeat(grey.reshape(COUNT, 8, 8, 1), 3, axis=3).clip(0, 255).astype(np.uint8)
    ids = [f"s{row}" for row in range(COUNT)]
    names = [f"class {label}" for label in classes]
    given = classes if labels is None else labels(classes)
    samples = SampleSet.from_images(images, ids, class_labels=given, class_names=names)
    recipe = ExtractionRecipe(sigmas=(SIGMA,), knows=True, conditioning="none", **changes)
    return ExtractionPlan.of(recipe, adapter, samples)


def test_rotation_of_the_input_has_no_gain_and_what_takes_off_noise_has_one(tmp_path):
    rotations = []
    for seed in range(4):
        found = measure_knowledge(plan_of(seed, layers=("turned", "cleaned")), tmp_path / str(seed)).gains[SIGMA]
        turned, cleaned = (row for _, row in found.table.iterrows())
        assert found.table["knows_best"].tolist() == [0, 1]
        for reader in ("knn", "probe"):
            assert cleaned[f"gain_{reader}_low"] > 0
            assert cleaned[f"gain_{reader}_p"] < 0.01
            rotations.append({end: turned[f"gain_{reader}{end}"] for end in ("", "_low", "_high", "_p")})
    # Of eight intervals of 95 %, one may miss.
    assert sum(row["_low"] <= 0 <= row["_high"] for row in rotations) >= 7
    assert min(row["_p"] for row in rotations) > 0.05 / len(rotations)
    assert abs(np.mean([row[""] for row in rotations])) < 0.01
    assert found.table["random_knn"].notna().all()


def test_rotation_of_features_that_are_not_standardised_has_a_gain_of_exactly_zero(tmp_path):
    plan = plan_of(layers=("turned",), maps=MapParameters(normalize=False))
    row = measure_knowledge(plan, tmp_path).gains[SIGMA].table.iloc[0]
    assert abs(row["gain_knn"]) <= 1 / COUNT
    assert row["gain_probe"] == 0
    assert row["gain_probe_p"] == 1


def test_random_classes_are_known_by_chance(tmp_path):
    drawn = plan_of(labels=lambda classes: np.random.default_rng(3).permutation(classes))
    metrics = measure_knowledge(drawn, tmp_path).metrics(("cleaned", SIGMA))
    for reader in ("knn", "probe"):
        assert abs(metrics[f"knows_{reader}"] - 1 / CLASSES) < 0.1
        assert metrics[f"gain_{reader}_p"] > 0.001


def test_samples_without_a_class_are_not_asked_about(tmp_path):
    plan = plan_of(labels=lambda classes: [None if row % 3 == 0 else int(c) for row, c in enumerate(classes)])
    experiment = KnowsExperiment.of(plan, tmp_path)
    assert len(experiment.rows) == COUNT - 67
    assert (experiment.rows % 3 > 0).all()
    assert np.array_equal(plan.samples.class_labels[experiment.rows], experiment.classes)
    for labels in (lambda classes: classes * 0, lambda classes: [None] * 191 + [0, 1, 2] * 3):
        with pytest.raises(ConfigError, match="two classes and 10 samples"):
            plan_of(labels=labels)


def test_samples_are_stratified(tmp_path):
    experiment = KnowsExperiment.of(plan_of(knows_samples=60), tmp_path)
    assert np.bincount(experiment.classes).tolist() == [15] * CLASSES


def test_model_that_was_told_the_class_is_not_asked_unless_it_was_told_another_one(tmp_path, caplog):
    caplog.set_level("INFO")
    told = plan_of(layers=("told",))
    told = replace(told, recipe=replace(told.recipe, conditioning="label"))
    assert measure_knowledge(told, tmp_path).gains == {}
    assert "the model was told each sample's class" in caplog.text
    permuted = replace(told, recipe=replace(told.recipe, knows_permuted=True))
    metrics = measure_knowledge(permuted, tmp_path).metrics(("told", SIGMA))
    assert metrics["knows_probe"] < 0.5


def test_what_is_there_is_not_made_again(tmp_path, monkeypatch):
    plan = plan_of(layers=("turned", "told"))
    first = measure_knowledge(plan, tmp_path).gains[SIGMA]
    (tmp_path / "3" / "draw-1.npz").unlink()
    passes = []
    monkeypatch.setattr(knows, "observe", lambda *given, **named: passes.append(given) or observe(*given, **named))
    again = measure_knowledge(plan, tmp_path).gains[SIGMA]
    assert len(passes) == -(-COUNT // plan.recipe.batch_size)
    assert again.table.equals(first.table)
    assert again.baselines == first.baselines


def test_first_draw_is_the_extractions_own_noise_and_the_others_are_further_ones(tmp_path):
    ids = ["a", "b"]
    assert torch.equal(sample_noise(ids, (2, 3)), sample_noise(ids, (2, 3), draw=0))
    draws = [sample_noise(ids, (64, 64), draw).flatten() for draw in range(3)]
    assert torch.corrcoef(torch.stack(draws)).sub(torch.eye(3)).abs().max() < 0.05
    assert torch.equal(sample_noise(["b"], (2, 3), 1)[0], sample_noise(ids, (2, 3), 1)[1])


def test_layers_in_groups_of_few_give_the_same_answers(tmp_path, monkeypatch):
    whole = measure_knowledge(plan_of(), tmp_path / "whole").gains[SIGMA]
    monkeypatch.setattr(knows, "MEMORY", 4 * 64 * COUNT)
    assert len(KnowsExperiment.of(plan_of(), tmp_path)._layer_groups()) == 3
    parts = measure_knowledge(plan_of(), tmp_path / "parts").gains[SIGMA]
    assert parts.table.equals(whole.table)


def test_wide_layers_are_projected_and_keep_their_distances(monkeypatch):
    monkeypatch.setattr(held, "WIDEST", 400)
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((60, 30, 50)).astype(np.float32) * 3 + 5)
    holding = HeldActivations(60)
    for start in range(0, 60, 20):
        holding.keep_from(start)("wide", values[start : start + 20])
        holding.add("narrow", start, values[start : start + 20, 0])
    assert holding.values["wide"].shape == (60, 400)
    assert np.array_equal(holding.values["narrow"], values[:, 0].numpy())
    z = values.flatten(1).numpy()
    z = (z - z[:20].mean(0)) / z[:20].std(0)
    own, true = (np.linalg.norm(np.diff(points, axis=0), axis=1) for points in (holding.values["wide"], z))
    assert np.allclose(own / true, 1, atol=0.2)


def test_model_that_cannot_be_copied_has_no_random_network(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    plan = plan_of(layers=("turned",))
    plan.adapter.lock = threading.Lock()
    with pytest.raises(ConfigError, match="cannot be copied"):
        with_random_weights(plan.adapter)
    metrics = measure_knowledge(plan, tmp_path).metrics(("turned", SIGMA))
    assert "a network of random weights is left out" in caplog.text
    assert "random_knn" not in metrics
    assert "gain_knn" in metrics


def test_copy_that_runs_the_original_is_left_out(tmp_path, caplog):
    caplog.set_level("INFO")
    plan = plan_of(layers=("turned",))
    original = plan.adapter
    plan.adapter.forward = lambda *given, **named: KnowingAdapter.forward(original, *given, **named)
    metrics = measure_knowledge(plan, tmp_path).metrics(("turned", SIGMA))
    assert "runs with the weights of the original" in caplog.text
    assert "random_knn" not in metrics


def test_layer_that_is_not_finite_is_left_out_and_a_model_that_is_not_is_refused(tmp_path, caplog):
    caplog.set_level("INFO")
    plan = plan_of(layers=("turned", "told"))
    plan.adapter.layers["turned"].weight.data *= float("nan")
    with pytest.raises(CorruptDataError, match="at sigma 3 cannot be measured"):  # the output is not finite either
        measure_knowledge(plan, tmp_path)
    assert "nothing can be read from turned" in caplog.text


def test_layers_are_read_where_the_extraction_captures_them(tmp_path):
    plan = plan_of(layers=("turned",))
    experiment = KnowsExperiment.of(plan, tmp_path)
    holding = HeldActivations(COUNT)
    for start in range(0, COUNT, 128):
        experiment._pass(plan.adapter, SIGMA, 0, ["turned"], start, holding, whole=True)
    rows = experiment.rows[:20]
    x0 = plan.adapter.encode(plan.samples.pictures.pixels(rows))
    seen = capture(plan.adapter, x0, [plan.samples.sample_ids[row] for row in rows], {}, SIGMA, ["turned"])
    assert np.allclose(seen["turned"], holding.values["turned"][:20], atol=1e-5)


@pytest.mark.parametrize("wrong", [{"knows_draws": 2}, {"knows_samples": 10}])
def test_too_few_are_refused(wrong):
    with pytest.raises(ConfigError, match="or more"):
        ExtractionRecipe(**wrong)


def test_fingerprint_is_another_only_where_it_is_asked_for():
    plain = plan_of()
    plain = replace(plain, recipe=replace(plain.recipe, knows=False))
    draws = replace(plain, recipe=replace(plain.recipe, knows_draws=5))
    asked = replace(plain, recipe=replace(plain.recipe, knows=True))
    more = replace(asked, recipe=replace(asked.recipe, knows_draws=5))
    assert plain.fingerprint() == draws.fingerprint()
    assert len({plan.fingerprint() for plan in (plain, asked, more)}) == 3
