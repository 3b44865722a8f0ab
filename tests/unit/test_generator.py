"""Generation: what a sample depends on and what it does not, guidance, pairs, the older functions."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffviews.core import (
    ActivationMasker,
    Churn,
    FixedTarget,
    GenerationRequest,
    Intervention,
    MatchedTarget,
    Progress,
    generate,
    generate_with_mask,
    generate_with_mask_multistep,
    get_denoising_sigmas,
    infer_layer_shape,
    karras_sigmas,
    save_generated_sample,
    tensor_to_uint8_image,
)
from diffviews.errors import CancelledError, ConfigError, LayerNotFoundError, ShapeError
from diffviews.noise import NoiseSource
from tests.fakes import GaussianAdapter, SkipAdapter, gaussian_denoised

SHAPE = (3, 8, 8)


class GuidedGaussian(GaussianAdapter):
    """Says it was trained with label dropout."""

    label_dropout = 0.1


def hooks_left(adapter: Any) -> int:
    return sum(len(module._forward_hooks) for module in adapter.layers.values())


def mask(value: float, layer: str = "denoised", **options: Any) -> Intervention:
    return Intervention(layer, FixedTarget(torch.full((1, *SHAPE), value)), **options)


def starts(adapter: GaussianAdapter) -> torch.Tensor:
    return torch.cat([call["x"] for call in adapter.calls if float(call["sigma"][0]) == 80.0])


@pytest.mark.parametrize("sampler", ["heun", "euler", "renoise"])
def test_noise_of_a_sample_is_bitwise_the_same_in_any_batch_and_any_part_of_a_job(sampler: Any) -> None:
    ask: dict[str, Any] = {"seed": 9, "num_steps": 3, "sampler": sampler}
    if sampler != "renoise":
        ask["churn"] = Churn(3.0, sigma_max=50.0)
    runs = []
    for size in (1, 3, 8):
        adapter = GaussianAdapter()
        result = generate(adapter, GenerationRequest(num_samples=8, batch_size=size, **ask))
        runs.append((starts(adapter), result))
    late = GaussianAdapter()
    tail = generate(late, GenerationRequest(num_samples=3, first_index=5, **ask))
    assert torch.equal(starts(late), runs[0][0][5:])
    assert np.abs(tail.images.astype(int) - runs[0][1].images[5:]).max() <= 1
    for start, result in runs[1:]:
        assert torch.equal(start, runs[0][0])
        assert np.array_equal(result.labels, runs[0][1].labels)
        assert np.abs(result.images.astype(int) - runs[0][1].images).max() <= 1


def test_start_is_noise_by_seed_times_sigma_max() -> None:
    adapter = GaussianAdapter()
    generate(adapter, GenerationRequest(seed=4, num_samples=2, num_steps=2))
    expected = NoiseSource(4, [0, 1]).normal(SHAPE) * 80.0
    assert torch.equal(adapter.calls[0]["x"], expected)
    assert torch.equal(adapter.calls[0]["sigma"], torch.full((2,), 80.0))


def test_generation_touches_no_global_state() -> None:
    state, deterministic = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    request = GenerationRequest(noise_mode="fixed", num_steps=2, interventions=(mask(0.0),))
    first = generate(GaussianAdapter(), request)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    torch.manual_seed(1234)
    assert np.array_equal(generate(GaussianAdapter(), request).images, first.images)
    torch.set_rng_state(state)


def test_fixed_noise_seeds_the_initial_noise_with_42() -> None:
    adapters = [GaussianAdapter() for _ in range(3)]
    results = [
        generate(adapters[0], GenerationRequest(noise_mode="fixed", num_steps=2)),
        generate(adapters[1], GenerationRequest(noise_mode="fixed", num_steps=2)),
        generate(adapters[2], GenerationRequest(noise_mode="fixed", num_steps=2, seed=7)),
    ]
    assert [result.seed for result in results] == [42, 42, 7]
    assert torch.equal(adapters[0].calls[0]["x"], adapters[1].calls[0]["x"])
    assert torch.equal(adapters[0].calls[0]["x"], NoiseSource(42, [0]).normal(SHAPE) * 80.0)
    assert not torch.equal(adapters[0].calls[0]["x"], adapters[2].calls[0]["x"])
    assert np.array_equal(results[0].images, results[1].images)


def test_zero_noise_starts_from_zeros_and_adds_none() -> None:
    adapter = GaussianAdapter()
    ask: dict[str, Any] = {"class_labels": 2, "noise_mode": "zero", "sampler": "renoise", "num_steps": 2}
    result = generate(adapter, GenerationRequest(**ask))
    assert not adapter.calls[0]["x"].any()
    first = gaussian_denoised(torch.zeros(1, *SHAPE), 80.0, 0.125)
    torch.testing.assert_close(adapter.calls[1]["x"], first)
    assert np.array_equal(result.images, generate(adapter, GenerationRequest(**ask)).images)


def test_seed_that_was_drawn_is_told_and_repeats_the_result() -> None:
    first = generate(GaussianAdapter(), GenerationRequest(num_samples=3, num_steps=3))
    again = generate(GaussianAdapter(), GenerationRequest(num_samples=3, num_steps=3, seed=first.seed))
    other = generate(GaussianAdapter(), GenerationRequest(num_samples=3, num_steps=3))
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.labels, again.labels)
    assert other.seed != first.seed


def test_class_0_is_a_class_and_none_is_random() -> None:
    adapter = GaussianAdapter()
    result = generate(adapter, GenerationRequest(class_labels=0, num_samples=6, num_steps=1))
    assert result.labels.tolist() == [0] * 6
    assert torch.equal(adapter.calls[0]["class_labels"], torch.eye(4)[[0] * 6])
    drawn = generate(adapter, GenerationRequest(num_samples=200, num_steps=1, seed=0)).labels
    assert set(drawn.tolist()) == {0, 1, 2, 3}
    # A stream of their own: the class tells nothing of the noise, and the seed repeats it.
    assert drawn.tolist() == NoiseSource(0, range(200), stream="label").integers(4).tolist()


def test_labels_may_differ_by_sample_and_random_ones_do_not_change_the_noise() -> None:
    adapter = GaussianAdapter()
    result = generate(adapter, GenerationRequest(class_labels=(3, -1, None), num_samples=3, num_steps=1, seed=1))
    assert result.labels[:2].tolist() == [3, -1]
    assert 0 <= result.labels[2] < 4
    assert torch.equal(adapter.calls[0]["class_labels"][1], torch.full((4,), 0.25))
    plain = GaussianAdapter()
    generate(plain, GenerationRequest(class_labels=3, num_samples=3, num_steps=1, seed=1))
    assert torch.equal(plain.calls[0]["x"], adapter.calls[0]["x"])


def test_guidance_is_its_formula_and_costs_what_it_must() -> None:
    for scale, evaluations in ((0.0, 1), (1.0, 1), (2.5, 2)):
        adapter = GuidedGaussian()
        result = generate(
            adapter,
            GenerationRequest(class_labels=3, seed=2, num_steps=1, guidance_scale=scale, record_layers=("denoised",)),
        )
        assert len(adapter.calls) == evaluations
        x = adapter.calls[0]["x"]
        unconditional = gaussian_denoised(x, 80.0, 0.0)
        conditional = gaussian_denoised(x, 80.0, 0.375)
        expected = unconditional + scale * (conditional - unconditional)
        assert np.abs(result.images.astype(int) - adapter.decode(expected)).max() <= 1
        kept = unconditional if scale == 0 else conditional
        assert np.allclose(result.trajectory["denoised"][0], kept.numpy(), atol=1e-6)


@pytest.mark.parametrize(("passes", "expected"), [("conditional", 1.0), ("unconditional", -0.5), ("both", 0.5)])
def test_intervention_acts_on_the_passes_it_names(passes: Any, expected: float) -> None:
    """Guidance 2 of conditional c and unconditional u is 2c - u; unmasked ones are 0 at sigma 1e6."""
    request = GenerationRequest(
        class_labels=-1, num_steps=1, sigma_max=1e6, guidance_scale=2.0, seed=0,
        interventions=(mask(0.5, passes=passes),), record_steps=True, baseline=False, noise_mode="zero",
    )  # fmt: skip
    adapter = GuidedGaussian()
    result = generate(adapter, request)
    assert result.images[0, 0, 0, 0] == adapter.decode(torch.full((1, 1, 1, 1), expected)).max()


def test_untrained_requests_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        generate(GuidedGaussian(), GenerationRequest(class_labels=-1, guidance_scale=3.0, num_steps=1))
        generate(GaussianAdapter(), GenerationRequest(class_labels=1, num_steps=1))
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        generate(GaussianAdapter(), GenerationRequest(class_labels=-1, guidance_scale=3.0, num_steps=1))
        generate(
            GuidedGaussian(),
            GenerationRequest(class_labels=1, num_steps=1, interventions=(mask(0.0, passes="unconditional"),)),
        )
    assert [record.getMessage()[:18] for record in caplog.records] == [
        "guidance 3 needs u",
        "model 'fake', trai",
        "interventions on t",
    ]


def test_pair_shares_noise_and_class_and_the_baseline_is_unmasked() -> None:
    adapter = GaussianAdapter()
    request = GenerationRequest(
        num_samples=3, seed=6, num_steps=4, batch_size=2, interventions=(mask(0.25),),
        record_layers=("denoised", "input"),
    )  # fmt: skip
    result = generate(adapter, request)
    plain = generate(GaussianAdapter(), GenerationRequest(num_samples=3, seed=6, num_steps=4))
    assert np.array_equal(result.labels, plain.labels)
    assert result.baseline_images is not None
    assert np.array_equal(result.baseline_images, plain.images)
    assert (result.images == adapter.decode(torch.full((1, 1, 1, 1), 0.25)).max()).all()
    gap = np.abs(result.images.astype(int) - result.baseline_images.astype(int))
    assert np.array_equal(result.difference_images, gap)
    assert set(result.replaced) == {"denoised"}
    assert (result.replaced["denoised"] == 0.25).all()
    assert result.trajectory["denoised"].shape == (4, 3, *SHAPE)
    assert not (result.trajectory["denoised"] == 0.25).any(), "the mask was recorded as the trajectory"
    assert np.array_equal(result.trajectory["input"][0], result.baseline_trajectory["input"][0])
    assert hooks_left(adapter) == 0


def test_pair_is_left_out_when_not_asked_for_or_pointless() -> None:
    for request in (
        GenerationRequest(num_steps=1, interventions=(mask(0.0),), baseline=False),
        GenerationRequest(num_steps=1),
    ):
        adapter = GaussianAdapter()
        result = generate(adapter, request)
        assert result.baseline_images is result.difference_images is None
        assert len(adapter.calls) == 1


def test_mask_costs_no_evaluation() -> None:
    counts = []
    for interventions in ((), (mask(0.0), mask(0.0, "input"))):
        adapter = GaussianAdapter()
        generate(adapter, GenerationRequest(num_steps=5, interventions=interventions, baseline=False))
        counts.append(len(adapter.calls))
    assert counts == [9, 9]


def test_steps_limit_masking_including_the_second_evaluation_of_heun() -> None:
    request = GenerationRequest(
        seed=1, num_steps=4, class_labels=0, interventions=(mask(0.5, steps=(0, 2)),), record_layers=("denoised",)
    )
    seen: list[float] = []

    class Watched(GaussianAdapter):
        def forward(self, *arguments: Any, **options: Any) -> torch.Tensor:
            denoised = super().forward(*arguments, **options)
            seen.append(float((denoised == 0.5).all()))
            return denoised

    result = generate(Watched(), request)
    assert seen[:7] == [1, 1, 1, 1, 0, 0, 0]
    assert (result.replaced["denoised"][:2] == 0.5).all()
    assert np.array_equal(result.replaced["denoised"][2:], result.trajectory["denoised"][2:])


def test_matched_mask_follows_sigma_through_both_evaluations() -> None:
    adapter = GaussianAdapter()
    x0 = torch.full((2, *SHAPE), 0.5)
    asked: list[float] = []

    class Watched(MatchedTarget):
        def at(self, sigma: float) -> torch.Tensor:
            asked.append(sigma)
            return super().at(sigma)

    target = Watched(adapter, "input", x0, ["a", "b"])
    generate(adapter, GenerationRequest(num_steps=3, interventions=(Intervention("input", target),), baseline=False))
    s = karras_sigmas(3, 80.0, 0.002).tolist()
    assert asked == [s[0], s[1], s[1], s[2], s[2]]


def test_steps_are_recorded_as_images() -> None:
    adapter = GaussianAdapter()
    result = generate(adapter, GenerationRequest(num_samples=3, seed=1, num_steps=4, batch_size=2, record_steps=True))
    assert result.intermediates is not None
    assert result.noised_inputs is not None
    assert result.intermediates.shape == result.noised_inputs.shape == (4, 3, 8, 8, 3)
    assert np.array_equal(result.intermediates[-1], result.images)
    assert result.sigmas.tolist() == karras_sigmas(4, 80.0, 0.002).tolist()
    first = NoiseSource(1, [0]).normal(SHAPE) * 80.0 / (1 + 80.0**2) ** 0.5
    assert np.array_equal(result.noised_inputs[0, :1], adapter.decode(first))


def test_progress_counts_every_step_of_every_batch_and_run() -> None:
    seen: list[Progress] = []
    request = GenerationRequest(num_samples=3, num_steps=2, batch_size=2, interventions=(mask(0.0),))
    generate(GaussianAdapter(), request, callback=seen.append)
    assert [(p.step, p.total) for p in seen] == [(i, 8) for i in range(1, 9)]
    assert seen[0].image is not None
    assert seen[0].image.shape == (2, *SHAPE)


def test_cancelling_stops_between_steps_and_removes_the_hooks() -> None:
    adapter = GaussianAdapter()

    def cancel(progress: Progress) -> None:
        if progress.step == 2:
            raise CancelledError("cancelled by the user")

    with pytest.raises(CancelledError, match="by the user"):
        generate(adapter, GenerationRequest(num_steps=9, interventions=(mask(0.0),)), callback=cancel)
    assert len(adapter.calls) == 4
    assert hooks_left(adapter) == 0


def test_defaults_are_the_adapters_own() -> None:
    class Narrow(GaussianAdapter):
        sigma_range = (0.03, 14.6)
        default_steps = 7
        default_guidance = 0.0

    adapter = Narrow()
    result = generate(adapter, GenerationRequest(seed=0, sampler="euler", class_labels=3))
    assert result.sigmas.tolist() == karras_sigmas(7, 14.6, 0.03).tolist()
    assert all(call["class_labels"] is None for call in adapter.calls)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"sampler": "ddim"}, "'ddim'"),
        ({"noise_mode": "pink"}, "'pink'"),
        ({"num_samples": 0}, "num_samples 0"),
        ({"num_steps": 0}, "num_steps 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"first_index": -1}, "first_index -1"),
        ({"guidance_scale": -1.0}, "guidance_scale -1"),
        ({"guidance_scale": float("nan")}, "guidance_scale nan"),
        ({"class_labels": (1, 2), "num_samples": 3}, "2 class labels for 3 samples"),
        ({"sampler": "renoise", "churn": Churn(1.0)}, "churn"),
    ],
)
def test_impossible_request_is_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        GenerationRequest(**wrong)


def test_request_that_does_not_fit_the_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="class 4 is not one of 0 … 3"):
        generate(GaussianAdapter(), GenerationRequest(class_labels=4))
    with pytest.raises(LayerNotFoundError, match="did you mean 'denoised'"):
        generate(GaussianAdapter(), GenerationRequest(record_layers=("denoise",)))
    classless = type("Classless", (GaussianAdapter,), {"num_classes": 0})
    with pytest.raises(ConfigError, match="without classes"):
        generate(classless(), GenerationRequest(class_labels=1))
    result = generate(classless(), GenerationRequest(num_steps=1, num_samples=2))
    assert result.labels.tolist() == [-1, -1]


def test_nan_in_the_result_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(GaussianAdapter):
        def forward(self, *arguments: Any, **options: Any) -> torch.Tensor:
            return super().forward(*arguments, **options) * float("nan")

    with caplog.at_level(logging.WARNING):
        generate(Broken(), GenerationRequest(num_steps=1))
    assert "192 of 192 values" in caplog.text


# The older functions.


def test_single_step_is_one_call_at_the_conditioning_sigma() -> None:
    adapter = GaussianAdapter()
    images, labels = generate_with_mask(
        adapter, ActivationMasker(adapter), 2, conditioning_sigma=3.0, num_samples=2, device="cpu", seed=1
    )
    assert images.shape == (2, 8, 8, 3)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [2, 2]
    assert len(adapter.calls) == 1
    assert torch.equal(adapter.calls[0]["x"], NoiseSource(1, [0, 1]).normal(SHAPE) * 3.0)


@pytest.mark.parametrize("registered", [False, True])
def test_multistep_masks_the_first_steps_whether_or_not_hooks_are_registered(registered: bool) -> None:
    adapter = GaussianAdapter()
    masker = ActivationMasker(adapter)
    masker.set_mask("denoised", torch.full((1, *SHAPE), 0.25))
    if registered:
        masker.register_hooks()
    images, _, trajectory, intermediates = generate_with_mask_multistep(
        adapter, masker, class_label=0, num_steps=3, mask_steps=2, num_samples=2, device="cpu", seed=0,
        extract_layers=["input", "denoised"], return_trajectory=True, return_intermediates=True,
    )  # fmt: skip
    masked = adapter.decode(torch.full((1, 1, 1, 1), 0.25)).max()
    assert [(frame == masked).all().item() for frame in intermediates] == [True, True, False]
    assert torch.equal(intermediates[-1], images)
    assert [step.shape for step in trajectory] == [(2, 384)] * 3
    # Layers in sorted order: 'denoised', natural even where it is masked, then 'input'.
    x = adapter.calls[0]["x"]
    assert np.array_equal(trajectory[0][:, 192:], x.flatten(1).numpy())
    assert np.allclose(trajectory[0][:, :192], gaussian_denoised(x, 80.0, -0.375).flatten(1).numpy(), atol=1e-6)
    assert hooks_left(adapter) == (1 if registered else 0)
    masker.remove_hooks()


def test_multistep_with_no_mask_steps_masks_nothing() -> None:
    adapter = GaussianAdapter()
    masker = ActivationMasker(adapter)
    masker.set_mask("denoised", torch.full((1, *SHAPE), 0.25))
    ask: dict[str, Any] = {"class_label": 1, "seed": 3, "device": "cpu"}
    free, _ = generate_with_mask_multistep(adapter, masker, mask_steps=0, **ask)
    plain, _ = generate_with_mask_multistep(adapter, **ask)
    always, _ = generate_with_mask_multistep(adapter, masker, **ask)
    assert torch.equal(free, plain)
    assert not torch.equal(always, plain)


def test_multistep_takes_a_mask_row_for_each_sample() -> None:
    adapter = GaussianAdapter()
    masker = ActivationMasker(adapter)
    values = torch.linspace(-1, 1, 70)
    masker.set_mask("denoised", values.reshape(-1, 1, 1, 1).expand(-1, *SHAPE))
    images, _ = generate_with_mask_multistep(adapter, masker, num_steps=1, num_samples=70, device="cpu")
    assert np.array_equal(images[:, 0, 0, 0].numpy(), adapter.decode(values.reshape(-1, 1, 1, 1))[:, 0, 0, 0])


def test_multistep_returns_what_is_asked_for_in_order() -> None:
    adapter = SkipAdapter()
    ask: dict[str, Any] = {"num_steps": 2, "num_samples": 2, "device": "cpu", "seed": 0}
    assert len(generate_with_mask_multistep(adapter, **ask)) == 2
    images, labels, noised = generate_with_mask_multistep(adapter, return_noised_inputs=True, **ask)
    assert len(noised) == 2
    assert noised[0].shape == images.shape
    assert labels.dtype == torch.int64
    *_, trajectory, intermediates, noised = generate_with_mask_multistep(
        adapter, extract_layers=["up", "down"], return_trajectory=True, return_intermediates=True,
        return_noised_inputs=True, stochastic=False, **ask,
    )  # fmt: skip
    assert trajectory[0].shape == (2, 4 * 64 + 3 * 64)
    assert trajectory[0].dtype == np.float32
    assert len(intermediates) == len(noised) == 2


def test_multistep_random_and_uniform_labels() -> None:
    adapter = GuidedGaussian()
    assert generate_with_mask_multistep(adapter, class_label=-1, num_samples=2, device="cpu")[1].tolist() == [-1, -1]
    drawn = generate_with_mask_multistep(adapter, num_samples=50, device="cpu", seed=0)[1]
    assert set(drawn.tolist()) == {0, 1, 2, 3}


def test_older_schedule_is_equation_5_without_a_final_zero() -> None:
    sigmas = get_denoising_sigmas(5, 80.0, 0.002)
    assert sigmas.tolist() == pytest.approx(karras_sigmas(5, 80.0, 0.002).tolist())
    assert get_denoising_sigmas(1, 80.0, 0.002).tolist() == [80.0]


def test_images_are_rounded_and_clipped() -> None:
    tensor = torch.tensor([-1.0, 0.0, 1.0, -9.0, 9.0, 2 / 255 - 1]).reshape(1, 1, 1, 6)
    assert tensor_to_uint8_image(tensor).flatten().tolist() == [0, 128, 255, 0, 255, 1]
    assert tensor_to_uint8_image(torch.zeros(2, 3, 4, 5)).shape == (2, 4, 5, 3)
    with pytest.raises(ShapeError, match=r"\(3, 4, 5\)"):
        tensor_to_uint8_image(torch.zeros(3, 4, 5))


def test_generated_sample_is_saved_below_its_model(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8)
    activations = {"denoised": torch.ones(1, *SHAPE)}
    record = save_generated_sample(image, activations, {"model": "fake", "class_label": 0}, tmp_path, "one")
    assert record == {
        "model": "fake",
        "class_label": 0,
        "sample_id": "one",
        "image_path": "images/fake/one.png",
        "activation_path": "activations/fake/one.npz",
    }
    with Image.open(tmp_path / record["image_path"]) as saved:
        assert np.array_equal(np.asarray(saved), image.numpy())
    with np.load(tmp_path / record["activation_path"], allow_pickle=False) as saved:
        assert saved["denoised"].shape == (1, 192)
    assert json.loads((tmp_path / "activations/fake/one.json").read_text())["class_label"] == 0
    plain = save_generated_sample(image, None, {}, tmp_path, "two")
    assert plain == {"sample_id": "two", "image_path": "images/generated/two.png"}
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "one.json", "one.npz", "one.png", "two.png",
    ]  # fmt: skip


@pytest.mark.parametrize(("model", "sample_id"), [("fake", "../out"), ("..", "one"), ("a/b", "one"), ("fake", "")])
def test_generated_sample_cannot_leave_its_folder(tmp_path: Path, model: str, sample_id: str) -> None:
    image = torch.zeros(8, 8, 3, dtype=torch.uint8)
    with pytest.raises(ConfigError, match="cannot name a file"):
        save_generated_sample(image, {}, {"model": model}, tmp_path / "inner", sample_id)
    assert not list(tmp_path.rglob("*.png"))


def test_layer_shape_comes_from_the_adapter_or_from_a_pass() -> None:
    assert infer_layer_shape(GaussianAdapter(), "input", "cpu") == SHAPE

    class Shapeless(SkipAdapter):
        def get_layer_shapes(self) -> dict[str, tuple[int, ...]]:
            return {}

    assert infer_layer_shape(Shapeless(), "tokens") == (64, 4)
    with pytest.raises(LayerNotFoundError, match="did you mean 'tokens'"):
        infer_layer_shape(Shapeless(), "token")
