"""The folder in which everything downloaded is kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder for downloads: `DIFFVIEWS_CACHE_DIR`, else ~/.cache/diffviews."""
    chosen = os.environ.get("DIFFVIEWS_CACHE_DIR")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".cache" / "diffviews"
