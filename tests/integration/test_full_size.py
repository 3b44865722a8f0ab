"""The full-size EDM ImageNet-64 network, with random weights, works within 8 GB of memory."""

import os
import subprocess
import sys

import pytest

from diffviews.adapters.edm_imagenet import EDMImageNetAdapter
from tests.checkpoints import small_edm_checkpoint

GIGABYTE = 1024**2
"""Units of `ru_maxrss`, kilobytes."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    options = EDMImageNetAdapter.get_default_config()
    for name in ("sigma_min", "sigma_max", "sigma_data"):
        del options[name]
    return small_edm_checkpoint(tmp_path_factory.mktemp("full") / "edm.safetensors", **options)


def peak_memory(folder, *words):
    """Run a command in `folder` and return the memory it took at most, in kilobytes."""
    process = subprocess.Popen([sys.executable, "-m", "diffviews", *map(str, words)], cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    return usage.ru_maxrss


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_full_size_model_extracts_all_layers_and_generates_within_8_gigabytes(checkpoint, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    model = ("--model", "edm-imagenet-64", "--checkpoint", checkpoint, "--device", "cpu")
    sizes = ("--dataset", "digits", "--max_samples", 18, "--batch_size", 2, "--sigmas", 2)
    assert peak_memory(tmp_path, "extract", *model, *sizes) < 8 * GIGABYTE
    assert peak_memory(tmp_path, "generate", *model, "--num_steps", 2, "--num_samples", 2) < 8 * GIGABYTE
