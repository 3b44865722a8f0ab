"""Training of the denoiser: the loss, the average, the labels, and what must not change outside."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from diffviews.errors import ConfigError, CorruptDataError, ShapeError
from diffviews.lightning.training import (
    DenoiserTraining,
    build_denoiser,
    edm_loss,
    train_denoiser,
    withhold_labels,
)
from diffviews.lightning.training_config import TrainingConfig
from diffviews.lightning.training_data import ShuffledBatches, training_batches
from diffviews.models.preconditioning import edm_coefficients
from diffviews.noise import keyed_generator

TINY = TrainingConfig(
    img_resolution=4, label_dim=2, model_channels=8, channel_mult=(1, 1), attn_resolutions=(), batch_size=8,
    steps=6, warmup_steps=2, learning_rate=5e-3,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def two_classes(count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Dark images of class 0 and bright ones of class 1, (N, 4, 4, 3) uint8."""
    labels = np.arange(count) % 2
    images = np.where(labels[:, None, None, None] == 1, 220, 30) + np.zeros((count, 4, 4, 3))
    return images.astype(np.uint8), labels


def weights(config: TrainingConfig, **options: object) -> dict[str, Tensor]:
    return train_denoiser(*two_classes(), config, device="cpu", **options)


def fixed_loss(state: dict[str, Tensor], config: TrainingConfig) -> float:
    """Return the loss on noise that no training step drew."""
    module = DenoiserTraining(config)
    module.denoiser.load_state_dict(state)
    images, labels = two_classes()
    x0 = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        return float(module.eval().loss(x0, torch.eye(2)[labels], key=10**6))


def test_training_lowers_a_fixed_noise_loss() -> None:
    config = replace(TINY, steps=40)
    before = fixed_loss(build_denoiser(config).state_dict(), config)
    assert fixed_loss(weights(config), config) < 0.7 * before


def test_training_is_bitwise_reproducible_from_the_seed() -> None:
    torch.manual_seed(1)
    first = weights(TINY)
    torch.manual_seed(2)
    second, other = weights(TINY), weights(replace(TINY, seed=1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("stopped_at", [2, 3, 5, 6])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_interrupted_training_goes_on_to_the_weights_of_one_that_was_not(tmp_path, stopped_at, dropout) -> None:
    config, state, told = replace(TINY, dropout=dropout), tmp_path / "training.safetensors", []
    whole = weights(config)

    def stop(step: int, metrics: dict[str, float]) -> None:
        if step == stopped_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights(config, on_metrics=stop, metrics_every=1, state=state, save_every=1)
    resumed = weights(
        config, on_metrics=lambda step, m: told.append((step, m)), metrics_every=1, state=state, save_every=1
    )
    assert [step for step, _ in told] == list(range(stopped_at, config.steps + 1))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert all(torch.equal(whole[name], value) for name, value in weights(config, state=state).items())  # it is done


def test_state_of_another_training_or_a_damaged_one_is_refused(tmp_path) -> None:
    state = tmp_path / "training.safetensors"
    weights(TINY, state=state)
    with pytest.raises(CorruptDataError, match="state of another training"):
        weights(replace(TINY, seed=1), state=state)
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(CorruptDataError, match=r"training\.safetensors cannot be read"):
        weights(TINY, state=state)


def test_images_stay_small_until_their_batch_comes() -> None:
    """70,000 images of 32 × 32 are 215 MB, and four times that as floats, before the first step."""
    images, labels = np.zeros((1000, 32, 32, 3), np.uint8), np.zeros(1000, np.int64)
    batches = training_batches(images, labels, 2, batch_size=4, steps=3, seed=0)
    held = [v for v in vars(batches.dataset).values() if isinstance(v, Tensor) and v.ndim == 4]
    assert [v.dtype for v in held] == [torch.uint8]
    assert held[0].data_ptr() == images.ctypes.data
    assert next(iter(batches))[0].dtype == torch.float32


def test_dropout_is_reproducible_as_well() -> None:
    config = replace(TINY, dropout=0.3)
    torch.manual_seed(1)
    first = weights(config)
    torch.manual_seed(2)
    second, without = weights(config), weights(TINY)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], without[name]) for name in first)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_leaves_the_global_random_state_and_flags_alone(dropout: float) -> None:
    def state() -> tuple[bytes, bytes, object, bool, bool, str]:
        return (
            torch.get_rng_state().numpy().tobytes(),
            np.random.get_state()[1].tobytes(),
            random.getstate(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.get_float32_matmul_precision(),
        )

    torch.manual_seed(1234)
    before = state()
    weights(replace(TINY, dropout=dropout), on_grid=lambda step, images: None)
    assert state() == before


def test_random_state_is_put_back_when_a_report_ends_the_training() -> None:
    class EndedError(Exception):
        pass

    def end(step: int, metrics: dict[str, float]) -> None:
        raise EndedError

    before = torch.get_rng_state()
    with pytest.raises(EndedError):
        weights(replace(TINY, dropout=0.3), on_metrics=end, metrics_every=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_loss_of_a_silent_network_on_clean_zeros_is_its_closed_form() -> None:
    # D = c_skip · n: the mean of lambda · c_skip² sigma² is sigma_data² c_skip / sigma_data² = c_skip.
    sigma = torch.tensor([0.1, 1.0, 5.0]).repeat_interleave(400)
    noise = torch.randn(1200, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * sigma.reshape(-1, 1, 1, 1)
    c = edm_coefficients(sigma, 0.5)
    loss = edm_loss(c.c_skip.reshape(-1, 1, 1, 1) * noise, torch.zeros_like(noise), sigma, 0.5)
    assert float(loss) == pytest.approx(float(c.c_skip.mean()), rel=0.01)


def test_loss_weight_is_one_over_the_squared_output_scale() -> None:
    sigma = torch.tensor([0.02, 3.0])
    for level in sigma:
        ones = torch.ones(1, 3, 2, 2)
        weight = float(edm_loss(ones, 0 * ones, level[None], 0.5))
        assert weight == pytest.approx(1 / float(edm_coefficients(level, 0.5).c_out) ** 2, rel=1e-5)


def test_untrained_loss_of_unit_target_is_one() -> None:
    """The untrained network predicts zero and the target has unit variance at every level."""
    config = replace(TINY, img_resolution=16, p_mean=0.0, p_std=2.0)
    x0 = 0.5 * torch.randn(256, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    loss = DenoiserTraining(config).loss(x0, None, key=0)
    assert float(loss) == pytest.approx(1.0, abs=0.02)


def test_noise_levels_are_log_normal() -> None:
    module = DenoiserTraining(replace(TINY, p_mean=-0.8, p_std=1.3))
    seen: list[Tensor] = []

    def record(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        seen.append(sigma.log())
        return torch.zeros_like(x)

    del module.denoiser
    module.denoiser = record
    module.loss(torch.zeros(20_000, 3, 1, 1), None, key=0)
    assert float(seen[0].mean()) == pytest.approx(-0.8, abs=0.05)
    assert float(seen[0].std()) == pytest.approx(1.3, abs=0.05)


def test_average_follows_its_closed_form() -> None:
    config = replace(TINY, ema_halflife=16.0, ema_rampup=1e9)
    module = DenoiserTraining(config)
    values = [0.0, 1.0, 1.0, 3.0]
    for value in values:
        for parameter in module.denoiser.parameters():
            torch.nn.init.constant_(parameter, value)
        module.ema.update_parameters(module.denoiser)
    decay = 0.5 ** (8 / 16)
    expected = values[0]
    for value in values[1:]:
        expected = decay * expected + (1 - decay) * value
    for parameter in module.ema.module.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected))


def test_average_halves_a_constants_distance_in_one_halflife() -> None:
    config = replace(TINY, batch_size=4, ema_halflife=400.0, ema_rampup=1.0)
    assert config.ema_decay(10**6) ** 100 == pytest.approx(0.5)
    assert config.ema_decay(0) == 0.0
    assert config.ema_decay(10) == pytest.approx(0.5 ** (1 / 10)), "young: the half-life is a share of what was seen"


def test_returned_weights_are_the_average_of_the_steps() -> None:
    follows = weights(replace(TINY, ema_halflife=0.0))
    lags = weights(replace(TINY, ema_halflife=1e6, ema_rampup=100.0))
    start = build_denoiser(TINY).state_dict()
    moved = [name for name in start if not torch.equal(start[name], follows[name])]
    assert "model.out_conv.weight" in moved
    name = "model.out_conv.bias"
    assert (lags[name] - start[name]).abs().max() < (follows[name] - start[name]).abs().max()


@pytest.mark.parametrize(("dropout", "uniform"), [(0.1, 0.5), (0.3, 0.0), (0.0, 0.5), (0.9, 1.0)])
def test_labels_are_withheld_at_the_asked_rate(dropout: float, uniform: float) -> None:
    config = replace(TINY, label_dim=10, label_dropout=dropout, uniform_share=uniform)
    given = torch.eye(10)[torch.arange(20_000) % 10]
    kept = withhold_labels(given, config, keyed_generator("test"))
    zeros = (kept == 0).all(dim=1).float().mean()
    flat = torch.isclose(kept, torch.tensor(0.1)).all(dim=1).float().mean()
    same = (kept == given).all(dim=1).float().mean()
    assert float(zeros) == pytest.approx(dropout * (1 - uniform), abs=0.01)
    assert float(flat) == pytest.approx(dropout * uniform, abs=0.01)
    assert float(zeros + flat + same) == pytest.approx(1.0)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = replace(TINY, steps=100, warmup_steps=10)
    factors = [config.learning_rate_factor(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0, abs=1e-12)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_every_image_comes_once_before_any_comes_again() -> None:
    batches = ShuffledBatches(torch.zeros(10, 1), None, batch_size=4, steps=10, seed=0)
    rows = torch.cat(list(batches.batch_rows()))
    passes = rows.reshape(4, 10)
    assert all(sorted(one.tolist()) == list(range(10)) for one in passes)
    assert not torch.equal(passes[0], passes[1])
    again = ShuffledBatches(torch.zeros(10, 1), None, batch_size=4, steps=10, seed=0)
    assert torch.equal(rows, torch.cat(list(again.batch_rows())))


def test_batches_larger_than_the_set_are_filled_from_several_passes() -> None:
    (rows,) = ShuffledBatches(torch.zeros(3, 1), None, batch_size=9, steps=1, seed=0).batch_rows()
    assert sorted(rows.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_images_and_labels_stay_together_in_a_batch() -> None:
    images, labels = two_classes()
    batches = list(training_batches(images, labels, 2, batch_size=5, steps=7, seed=3))
    assert len(batches) == 7
    for x, one_hot in batches:
        assert x.shape == (5, 3, 4, 4)
        assert one_hot is not None
        torch.testing.assert_close(x[:, 0, 0, 0], one_hot @ torch.tensor([30 / 127.5 - 1, 220 / 127.5 - 1]))


def test_reports_tell_mean_loss_rate_and_pictures() -> None:
    metrics: dict[int, dict[str, float]] = {}
    grids: dict[int, np.ndarray] = {}
    config = replace(TINY, steps=5)
    weights(config, on_metrics=metrics.__setitem__, on_grid=grids.__setitem__, metrics_every=2, grid_every=3)
    assert list(metrics) == [2, 4, 5]
    assert list(grids) == [3, 5]
    assert metrics[4]["learning_rate"] == pytest.approx(5e-3 * config.learning_rate_factor(3))
    assert all(math.isfinite(entry["loss"]) for entry in metrics.values())
    assert grids[5].shape == (8, 4, 4, 3)
    assert grids[5].dtype == np.uint8


def test_reports_do_not_change_the_weights() -> None:
    silent = weights(TINY)
    told = weights(TINY, on_metrics=lambda *_: None, on_grid=lambda *_: None, metrics_every=1, grid_every=2)
    assert all(torch.equal(silent[name], told[name]) for name in silent)


def test_network_without_classes_trains_without_labels() -> None:
    images, _ = two_classes()
    state = train_denoiser(images, None, replace(TINY, label_dim=0), device="cpu")
    assert not any("map_label" in name for name in state)


def test_loss_that_is_not_finite_ends_the_training() -> None:
    module = DenoiserTraining(TINY)
    batch = (torch.full((2, 3, 4, 4), float("nan")), torch.eye(2))
    with pytest.raises(CorruptDataError, match="loss of step 3 is nan"):
        module.training_step(batch, 3)


@pytest.mark.parametrize(
    ("images", "labels", "named"),
    [
        (np.zeros((4, 4, 4, 3), np.float32), np.zeros(4, np.int64), "float32"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros(4, np.int64), r"\(4, 4, 3\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0, np.int64), "N >= 1"),
        (np.zeros((4, 4, 4, 3), np.uint8), np.zeros(3, np.int64), "4 images need"),
        (np.zeros((4, 4, 4, 3), np.uint8), np.array([0, 1, 2, 0]), "from 0 to 2"),
        (np.zeros((4, 4, 4, 3), np.uint8), np.array([0, 1, -1, 0]), "from -1 to 1"),
        (np.zeros((4, 4, 4, 3), np.uint8), None, "labels are none"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int64), r"\(B, 3, 4, 4\)"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(
    images: np.ndarray, labels: np.ndarray | None, named: str
) -> None:
    with pytest.raises(ShapeError, match=named):
        train_denoiser(images, labels, TINY, device="cpu")


@pytest.mark.parametrize(
    "fault",
    [
        {"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"label_dropout": 1.5}, {"uniform_share": -0.1},
        {"p_std": 0.0}, {"p_mean": math.nan}, {"warmup_steps": 6}, {"ema_halflife": -1.0}, {"sigma_data": math.inf},
    ],
)  # fmt: skip
def test_impossible_options_are_refused_by_name(fault: dict[str, float]) -> None:
    (name,) = fault
    with pytest.raises(ConfigError, match=name):
        replace(TINY, **fault)


def test_configs_from_lists_equal_those_from_tuples() -> None:
    assert TrainingConfig(channel_mult=[1, 2, 2], attn_resolutions=[8, 4]) == TrainingConfig()
