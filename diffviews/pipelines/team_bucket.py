"""A team's bucket: `download` takes data from it, or checkpoints (`checkpoints` lists them) from their authors, and
`seed` fills it."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffviews.data.checkpoint_catalog import CatalogueEntry, catalogue
from diffviews.data.disk import format_bytes
from diffviews.data.legacy.datasets import find_models
from diffviews.data.r2_cache import DATA, download_model, missing_credentials, shared_bucket
from diffviews.data.storage.cache import Cache
from diffviews.data.storage.fetch import fetch
from diffviews.data.storage.manifest import files_below
from diffviews.data.storage.object_store import EXCLUDED_FOLDERS, ObjectStore
from diffviews.data.storage.shared_layers import SharedLayers
from diffviews.data.storage.store_errors import StoreError
from diffviews.data.weight_files import PICKLED
from diffviews.errors import ConfigError, unknown_name
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes import Execution, ExtractionRecipe

logger = logging.getLogger(__name__)

Checkpoints = Literal["all", "none", "dmd2", "edm"]
Source = Literal["auto", "r2", "hf"]
_PICKLES = PICKLED | {".npz"}
"""Endings of files that are not sent: pickles, and arrays of one sample each, which `convert` joins."""
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
    published = [] if source == "r2" else _published(checkpoints, model, models, folder)
    for entry in published:
        logger.info("checkpoint %s, licence %s: %s", entry.name, entry.licence, entry.address)
        target = folder / entry.adapter / "checkpoints" / entry.name
        path = fetch(entry.address, target, digest=entry.sha256, size=entry.size)
        logger.info("%s is at %s", entry.name, path)
    return DownloadOutcome(folder, models, files, tuple(entry.name for entry in published))


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


@dataclass(frozen=True, slots=True)
class SeedOutcome:
    """What the bucket got."""

    bucket: str
    files: int
    """Sent now; those it had already are not counted."""
    layers: int
    """Layer runs that it holds now."""

    def __str__(self) -> str:
        return f"{self.bucket}: {self.files} files sent, {self.layers} layers shared"


def seed(
    path: str | None = None,
    model: str | None = None,
    layers: tuple[str, ...] = ("all",),
    *,
    sigmas: tuple[float, ...] = (0.5, 2.0),
    dataset: str = "digits",
    checkpoint: str | None = None,
    max_samples: int | None = None,
    maps: MapParameters = MapParameters(),
    bucket: str | None = None,
    device: str = "auto",
    profile: str | None = None,
    experiment: str | None = None,
) -> SeedOutcome:
    """Upload a data folder to the team's bucket; with a model, compute its layers and upload those.

    Pickles and per-sample .npz are left out; convert-checkpoint and convert make files of them that are sent.

    Args:
        path: folder that holds the models' folders, or one model's folder; null uploads none.
        model: adapter whose layers are extracted, where no run has them, and shared; null shares none.
        layers: hook points, or all.
        sigmas: noise levels, EDM units.
        dataset: sample source.
        checkpoint: weights: a file, a folder or an address; null takes the adapter's own.
        max_samples: use at most so many samples, stratified by class.
        maps: parameters of each layer's map.
        bucket: name or address of the bucket; null takes R2_BUCKET_NAME, else diffviews.
        device: auto, cpu, cuda, cuda:N or mps.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment name.

    Raises:
        ConfigError: if neither a folder nor a model is given, or the bucket is not configured.
        StoreError: if the bucket cannot be used.
    """
    from diffviews.pipelines.extract import extract  # brings Lightning, which the other commands do without
    from diffviews.pipelines.layers.nearest import LayerOpener
    from diffviews.pipelines.workspace import open_workspace

    if path is None and model is None:
        raise ConfigError("there is nothing to upload; give a data folder, or --model for its computed layers")
    store = shared_bucket(bucket)
    store.check()
    files = 0 if path is None else _upload(store, Path(path))
    if model is None:
        return SeedOutcome(str(store.address), files, 0)
    recipe = ExtractionRecipe(
        model, checkpoint, dataset=dataset, layers=layers, sigmas=sigmas, max_samples=max_samples, maps=maps
    )
    workspace = open_workspace(profile, experiment)
    outcome = extract(recipe, workspace, Execution(device=device, resume=True))
    opener = LayerOpener(workspace, Cache(), SharedLayers(store))
    records = workspace.catalog.layers(outcome.run_id)
    for record in records:
        opener.offer_run(record.run_id)
    if not opener.flush():
        raise StoreError(f"not all layers arrived in {store.address}; the log says why; run the command again")
    return SeedOutcome(str(store.address), files, len(records))


def _upload(store: ObjectStore, path: Path) -> int:
    """Upload models' folders, and the class lists beside them; return how many files were sent."""
    models = find_models(path)
    count = 0
    for found in models:
        names = _files_of(found.folder)
        logger.info("%s: %d files", found.folder.name, len(names))
        count += store.upload_folder(found.folder, f"{DATA}/{found.folder.name}", names)
    beside = [file.name for file in path.glob("*.json") if path.resolve() != models[0].folder]
    return count + store.upload_folder(path, DATA, beside)


def _files_of(folder: Path) -> list[str]:
    """Return the names of the files of a model to send; links out of it, hidden files and pickles are left out."""
    names, left_out = list[str](), list[str]()
    for name in files_below(folder):
        file, parts = folder / name, name.split("/")
        if any(part.startswith(".") for part in parts) or EXCLUDED_FOLDERS.intersection(parts[:-1]):
            continue
        sent = file.suffix.lower() not in _PICKLES and file.resolve().is_relative_to(folder.resolve())
        (names if sent else left_out).append(name)
    if left_out:
        logger.warning(
            "%d files of %s are not sent, such as %s: pickles become safetensors by convert-checkpoint, .npz become "
            ".npy by convert, and links that lead out are not followed",
            len(left_out), folder.name, left_out[0],
        )  # fmt: skip
    return names
