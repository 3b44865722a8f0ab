"""Reading and replacing layer outputs of every form, and hooks that leave nothing behind."""

import dataclasses
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from diffviews.adapters.hooks import (
    HookMixin,
    attach_hooks,
    fit_batch,
    primary_tensor,
    replace_primary,
)
from diffviews.errors import ConfigError, LayerNotFoundError, ShapeError
from tests.fakes import SkipAdapter


class Pair(NamedTuple):
    hidden: Tensor
    rest: Any


@dataclasses.dataclass(frozen=True)
class Record:
    sample: Tensor
    label: str
    skips: list[Tensor]


H = torch.arange(8.0).reshape(2, 4)
NEW = torch.full((2, 4), 9.0)
OTHER = torch.ones(2, 4)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (H, NEW),
        ((H, OTHER), (NEW, OTHER)),
        ((H, (OTHER, H)), (NEW, (OTHER, NEW))),
        ((H, [OTHER, H.clone()]), (NEW, [OTHER, NEW])),
        ((H, H.view(2, 4)), (NEW, NEW)),
        (("text", None, H), ("text", None, NEW)),
        ({"sample": H, "skips": (H, OTHER)}, {"sample": NEW, "skips": (NEW, OTHER)}),
        (OrderedDict(a=H, b=3), OrderedDict(a=NEW, b=3)),
    ],
)
def test_replacement_reaches_every_place_of_the_primary_tensor(output: Any, expected: Any) -> None:
    replaced = replace_primary(output, NEW)
    assert type(replaced) is type(output)
    torch.utils._pytree.tree_map(_same, replaced, expected)


def _same(a: Any, b: Any) -> None:
    assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_named_tuples_and_dataclasses_keep_their_type() -> None:
    pair = replace_primary(Pair(H, (H, "kept")), NEW)
    assert isinstance(pair, Pair)
    assert pair.hidden is NEW
    assert pair.rest == (NEW, "kept")
    record = replace_primary(Record(H, "kept", [OTHER, H.clone()]), NEW)
    assert isinstance(record, Record)
    assert record.sample is NEW
    assert record.label == "kept"
    assert record.skips[0] is OTHER
    assert record.skips[1] is NEW


def test_tensors_that_only_resemble_the_primary_stay() -> None:
    shorter, other_dtype = H[:1], H.double()
    replaced = replace_primary((H, shorter, other_dtype, OTHER), NEW)
    assert replaced[1] is shorter
    assert replaced[2] is other_dtype
    assert replaced[3] is OTHER


def test_output_without_a_tensor_is_refused() -> None:
    assert primary_tensor((None, [H])) is H
    with pytest.raises(ShapeError, match="tuple without a tensor"):
        primary_tensor((None, "text"))


def test_one_row_serves_any_batch_and_misfits_name_both_shapes() -> None:
    assert fit_batch(torch.ones(1, 3), torch.zeros(5, 3), "mid").shape == (5, 3)
    assert fit_batch(torch.ones(5, 3), torch.zeros(5, 3, dtype=torch.float64), "mid").dtype == torch.float64
    for wrong in ((1, 4), (2, 3), (1, 3, 1)):
        with pytest.raises(ShapeError, match=r"'mid'") as caught:
            fit_batch(torch.ones(wrong), torch.zeros(5, 3), "mid")
        assert str(wrong) in str(caught.value)
        assert "(5, 3)" in str(caught.value)


def hook_count(adapter: SkipAdapter) -> int:
    return sum(len(module._forward_hooks) for module in adapter.layers.values())


def test_hooks_are_attached_all_or_none() -> None:
    class FailsOnUp(SkipAdapter):
        def register_activation_hooks(self, layer_names: list[str], hook_fn: Any) -> Any:
            if layer_names == ["up"]:
                raise RuntimeError("no")
            return super().register_activation_hooks(layer_names, hook_fn)

    adapter = FailsOnUp()
    hook = lambda *_: None  # noqa: E731
    with pytest.raises(RuntimeError, match="no"):
        attach_hooks(adapter, {"down": hook, "tokens": hook, "up": hook})
    assert hook_count(adapter) == 0
    with pytest.raises(LayerNotFoundError, match="did you mean 'tokens'"):
        attach_hooks(adapter, {"down": hook, "token": hook})
    assert hook_count(adapter) == 0


class Mixed(HookMixin):
    """A HookMixin whose subclass never called `__init__`."""

    def __init__(self) -> None:
        self.layer = nn.Identity()


def test_mixin_counts_and_removes_its_hooks() -> None:
    mixed = Mixed()
    assert mixed.num_hooks == 0
    first = mixed.layer.register_forward_hook(lambda *_: None)
    mixed.add_handle(first)
    mixed.add_handle(mixed.layer.register_forward_hook(lambda *_: None))
    assert mixed.num_hooks == 2
    first.remove()
    assert mixed.num_hooks == 1
    mixed.remove_hooks()
    assert mixed.num_hooks == 0
    assert not mixed.layer._forward_hooks


def test_mixin_extracts_a_copy_of_the_output() -> None:
    mixed = Mixed()
    mixed.layer.register_forward_hook(mixed.make_extraction_hook("layer"))
    x = torch.zeros(1, 2)
    mixed.layer(x).add_(1.0)
    assert torch.equal(mixed.get_activation("layer"), torch.zeros(1, 2))
    assert set(mixed.get_activations()) == {"layer"}
    mixed.clear_activations()
    assert mixed.get_activation("layer") is None


def test_mixin_keeps_masks_and_its_mask_hook_replaces() -> None:
    mixed = Mixed()
    mask = torch.full((1, 2), 7.0)
    mixed.set_mask("layer", mask)
    assert torch.equal(mixed.get_mask("layer"), mask)
    mixed.layer.register_forward_hook(mixed.make_mask_hook("layer", mask))
    output = mixed.layer(torch.zeros(3, 2))
    assert torch.equal(output, torch.full((3, 2), 7.0))
    output.add_(1.0)
    assert torch.equal(mask, torch.full((1, 2), 7.0)), "a later layer's in-place change reached the mask"
    mixed.clear_mask("layer")
    assert mixed.get_mask("layer") is None
    mixed.set_mask("layer", mask)
    mixed.clear_masks()
    assert mixed.get_mask("layer") is None
    with pytest.raises(ConfigError, match="1 NaN or infinite values of 2"):
        mixed.set_mask("layer", torch.tensor([[1.0, float("nan")]]))
