"""Scenes: the same by index, balanced, anti-aliased, and with masks, boxes and captions that are true."""

from dataclasses import fields
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from diffviews.data.samples import SampleSet
from diffviews.data.shapes import (
    COLOURS,
    FACTORS,
    GROUNDS,
    caption,
    draw_scenes,
    factor_columns,
    parse,
    render,
    scenes_of,
)
from diffviews.data.shapes.captions import words
from diffviews.data.shapes.scene import BLOCK, JITTER, OBJECT_FACTORS, RADII, SPACING
from diffviews.data.sources import open_source
from diffviews.errors import SampleSetError, SelectionError
from diffviews.pipelines.layers import runs

AREAS = {
    "circle": np.pi, "square": 4.0, "triangle": 2.0, "cross": 8 * 0.34 - 4 * 0.34**2, "ring": np.pi * (1 - 0.5**2),
    "hourglass": 2 * (1 + 0.1),
}  # fmt: skip
"""Of each shape with half the height 1."""


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    rng = np.random.default_rng(3)
    indices = rng.choice(3 * BLOCK, 200, replace=False)
    some, alone = draw_scenes(indices, seed=5), draw_scenes(indices[:1], seed=5)
    whole = draw_scenes(range(3 * BLOCK), seed=5)
    for field in fields(some):
        value = getattr(some, field.name)
        if field.name != "seed":
            np.testing.assert_array_equal(value, getattr(whole, field.name)[indices])
            np.testing.assert_array_equal(value[:1], getattr(alone, field.name))
    np.testing.assert_array_equal(render(some).images[:1], render(alone).images)
    assert caption(some, 0) == caption(alone, 0)
    assert not np.array_equal(some.shape, draw_scenes(indices, seed=6).shape)


def test_factors_are_balanced_and_independent() -> None:
    scenes = draw_scenes(range(BLOCK, 2 * BLOCK), seed=2)
    columns = np.column_stack([*(getattr(scenes, name)[:, 0] for name in OBJECT_FACTORS), scenes.ground])
    assert len(np.unique(columns, axis=0)) == BLOCK == 3888
    assert scenes.two.mean() == pytest.approx(0.25, abs=0.02)
    for name in ("shape", "colour", "size"):
        shares = np.bincount(getattr(scenes, name)[scenes.two, 1]) / scenes.two.sum()
        np.testing.assert_allclose(shares, 1 / len(FACTORS[name]), atol=0.05)


def test_a_second_object_hides_nothing_and_all_are_inside() -> None:
    scenes = draw_scenes(range(1500), seed=1)
    coverage = render(scenes, 64).coverage.astype(int)
    assert (coverage.sum(axis=1) <= 255).all(), "the two touch one pixel only where they share it"
    there = np.isfinite(scenes.centre[..., 0])
    radius = np.array(RADII)[scenes.size][there][:, None]
    assert (scenes.centre[there] - radius >= -1e-9).all()
    assert (scenes.centre[there] + radius <= 1 + 1e-9).all()
    row, column = np.divmod(scenes.place[there], 3)
    assert abs(scenes.centre[there] - SPACING * (np.column_stack([column, row]) + 1)).max() <= JITTER


@pytest.mark.parametrize("side", [32, 47, 64])
def test_area_is_the_analytic_one(side: int) -> None:
    scenes = draw_scenes(range(1500), seed=7)
    areas = render(scenes, side).coverage[:, 0].sum(axis=(1, 2)) / 255
    exact = np.array([AREAS[FACTORS["shape"][shape]] for shape in scenes.shape[:, 0]])
    exact *= (np.array(RADII)[scenes.size[:, 0]] * side) ** 2
    assert abs(areas / exact - 1).max() < 0.01
    for shape in range(6):
        assert (areas / exact)[scenes.shape[:, 0] == shape].mean() == pytest.approx(1, abs=0.001)


def test_masks_and_boxes_are_those_of_the_pixels() -> None:
    scenes = draw_scenes(range(300), seed=4)
    made = render(scenes)
    bare = np.array(list(GROUNDS.values()), np.uint8)[scenes.ground]
    differs = (made.images != bare[:, None, None]).any(axis=-1)
    touched = made.coverage > 0
    assert (touched.any(axis=1) | ~differs).all()
    assert (differs | ~(made.coverage >= 8).any(axis=1)).all(), "a share of 8/255 shows in every pair of colours"
    full = made.coverage == 255
    for row, number in np.argwhere(full.any(axis=(2, 3))):
        colour = COLOURS[FACTORS["colour"][scenes.colour[row, number]]]
        assert (made.images[row][full[row, number]] == colour).all()
    np.testing.assert_array_equal(made.masks.any(axis=(2, 3)), scenes.shape >= 0)
    for row, number in np.argwhere(scenes.shape >= 0):
        left, top, right, bottom = made.boxes[row, number]
        y, x = np.nonzero(touched[row, number])
        assert (left, top, right, bottom) == (x.min(), y.min(), x.max() + 1, y.max() + 1)
    assert not made.boxes[~scenes.two, 1].any()


def test_captions_give_back_what_they_describe() -> None:
    scenes = draw_scenes(range(3000), seed=9)
    seen = set()
    for row in range(len(scenes)):
        text = caption(scenes, row)
        asked = parse(text)
        assert asked.ground == scenes.factors(row)["ground"], text
        assert len(asked.objects) == 1 + int(scenes.two[row]), text
        for number, factors in enumerate(asked.objects):
            assert {**factors, "ground": asked.ground} == scenes.factors(row, number), text
        seen |= set(text.replace(",", "").split())
    assert seen == set(words()) - {"object"}


def test_captions_leave_out_what_they_are_told_to() -> None:
    scenes, draws, counts = draw_scenes(range(1500), seed=1), np.random.default_rng(0), []
    for row in range(len(scenes)):
        asked = parse(caption(scenes, row, draws, omit=0.3))
        for number, factors in enumerate(asked.objects):
            assert factors.items() <= scenes.factors(row, number).items()
            counts.append(len(factors) / 4)
    assert np.mean(counts) == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a small red elefant", "elefant"), ("red", "names no object"), ("a red blue circle", "second colour"),
        ("a circle on pink", "pink"), ("", "names no object"), ("a circle and", "circle"),
    ],
)  # fmt: skip
def test_a_caption_of_other_words_is_refused(text: str, named: str) -> None:
    with pytest.raises(SampleSetError, match=named):
        parse(text)


def test_colours_are_told_apart() -> None:
    lab = {name: _lab(rgb) for name, rgb in {**COLOURS, **GROUNDS}.items()}
    distances = {pair: float(np.linalg.norm(lab[pair[0]] - lab[pair[1]])) for pair in combinations(lab, 2)}
    assert min(distances.values()) > 30, min(distances, key=distances.__getitem__)


def test_source_gives_scenes_as_samples() -> None:
    samples = open_source("shapes:50?size=64&seed=3")
    scenes = draw_scenes(range(50), seed=3)
    assert samples.images.shape == (50, 64, 64, 3)
    np.testing.assert_array_equal(samples.images, render(scenes, 64).images)
    assert list(samples.prompts) == [caption(scenes, row) for row in range(50)]
    np.testing.assert_array_equal(samples.class_labels, scenes.shape[:, 0])
    assert samples.classes[3] == "cross"
    assert len(open_source("shapes", max_samples=12)) == 12
    assert open_source("shapes:40", max_samples=12).images.shape == (12, 32, 32, 3)
    (asked,) = parse(open_source("shapes:1?omit=100").prompts[0]).objects
    assert not asked
    assert open_source("shapes:10", resolution=16).images.shape == (10, 16, 16, 3)


@pytest.mark.parametrize("location", ["0", "ten", "5?colour=1", "5?size=8", "5?size=257", "5?omit=101", "5?", "?seed"])
def test_source_refuses_what_it_does_not_know(location: str) -> None:
    with pytest.raises(SampleSetError, match=r"16 (to|and) 256"):
        open_source(f"shapes:{location}")


def test_factors_of_samples_are_found_again_from_a_file(tmp_path) -> None:
    chosen = open_source("shapes:160?seed=3").take([150, 3, 77])
    chosen.write_parquet(tmp_path / "some.parquet")
    read = SampleSet.read_parquet(tmp_path / "some.parquet")
    columns = factor_columns(read)
    assert columns is not None
    pd.testing.assert_frame_equal(columns, draw_scenes([150, 3, 77], seed=3).table())
    assert list(columns["shape"]) == [read.classes[label] for label in read.class_labels]
    assert factor_columns(open_source("digits", max_samples=3)) is None
    with pytest.raises(SelectionError, match="digits-0000"):
        scenes_of(["digits-0000"])


def test_factors_are_columns_of_a_run() -> None:
    """They colour the map beside the clusters of prompts."""
    samples, tables = open_source("shapes:6"), {}
    parent = SimpleNamespace(
        log_text=lambda *_: None, log_json=lambda *_: None, log_input=lambda *_, **__: None, publish=lambda: None,
        stage=lambda _: "/dev/null", log_table=lambda table, name: tables.__setitem__(name, table),
    )  # fmt: skip
    adapter, recipe = SimpleNamespace(takes_prompts=False), SimpleNamespace(to_json=lambda: "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "describe", lambda _: {})
        patch.setattr(SampleSet, "write_parquet", lambda *_: None)
        runs.log_inputs(parent, adapter, samples, recipe, dataset="shapes:6")
    table = tables["columns.parquet"]
    assert list(table["sample_id"]) == list(samples.sample_ids)
    assert list(table["ground"]) == list(draw_scenes(range(6)).table()["ground"])


def _lab(rgb: tuple[int, int, int]) -> np.ndarray:
    """CIE L*a*b* of sRGB, D65."""
    linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(rgb) / 255])
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
