"""The `download` command, a team's data and checkpoints from its bucket or their authors, and `checkpoints`, a list."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffviews.data.checkpoint_catalog import CatalogueEntry, catalogue
from diffviews.data.disk import format_bytes
from diffviews.data.r2_cache import DATA, download_model, missing_credentials, shared_bucket
from diffviews.data.storage.fetch import fetch
from diffviews.data.storage.object_store import ObjectStore
from diffviews.errors import ConfigError, unknown_name

logger = logging.getLogger(__name__)

Checkpoints = Literal["all", "none", "dmd2", "edm"]
Source = Literal["auto", "r2", "hf"]
_USUAL_ADAPTERS = ("edm-imagenet-64", "dmd2-imagenet-64")
"""Whose public checkpoints are fetched when no model is named; the others' are fetched when they are first used."""


@dataclass(frozen=True, slots=True)
class DownloadOutcome:
    """What is there now."""

    folder: Path
    models: tuple[str, ...]
    """Models whose data the bucket had."""
    files: int
    """Fetched from the bucket now; what was there already is not fetched again."""
    checkpoints: tuple[str, ...]
    """Names of public checkpoints that are there now."""

    def __str__(self) -> str:
        parts = [f"{self.files} files of {', '.join(self.models)}"] if self.models else []
        parts += [f"checkpoints {', '.join(self.checkpoints)}"] if self.checkpoints else []
        return f"{self.folder}: {'; '.join(parts) or 'nothing was asked for'}"


def download(
    checkpoints: Checkpoints = "all",
    source: Source = "auto",
    model: str | None = None,
    data_dir: str = "data",
    bucket: str | None = None,
) -> DownloadOutcome:
    """Download data and checkpoints; what is there already is not fetched again.

    Args:
        checkpoints: those of dmd2 or edm models alone, all or none.
        source: r2 takes the team's bucket, hf the checkpoints their authors published; auto takes the bucket
            where its credentials are set, and published checkpoints that it lacks.
        model: this one alone, by its folder in the bucket or its adapter.
        data_dir: folder for them; each model has one of its own in it.
        bucket: name or address of the bucket; null takes R2_BUCKET_NAME, else diffviews.

    Raises:
        ConfigError: if the bucket is asked for and not configured, or has no such model.
        StoreError: if the bucket cannot be used.
        CheckpointError: if a published checkpoint cannot be fetched.
    """
    folder, missing = Path(data_dir), missing_credentials(bucket)
    store = None if source == "hf" or (source == "auto" and missing) else shared_bucket(bucket)
    if store is None and source == "auto":
        logger.info("no team bucket (%s not set): published checkpoints alone are fetched", ", ".join(missing))
    models, files = ((), 0) if store is None else _from_bucket(store, checkpoints, model, folder, source)
    names: tuple[str, ...] = ()
    if source != "r2":
        names = tuple(_from_authors(entry, folder) for entry in _published(checkpoints, model, models, folder))
    return DownloadOutcome(folder, models, files, names)


def _from_bucket(
    store: ObjectStore, checkpoints: Checkpoints, model: str | None, folder: Path, source: Source
) -> tuple[tuple[str, ...], int]:
    """Return the models that the bucket has of those wanted, and how many files were fetched."""
    present = store.folders(DATA)
    if model is not None and model not in present and source == "r2":
        raise ConfigError(unknown_name("model of the bucket", model, present))
    wanted = tuple(name for name in present if model in (None, name))
    files = sum(
        download_model(store, name, folder, checkpoints=_is_chosen(checkpoints, name)) for name in wanted
    )
    return wanted, files


def _published(
    checkpoints: Checkpoints, model: str | None, fetched: tuple[str, ...], folder: Path
) -> list[CatalogueEntry]:
    """Return the public checkpoints that are wanted of models for which the bucket had none."""
    adapters = _USUAL_ADAPTERS if model is None else (model,)
    had = {name for name in fetched if any((folder / name / "checkpoints").glob("*"))}
    return [
        entry
        for entry in catalogue()
        if entry.adapter in adapters and entry.adapter not in had and _is_chosen(checkpoints, entry.adapter)
    ]


def _is_chosen(checkpoints: Checkpoints, model: str) -> bool:
    return checkpoints == "all" or (checkpoints != "none" and model.startswith(checkpoints))


def _from_authors(entry: CatalogueEntry, folder: Path) -> str:
    logger.info("checkpoint %s, licence %s: %s", entry.name, entry.licence, entry.address)
    target = folder / entry.adapter / "checkpoints"
    path = fetch(entry.address, target / entry.name, digest=entry.sha256, size=entry.size)
    logger.info("%s is at %s", entry.name, path)
    return entry.name


def list_checkpoints(adapter: str | None = None) -> str:
    """List the public checkpoints known by name, with their licences.

    Args:
        adapter: only those for this adapter; null lists all.
    """
    entries = [entry for entry in catalogue() if adapter in (None, entry.adapter)]
    if not entries:
        known = sorted({entry.adapter for entry in catalogue()})
        raise ConfigError(unknown_name("adapter with a catalogue checkpoint", str(adapter), known))
    rows = [("name", "adapter", "steps", "size", "licence", "what")]
    for entry in entries:
        size = format_bytes(entry.size) if entry.size else "?"
        rows.append((entry.name, entry.adapter, str(entry.steps or "any"), size, entry.licence, entry.note))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", "Their licences are their authors'; fetching one means agreeing to it."])
