"""Images on their way to the browser: pixels become PNG data addresses."""

import numpy as np

from diffviews.data.pictures import encode_png
from panel_app.data import png_address


def picture_address(image: np.ndarray) -> str:
    """Return an (H, W, 3) uint8 image as a PNG data address."""
    return png_address(encode_png(np.ascontiguousarray(image)))


def difference_address(difference: np.ndarray) -> str:
    """Return an |image − baseline| image, stretched so that its largest value is white."""
    peak = int(difference.max())
    scaled = difference.astype(np.float32) * (255 / peak) if peak else difference.astype(np.float32)
    return picture_address(scaled.round().astype(np.uint8))
