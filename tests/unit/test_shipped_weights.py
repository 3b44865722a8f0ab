"""The weights of edm-digits that ship with the package, and the record of their training."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from diffviews.data.sources import open_source
from diffviews.lightning.training import build_denoiser
from diffviews.lightning.training_config import TrainingConfig
from diffviews.models.preconditioning import EDMPrecond
from diffviews.noise import NoiseSource
from diffviews.sampling.samplers import heun, samples
from diffviews.sampling.schedules import karras_sigmas

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "diffviews" / "models" / "weights" / "edm-digits.safetensors"
CONFIG = ROOT / "experiments" / "configs" / "train-digits.yaml"
RECORD = json.loads(WEIGHTS.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def denoiser() -> EDMPrecond:
    with safe_open(WEIGHTS, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    network = build_denoiser(TrainingConfig(**RECORD["training"]))
    network.load_state_dict(state)
    return network.eval()


@torch.no_grad()
def sample(denoiser: EDMPrecond, labels: torch.Tensor) -> np.ndarray:
    """Return samples by 18 Heun steps, grey levels (N, 256) in [0, 255]."""
    noise = NoiseSource(5, range(len(labels)))
    sigmas = karras_sigmas(18, 80.0, 0.002)
    start = noise.normal((3, 16, 16)) * 80.0
    x = samples(heun(lambda x, sigma: denoiser(x, sigma, labels), start, sigmas, noise.normal))
    return ((x.clamp(-1, 1) + 1) * 127.5).mean(dim=1).flatten(1).numpy()


def test_weights_are_of_the_promised_size(denoiser: EDMPrecond) -> None:
    count = sum(parameter.numel() for parameter in denoiser.parameters())
    assert 1_000_000 <= count <= 1_500_000
    assert count == RECORD["parameters"]
    assert WEIGHTS.stat().st_size <= 6_000_000


def test_weights_are_finite_float32(denoiser: EDMPrecond) -> None:
    assert all(tensor.dtype == torch.float32 for tensor in denoiser.state_dict().values())
    assert all(torch.isfinite(tensor).all() for tensor in denoiser.state_dict().values())


def test_record_network_and_run_config_are_of_one_training() -> None:
    training = TrainingConfig(**RECORD["training"])
    assert RECORD["network"] == json.loads(
        json.dumps({**training.network_options(), "sigma_data": training.sigma_data})
    )
    run = yaml.safe_load(CONFIG.read_text())
    assert {key: run[key] for key in RECORD["training"]} == json.loads(json.dumps(asdict(training)))


def test_record_names_the_data_that_the_source_still_gives() -> None:
    samples = open_source("digits")
    assert (samples.digest, len(samples)) == (RECORD["dataset"]["digest"], RECORD["dataset"]["num_samples"])


def test_recorded_accuracy_meets_the_specification() -> None:
    assert RECORD["class_accuracy"]["value"] >= 0.95
    assert RECORD["class_accuracy"]["num_samples"] >= 500
    assert max(RECORD["class_shares"]["uniform"]) <= 0.25


def test_samples_show_the_class_asked_for(denoiser: EDMPrecond) -> None:
    images, classes = open_source("digits").images, load_digits().target
    judge = SVC(C=10.0).fit(images[..., 0].reshape(len(images), -1)[::2], classes[::2])
    wanted = torch.arange(40) % 10
    made = judge.predict(sample(denoiser, torch.eye(10)[wanted]))
    assert (made == wanted.numpy()).mean() >= 0.85, "0.98 of a thousand; forty of them leave room for chance"


def test_samples_of_the_uniform_label_are_of_many_classes(denoiser: EDMPrecond) -> None:
    images, classes = open_source("digits").images, load_digits().target
    judge = SVC(C=10.0).fit(images[..., 0].reshape(len(images), -1)[::2], classes[::2])
    made = judge.predict(sample(denoiser, torch.full((40, 10), 0.1)))
    assert len(set(made.tolist())) >= 7
    assert np.bincount(made).max() <= 14
