"""The public checkpoints that DiffViews knows by name (`checkpoint_catalog.json`): where they are, and whose."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from diffviews.errors import CheckpointError, unknown_name

PREFIX = "catalogue:"
"""What may stand before a name to say that it is one of these."""


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One public checkpoint."""

    name: str
    """What it is asked for by."""
    adapter: str
    """Adapter that loads it."""
    address: str
    """Where it is fetched from, as `fetch` understands it."""
    licence: str
    """Terms it is published under."""
    note: str
    """What it is, in a few words."""
    base: str | None = None
    """Name in the catalogue, or address, of the folder that this part of a pipeline belongs to."""
    steps: int | None = None
    """Sampling steps it is meant for; None: as many as one likes."""
    size: int | None = None
    """Bytes, where known; a download of another size is refused."""
    sha256: str | None = None
    """Digest, where its authors or we have established it; another file is refused."""


@cache
def catalogue() -> tuple[CatalogueEntry, ...]:
    """Return all entries, in the order of their file."""
    listed = files("diffviews.data").joinpath("checkpoint_catalog.json").read_text(encoding="utf-8")
    return tuple(CatalogueEntry(**entry) for entry in json.loads(listed))


def find_checkpoint(name: str) -> CatalogueEntry | None:
    """Return the entry of this name, with or without `catalogue:` before it, or None."""
    plain = name.removeprefix(PREFIX)
    return next((entry for entry in catalogue() if entry.name == plain), None)


def get_checkpoint(name: str) -> CatalogueEntry:
    """Return the entry of this name.

    Raises:
        CheckpointError: if there is none, with the nearest names.
    """
    entry = find_checkpoint(name)
    if entry is None:
        known = [known.name for known in catalogue()]
        raise CheckpointError(unknown_name("catalogue checkpoint", name.removeprefix(PREFIX), known))
    return entry
