"""Images as pixels and as the bytes of files: safe decoding, PNG encoding, fitting, thumbnails."""

import io
import struct
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Self

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from diffviews.errors import CorruptDataError, SampleSetError, ShapeError

THUMBNAIL_SIDE = 256
MAX_PIXELS = 64_000_000
"""A larger image is refused before it is decoded: a few kilobytes of file can claim gigabytes of pixels."""

_FORMATS = (
    "PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM", "JPEG2000", "TGA", "ICO", "PCX", "SGI", "DDS", "QOI",
)  # fmt: skip
"""Formats of Pillow that hold pixels and nothing to run: EPS starts a program. JPEG also reads MPO."""

_BROKEN = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, ArithmeticError, TypeError, AttributeError, MemoryError,
    NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow's readers raise on damaged files."""


@cache
def image_suffixes() -> frozenset[str]:
    """Return the endings of files that `decode_image` reads, with their dot, in lower case."""
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in (*_formats(), "MPO"))


@cache
def _formats() -> tuple[str, ...]:
    """Return those of the formats that this build of Pillow knows."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def decode_image(data: bytes, name: str, resolution: int | None = None) -> np.ndarray:
    """Return the pixels of an encoded image, (H, W, 3) uint8, upright and without transparency.

    Of an animation it is the first frame. Grey levels of 16 bits are scaled to 8, v · 255 / 65535, and those of
    floating-point files, which must be in [0, 1], by 255.

    Args:
        data: the bytes of an image file that Pillow opens: PNG, JPEG, WebP, BMP, GIF, TIFF, AVIF, ….
        name: what an error calls the image.
        resolution: side to fit the image to (centre crop to a square, then resize); None keeps its size.

    Raises:
        CorruptDataError: if it is not such an image, is cut short, has more than 64 million pixels, or grey
            levels of which nothing says how bright they are, such as 0 … 255 in 16 bits.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise CorruptDataError(
                    f"image {name} claims {image.width}×{image.height} pixels, but at most "
                    f"{MAX_PIXELS // 10**6} million are decoded"
                )
            upright = ImageOps.exif_transpose(image)
            return np.asarray(_fit(_opaque(upright), resolution))
    except CorruptDataError:
        raise
    except UnidentifiedImageError as error:
        raise CorruptDataError(f"image {name} cannot be decoded: its content is no image of a known format") from error
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        raise CorruptDataError(f"image {name} cannot be decoded: {reason}") from error


def encode_png(pixels: np.ndarray) -> bytes:
    """Return (H, W, 3) uint8 pixels as the bytes of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def thumbnail_png(pixels: np.ndarray) -> bytes:
    """Return (H, W, 3) uint8 pixels as a PNG of at most 256 pixels a side, aspect kept, never enlarged."""
    if max(pixels.shape[:2]) <= THUMBNAIL_SIDE:
        return encode_png(pixels)
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    return encode_png(np.asarray(image))


def resize_images(images: np.ndarray, resolution: int) -> np.ndarray:
    """Fit (N, H, W, 3) uint8 images to (N, resolution, resolution, 3): centre crop, then resize."""
    check_resolution(resolution)
    if images.shape[1:3] == (resolution, resolution):
        return images
    return np.stack([np.asarray(_fit(Image.fromarray(pixels), resolution)) for pixels in images])


def stack_images(images: list[np.ndarray], names: list[str]) -> np.ndarray:
    """Return equally large images as one (N, H, W, 3) array, or say which one differs.

    Raises:
        ShapeError: if the images are of different sizes.
    """
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            raise ShapeError(
                f"image {name} is {image.shape[0]}×{image.shape[1]}, but {names[0]} is "
                f"{images[0].shape[0]}×{images[0].shape[1]}; give a resolution to fit them all to"
            )
    return np.stack(images) if images else np.empty((0, 1, 1, 3), np.uint8)


def check_images(images: np.ndarray) -> np.ndarray:
    """Return `images` after checking that they are (N, H, W, 3) uint8."""
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise ShapeError(f"images must be (N, H, W, 3) uint8, not {images.shape} {images.dtype}")
    return images


def check_resolution(resolution: int) -> int:
    """Return `resolution` after checking that it is a possible image side."""
    if not 1 <= resolution <= 8192:
        raise SampleSetError(f"images cannot have a side of {resolution} pixels; choose 1 to 8192")
    return resolution


def _opaque(image: Image.Image) -> Image.Image:
    """Return `image` in RGB, with anything transparent laid on white."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), layered).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a deep grey image in 8 bits; `convert` would clip its levels at 255."""
    levels = np.asarray(image).astype(np.float64)
    low, high = float(levels.min()), float(levels.max())
    most = 1.0 if image.mode == "F" else 65535.0
    if not (low >= 0 and high <= most):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise ValueError(
            f"its {kind} grey levels are {low:g} … {high:g}, and only 0 … {most:g} are scaled; save it in 8 or 16 bits"
        )
    if most > 1 and 0 < high <= 255:  # eight bits that somebody stored in more
        raise ValueError(f"its grey levels go up to {high:g} of {most:g}, which is black all over; save it in 8 bits")
    return Image.fromarray(np.rint(levels * (255.0 / most)).astype(np.uint8))


def _fit(image: Image.Image, resolution: int | None) -> Image.Image:
    if resolution is None or image.size == (resolution, resolution):
        return image
    return ImageOps.fit(image, (resolution, resolution), method=Image.Resampling.BICUBIC)


class Pictures(ABC):
    """The images of a sample set, by row; every row number given is in range."""

    __slots__ = ()

    @abstractmethod
    def __len__(self) -> int:
        """Return how many images there are."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width of every image, in pixels."""

    @abstractmethod
    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """Return (n, H, W, 3) uint8, a copy."""

    @abstractmethod
    def take(self, rows: np.ndarray) -> "Pictures":
        """Return the pictures of `rows` in that order."""

    def encoded(self, rows: np.ndarray) -> list[bytes]:
        """Return each image as the bytes of an image file: as it is stored, else a PNG."""
        return [encode_png(image) for image in self.pixels(rows)]

    def thumbnails(self, rows: np.ndarray) -> list[bytes]:
        """Return each image as a PNG of at most 256 pixels a side."""
        return [thumbnail_png(image) for image in self.pixels(rows)]


@dataclass(frozen=True, slots=True, eq=False)
class PixelPictures(Pictures):
    """Images held in memory; the array given is made read-only through this view of it."""

    array: np.ndarray
    """(N, H, W, 3) uint8."""

    def __post_init__(self) -> None:
        view = check_images(np.asarray(self.array)).view()
        view.flags.writeable = False
        object.__setattr__(self, "array", view)

    def __len__(self) -> int:
        return len(self.array)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every image, in pixels."""
        return self.array.shape[1], self.array.shape[2]

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """Return (n, H, W, 3) uint8, a copy."""
        return self.array[rows]

    def take(self, rows: np.ndarray) -> "PixelPictures":
        """Return the pictures of `rows` in that order."""
        return PixelPictures(self.array[rows])


@dataclass(frozen=True, slots=True, eq=False)
class StoredPictures(Pictures):
    """Images that lie in a file, a folder or a database, read and fitted to `size` when asked for."""

    rows: np.ndarray
    """Number of each image where it lies, (N,) int64."""
    size: tuple[int, int] = field()  # the abstract property is no default
    """Height and width of every image, in pixels."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: np.ndarray) -> Self:
        """Return the pictures of `rows` in that order."""
        return replace(self, rows=self.rows[rows])
