"""Defaults that every adapter inherits."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffviews.errors import ConfigError, ShapeError
from tests.fakes import GaussianAdapter, SkipAdapter


class Plain(GaussianAdapter):
    resolution = 16


class IsModule(nn.Module, GaussianAdapter):
    """An adapter that is its own network."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.scale = nn.Parameter(torch.ones(2))
        self.norm = nn.BatchNorm1d(2)
        self.layers = nn.ModuleDict()

    def forward(self, x: Tensor, *arguments: object, **options: object) -> Tensor:  # type: ignore[override]
        return x


def test_every_grey_level_survives_encoding_and_decoding_exactly() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    adapter = Plain()
    x0 = adapter.encode(images)
    assert x0.shape == (1, 3, 16, 16)
    assert (x0.min(), x0.max()) == (-1.0, 1.0)
    assert np.array_equal(adapter.decode(x0), images)


def test_decoding_rounds_to_the_nearest_level_and_clips() -> None:
    x0 = torch.tensor([-3.0, -1.0, 0.49 / 127.5 - 1, 0.51 / 127.5 - 1, 1.0, 3.0]).reshape(1, 1, 1, 6)
    pixels = Plain().decode(x0)
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]
    assert (pixels == pixels[..., :1]).all()  # grey is the same in all three channels


def test_images_of_another_kind_are_refused_with_both_shapes() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 8, 16, 3\).*\(N, 16, 16, 3\)"):
        Plain().encode(np.zeros((2, 8, 16, 3), np.uint8))
    with pytest.raises(ShapeError, match="float64"):
        Plain().encode(np.zeros((2, 16, 16, 3)))


def test_class_outside_the_model_is_refused() -> None:
    for wrong in (-2, 4):
        with pytest.raises(ConfigError, match=f"class {wrong} is not one of 0 … 3"):
            Plain().make_labels([0, wrong])


def test_digest_follows_weights_names_and_configuration() -> None:
    first, same = SkipAdapter(), SkipAdapter()
    assert first.digest() == same.digest() != GaussianAdapter().digest()

    class OtherConfig(SkipAdapter):
        @classmethod
        def get_default_config(cls) -> dict[str, object]:
            return {"fake": False}

    assert OtherConfig().digest() != first.digest()
    half = SkipAdapter()
    half.layers.half()
    assert half.digest() != first.digest()


def test_adapter_that_is_a_module_is_moved_switched_and_digested() -> None:
    adapter = IsModule()
    assert adapter.training
    assert adapter.eval() is adapter
    assert not adapter.norm.training
    assert adapter.to("meta") is adapter
    assert adapter.device.type == "meta"
    one, other = IsModule(), IsModule()
    other.scale.data += 1
    assert one.digest() != other.digest()


def test_adapter_describes_itself_in_one_line() -> None:
    expected = "GaussianAdapter(model_type='fake', resolution=8, num_classes=4, layers=2)"
    assert repr(GaussianAdapter()) == expected
