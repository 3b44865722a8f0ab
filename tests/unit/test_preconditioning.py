"""EDM preconditioning against its closed forms (Karras et al. 2022, table 1)."""

import math

import pytest
import torch
from torch import Tensor, nn

from diffviews.errors import ConfigError, ShapeError
from diffviews.models.preconditioning import EDMPrecond, edm_coefficients

SIGMAS = torch.logspace(-3, 2, 21, dtype=torch.float64)


class Spy(nn.Module):
    """A network that keeps what it was given and answers with a constant."""

    def __init__(self, answer: float = 0.0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.tensor(answer, dtype=dtype))
        self.given: tuple[Tensor, Tensor, Tensor | None] | None = None

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.given = (x, noise_labels, class_labels)
        return self.answer.expand_as(x)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_input_and_target_have_unit_variance(sigma_data: float) -> None:
    c = edm_coefficients(SIGMAS, sigma_data)
    ones = torch.ones_like(SIGMAS)
    torch.testing.assert_close(c.c_in.square() * (sigma_data**2 + SIGMAS.square()), ones)
    # Training target (y - c_skip (y + n)) / c_out, with Var y = sigma_data², Var n = sigma².
    target = (1 - c.c_skip).square() * sigma_data**2 + c.c_skip.square() * SIGMAS.square()
    torch.testing.assert_close(target / c.c_out.square(), ones)


def test_skip_minimises_the_output_scale() -> None:
    for shift in (-0.01, 0.01):
        c = edm_coefficients(SIGMAS, 0.5)
        skip = c.c_skip + shift
        scale = ((1 - skip).square() * 0.25 + skip.square() * SIGMAS.square()).sqrt()
        assert (scale > c.c_out).all()


def test_skip_and_output_tie_to_the_wiener_filter() -> None:
    c = edm_coefficients(SIGMAS, 0.5)
    torch.testing.assert_close(c.c_out.square(), c.c_skip * SIGMAS.square())
    torch.testing.assert_close(c.c_noise, SIGMAS.log() / 4)


def test_silent_network_leaves_the_optimal_denoiser_of_gaussian_data() -> None:
    x = torch.randn(3, 3, 4, 4)
    sigma = torch.tensor([0.1, 1.0, 10.0])
    expected = x * (0.25 / (0.25 + sigma.square())).reshape(3, 1, 1, 1)
    torch.testing.assert_close(EDMPrecond(Spy())(x, sigma), expected)


def test_network_gets_scaled_images_and_a_quarter_of_the_log_level() -> None:
    spy = Spy(answer=1.0)
    x, sigma, labels = torch.randn(2, 3, 4, 4), torch.tensor([0.5, 2.0]), torch.eye(2)
    denoised = EDMPrecond(spy)(x, sigma, labels)
    assert spy.given is not None
    torch.testing.assert_close(spy.given[0], x / (sigma.square() + 0.25).sqrt().reshape(2, 1, 1, 1))
    torch.testing.assert_close(spy.given[1], sigma.log() / 4)
    assert spy.given[2] is labels
    c_out = sigma * 0.5 / (sigma.square() + 0.25).sqrt()
    c_skip = 0.25 / (sigma.square() + 0.25)
    torch.testing.assert_close(denoised, (x * c_skip.reshape(2, 1, 1, 1)) + c_out.reshape(2, 1, 1, 1))


@pytest.mark.parametrize(
    "sigma", [2, 2.0, torch.tensor(2.0), torch.tensor(2.0, dtype=torch.float64), torch.full((3,), 2.0)]
)
def test_one_level_serves_the_whole_batch(sigma: Tensor | float) -> None:
    spy = Spy()
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    denoised = EDMPrecond(spy)(x, sigma)
    assert denoised.dtype == torch.float32
    torch.testing.assert_close(denoised, x.float() * (0.25 / 4.25))
    assert spy.given is not None
    assert spy.given[1].shape == (3,)


def test_network_runs_in_the_precision_of_its_parameters() -> None:
    spy = Spy(dtype=torch.bfloat16)
    assert EDMPrecond(spy)(torch.randn(1, 3, 4, 4), 1.0).dtype == torch.float32
    assert spy.given is not None
    assert spy.given[0].dtype == torch.bfloat16
    assert spy.given[1].dtype == torch.float32


def test_wrong_number_of_levels_is_refused() -> None:
    with pytest.raises(ShapeError, match="2 noise levels for 3 images"):
        EDMPrecond(Spy())(torch.zeros(3, 3, 4, 4), torch.ones(2))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sigma_min": 1.0, "sigma_max": 0.5}, "sigma_min 1.0"),
        ({"sigma_min": -1.0}, "sigma_min -1.0"),
        ({"sigma_data": 0.0}, "sigma_data 0.0"),
        ({"sigma_data": math.nan}, "sigma_data nan"),
    ],
)
def test_impossible_levels_are_refused_by_name(options: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        EDMPrecond(Spy(), **options)
