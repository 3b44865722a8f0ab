"""The source `folder:<path>`: images in folders by class, decoded when asked for."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from diffviews.data.class_labels import load_synsets
from diffviews.data.pictures import Pictures, PixelPictures, StoredPictures, decode_image, stack_images
from diffviews.data.samples import SampleSet, stratified_rows
from diffviews.errors import CorruptDataError, SampleSetError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
EAGER_BYTES = 256 * 2**20
"""Up to this many bytes of pixels are kept in memory; a set is read about four times in an extraction."""


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
    chosen = tuple(names[row] for row in rows)
    frame = {
        "sample_id": chosen,
        "class_label": [labels[row] for row in rows],
        "class_name": [None if (folder := folders[row]) is None else classes[folder][1] for row in rows],
        "source": [f"folder:{root.name}"] * len(chosen),
    }
    return SampleSet(pd.DataFrame(frame, dtype=object), open_pictures(root, chosen, resolution), class_order)


@dataclass(frozen=True, slots=True, eq=False)
class FilePictures(StoredPictures):
    """Image files, decoded and fitted to a square."""

    root: Path
    names: tuple[str, ...]
    """Paths of all files below `root`."""

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """Return (n, H, W, 3) uint8."""
        images = np.empty((len(rows), *self.size, 3), dtype=np.uint8)
        for image, number in zip(images, self.rows[rows], strict=True):
            image[...] = _decode_file(self.root / self.names[number], self.size[0])
        return images


def open_pictures(root: Path, names: tuple[str, ...], resolution: int | None) -> Pictures:
    """Return image files as pictures: decoded now when they are few, else when asked for.

    Args:
        root: folder.
        names: paths of the files below it.
        resolution: side to fit them to; None: all are decoded now, since their sizes must agree.

    Raises:
        CorruptDataError: if a file is damaged, as soon as it is decoded.
        ShapeError: if sizes differ and there is no resolution.
    """
    if resolution is not None and len(names) * resolution**2 * 3 > EAGER_BYTES:
        return FilePictures(np.arange(len(names)), (resolution, resolution), root.absolute(), names)
    return PixelPictures(stack_images([_decode_file(root / name, resolution) for name in names], list(names)))


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
