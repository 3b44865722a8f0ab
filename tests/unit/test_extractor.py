"""Capturing activations, and the legacy files of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffviews.adapters import Condition
from diffviews.core import (
    ActivationExtractor,
    capture,
    convert_to_fast_format,
    flatten_activations,
    load_activations,
    load_fast_activations,
)
from diffviews.errors import ConfigError, CorruptDataError, LayerNotFoundError, SelectionError, ShapeError
from diffviews.noise import sample_noise
from tests.fakes import GaussianAdapter, SkipAdapter, gaussian_denoised

SHAPE = (3, 8, 8)


def test_input_of_a_capture_is_the_sample_plus_sigma_times_its_own_noise() -> None:
    adapter = GaussianAdapter()
    x0 = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    given = adapter.condition([Condition(0), Condition(3)])
    for sigma in (0.5, 20.0):
        captured = capture(adapter, x0, ["a", "b"], given, sigma, ["input", "denoised"])
        noised = x0 + sigma * sample_noise(["a", "b"], SHAPE)
        assert torch.equal(captured["input"], noised)
        mean = torch.tensor([-0.375, 0.375]).reshape(-1, 1, 1, 1)
        torch.testing.assert_close(captured["denoised"], gaussian_denoised(noised, sigma, mean))


def test_capture_of_a_sample_does_not_depend_on_its_batch() -> None:
    adapter = SkipAdapter()
    x0 = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    whole = capture(adapter, x0, ["a", "b", "c"], {}, 2.0, ["down"])["down"]
    alone = capture(adapter, x0[1:2], ["b"], {}, 2.0, ["down"])["down"]
    torch.testing.assert_close(alone, whole[1:2])


def test_capture_is_a_copy_and_leaves_no_hook() -> None:
    adapter, seen = SkipAdapter(), []
    handle = adapter.layers["tokens"].register_forward_hook(lambda m, i, out: seen.append(out["sample"].clone()))
    captured = capture(adapter, torch.zeros(1, *SHAPE), ["a"], {}, 1.0, ["tokens"])["tokens"]
    handle.remove()
    # The network goes on to change the tokens in place; what was captured must not change with them.
    assert torch.equal(captured, seen[0])
    assert not any(module._forward_hooks for module in adapter.layers.values())
    assert not captured.requires_grad


def test_capture_refuses_unknown_layers_and_missing_ids() -> None:
    with pytest.raises(LayerNotFoundError, match="did you mean 'input'"):
        capture(GaussianAdapter(), torch.zeros(1, *SHAPE), ["a"], {}, 1.0, ["imput"])
    with pytest.raises(ShapeError, match="1 sample ids for 2 samples"):
        capture(GaussianAdapter(), torch.zeros(2, *SHAPE), ["a"], {}, 1.0, ["input"])


def test_extractor_captures_only_inside_its_block() -> None:
    adapter, x = GaussianAdapter(), torch.randn(2, *SHAPE)
    with ActivationExtractor(adapter) as extractor:
        denoised = adapter.forward(x, 1.0)
        extractor.register_hooks()
        assert sum(len(module._forward_hooks) for module in adapter.layers.values()) == 2
    adapter.forward(x * 2, 1.0)
    activations = extractor.get_activations()
    assert set(activations) == {"input", "denoised"}
    assert torch.equal(activations["input"], x)
    assert torch.equal(activations["denoised"], denoised)
    extractor.clear()
    assert extractor.get_activations() == {}


def test_extractor_removes_its_hooks_on_an_error_and_refuses_unknown_layers() -> None:
    adapter = GaussianAdapter()
    with pytest.raises(RuntimeError, match="inside"), ActivationExtractor(adapter, ["input"]):
        raise RuntimeError("inside")
    assert not adapter.layers["input"]._forward_hooks
    with pytest.raises(LayerNotFoundError, match="did you mean 'denoised'"):
        ActivationExtractor(adapter, ["denoized"])


def test_extractor_reads_tuple_outputs() -> None:
    adapter = SkipAdapter()
    with ActivationExtractor(adapter, ["down", "tokens"]) as extractor:
        adapter.forward(torch.zeros(1, *SHAPE), 1.0)
    shapes = {name: tuple(value.shape) for name, value in extractor.get_activations().items()}
    assert shapes == {"down": (1, 4, 8, 8), "tokens": (1, 64, 4)}


def test_saved_activations_come_back_with_their_metadata(tmp_path: Path) -> None:
    adapter, x = GaussianAdapter(), torch.randn(2, *SHAPE)
    with ActivationExtractor(adapter) as extractor:
        adapter.forward(x, 1.0)
    path = extractor.save(tmp_path / "new" / "sigma_0.5", {"class_label": 0, "sigma": 0.5})
    assert path.name == "sigma_0.5.npz"
    for name in (path, path.with_suffix("")):
        arrays, metadata = load_activations(name)
        assert metadata == {"class_label": 0, "sigma": 0.5}
        assert np.array_equal(arrays["input"], x.flatten(1).numpy())
    bare = extractor.save(tmp_path / "bare")
    assert load_activations(bare)[1] == {}
    with pytest.raises(ConfigError, match="nothing was captured"):
        ActivationExtractor(adapter).save(tmp_path / "empty")


@given(st.permutations(["b", "a", "c10", "c9"]))
def test_flattening_sorts_the_layers(order: list[str]) -> None:
    sizes = {"a": 1, "b": 2, "c10": 3, "c9": 4}
    activations = {name: torch.full((5, sizes[name], 1), float(i)) for i, name in enumerate(order)}
    flat = flatten_activations(activations)
    expected = [float(order.index(name)) for name in sorted(order) for _ in range(sizes[name])]
    assert flat.shape == (5, 10)
    assert flat[3].tolist() == expected


def test_flattening_refuses_nothing_and_unequal_counts() -> None:
    with pytest.raises(SelectionError, match="at least one layer"):
        flatten_activations({})
    with pytest.raises(ShapeError, match="'a': 2, 'b': 3"):
        flatten_activations({"a": np.zeros((2, 1)), "b": np.zeros((3, 1))})


def test_fast_format_is_one_memory_mapped_matrix_in_sorted_order(tmp_path: Path) -> None:
    source = tmp_path / "all.npz"
    np.savez(source, up=np.full((3, 2), 2.0), down=np.full((3, 4), 1.0), mid=np.full((3, 1), 3.0))
    path = convert_to_fast_format(source)
    assert path == tmp_path / "all.npy"
    matrix = load_fast_activations(path)
    assert isinstance(matrix, np.memmap)
    assert matrix.dtype == np.float32
    assert matrix[0].tolist() == [1.0] * 4 + [3.0] + [2.0] * 2
    assert json.loads((tmp_path / "all.npy.json").read_text()) == {
        "layers": ["down", "mid", "up"],
        "shapes": {"down": [3, 4], "mid": [3, 1], "up": [3, 2]},
        "num_samples": 3,
        "total_features": 7,
    }
    part = convert_to_fast_format(source, tmp_path / "part" / "some.npy", layers=["up", "down"])
    assert load_fast_activations(part, mmap_mode=None).shape == (3, 6)
    assert json.loads(Path(f"{part}.json").read_text())["layers"] == ["down", "up"]
    with pytest.raises(LayerNotFoundError, match="did you mean 'down'"):
        convert_to_fast_format(source, layers=["dawn"])


def test_damaged_and_pickled_files_are_refused_by_name(tmp_path: Path) -> None:
    whole = tmp_path / "whole.npz"
    np.savez(whole, layer=np.zeros((4, 100)))
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:500])
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, layer=np.array([{"any": "object"}], dtype=object))
    single = tmp_path / "single.npz"
    with single.open("wb") as file:
        np.save(file, np.zeros(3))
    for path in (cut, pickled, single):
        with pytest.raises(CorruptDataError, match=path.name):
            load_activations(path)
    matrix = tmp_path / "cut.npy"
    np.save(matrix, np.zeros((4, 100)))
    matrix.write_bytes(matrix.read_bytes()[:500])
    with pytest.raises(CorruptDataError, match=r"cut\.npy"):
        load_fast_activations(matrix)
    with pytest.raises(FileNotFoundError):
        load_activations(tmp_path / "gone")
    whole.with_suffix(".json").write_text("{")
    with pytest.raises(CorruptDataError, match=r"whole\.json"):
        load_activations(whole)


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = GaussianAdapter()
    with ActivationExtractor(adapter, ["input"]) as extractor:
        adapter.forward(torch.zeros(1, *SHAPE), 1.0)
    path = extractor.save(tmp_path / "kept")
    before = path.read_bytes()

    def full(file: object, **arrays: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        extractor.save(tmp_path / "kept")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["kept.npz"]
