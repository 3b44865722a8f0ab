"""The `seed` command: fills a team's bucket with a data folder, or with a model's computed layers."""

import logging
from dataclasses import dataclass
from pathlib import Path

from diffviews.data.checkpoints import PICKLED
from diffviews.data.legacy.datasets import find_models
from diffviews.data.r2_cache import DATA, shared_bucket
from diffviews.data.storage.cache import Cache
from diffviews.data.storage.manifest import files_below
from diffviews.data.storage.object_store import EXCLUDED_FOLDERS, ObjectStore
from diffviews.data.storage.shared_layers import SharedLayers
from diffviews.data.storage.store_errors import StoreError
from diffviews.errors import ConfigError
from diffviews.pipelines.extract import extract
from diffviews.pipelines.layers.nearest import LayerOpener
from diffviews.pipelines.workspace import open_workspace
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes.execution import Execution
from diffviews.recipes.extraction import ExtractionRecipe

logger = logging.getLogger(__name__)

_PICKLES = PICKLED | {".npz"}
"""Endings of files that are not sent: pickles, and arrays of one sample each, which `convert` joins."""


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
