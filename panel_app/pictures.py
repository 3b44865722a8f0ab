"""Images on their way to the browser: pixels become data addresses, small ones exactly, large ones made light."""

import base64
import io

import numpy as np
from PIL import Image

from diffviews.data.pictures import encode_png

EXACT = 128
"""Up to so many pixels a side an image is sent as it is."""
LARGE, FRAME, INSET, PREVIEW = 512, 256, 96, 96
"""Longest side, in pixels, of an image to look at, of one of many frames, and of two small ones."""


def picture_address(image: np.ndarray, longest: int = LARGE) -> str:
    """Return an (H, W, 3) uint8 image as a data address.

    Small images are PNG, to the pixel; larger ones are fitted to `longest` pixels and sent as JPEG, for a
    hundred frames must pass through one message to the browser. The run in MLflow holds the exact pixels.
    """
    pixels = np.ascontiguousarray(image)
    if max(pixels.shape[:2]) <= EXACT:
        return png_address(encode_png(pixels))
    return _jpeg_address(Image.fromarray(pixels), longest)


def png_address(data: bytes, longest: int | None = None) -> str:
    """Return PNG bytes as a data address for an <img>, larger ones fitted to `longest` pixels a side."""
    if longest is not None:
        with Image.open(io.BytesIO(data)) as picture:
            if max(picture.size) > max(longest, EXACT):
                return _jpeg_address(picture.convert("RGB"), longest)
    return "data:image/png;base64," + base64.b64encode(data).decode()


def difference_address(difference: np.ndarray) -> str:
    """Return an |image − baseline| image, stretched so that its largest value is white."""
    peak = int(difference.max())
    scaled = difference.astype(np.float32) * (255 / peak) if peak else difference.astype(np.float32)
    return picture_address(scaled.round().astype(np.uint8))


def _jpeg_address(picture: Image.Image, longest: int) -> str:
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
