"""Pickled checkpoints are read as data: EDM's come out bit for bit, hostile ones run nothing and are named."""

import contextlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from diffviews.adapters.edm_digits import EDMDigitsAdapter
from diffviews.data.checkpoints import read_checkpoint_file
from diffviews.data.pickles.machine import Slice
from diffviews.data.pickles.reader import Record, read_pickled
from diffviews.data.pickles.tensors import ArrayShell
from diffviews.errors import CheckpointError
from tests import hostile
from tests.checkpoints import SMALL, edm_modules, edm_persistence, edm_pickle, small_edm_checkpoint

MARKER = Path("marker")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("module", ["torch_utils.persistence", "persistence", "old.project.torch_utils.persistence"])
def test_edm_pickle_gives_the_tensors_it_was_made_of(tmp_path: Path, protocol: int, module: str) -> None:
    path = edm_pickle(tmp_path / "edm.pkl", protocol=protocol, module=module)
    tensors, metadata = read_checkpoint_file(path)
    expected = load_file(path.with_suffix(".safetensors"))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert all(tensors[name].dtype == expected[name].dtype for name in expected)
    assert metadata["class_name"] == "EDMPrecond"
    assert metadata["init_kwargs"].items() >= SMALL.items()


def test_edm_pickle_loads_and_denoises_bit_for_bit_as_safetensors(tmp_path: Path) -> None:
    path = edm_pickle(tmp_path / "edm.pkl")
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.5, 3.0])
    labels = torch.eye(10)[[3, 7]]
    adapters = [EDMDigitsAdapter.from_checkpoint(p, device="cpu") for p in (path, path.with_suffix(".safetensors"))]
    outputs = [adapter.forward(x, sigma, labels) for adapter in adapters]
    assert torch.equal(*outputs)
    assert adapters[0].config["model_channels"] == SMALL["model_channels"]


def test_embedded_source_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = "open('marker', 'w').close()\nimport os\nos.environ['DIFFVIEWS_MARK'] = '1'"
    path = edm_pickle(tmp_path / "edm.pkl", module_src=source)
    assert source.encode() in path.read_bytes()
    read_checkpoint_file(path)
    assert not MARKER.exists()
    import os

    assert "DIFFVIEWS_MARK" not in os.environ


def test_pickle_may_hold_what_edm_keeps_beside_the_network(tmp_path: Path) -> None:
    more = {
        "dataset_kwargs": {"resolution": 16, "path": "data.zip"},
        "pixels": np.arange(6, dtype=">i2").reshape(2, 3, order="F"),
        "mean": np.float32(0.5),
        "shape": torch.Size([1, 2]),
        "type": torch.float16,
        "seen": {"a", "b"},
        "frozen": frozenset({1}),
    }
    for protocol in (2, 4, 5):
        content = read_pickled(edm_pickle(tmp_path / f"more{protocol}.pkl", protocol=protocol, **more))
        assert isinstance(content["ema"], Record)
        assert isinstance(content["pixels"], ArrayShell | np.ndarray)
        array = content["pixels"].array if isinstance(content["pixels"], ArrayShell) else content["pixels"]
        np.testing.assert_array_equal(array, more["pixels"])
        assert content["mean"] == 0.5
        assert content["shape"] == (1, 2)
        assert content["seen"] == {"a", "b"}
        assert content["frozen"] == {1}


def test_half_precision_parameters_load_as_float32(tmp_path: Path) -> None:
    weights = {name: w.half() for name, w in load_file(small_edm_checkpoint(tmp_path / "w.safetensors")).items()}
    path = tmp_path / "half.pkl"
    with edm_persistence():
        path.write_bytes(pickle.dumps({"ema": edm_modules(weights, SMALL)}))
    stored, _ = read_checkpoint_file(path)
    assert {w.dtype for w in stored.values()} == {torch.float16}
    adapter = EDMDigitsAdapter.from_checkpoint(path, device="cpu")
    assert {p.dtype for p in adapter.model.parameters()} == {torch.float32}
    assert torch.equal(adapter.model.model.out_conv.weight, weights["model.out_conv.weight"].float())


def test_network_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    weights = load_file(small_edm_checkpoint(tmp_path / "w.safetensors"))
    network = edm_modules(weights, SMALL)
    network._init_kwargs = {**network._init_kwargs, "model_type": "StyleGAN"}
    with edm_persistence():
        (tmp_path / "style.pkl").write_bytes(pickle.dumps({"ema": network}))
    with pytest.raises(CheckpointError, match=r"style\.pkl: a EDMPrecond around a StyleGAN is none of"):
        EDMDigitsAdapter.from_checkpoint(tmp_path / "style.pkl", device="cpu")


def test_options_that_edm_left_to_their_defaults_are_edms_own(tmp_path: Path) -> None:
    weights = load_file(small_edm_checkpoint(tmp_path / "w.safetensors"))
    network = edm_modules(weights, {"img_resolution": 16, "img_channels": 3, "label_dim": 10})
    with edm_persistence():
        (tmp_path / "bare.pkl").write_bytes(pickle.dumps({"ema": network}))
    from diffviews.adapters.checkpoint import read_checkpoint

    config = read_checkpoint(tmp_path / "bare.pkl").config
    assert config["model_channels"] == 192
    assert config["attn_resolutions"] == [32, 16, 8]
    assert "use_fp16" not in config


RUNNING, SILENT = (sorted(corpus(Path("x"))) for corpus in (hostile.running, hostile.silent))


@pytest.mark.parametrize("name", RUNNING)
def test_corpus_runs_in_an_ordinary_unpickler(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    content, _ = hostile.running(marker)[name]
    pickle.loads(content)  # noqa: S301 - shows that the corpus is live
    assert marker.exists()


@pytest.mark.parametrize("name", RUNNING + SILENT)
def test_hostile_file_runs_nothing_and_is_named(tmp_path: Path, name: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / name
    content, refusal = {**hostile.running(marker), **hostile.silent(marker)}[name]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=refusal) as caught:
        EDMDigitsAdapter.from_checkpoint(path, device="cpu")
    assert name in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not marker.exists()


def test_module_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pkl"
    path.write_bytes(hostile.module_bomb())
    assert path.stat().st_size < 20_000
    with pytest.raises(CheckpointError, match="more than 100000 modules"):
        read_checkpoint_file(path)


def test_nothing_is_allocated_for_a_claimed_size(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "huge.pkl"
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**36) + b"abc.")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, before[1]))
    try:
        with pytest.raises(CheckpointError, match="asked for"):
            read_pickled(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_slice_never_reads_beyond_its_end() -> None:
    stream = Slice(memoryview(b"ab\ncd"))
    assert stream.readline() == b"ab\n"
    with pytest.raises(EOFError):
        stream.read(3)
    with pytest.raises(EOFError):
        stream.read(-1)
    assert stream.read(2) == b"cd"
    with pytest.raises(EOFError):
        stream.readline()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), edits=st.integers(1, 6))
def test_damaged_pickle_gives_a_checkpoint_error_or_plain_data(tmp_path: Path, seed: int, edits: int) -> None:
    original = pickle.dumps({"ema": {"w": torch.arange(6.0), "n": np.arange(3), "k": ("a", 1)}}, 4)
    data, random = bytearray(original), np.random.default_rng(seed)
    for _ in range(edits):
        data[random.integers(len(data))] = random.integers(256)
    path = tmp_path / "damaged.pkl"
    path.write_bytes(data)
    with contextlib.suppress(CheckpointError):  # any other error fails the test
        read_checkpoint_file(path)
