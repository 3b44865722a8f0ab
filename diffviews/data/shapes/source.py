"""The source `shapes[:<count>?size=<pixels>&seed=<number>&omit=<percent>]`: scenes whose every factor is known.

    shapes                        3,888 scenes, each combination of one object's factors and the ground once
    shapes:5000?size=64&seed=1    so many of another seed, 64 pixels a side
    shapes:60000?omit=5           captions that leave each factor open in 5 of 100 cases

The class of a scene is the shape of its first object, its prompt a caption. The scene is written in the sample's id,
so that factors, boxes and masks of any samples, of a run or a file as well, are found again by `scenes_of`.
"""

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from diffviews.data.samples import SampleSet, stratified_rows
from diffviews.data.shapes.captions import caption
from diffviews.data.shapes.render import SIZES, render
from diffviews.data.shapes.scene import BLOCK, FACTORS, Scenes, draw_scenes
from diffviews.errors import SampleSetError, SelectionError

_LOCATION = re.compile(r"(?P<count>\d{1,8})?(?:\?(?P<options>\w+=\d{1,9}(?:&\w+=\d{1,9})*))?")
_ID = re.compile(r"shapes-(\d{1,9})-(\d{1,8})")
_SIDE = 32


def shapes_samples(location: str, max_samples: int | None, resolution: int | None) -> SampleSet:
    """Return scenes as samples; `resolution` is rendered, not resized, and wins over `size`.

    Raises:
        SampleSetError: if the location is no count with options, or images have no such size.
    """
    count, side, seed, omit = _parse(location)
    scenes = draw_scenes(np.arange(count), seed)
    if max_samples is not None:
        scenes = draw_scenes(stratified_rows(scenes.shape[:, 0].tolist(), max_samples), seed)
    try:
        images = render(scenes, resolution or side).images
    except SelectionError as error:
        raise SampleSetError(f"shapes:{location}: {error}") from error
    labels = scenes.shape[:, 0]
    return SampleSet.from_images(
        images,
        [f"shapes-{seed}-{index:06d}" for index in scenes.index],
        class_labels=labels,
        class_names=[FACTORS["shape"][label] for label in labels],
        prompts=[caption(scenes, row, omit=omit) for row in range(len(scenes))],
        sources=[f"shapes:?seed={seed}"] * len(scenes),
        class_order="shapes",
    )


def scenes_of(sample_ids: Iterable[str]) -> Scenes:
    """Return the scenes that samples of this source show, in the order given.

    Raises:
        SelectionError: if a sample is of another source, or of another seed than the first.
    """
    found = {sample_id: _ID.fullmatch(sample_id) for sample_id in sample_ids}
    for sample_id, match in found.items():
        if match is None:
            raise SelectionError(f"sample {sample_id!r} is no scene of the source shapes; its factors are not known")
    numbers = np.array([[int(part) for part in match.groups()] for match in found.values() if match], np.int64)
    seeds = np.unique(numbers[:, 0])
    if len(seeds) != 1:
        raise SelectionError(f"samples are of the seeds {', '.join(map(str, seeds))}; ask for those of one seed")
    return draw_scenes(numbers[:, 1], int(seeds[0]))


def factor_columns(samples: SampleSet) -> pd.DataFrame | None:
    """Return a column of names for each factor of each sample, or None where a sample is of another source."""
    of_shapes = samples.table["source"].str.fullmatch(r"shapes:\?seed=\d+").fillna(False).all()
    return scenes_of(samples.sample_ids).table() if of_shapes else None


def _parse(location: str) -> tuple[int, int, int, float]:
    """Return count, side, seed and share of factors left open of a location."""
    match = _LOCATION.fullmatch(location)
    options = dict(part.split("=") for part in (match["options"] or "").split("&") if part) if match else {}
    known = options.keys() <= {"size", "seed", "omit"} and int(options.get("omit", 0)) <= 100
    if match is None or not known or match["count"] == "0":
        raise SampleSetError(
            f"the source shapes:{location} is not understood; write for example shapes:5000?size=64&seed=1, "
            f"of sizes from {SIZES[0]} to {SIZES[1]}"
        )
    side, seed, omit = (int(options.get(name, usual)) for name, usual in (("size", _SIDE), ("seed", 0), ("omit", 0)))
    return int(match["count"] or BLOCK), side, seed, omit / 100
