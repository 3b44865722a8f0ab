"""Which folder of a path names a sample's class, and which divides a set into splits."""

import logging
import re
from collections.abc import Sequence

from diffviews.data.class_order import SampleClasses, classes_of
from diffviews.errors import SampleSetError

logger = logging.getLogger(__name__)

_SPLIT = re.compile(
    r"(?P<name>(?:.*[_\-. ])?(?:(?P<train>train|training)|val|valid|validation|dev|test|testing|eval|evaluation))"
    r"(?:[_\-. ]?(?:set|split|images|data|[0-9]++))*+",
    re.IGNORECASE,
)
_SHARD_FILES = 1000
"""Images in a folder of sets that are only divided to keep folders small: FFHQ's, EDM's, those of a generator."""


def split_of(name: str) -> str | None:
    """Return the split that a folder or file is by its name: 'train' for 'train2017' and 'train-00001'; None: none."""
    found = _SPLIT.fullmatch(name)
    return found["name"] if found else None


def folder_classes(names: Sequence[str], place: str) -> SampleClasses:
    """Return the class of each file, by the first folder of its path that divides them.

    Folders that hold nothing but one folder, or but splits, are no classes; nor are shards, whose images are numbered
    through: '01000/01234.png'.

    Args:
        names: paths, '/' between their parts.
        place: what errors and the notation call their folder: 'folder:pets'.

    Raises:
        SampleSetError: if the folders are splits, one of which is to be named.
    """
    parts = [name.split("/")[:-1] for name in names]
    depth, above = 0, ""
    while True:
        tops = sorted({folders[depth] for folders in parts if len(folders) > depth})
        _check_splits(tops, f"{place}{above}")
        deeper = bool(tops) and all(len(folders) > depth + 1 for folders in parts if len(folders) > depth)
        alone = len(tops) == 1 and (split_of(tops[0]) is not None or (deeper and _divides(parts, depth + 1)))
        if not alone:
            break
        depth, above = depth + 1, f"{above}/{tops[0]}"
    if tops and _are_shards(names, depth):
        logger.info("the folders of %s divide one numbered set and are no classes", f"{place}{above}")
        return classes_of([None] * len(parts))
    if above and len(tops) > 1:
        logger.info("the classes are the folders of %s", f"{place}{above}")
    return classes_of([folders[depth] if len(folders) > depth else None for folders in parts])


def _check_splits(tops: Sequence[str], place: str) -> None:
    kinds = {bool(found["train"]) for top in tops if (found := _SPLIT.fullmatch(top))}
    if len(kinds) > 1 or (len(tops) > 1 and all(map(split_of, tops))):
        chosen = next(top for top in tops if split_of(top))
        raise SampleSetError(f"{place} holds the splits {', '.join(tops)}; choose one: {place}/{chosen}")


def _divides(parts: Sequence[Sequence[str]], depth: int) -> bool:
    """Say whether there are several folders at a depth, or further below its only one."""
    tops = {folders[depth] for folders in parts if len(folders) > depth}
    if len(tops) != 1:
        return len(tops) > 1
    return split_of(next(iter(tops))) is not None or _divides(parts, depth + 1)


def _are_shards(names: Sequence[str], depth: int) -> bool:
    """Say whether files that are numbered through are in folders by their numbers."""
    for name in names:
        *folders, file = name.split("/")
        number = re.search(r"([0-9]+)\.[^.]*$", file)
        if len(folders) <= depth or not number or not re.fullmatch("[0-9]{5,}", folders[depth]):
            return False
        first = int(number[1]) // _SHARD_FILES
        if int(folders[depth]) not in (first, first * _SHARD_FILES):
            return False
    return True
