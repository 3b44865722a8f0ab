"""Joined layers, chunk sizes, and the disk they need."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffviews.data.activations import ActivationWriter
from diffviews.data.disk import format_bytes, require_disk_space
from diffviews.data.layout import LayerLayout, chunk_rows, estimate_bytes
from diffviews.errors import ConfigError, DiskSpaceError, LayerNotFoundError, ShapeError

SHAPES = {"midblock": (3, 2, 2), "decoder_block_1": (2, 2, 2), "encoder_block_0": (5,)}
LAYOUT = LayerLayout.from_shapes(SHAPES)


def test_layout_sorts_layers_and_adds_up_their_offsets() -> None:
    assert LAYOUT.names == ("decoder_block_1", "encoder_block_0", "midblock")
    assert [LAYOUT.span(name) for name in LAYOUT.names] == [slice(0, 8), slice(8, 13), slice(13, 25)]
    assert LAYOUT.size == 25
    assert LAYOUT.shape("midblock") == (3, 2, 2)


def test_unknown_layer_raises_and_offers_the_nearest() -> None:
    for ask in (LAYOUT.span, LAYOUT.shape):
        with pytest.raises(LayerNotFoundError, match="did you mean 'midblock'"):
            ask("mid_block")


def test_layout_refuses_what_is_no_layout() -> None:
    with pytest.raises(ConfigError):
        LayerLayout((), ())
    with pytest.raises(ConfigError, match="sorted"):
        LayerLayout(("b", "a"), ((1,), (1,)))
    with pytest.raises(ConfigError):
        LayerLayout(("a", "b"), ((1,),))
    with pytest.raises(ShapeError):
        LayerLayout.from_shapes({"a": (0, 2)})


@given(st.lists(st.integers(1, 128), min_size=1, max_size=3), st.sampled_from(["float16", "float32"]))
def test_chunks_are_powers_of_two_within_their_bounds(shape: list[int], dtype: str) -> None:
    rows = chunk_rows(shape, dtype)
    size = rows * int(np.prod(shape)) * np.dtype(dtype).itemsize
    assert 1 <= rows <= 1024
    assert rows & (rows - 1) == 0
    assert rows == 1 or size <= 4 * 2**20
    assert rows == 1024 or size > 2 * 2**20


@pytest.mark.parametrize(("samples", "rows"), [(1, 1), (2, 2), (3, 4), (32, 32), (33, 32), (5000, 32)])
def test_small_sets_have_no_larger_chunk_than_they_fill(samples: int, rows: int) -> None:
    assert chunk_rows((256, 16, 16), "float16", samples) == rows


@pytest.mark.parametrize("samples", [1, 5, 33])
def test_estimated_bytes_are_those_on_disk(tmp_path: Path, samples: int) -> None:
    shapes = {"a": (256, 16, 16), "b": (7,)}
    for layer, shape in shapes.items():
        writer = ActivationWriter(
            tmp_path / layer,
            sample_ids=[str(i) for i in range(samples)],
            layer=layer,
            shape=shape,
            dtype="float16",
            sigma=1.0,
            model_digest="m",
            dataset_digest="d",
        )
        writer.write(0, np.ones((samples, *shape), np.float16))
    written = sum(file.stat().st_size for file in tmp_path.glob("*/c/**/*") if file.is_file())
    assert written == estimate_bytes(samples, shapes, "float16")


def test_estimate_refuses_a_negative_number() -> None:
    with pytest.raises(ConfigError):
        estimate_bytes(-1, SHAPES)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1536, "1.54 kB"), (999_900, "1 MB"), (3_100_000_000, "3.1 GB")],
)
def test_format_bytes_is_short_and_decimal(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_disk_space_is_measured_where_the_path_will_lie(tmp_path: Path) -> None:
    assert require_disk_space(tmp_path / "not" / "there" / "yet", 1) > 1


def test_too_small_a_disk_is_refused_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2_000_000_000))
    assert require_disk_space(tmp_path, 2_000_000_000) == 2_000_000_000
    with pytest.raises(DiskSpaceError, match=r"2\.5 GB are needed .* only 2 GB free") as caught:
        require_disk_space(tmp_path / "runs", 2_500_000_000)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError):
        require_disk_space(tmp_path, -1)
