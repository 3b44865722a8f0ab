"""Checkpoint files: whole ones are read, hostile ones refused by name."""

import hashlib
import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffviews.data.checkpoints import file_digest, read_safetensors
from diffviews.errors import CheckpointError


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"config": '{"x": 1}'})
    return tmp_path / "model.safetensors"


def test_safetensors_gives_tensors_and_metadata(checkpoint: Path) -> None:
    tensors, metadata = read_safetensors(checkpoint)
    assert torch.equal(tensors["a.weight"], torch.arange(6.0).reshape(2, 3))
    assert tensors["b"].dtype == torch.float16
    assert metadata == {"config": '{"x": 1}'}


def header(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        header(b"{}", 2**62),
        header(b"not json"),
        header(json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()),
        header(json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}}).encode()) + b"12345678",
        header(json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}).encode()) + b"12345678",
    ],
    ids=["empty", "short", "huge-header", "no-json", "beyond-file", "backwards", "wrong-size"],
)
def test_hostile_safetensors_is_refused_and_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "hostile.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"hostile\.safetensors"):
        read_safetensors(tmp_path / "hostile.safetensors")


def test_truncated_safetensors_is_refused_and_named(checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_safetensors(checkpoint)


class Exploding:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".PTH", ".bin", ".ckpt", ".safetensors"])
def test_pickle_under_any_name_is_refused_and_never_runs(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(Exploding()))
    with pytest.raises(CheckpointError, match=r"convert it") as caught:
        read_safetensors(path)
    assert path.name in str(caught.value)
    assert ("is pickled" in str(caught.value)) == (suffix != ".safetensors")
    assert not (tmp_path / "exploded").exists()


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    for ask in (read_safetensors, file_digest):
        with pytest.raises(CheckpointError, match=r"none\.safetensors does not exist"):
            ask(tmp_path / "none.safetensors")


def test_file_digest_is_sha256(checkpoint: Path) -> None:
    assert file_digest(checkpoint) == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
