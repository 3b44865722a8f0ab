"""ImageNet class names in both orders in use, and the way from one to the other.

*Standard* is the order of ImageNet-1K (synsets sorted: 0 tench … 999 toilet_tissue), which EDM,
DMD2 and folders of synsets use. *Downsampled* is the order of the down-sampled ImageNet-64 data
set (0 kit_fox …). Without `labels_path` every function here speaks of the standard order.
"""

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from diffviews.errors import SampleSetError

StrPath = str | os.PathLike[str]

_STANDARD = "imagenet_classes.json"
_DOWNSAMPLED = "imagenet64_downsampled_classes.json"


def load_class_labels(labels_path: StrPath | None = None) -> dict[int, str]:
    """Return {class index: name} of `labels_path`, by default the standard ImageNet-1K order."""
    return {int(index): name for index, (_, name) in _load(_path(labels_path, _STANDARD))}


def get_class_name(class_id: int, labels_path: StrPath | None = None) -> str:
    """Return the name of a class, 'golden_retriever' for 207, or 'unknown_<id>' if it has none."""
    return load_class_labels(labels_path).get(int(class_id), f"unknown_{class_id}")


def load_class_labels_map(labels_path: StrPath | None = None) -> dict[str, list[str]]:
    """Return {class index as text: [synset, name]} of `labels_path`, by default the standard order."""
    return {index: list(entry) for index, entry in _load(_path(labels_path, _STANDARD))}


def load_downsampled_names() -> dict[int, str]:
    """Return {class index: name} of the down-sampled ImageNet-64 data set's order."""
    return {int(index): name for index, (_, name) in _load(_path(None, _DOWNSAMPLED))}


def load_synsets() -> dict[str, tuple[int, str]]:
    """Return {synset: (standard index, name)}, as folders of ImageNet are named."""
    return {synset: (int(index), name) for index, (synset, name) in _load(_path(None, _STANDARD))}


def load_imagenet64_to_standard_mapping(
    imagenet64_path: StrPath | None = None, standard_path: StrPath | None = None
) -> dict[int, int]:
    """Return {downsampled ImageNet-64 index: standard index}, matched by synset.

    Raises:
        SampleSetError: if a file is missing or malformed, or a synset has no standard index.
    """
    standard = {synset: int(index) for index, (synset, _) in _load(_path(standard_path, _STANDARD))}
    mapping = {}
    for index, (synset, name) in _load(_path(imagenet64_path, _DOWNSAMPLED)):
        if synset not in standard:
            raise SampleSetError(f"class {index} ({synset} {name}) does not occur in the standard order")
        mapping[int(index)] = standard[synset]
    return mapping


def remap_imagenet64_labels_to_standard(labels: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return labels of the downsampled order as labels of the standard order, same shape, int64.

    Raises:
        SampleSetError: if a label is not a class of the downsampled order.
    """
    mapping = load_imagenet64_to_standard_mapping()
    given = np.asarray(labels)
    table = np.array([mapping[index] for index in range(len(mapping))], dtype=np.int64)
    if given.size and not np.issubdtype(given.dtype, np.integer):
        raise SampleSetError(f"class labels must be integers, not {given.dtype}")
    outside = given[(given < 0) | (given >= len(table))]
    if outside.size:
        raise SampleSetError(f"class {outside.flat[0]} is not one of 0 … {len(table) - 1}")
    return table[given.astype(np.int64)]


def _path(given: StrPath | None, default: str) -> Path:
    return Path(str(files("diffviews.data") / default)) if given is None else Path(given)


@lru_cache(maxsize=8)
def _read(path: Path, modified: int) -> tuple[tuple[str, tuple[str, str]], ...]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return tuple((str(int(index)), (str(synset), str(name))) for index, (synset, name) in entries.items())
    except (ValueError, TypeError, AttributeError) as error:
        raise SampleSetError(f"{path} is no list of classes; it must map index to [synset, name]") from error


def _load(path: Path) -> tuple[tuple[str, tuple[str, str]], ...]:
    try:
        # The time of change is part of the key, so an edited file is read again.
        return _read(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise SampleSetError(f"the list of classes {path} cannot be read: {error.strerror}") from error
