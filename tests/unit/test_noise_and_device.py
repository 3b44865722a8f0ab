"""Noise that depends on the sample alone, sigma's written form, the choice of a device, error sentences."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffviews import errors
from diffviews.device import resolve_device
from diffviews.errors import ConfigError, DiffViewsError, unknown_name
from diffviews.noise import NoiseSource, format_sigma, keyed_generator, sample_noise

IDS = [f"digits-{i:04d}" for i in range(12)]


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
def test_written_sigma_reads_back_as_the_same_number(sigma: float) -> None:
    assert float(format_sigma(sigma)) == sigma


@given(st.floats(min_value=0, allow_infinity=False))
def test_written_sigma_is_a_plain_decimal_without_exponent_or_trailing_zeros(sigma: float) -> None:
    assert re.fullmatch(r"\d+(\.\d*[1-9])?", format_sigma(sigma))


@pytest.mark.parametrize(
    ("sigma", "text"), [(2.0, "2"), (2, "2"), (0.002, "0.002"), (80, "80"), (0, "0"), (1e-5, "0.00001"), (0.1, "0.1")]
)
def test_sigma_is_written_in_its_shortest_form(sigma: float, text: str) -> None:
    assert format_sigma(sigma) == text
    assert format_sigma(np.float64(sigma)) == text
    assert format_sigma(torch.tensor(sigma, dtype=torch.float64).item()) == text


@given(st.permutations(range(12)), st.integers(1, 12))
def test_sample_noise_does_not_depend_on_its_batch(order: list[int], size: int) -> None:
    whole = sample_noise(IDS, (3, 4, 4))
    assert torch.equal(sample_noise([IDS[i] for i in order[:size]], (3, 4, 4)), whole[order[:size]])


def test_sample_noise_is_unit_gaussian_and_differs_between_samples() -> None:
    noise = sample_noise([str(i) for i in range(200)], (3, 16, 16))
    assert noise.dtype == torch.float32
    assert abs(noise.mean().item()) < 0.01
    assert abs(noise.std().item() - 1) < 0.01
    correlation = torch.corrcoef(noise.flatten(1)) - torch.eye(200)
    assert correlation.abs().max() < 0.2  # 5.5 standard errors


def test_sample_noise_stays_as_it_was_logged() -> None:
    """Stored activations were made with this noise: a change would part old runs from new ones."""
    expected = torch.tensor([[0.9566274285, 0.2259986699], [0.5163587332, -0.2270181924]])
    torch.testing.assert_close(sample_noise(["digits-0000", "digits-0001"], (16,))[:, :2], expected, rtol=0, atol=1e-6)


def test_job_noise_does_not_depend_on_how_the_job_is_split() -> None:
    def draws(batches: list[range]) -> list[torch.Tensor]:
        sources = [NoiseSource(7, list(batch)) for batch in batches]
        return [torch.cat([source.normal((3, 2)) for source in sources]) for _ in range(3)]

    for whole, split in zip(draws([range(9)]), draws([range(4), range(4, 5), range(5, 9)]), strict=True):
        assert torch.equal(whole, split)


def test_job_noise_differs_by_draw_seed_index_and_stream() -> None:
    source = NoiseSource(7, [0, 1])
    first, second = source.normal((8,)), source.normal((8,))
    drawn = [*first, *second, *NoiseSource(8, [0]).normal((8,)), *NoiseSource(7, [0], "labels").normal((8,))]
    assert len({tuple(draw.tolist()) for draw in drawn}) == len(drawn)
    assert NoiseSource(7, [0]).normal((8,), torch.float64).dtype == torch.float64


def test_job_integers_are_in_range_and_belong_to_the_sample() -> None:
    drawn = NoiseSource(3, list(range(500))).integers(10)
    assert (drawn.dtype, drawn.shape) == (torch.int64, (500,))
    assert sorted(set(drawn.tolist())) == list(range(10))
    assert NoiseSource(3, [41]).integers(10).item() == drawn[41]


def test_keys_are_kept_apart() -> None:
    keys = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("c", "ab"), (1, 23), (12, 3)]
    assert len({keyed_generator(*key).initial_seed() for key in keys}) == len(keys)
    assert keyed_generator("a", 1).device.type == "cpu"


def test_drawing_reads_and_writes_no_global_random_state() -> None:
    torch.manual_seed(1)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = (sample_noise(IDS, (4,)), NoiseSource(1, [0, 1]).normal((4,)), NoiseSource(1, [0]).integers(5))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    torch.manual_seed(2)
    again = (sample_noise(IDS, (4,)), NoiseSource(1, [0, 1]).normal((4,)), NoiseSource(1, [0]).integers(5))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def available(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_device_is_cuda_then_mps_then_cpu(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str) -> None:
    available(monkeypatch, cuda=cuda, mps=mps)
    assert resolve_device().type == resolve_device(None).type == resolve_device("auto").type == chosen


def test_device_that_is_asked_for_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    available(monkeypatch, cuda=True, mps=False)
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert resolve_device("cuda:1") == torch.device("cuda:1")


def test_device_that_is_missing_or_unknown_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    available(monkeypatch, cuda=False, mps=False)
    for name in ("cuda", "cuda:1", "mps"):
        with pytest.raises(ConfigError, match=f"device '{name}' is not available on this machine"):
            resolve_device(name)
    with pytest.raises(ConfigError, match="device 'gpu' is unknown; use auto, cpu, cuda"):
        resolve_device("gpu")


def test_unknown_name_lists_what_there_is_and_offers_the_nearest() -> None:
    assert unknown_name("layer", "midblok", ["midblock", "encoder_block_0"]) == (
        "layer 'midblok' is not one of: midblock, encoder_block_0; did you mean 'midblock'?"
    )
    assert unknown_name("layer", "xyz", ["midblock"]) == "layer 'xyz' is not one of: midblock"
    assert unknown_name("run", "x", []) == "run 'x' is not one of: none"
    many = unknown_name("layer", "block_7x", (f"block_{i}" for i in range(30)))
    assert many.startswith("layer 'block_7x' is not one of: block_0 … block_29 (30); did you mean 'block_7'")


def test_every_error_is_also_a_standard_exception() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DiffViewsError)]
    standard = (ValueError, LookupError, RuntimeError, OSError)
    exempt = {errors.DiffViewsError, errors.CancelledError}
    assert len(kinds) > 10
    assert all(issubclass(kind, standard) for kind in kinds if kind not in exempt)
