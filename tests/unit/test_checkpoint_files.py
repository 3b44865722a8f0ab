"""Checkpoint files: whole ones are read, hostile ones refused by name."""

import hashlib
import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffviews.adapters.checkpoint import read_checkpoint
from diffviews.adapters.edm_digits import EDMDigitsAdapter
from diffviews.data.checkpoints import (
    file_digest,
    model_file,
    read_checkpoint_file,
    read_safetensors,
    tensor_names,
    write_safetensors,
)
from diffviews.errors import CheckpointError
from tests.checkpoints import small_edm_checkpoint


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
    with pytest.raises(CheckpointError, match=r"is pickled.*convert it") as caught:
        read_safetensors(path)
    assert path.name in str(caught.value)
    assert not (tmp_path / "exploded").exists()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3438167536\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.safetensors", POINTER, "git lfs pull"),
        ("model.ckpt", POINTER, "git lfs pull"),
        ("model.pt", b"<!DOCTYPE html><html>log in</html>", "a web page.*HF_TOKEN"),
        ("model.safetensors", b"\n<html>404", "a web page"),
        ("flux.gguf", b"GGUF\3\0\0\0", "of GGUF.*safetensors"),
        ("unet.onnx", b"\x08\x07" * 40, "of ONNX"),
        ("flax_model.msgpack", b"\xde\x00", "of Flax"),
        ("model.npz", b"PK\3\4", "of numpy"),
        ("model.pt.gz", b"\x1f\x8b\x08\x00", "an archive; unpack it"),
        ("model_index.json", b"{}", "a description and no weights; give the folder"),
        ("v1-inference.yaml", b"model:\n", "a description and no weights"),
    ],
)
def test_files_of_other_kinds_are_named_with_the_way(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    for ask in (read_checkpoint_file, tensor_names):
        with pytest.raises(CheckpointError, match=said):
            ask(tmp_path / name)


def test_programs_and_states_of_trainings_are_named_with_the_way(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "program.pt")
    with pytest.raises(CheckpointError, match=r"TorchScript, which is not run; save its state_dict\(\)"):
        read_checkpoint_file(tmp_path / "program.pt")
    torch.save({"ema": {"stds": [0.05], "emas": [{"a": torch.ones(2)}]}, "state": {}}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"training by EDM2's code; give its network-snapshot"):
        read_checkpoint_file(tmp_path / "state.pt")


def test_what_is_in_a_file_counts_and_not_its_name(checkpoint: Path) -> None:
    tensors, metadata = read_checkpoint_file(checkpoint)
    renamed = checkpoint.rename(checkpoint.with_suffix(".ckpt"))
    assert read_checkpoint_file(renamed)[1] == metadata
    torch.save(tensors, checkpoint)
    assert read_checkpoint_file(checkpoint)[0].keys() == tensors.keys() == set(tensor_names(checkpoint))


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    for ask in (read_safetensors, file_digest):
        with pytest.raises(CheckpointError, match=r"none\.safetensors does not exist"):
            ask(tmp_path / "none.safetensors")


def test_file_digest_is_sha256(checkpoint: Path) -> None:
    assert file_digest(checkpoint) == hashlib.sha256(checkpoint.read_bytes()).hexdigest()


# Every other form ---------------------------------------------------------------------------------


@pytest.fixture
def edm(tmp_path: Path) -> Path:
    return small_edm_checkpoint(tmp_path / "edm.safetensors")


def same(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == expected.keys() and all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
@pytest.mark.parametrize("wrap", [None, "ema", "state_dict", "model"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_torch_state_dict_is_read_in_each_form(
    tmp_path: Path, edm: Path, zipped: bool, wrap: str | None, suffix: str
) -> None:
    weights = load_file(edm)
    content = {wrap: weights, "epoch": 3} if wrap else weights
    path = tmp_path / f"weights{suffix}"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint_file(path)[0], weights)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_tensors_of_every_kind_come_back_as_torch_gives_them(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(24.0)
    content = {
        "view": base[4:10], "turned": base.reshape(4, 6).T, "strided": base[::3], "scalar": torch.tensor(3),
        "empty": torch.empty(0, 3), "bool": torch.tensor([True, False]), "half": base.half(), "brain": base.bfloat16(),
        "complex": torch.tensor([1 + 2j]), "parameter": torch.nn.Parameter(base), "int8": base.to(torch.int8),
    }  # fmt: skip
    path = tmp_path / "kinds.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    expected = torch.load(path, weights_only=True)
    tensors, _ = read_checkpoint_file(path)
    assert same(tensors, expected)
    assert all(tensors[name].dtype == expected[name].dtype for name in expected)
    assert all(tensor.is_contiguous() for tensor in tensors.values())


def test_state_dict_of_a_module_keeps_its_notes_to_itself(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(module.state_dict(), tmp_path / "module.pt")
    assert same(read_checkpoint_file(tmp_path / "module.pt")[0], module.state_dict())


def test_tensors_do_not_change_when_the_file_does(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": torch.ones(1000)}, path)
    tensors, _ = read_checkpoint_file(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(tensors["w"], torch.ones(1000))


@pytest.mark.parametrize(
    "prefix", ["", "model.", "module.model.", "feedforward_model.model.", "module.feedforward_model.model."]
)
def test_edm_weights_are_known_under_the_names_training_gives_them(tmp_path: Path, edm: Path, prefix: str) -> None:
    weights = {f"{prefix}{name.removeprefix('model.')}": tensor for name, tensor in load_file(edm).items()}
    if "feedforward_model" in prefix:
        weights[prefix.split("feedforward_model")[0] + "guidance_model.other"] = torch.ones(2)
    path = tmp_path / "pytorch_model.bin"
    torch.save(weights, path)
    path.with_suffix(".json").write_text(json.dumps({"network": read_checkpoint(edm).config}))
    loaded = EDMDigitsAdapter.from_checkpoint(path, device="cpu")
    assert loaded.digest() == EDMDigitsAdapter.from_checkpoint(edm, device="cpu").digest()


def test_mapping_of_augmentations_is_left_out(tmp_path: Path, edm: Path) -> None:
    save_file({**load_file(edm), "model.map_augment.weight": torch.ones(2, 2)}, tmp_path / "augment.safetensors")
    assert "map_augment.weight" not in read_checkpoint(tmp_path / "augment.safetensors").tensors


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "model.safetensors", "odd-name.safetensors"])
def test_folder_stands_for_the_model_file_in_it(tmp_path: Path, edm: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    edm.rename(folder / name)
    torch.save({"w": torch.ones(1)}, folder / "pytorch_model.bin")
    assert model_file(folder) == (folder / name if name != "odd-name.safetensors" else folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").unlink()
    assert model_file(folder) == folder / name
    assert EDMDigitsAdapter.from_checkpoint(folder, device="cpu").config["model_channels"] == 8


def test_folder_with_several_or_no_model_files_says_so(tmp_path: Path, edm: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "unet").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"no model file \(.*\.safetensors.*\); give one of its folders: unet"):
        read_checkpoint_file(folder)
    for name in ("a", "b"):
        (folder / f"{name}.safetensors").write_bytes(edm.read_bytes())
    with pytest.raises(CheckpointError, match=r"several model files \(a\.safetensors, b\.safetensors\)"):
        read_checkpoint_file(folder)


def write_shards(folder: Path, places: dict[str, str]) -> Path:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2), "b": torch.zeros(3)}, tmp_path / "m-1.safetensors")
    save_file({"c": torch.arange(4)}, tmp_path / "m-2.safetensors")
    write_shards(tmp_path, {"a": "m-1.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"})
    assert same(read_checkpoint_file(tmp_path)[0], {"a": torch.ones(2), "b": torch.zeros(3), "c": torch.arange(4)})


@pytest.mark.parametrize(
    "shard", ["../outside.safetensors", "/etc/hosts", "sub/x.safetensors", "..", "", "gone.safetensors", 3, "a\\b"]
)
def test_shard_outside_the_folder_is_refused(tmp_path: Path, shard: object) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for path in (tmp_path / "outside.safetensors", folder / "sub" / "x.safetensors"):
        save_file({"a": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="is not in its folder"):
        read_checkpoint_file(write_shards(folder, {"a": shard}))  # type: ignore[dict-item]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000])
def test_broken_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"the index .*x\.safetensors\.index\.json"):
        read_checkpoint_file(tmp_path / "x.safetensors.index.json")


def test_promised_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"m\.safetensors lacks the tensor 'b'"):
        read_checkpoint_file(write_shards(tmp_path, {"a": "m.safetensors", "b": "m.safetensors"}))


def test_same_tensors_and_notes_give_the_same_file(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(6.0), "a": torch.ones(2, 3)}
    notes = {name: f"{name} – é\n" for name in ("config", "format", "source", "by", "licence", "version")}
    written = {
        write_safetensors(tmp_path / f"{i}.safetensors", tensors, dict(reversed(notes.items()))).read_bytes()
        for i in range(6)
    }
    assert len(written) == 1
    stored, metadata = read_safetensors(tmp_path / "0.safetensors")
    assert same(stored, tensors)
    assert metadata == notes
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert (tmp_path / "0.safetensors").stat().st_mode == ordinary.stat().st_mode


def test_written_safetensors_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = torch.arange(6.0)
    tensors = {"a": base, "b": base[2:4], "turned": base.reshape(2, 3).T}
    path = write_safetensors(tmp_path / "sub" / "w.safetensors", tensors, {"config": "{}"})
    stored, metadata = read_safetensors(path)
    assert same(stored, tensors)
    assert metadata == {"config": "{}"}
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        Path(str(_[1])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        write_safetensors(path, {"a": torch.zeros(1)})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(CheckpointError, match="no tensors"):
        write_safetensors(tmp_path / "none.safetensors", {})
