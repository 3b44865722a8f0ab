"""Samplers against exact solutions and the original authors' results."""

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from diffviews.errors import ConfigError
from diffviews.models.adm_unet import ADMUNet
from diffviews.models.preconditioning import EDMPrecond
from diffviews.noise import NoiseSource
from diffviews.sampling.samplers import Churn, SamplerStep, euler, heun, renoise, samples
from diffviews.sampling.schedules import karras_sigmas, with_final_zero
from tests.fakes import SPREAD, gaussian_denoised, gaussian_ode

REFERENCE = Path(__file__).parents[1] / "data" / "edm_small_reference.safetensors"
MEAN = 0.3


def exact_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    return gaussian_denoised(x, sigma, MEAN)


def no_noise(shape: Sequence[int]) -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with safe_open(REFERENCE, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def network(reference: dict[str, Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    with safe_open(REFERENCE, "pt") as opened:
        config = json.loads(opened.metadata()["config"])
    config.pop("model_type")
    model = EDMPrecond(ADMUNet(**config)).eval().requires_grad_(False)
    model.load_state_dict({k.removeprefix("weights."): v for k, v in reference.items() if "weights." in k})
    return lambda x, sigma: model(x.float(), sigma.float(), reference["sampler.labels"])


def test_heun_reproduces_the_18_deterministic_reference_steps(reference: dict, network: Callable) -> None:
    x = reference["sampler.latents"] * 80.0
    images = samples(heun(network, x, karras_sigmas(18, 80.0, 0.002), no_noise))
    assert images.dtype == torch.float64
    assert (images - reference["sampler.heun18"]).abs().max() <= 2e-4


def test_heun_reproduces_the_12_churned_reference_steps(reference: dict, network: Callable) -> None:
    draws = iter(reference["sampler.churn_noise"])
    churn = Churn(amount=40.0, sigma_min=0.05, sigma_max=50.0, noise=1.003)
    x = reference["sampler.latents"] * 40.0
    images = samples(heun(network, x, karras_sigmas(12, 40.0, 0.01), lambda shape: next(draws), churn=churn))
    assert (images - reference["sampler.heun12_churn"]).abs().max() <= 2e-4
    assert next(draws, None) is None, "a noise of the reference was left over"


def error_at(sampler: Callable, steps: int) -> float:
    """Error of `steps` even steps from sigma 10 to 0 against the exact solution of the ODE."""
    x = torch.tensor([[[[2.0]]], [[[-7.0]]]], dtype=torch.float64)
    sigmas = torch.linspace(10.0, 0.0, steps + 1, dtype=torch.float64)
    exact = gaussian_ode(x, 10.0, 0.0, MEAN)
    return (samples(sampler(exact_denoiser, x, sigmas, no_noise)) - exact).abs().max().item()


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2)])
def test_error_falls_with_the_order_of_the_method(sampler: Callable, order: int) -> None:
    measured = math.log2(error_at(sampler, 400) / error_at(sampler, 800))
    assert measured == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("sampler", [heun, euler, renoise])
def test_last_step_is_taken_with_and_without_a_final_zero(sampler: Callable) -> None:
    x = torch.tensor([[[[20.0]]]])
    sigmas = karras_sigmas(5, 20.0, 0.5)
    results, steps = [], []
    for schedule in (sigmas, with_final_zero(sigmas)):
        seen: list[SamplerStep] = list(sampler(exact_denoiser, x, schedule, NoiseSource(3, [0]).normal))
        results.append(seen[-1].x_next)
        steps.append([(step.index, step.sigma) for step in seen])
        # The result is x0 itself: the last estimate, free of the noise of sigma_min.
        torch.testing.assert_close(results[-1], seen[-1].denoised)
    assert torch.equal(*results)
    assert steps[0] == steps[1] == list(enumerate(sigmas.tolist()))


def test_renoise_predicts_and_adds_the_noise_of_the_next_level() -> None:
    draws = [torch.full((1, 1, 1, 1), 0.7), torch.full((1, 1, 1, 1), -1.1)]
    pending = iter(draws)
    x = torch.tensor([[[[5.0]]]])
    result = samples(renoise(exact_denoiser, x, torch.tensor([10.0, 3.0, 0.4]), lambda shape: next(pending)))
    expected = x.double()
    for sigma, drawn, sigma_next in ((10.0, draws[0], 3.0), (3.0, draws[1], 0.4)):
        expected = gaussian_denoised(expected, sigma, MEAN) + sigma_next * drawn
    expected = gaussian_denoised(expected, torch.tensor(0.4).item(), MEAN)
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


def test_one_step_is_one_prediction() -> None:
    x = torch.tensor([[[[5.0]]]])
    for sampler in (heun, euler, renoise):
        result = samples(sampler(exact_denoiser, x, torch.tensor([8.0]), no_noise))
        torch.testing.assert_close(result, gaussian_denoised(x.double(), 8.0, MEAN))


@pytest.mark.parametrize("sampler", [heun, euler, renoise])
def test_step_names_its_first_evaluation_and_ends_where_the_next_begins(sampler: Callable) -> None:
    noise = NoiseSource(3, [0, 1])
    steps = list(sampler(exact_denoiser, torch.ones(2, 3, 4, 4), torch.tensor([4.0, 2.0, 1.0]), noise.normal))
    assert [(step.index, step.sigma) for step in steps] == [(0, 4.0), (1, 2.0), (2, 1.0)]
    for step in steps:
        torch.testing.assert_close(step.denoised, gaussian_denoised(step.x, step.sigma, MEAN), rtol=0, atol=0)
    for step, following in pairwise(steps):
        assert torch.equal(step.x_next, following.x)


def test_no_step_is_computed_before_it_is_asked_for() -> None:
    evaluations: list[float] = []

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        evaluations.append(sigma.item())
        return exact_denoiser(x, sigma)

    steps = heun(denoiser, torch.ones(2, 3, 4, 4), torch.tensor([4.0, 2.0, 1.0]), no_noise)
    assert evaluations == []
    next(steps)
    assert evaluations == [4.0, 2.0]
    assert [step.index for step in steps] == [1, 2]
    assert evaluations == [4.0, 2.0, 2.0, 1.0, 1.0]


def test_churn_keeps_the_variance_of_the_marginals() -> None:
    """With churn the samples of an exact denoiser still have the data's mean and deviation."""
    noise = NoiseSource(0, range(4000))
    x = noise.normal((1, 1, 1)) * 20.0
    steps = heun(exact_denoiser, x, karras_sigmas(40, 20.0, 0.002), noise.normal, churn=Churn(20.0, noise=1.0))
    images = samples(steps)
    assert images.mean().item() == pytest.approx(MEAN, abs=0.04)
    assert images.std().item() == pytest.approx(SPREAD, abs=0.03)


def test_churn_is_limited_to_its_noise_levels() -> None:
    churn = Churn(40.0, 0.05, 50.0)
    assert churn.gamma(60.0, 256) == churn.gamma(0.01, 256) == 0.0
    assert churn.gamma(1.0, 256) == 40 / 256
    assert churn.gamma(1.0, 12) == math.sqrt(2) - 1
    with pytest.raises(ConfigError, match="amount=-1"):
        Churn(-1.0)
    with pytest.raises(ConfigError, match="no churn"):
        next(renoise(exact_denoiser, torch.ones(1, 1, 1, 1), torch.tensor([1.0]), no_noise, churn=Churn(1.0)))
