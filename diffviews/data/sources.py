"""Where sample sets come from, by one notation: `digits`, `folder:<path>`, `parquet:<path>`."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from diffviews.data.class_labels import load_synsets
from diffviews.data.pictures import check_resolution, decode_image, stack_images
from diffviews.data.samples import SampleSet, stratified_rows
from diffviews.errors import CorruptDataError, SampleSetError, unknown_name

logger = logging.getLogger(__name__)

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


def open_source(spec: str, *, max_samples: int | None = None, resolution: int | None = None) -> SampleSet:
    """Return the sample set that `spec` names.

    - `digits`: the 1,797 real handwritten digits of scikit-learn, 16×16 unless `resolution` says otherwise.
    - `folder:<path>`: a folder of images; each sub-folder is a class, see `folder_samples`.
    - `parquet:<path>`: a file that `SampleSet.write_parquet` wrote, or any with `image` and `sample_id`.

    Args:
        spec: one of these, paths relative to the current folder.
        max_samples: keep at most so many, evenly over the classes, the same ones every time.
        resolution: side in pixels to fit images to (centre crop to a square, then resize).

    Raises:
        SampleSetError: if the source is unknown, missing or empty.
        CorruptDataError: if a file is damaged; it is named.
    """
    kind, _, location = spec.partition(":")
    if kind not in _SOURCES:
        raise SampleSetError(f"{unknown_name('source', kind, _SOURCES)}; write for example folder:images")
    if max_samples is not None and max_samples < 1:
        raise SampleSetError(f"the number of samples must be at least 1, not {max_samples}")
    if resolution is not None:
        check_resolution(resolution)
    return _SOURCES[kind](location, max_samples, resolution)


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


def folder_samples(location: str, max_samples: int | None, resolution: int | None) -> SampleSet:
    """Return the images below a folder, sorted by path; ids are the paths relative to it.

    The first sub-folder names a sample's class; images beside the sub-folders have none. Labels
    count the sorted class names, except that folders named by ImageNet synsets get the label and
    name of the standard ImageNet-1K order. A link that leads out of the folder is refused.
    """
    root = Path(location)
    if not location or not root.is_dir():
        raise SampleSetError(f"folder {location!r} does not exist; write folder:<path of a folder>")
    names = sorted(_image_names(root), key=lambda name: name.split("/"))
    if not names:
        raise SampleSetError(f"folder {location} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    folders = [name.split("/")[0] if "/" in name else None for name in names]
    classes, class_order = _folder_classes({folder for folder in folders if folder is not None})
    labels = [None if folder is None else classes[folder][0] for folder in folders]
    rows = range(len(names)) if max_samples is None else stratified_rows(labels, max_samples)
    chosen = [names[row] for row in rows]
    images = [_decode_file(root / name, resolution) for name in chosen]
    return SampleSet.from_images(
        stack_images(images, chosen),
        chosen,
        class_labels=[labels[row] for row in rows],
        class_names=[None if (folder := folders[row]) is None else classes[folder][1] for row in rows],
        sources=[f"folder:{root.name}"] * len(chosen),
        class_order=class_order,
    )


def parquet_samples(location: str, max_samples: int | None, resolution: int | None) -> SampleSet:
    """Return the samples of a Parquet file."""
    if not location:
        raise SampleSetError("the source parquet needs a path; write parquet:<file>")
    samples = SampleSet.read_parquet(location, resolution)
    return samples if max_samples is None else samples.stratified(max_samples)


_SOURCES: dict[str, Callable[[str, int | None, int | None], SampleSet]] = {
    "digits": digits_samples,
    "folder": folder_samples,
    "parquet": parquet_samples,
}


def _enlarge(grey: np.ndarray, side: int) -> np.ndarray:
    resized = Image.fromarray(grey).resize((side, side), Image.Resampling.BILINEAR)
    return np.rint(np.asarray(resized)).clip(0, 255).astype(np.uint8)


def _image_names(root: Path) -> Iterator[str]:
    """Yield the relative path of each image below `root`, refusing links that lead out of it."""
    inside = root.resolve()
    ignored = 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [*folders, *files]:
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise SampleSetError(f"{path} is a link that leads out of {root}; copy the images instead")
            if path.is_symlink() and path.is_dir():
                raise SampleSetError(f"{path} is a link to a folder, whose images would count twice")
        for name in files:
            if name.startswith(".") or Path(name).suffix.lower() not in IMAGE_SUFFIXES:
                ignored += 1
                continue
            yield Path(folder, name).relative_to(root).as_posix()
    if ignored:
        logger.warning("%d files in %s are not images by their names and were left out", ignored, root)


def _folder_classes(folders: set[str]) -> tuple[dict[str, tuple[int, str]], str]:
    """Return {folder: (label, name)} and the order the labels count in."""
    synsets = load_synsets()
    if folders and folders <= synsets.keys():
        return {folder: synsets[folder] for folder in folders}, "standard"
    return {folder: (label, folder) for label, folder in enumerate(sorted(folders))}, "folders"


def _decode_file(path: Path, resolution: int | None) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptDataError(f"image {path} cannot be read: {error.strerror}") from error
    return decode_image(data, str(path), resolution)
