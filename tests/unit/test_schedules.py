"""Noise schedules."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffviews.errors import ConfigError
from diffviews.sampling.schedules import karras_sigmas, with_final_zero


def test_schedule_is_equation_5() -> None:
    sigmas = karras_sigmas(4, 80.0, 0.002, rho=7.0)
    expected = [(80 ** (1 / 7) + i / 3 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(4)]
    assert sigmas.dtype == torch.float64
    assert sigmas.tolist() == pytest.approx(expected, rel=1e-12)


def test_one_step_is_sigma_max_alone() -> None:
    assert karras_sigmas(1, 80.0, 0.002).tolist() == [80.0]


@given(
    num_steps=st.integers(2, 300),
    low=st.floats(1e-3, 1.0),
    ratio=st.floats(1.5, 1e4),
    rho=st.floats(1.0, 12.0),
)
def test_schedule_descends_between_its_exact_ends(num_steps: int, low: float, ratio: float, rho: float) -> None:
    sigmas = karras_sigmas(num_steps, low * ratio, low, rho)
    assert len(sigmas) == num_steps
    assert sigmas[0] == low * ratio
    assert sigmas[-1] == low
    assert (sigmas[:-1] > sigmas[1:]).all()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, 80.0, 0.002), "num_steps 0"),
        ((4, 0.001, 0.002), "sigma_min 0.002"),
        ((4, 80.0, 0.0), "sigma_min 0.0"),
        ((4, float("inf"), 0.002), "sigma_max inf"),
        ((4, float("nan"), 0.002), "sigma_max nan"),
        ((4, 80.0, 0.002, 0.0), "rho 0.0"),
    ],
)
def test_impossible_schedule_is_refused(arguments: tuple[float, ...], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        karras_sigmas(*arguments)  # type: ignore[arg-type]


def test_final_zero_is_added_once() -> None:
    sigmas = karras_sigmas(3, 10.0, 0.1)
    ended = with_final_zero(sigmas)
    assert ended.tolist() == [*sigmas.tolist(), 0.0]
    assert torch.equal(with_final_zero(ended), ended)


@pytest.mark.parametrize("levels", [[], [0.0], [1.0, 2.0], [1.0, -1.0], [2.0, 0.0, 0.0], [float("inf"), 1.0]])
def test_levels_that_do_not_descend_are_refused(levels: list[float]) -> None:
    with pytest.raises(ConfigError, match="descending"):
        with_final_zero(torch.tensor(levels))
