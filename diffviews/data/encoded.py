"""Images as files that lie somewhere, decoded now when they are few, and else when they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from diffviews.data.pictures import (
    Pictures,
    PixelPictures,
    StoredPictures,
    check_resolution,
    decode_image,
    stack_images,
)

EAGER_BYTES = 256 * 2**20
"""Up to this many bytes of pixels are kept in memory; a set is read about four times in an extraction."""

_AT_ONCE = 256
"""Files read together."""


class ImageFiles(Protocol):
    """Encoded images by number. It can be sent to other processes."""

    def read(self, numbers: Sequence[int]) -> list[bytes]:
        """Return the bytes of these images' files; a damaged one raises CorruptDataError with its name."""
        ...

    def name(self, number: int) -> str:
        """Return what an error calls an image."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPictures(StoredPictures):
    """Image files, decoded and fitted to a square."""

    source: ImageFiles

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """Return (n, H, W, 3) uint8."""
        images = np.empty((len(rows), *self.size, 3), dtype=np.uint8)
        numbers = self.rows[rows].tolist()
        for image, data, number in zip(images, self.source.read(numbers), numbers, strict=True):
            image[...] = decode_image(data, self.source.name(number), self.size[0])
        return images


def open_pictures(source: ImageFiles, numbers: np.ndarray, resolution: int | None) -> Pictures:
    """Return image files as pictures.

    Args:
        source: of the files.
        numbers: (N,) int64, which of its images.
        resolution: side to fit them to; None: all are decoded now, since their sizes must agree.

    Raises:
        CorruptDataError: if a file is damaged, as soon as it is decoded.
        ShapeError: if sizes differ and there is no resolution.
    """
    side = None if resolution is None else check_resolution(resolution)
    if side is not None and len(numbers) * side**2 * 3 > EAGER_BYTES:
        return EncodedPictures(numbers, (side, side), source)
    images: list[np.ndarray] = []
    for start in range(0, len(numbers), _AT_ONCE):
        part = numbers[start : start + _AT_ONCE].tolist()
        names = map(source.name, part)
        images += [decode_image(data, name, side) for data, name in zip(source.read(part), names, strict=True)]
    return PixelPictures(stack_images(images, [source.name(number) for number in numbers.tolist()]))
