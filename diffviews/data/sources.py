"""Where sample sets come from, by one notation: `digits`, `folder:<path>`, `hf:<id or folder>`, `run:<id>`, ….

`prompts:<path>` belongs to the same notation, but a prompt file holds no images: see `diffviews.data.prompts`.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from diffviews.data.folder_source import folder_samples
from diffviews.data.hf_source import hf_samples
from diffviews.data.lmdb_source import lmdb_samples
from diffviews.data.parquet_source import parquet_samples
from diffviews.data.pictures import check_resolution
from diffviews.data.samples import SampleSet, stratified_rows
from diffviews.data.shapes.source import shapes_samples
from diffviews.data.tar_source import tar_samples
from diffviews.errors import SampleSetError, unknown_name

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def open_source(
    spec: str,
    *,
    max_samples: int | None = None,
    resolution: int | None = None,
    runs: Callable[[str], Path] | None = None,
) -> SampleSet:
    """Return the sample set that `spec` names.

    - `digits`: the 1,797 real handwritten digits of scikit-learn, 16×16 unless `resolution` says otherwise.
    - `shapes[:<count>?size=64&seed=1]`: rendered scenes whose factors are known, see `shapes_samples`.
    - `folder:<path>`: a folder or zip archive of images; each sub-folder is a class, see `folder_samples`.
    - `hf:<id or folder>[:split]`: what Hugging Face `datasets` opens, see `hf_samples`.
    - `parquet:<path>[:split]`: a file that `SampleSet.write_parquet` wrote, or any with images, or a folder of shards,
      see `parquet_samples`.
    - `tar:<path>`: WebDataset, see `tar_samples`.
    - `lmdb:<path>[?order=downsampled]`: a database in DMD2's layout, see `lmdb_samples`.
    - `run:<id>`: the sample set of an earlier run.

    Args:
        spec: one of these, paths relative to the current folder.
        max_samples: keep at most so many, evenly over the classes, the same ones every time.
        resolution: side in pixels to fit images to (centre crop to a square, then resize).
        runs: returns where the `samples.parquet` of a run lies; jobs, which know the tracking store, give it.

    Raises:
        SampleSetError: if the source is unknown, missing or empty, or holds no images.
        CorruptDataError: if a file is damaged; it is named.
    """
    kind, _, location = spec.partition(":")
    location = os.path.expanduser(location)  # shells leave a '~' behind a colon alone
    if kind not in SOURCES:
        raise SampleSetError(f"{unknown_name('source', kind, SOURCES)}; write for example folder:images")
    if max_samples is not None and max_samples < 1:
        raise SampleSetError(f"the number of samples must be at least 1, not {max_samples}")
    if resolution is not None:
        check_resolution(resolution)
    if kind == "prompts":
        raise SampleSetError(
            f"{spec} holds prompts and no images; extract and generate-dataset make the images with a model "
            "that takes prompts"
        )
    if kind == "run":
        return parquet_samples(str(_samples_of_run(location, runs)), max_samples, resolution)
    return _READERS[kind](location, max_samples, resolution)


def digits_samples(location: str, max_samples: int | None, resolution: int | None) -> SampleSet:
    """Return scikit-learn's digits, grey levels 0…16 spread over 0…255 and enlarged bilinearly, as RGB."""
    from sklearn.datasets import load_digits

    if location:
        raise SampleSetError(f"the source digits takes no path, but {location!r} was given")
    values, labels = load_digits(return_X_y=True)
    rows = np.arange(len(labels)) if max_samples is None else stratified_rows(labels.tolist(), max_samples)
    side = resolution or 16
    grey = values[rows].reshape(-1, 8, 8).astype(np.float32) * np.float32(255 / 16)
    pixels = np.stack([_enlarge(image, side) for image in grey])
    return SampleSet.from_images(
        np.repeat(pixels[..., None], 3, axis=-1),
        [f"digits-{row:04d}" for row in rows],
        class_labels=labels[rows].tolist(),
        class_names=[DIGIT_NAMES[label] for label in labels[rows]],
        sources=["digits"] * len(rows),
        class_order="digits",
    )


_READERS: dict[str, Callable[[str, int | None, int | None], SampleSet]] = {
    "digits": digits_samples,
    "shapes": shapes_samples,
    "folder": folder_samples,
    "parquet": parquet_samples,
    "lmdb": lmdb_samples,
    "hf": hf_samples,
    "tar": tar_samples,
}
SOURCES = (*_READERS, "prompts", "run")
"""Kinds of sources, the words before the colon."""


def _samples_of_run(run_id: str, runs: Callable[[str], Path] | None) -> Path:
    if not run_id:
        raise SampleSetError("the source run needs an id; write run:<id of a logged run>")
    if runs is None:
        raise SampleSetError(f"run:{run_id} is in a tracking store, which only jobs open; give its samples.parquet")
    return runs(run_id)


def _enlarge(grey: np.ndarray, side: int) -> np.ndarray:
    resized = Image.fromarray(grey).resize((side, side), Image.Resampling.BILINEAR)
    return np.rint(np.asarray(resized)).clip(0, 255).astype(np.uint8)
