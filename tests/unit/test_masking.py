"""Masks and how they are made from stored activations."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffviews.core import (
    ActivationMasker,
    compute_mask_dict,
    load_activation_from_npz,
    unflatten_activation,
)
from diffviews.errors import ConfigError, LayerNotFoundError, SelectionError, ShapeError
from tests.fakes import GaussianAdapter, SkipAdapter

SHAPE = (3, 8, 8)
SHAPES = {"up": (2, 1, 2), "down": (1, 2, 2), "mid": (3, 5)}


def matrix(rows: int = 6) -> np.ndarray:
    """Rows whose layers, in sorted order, hold 1000·layer + 10·row + position."""
    layers = [np.arange(4) + 0, np.arange(15) + 1000, np.arange(4) + 2000]
    return np.concatenate(layers)[None] + 10.0 * np.arange(rows)[:, None]


def test_mask_replaces_the_output_of_any_batch_inside_the_block() -> None:
    adapter = GaussianAdapter()
    masker = ActivationMasker(adapter)
    masker.set_mask("denoised", torch.full((1, *SHAPE), 0.5))
    with masker:
        for batch in (1, 4):
            assert (adapter.forward(torch.randn(batch, *SHAPE), 1.0) == 0.5).all()
    assert not (adapter.forward(torch.randn(1, *SHAPE), 1.0) == 0.5).any()


def test_masks_can_be_cleared_while_hooks_stay() -> None:
    adapter, x = GaussianAdapter(), torch.randn(1, *SHAPE)
    masker = ActivationMasker(adapter)
    plain = adapter.forward(x, 1.0)
    for clear in (lambda: masker.clear_mask("denoised"), masker.clear_masks):
        masker.set_mask("denoised", torch.full((1, *SHAPE), 0.5))
        masker.register_hooks()
        assert not torch.equal(adapter.forward(x, 1.0), plain)
        clear()
        assert torch.equal(adapter.forward(x, 1.0), plain)
    masker.remove_hooks()
    assert not adapter.layers["denoised"]._forward_hooks


def test_registering_twice_hooks_once_and_named_layers_only() -> None:
    adapter, x = GaussianAdapter(), torch.randn(1, *SHAPE)
    masker = ActivationMasker(adapter)
    masker.set_mask("input", torch.zeros(1, *SHAPE))
    masker.set_mask("denoised", torch.full((1, *SHAPE), 0.5))
    masker.register_hooks()
    masker.register_hooks(["input"])
    assert len(adapter.layers["input"]._forward_hooks) == 1
    assert not adapter.layers["denoised"]._forward_hooks
    assert not adapter.forward(x, 1.0).any()
    with masker.suspended():
        assert adapter.forward(x, 1.0).any()
    assert not adapter.forward(x, 1.0).any()
    masker.remove_hooks()


def test_unknown_layer_and_wrong_shape_are_refused() -> None:
    adapter = GaussianAdapter()
    masker = ActivationMasker(adapter)
    masker.set_mask("inputs", torch.zeros(1, *SHAPE))
    with pytest.raises(LayerNotFoundError, match="did you mean 'input'"):
        masker.register_hooks()
    masker.clear_masks()
    masker.set_mask("input", torch.zeros(1, 3, 4, 4))
    with masker, pytest.raises(ShapeError, match=r"\(1, 3, 4, 4\).*\(2, 3, 8, 8\)"):
        adapter.forward(torch.zeros(2, *SHAPE), 1.0)
    assert not adapter.layers["input"]._forward_hooks
    with pytest.raises(ConfigError, match="192 NaN or infinite"):
        masker.set_mask("input", torch.full((1, *SHAPE), float("nan")))


@pytest.mark.parametrize("copy_skip", [False, True])
def test_mask_reaches_the_skip_of_a_tuple_output(copy_skip: bool) -> None:
    adapter = SkipAdapter(copy_skip)
    masker = ActivationMasker(adapter)
    masker.set_mask("down", torch.full((1, 4, 8, 8), 0.1))
    with masker:
        one = adapter.forward(torch.zeros(1, *SHAPE), 1.0)
        other = adapter.forward(torch.ones(1, *SHAPE), 1.0)
    assert torch.equal(one, other)


def test_mask_stays_as_it_was_when_later_layers_work_in_place() -> None:
    adapter = SkipAdapter()
    masker = ActivationMasker(adapter)
    mask = torch.randn(1, 64, 4)
    masker.set_mask("tokens", mask)
    kept = mask.clone()
    adapter.layers["up"].register_forward_pre_hook(lambda m, args: args[0].mul_(2))
    with masker:
        adapter.forward(torch.zeros(1, *SHAPE), 1.0)
    assert torch.equal(masker.masks["tokens"], kept)


def test_masks_are_the_means_of_the_chosen_rows() -> None:
    masks = compute_mask_dict(matrix(), [1, 3, 5], SHAPES)
    assert {name: tuple(mask.shape) for name, mask in masks.items()} == {
        "down": (1, 1, 2, 2), "mid": (1, 3, 5), "up": (1, 2, 1, 2),
    }  # fmt: skip
    assert all(mask.dtype == torch.float32 for mask in masks.values())
    assert masks["down"].flatten().tolist() == [30.0, 31.0, 32.0, 33.0]
    assert masks["up"].flatten().tolist() == [2030.0, 2031.0, 2032.0, 2033.0]


@given(st.lists(st.sampled_from(sorted(SHAPES)), min_size=1, unique=True), st.permutations(sorted(SHAPES)))
def test_offsets_count_every_layer_whichever_are_asked_for(layers: list[str], order: list[str]) -> None:
    whole = compute_mask_dict(matrix(), [0, 2], SHAPES)
    some = compute_mask_dict(matrix(), [0, 2], {name: SHAPES[name] for name in order}, layers)
    assert set(some) == set(layers)
    assert all(torch.equal(some[name], whole[name]) for name in layers)


def test_unknown_layer_shifts_no_offset_but_is_refused() -> None:
    with pytest.raises(LayerNotFoundError, match="did you mean 'mid'"):
        compute_mask_dict(matrix(), [0], SHAPES, ["down", "midd", "up"])


def test_rows_of_a_filtered_table_must_be_those_of_the_activations() -> None:
    """Row numbers are positions in the matrix, so the caller's ids decide, never a re-indexed table."""
    ids = [f"s{i}" for i in range(6)]
    kept = [i for i, name in enumerate(ids) if name in {"s2", "s4"}]
    assert compute_mask_dict(matrix(), kept, SHAPES)["down"].flatten()[0] == 30.0


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([], "no samples are selected"),
        ([0, 6], "row 6 is not one of 0 … 5"),
        ([-1], "row -1"),
        ([1, 1], "more than once"),
        ([0.5], "integers"),
    ],
)
def test_impossible_selection_is_refused(rows: Any, named: str) -> None:
    with pytest.raises(SelectionError, match=named):
        compute_mask_dict(matrix(), rows, SHAPES)


def test_nan_in_a_selected_row_is_told_and_others_do_not_matter() -> None:
    values = matrix()
    values[2, 5] = np.nan
    with pytest.raises(SelectionError, match=r"1 of 2 selected samples.*'mid'"):
        compute_mask_dict(values, [1, 2], SHAPES)
    compute_mask_dict(values, [1, 3], SHAPES)
    compute_mask_dict(values, [1, 2], SHAPES, ["up"])


def test_width_must_be_the_sum_of_all_layers() -> None:
    with pytest.raises(ShapeError, match=r"\(6, 23\).*\(N, 8\)"):
        compute_mask_dict(matrix(), [0], {"up": (2, 1, 2), "down": (1, 2, 2)})


def test_masks_come_alike_from_memory_maps_tensors_and_half_precision(tmp_path: Path) -> None:
    values = matrix().astype(np.float32)
    np.save(tmp_path / "rows.npy", values)
    expected = compute_mask_dict(values, [0, 4], SHAPES)
    for given_as in (
        np.load(tmp_path / "rows.npy", mmap_mode="r"),
        torch.from_numpy(values),
        values.astype(np.float16),
    ):
        masks = compute_mask_dict(given_as, np.array([0, 4]), SHAPES)
        assert all(torch.allclose(masks[name], expected[name], rtol=1e-3) for name in expected)


def test_layer_is_read_from_a_file_and_gets_its_shape_back(tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    np.savez(path, mid=np.arange(12.0), up=np.arange(24.0).reshape(2, 12))
    flat = load_activation_from_npz(path, "mid")
    assert flat.shape == (1, 12)
    assert unflatten_activation(flat, (3, 2, 2)).shape == (1, 3, 2, 2)
    assert unflatten_activation(flat[0], (3, 2, 2))[0, 1, 0, 1] == 5
    assert unflatten_activation(load_activation_from_npz(path, "up"), (3, 2, 2)).shape == (2, 3, 2, 2)
    assert unflatten_activation(np.arange(12.0), (6, 2)).shape == (1, 6, 2)
    with pytest.raises(ShapeError, match=r"12 values.*\(4, 2, 2\).*16"):
        unflatten_activation(flat, (4, 2, 2))
    with pytest.raises(LayerNotFoundError, match="did you mean 'mid'"):
        load_activation_from_npz(path, "midd")
    with pytest.raises(ValueError, match=r"layer not found in .*layer 'midd'"):
        load_activation_from_npz(path, "midd")
