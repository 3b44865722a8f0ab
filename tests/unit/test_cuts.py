"""Layers that have one effect are one cut: on a U-Net, on networks of tuples and tokens, on planted ones."""

import pytest
import torch

from diffviews import get_adapter
from diffviews.adapters.registry import load_adapter
from diffviews.core.cuts import find_cuts
from diffviews.core.interchange import cells_of
from diffviews.core.rows import RowCopy
from diffviews.errors import ConfigError, ShapeError
from tests.diffusion_folders import draw_sd_pipeline, saved
from tests.fakes import GaussianAdapter, SkipAdapter, TextAdapter
from tests.planted import PlantedAdapter, SkipCarriedAdapter


def names(found):
    return [cut.layers for cut in found.cuts]


def test_cuts_of_edm_digits_are_its_trunk_with_the_skips_that_reach_past():
    found = find_cuts(get_adapter("edm-digits").from_checkpoint(None, device="cpu"))
    assert names(found) == [
        ("encoder_block_0", "decoder_block_9"),
        ("encoder_block_1", "decoder_block_8"),
        ("encoder_block_2", "decoder_block_6", "decoder_block_7"),
        ("encoder_block_3", "decoder_block_5"),
        ("encoder_block_4", "decoder_block_3", "decoder_block_4"),
        ("encoder_bottleneck", "decoder_block_2"),
        ("midblock", "decoder_block_1"),
    ]
    assert found.outermost == found.cuts[0]
    assert (found.idle, found.tolerance) == ((), 0.0)


def test_cuts_are_found_within_the_rounding_of_a_short_format():
    found = find_cuts(load_adapter("edm-digits", None, device="cpu", precision="bfloat16"), sigmas=[2.0])
    assert ("encoder_block_2", "decoder_block_6", "decoder_block_7") in names(found)
    assert (len(found.cuts), found.tolerance) == (7, 2.0**-5)


@pytest.mark.parametrize("adapter", [GaussianAdapter(), TextAdapter()])
def test_input_and_result_of_one_path_are_one_cut_that_all_goes_through(adapter):
    found = find_cuts(adapter)
    # Preconditioning mixes the input past no layer here: 'input' is the whole of x.
    assert names(found) == [("input", "denoised")]
    assert found.outermost == found.cuts[0]


@pytest.mark.parametrize("copy_skip", [False, True])
def test_skip_of_a_tuple_is_what_is_patched(copy_skip):
    found = find_cuts(SkipAdapter(copy_skip))
    assert names(found) == [("down", "up"), ("tokens",)]  # 'down' reaches 'up' by its tokens and by its skip


@pytest.mark.parametrize("deciding", ["block_0", "block_3"])
def test_layers_without_effect_are_named_as_such(deciding):
    found = find_cuts(PlantedAdapter(deciding, (0.0, 1e9)))
    assert found.idle == ("idle",)
    assert names(found) == [(f"block_{number}",) for number in range(5)]
    assert found.outermost is None  # each carries something that no other one does


def test_cuts_of_a_stable_diffusion_network_go_through_its_last_block(tmp_path):
    folder = saved(draw_sd_pipeline(0), tmp_path / "sd")
    found = find_cuts(load_adapter("sd-v1.5", folder, device="cpu"), sigmas=[1.0])
    assert ("down_block_0_resnet_0", "up_block_1_resnet_0") in names(found)  # the skip is what the block hands on
    assert ("mid_block_resnet_0", "mid_block_attention_0", "mid_block_resnet_1", "mid_block") in names(found)
    assert found.outermost.layers == ("up_block_1_resnet_1", "up_block_1")
    assert all(cell.after for cell in cells_of(found, [(0, 2)]) if cell.part == "skips")


def test_cuts_do_not_depend_on_the_layers_asked_for():
    found = find_cuts(SkipCarriedAdapter(), ["middle", "last"])
    assert names(found) == [("middle",), ("last",)]
    assert found.outermost == found.cuts[1]


def test_row_copies_that_cannot_be_are_refused():
    with pytest.raises(ShapeError, match=r"\(2,\) rows that give and \(1,\)"):
        RowCopy("a", torch.tensor([0, 1]), torch.tensor([2]))
    with pytest.raises(ConfigError, match="named twice"):
        RowCopy("a", torch.tensor([0, 1]), torch.tensor([2, 2]))


def test_row_copies_give_all_sources_as_they_were():
    swapped = RowCopy("a", torch.tensor([0, 1]), torch.tensor([1, 0]))
    own = torch.arange(6.0).reshape(3, 2)
    assert swapped.apply(own, swapped.value_at(1.0)).tolist() == [[2, 3], [0, 1], [4, 5]]
    assert own.tolist() == [[0, 1], [2, 3], [4, 5]]
