"""The source `folder:<path>`: images in folders by class, or an EDM data set, in a folder or a zip archive."""

import json
import logging
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from diffviews.data.class_order import SampleClasses
from diffviews.data.encoded import open_pictures
from diffviews.data.file_tree import Archive, FileTree, TreeImages, open_tree
from diffviews.data.folder_classes import folder_classes, split_of
from diffviews.data.pictures import image_suffixes
from diffviews.data.sample_index import check_sample_id
from diffviews.data.samples import SampleSet, stratified_rows
from diffviews.errors import CorruptDataError, SampleSetError

logger = logging.getLogger(__name__)

_PACKED = frozenset({".zip", ".tar", ".tgz", ".gz", ".parquet", ".arrow"})
_METADATA = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})
"""Files of labels and captions in a folder as `datasets` reads it."""
EDM_FILE = "dataset.json"
"""Labels of an EDM data set: {"labels": [["00000/img00000000.png", 3], …]}, or null where it has none."""


def folder_samples(location: str, max_samples: int | None, resolution: int | None) -> SampleSet:
    """Return the images below a folder or in a zip archive, sorted by path; ids are the paths relative to it.

    The first sub-folder that divides them names a sample's class; images beside the sub-folders have none. Labels count
    the sorted class names, except that names which are all whole numbers are the labels, and folders named by ImageNet
    synsets get the label and name of the standard ImageNet-1K order. In an EDM data set the labels are those of its
    `dataset.json`. Hidden files are passed over, and a link that leads out of the folder is refused.

    Raises:
        SampleSetError: if there is no image, or only splits such as train and val, one of which is to be named.
        CorruptDataError: if an archive or `dataset.json` is damaged.
    """
    tree = open_tree(location)
    tree, files = _within(tree, tree.names())
    names = _images(tree, files)
    if not names:
        packed = [name for name in files if PurePosixPath(name).suffix.lower() in _PACKED]
        more = f"; unpack {packed[0]} or name it" if packed else ""
        raise SampleSetError(f"folder {location} holds no image ({', '.join(sorted(image_suffixes()))}){more}")
    edm = _edm_classes(tree, names) if EDM_FILE in files else None
    classes = edm or folder_classes(names, f"folder:{tree.place}")
    rows = list(range(len(names))) if max_samples is None else stratified_rows(classes.labels, max_samples).tolist()
    chosen = tuple(names[row] for row in rows)
    for name in chosen:
        check_sample_id(name)
    frame = {
        "sample_id": chosen,
        "class_label": [classes.labels[row] for row in rows],
        "class_name": [classes.names[row] for row in rows],
        "source": [f"folder:{PurePosixPath(tree.place).name}"] * len(chosen),
    }
    pictures = open_pictures(TreeImages(tree, chosen), np.arange(len(chosen)), resolution)
    return SampleSet(pd.DataFrame(frame, dtype=object), pictures, classes.order)


def _within(tree: FileTree, names: list[str]) -> tuple[FileTree, list[str]]:
    """Return the part of an archive below its one folder, if that holds nothing but folders, and its files."""
    tops = {name.partition("/")[0] for name in names}
    if isinstance(tree, Archive) and len(tops) == 1 and not split_of(next(iter(tops))):
        below = [name.partition("/")[2] for name in names]
        if all("/" in name or name == EDM_FILE for name in below):
            return Archive(tree.path, f"{tree.prefix}{tops.pop()}/"), below
    return tree, names


def _images(tree: FileTree, names: list[str]) -> list[str]:
    """Return the paths of the images, and say once what else there is."""
    images = [name for name in names if PurePosixPath(name).suffix.lower() in image_suffixes()]
    others = [name for name in names if name != EDM_FILE and PurePosixPath(name).suffix.lower() not in image_suffixes()]
    described = any(PurePosixPath(name).name in _METADATA for name in others)
    if others:
        logger.warning(
            "%d files in %s are not images by their names and were left out: %s%s",
            len(others), tree.place, ", ".join([*others[:3], *(["…"] if len(others) > 3 else [])]),
            f"; hf:{tree.place} reads the labels and captions of metadata" if described else "",
        )  # fmt: skip
    return images


def _edm_classes(tree: FileTree, names: Sequence[str]) -> SampleClasses | None:
    """Return the labels of an EDM data set, None for a folder of another kind."""
    said = _json(tree)
    if not isinstance(said, dict) or "labels" not in said:
        return None
    labels = said["labels"]
    none = [None] * len(names)
    if labels is None:
        return SampleClasses(none, none, "own")
    try:
        given = {str(name).replace("\\", "/"): label for name, label in labels}
        if any(isinstance(label, list) and _one_hot(label) is None for label in given.values()):
            logger.info("the labels in %s/%s are vectors and not one class an image; not used", tree.place, EDM_FILE)
            return SampleClasses(none, none, "own")
        by_name = {name: _edm_label(label) for name, label in given.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise CorruptDataError(
            f"the labels in {tree.place}/{EDM_FILE} are no list of [file name, class]: {error}"
        ) from error
    absent = [name for name in names if name not in by_name]
    if absent:
        raise CorruptDataError(
            f"{tree.place}/{EDM_FILE} has no label for {len(absent)} of {len(names)} images, such as {absent[0]}; the "
            "data set is not whole"
        )
    return SampleClasses([by_name[name] for name in names], none, "own")


def _json(tree: FileTree) -> object:
    try:
        return json.loads(tree.read(EDM_FILE))
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"{tree.place}/{EDM_FILE} is not JSON: {error}") from error


def _edm_label(value: object) -> int:
    """Return a class: a whole number, or a one-hot list."""
    if isinstance(value, list) and (hot := _one_hot(value)) is not None:
        return hot
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        raise ValueError(f"{value!r} is no class")
    return int(value)


def _one_hot(label: list[object]) -> int | None:
    return label.index(1) if label.count(1) == 1 and label.count(0) == len(label) - 1 else None
