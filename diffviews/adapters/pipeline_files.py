"""What a latent diffusion model is made of: a diffusers folder or a single file, and weights of its U-Net alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffviews.adapters.checkpoint import check_finite_weights, network_names
from diffviews.adapters.diffusion_folder import DiffusionFolder, load_component, read_json
from diffviews.adapters.layouts import layout_of, other_layout
from diffviews.adapters.single_file import SingleFile, diffusers_network, original_names, unscaled
from diffviews.data.checkpoints import read_checkpoint_file, tensor_names
from diffviews.data.weight_files import PICKLED

StrPath = str | Path
Pipeline = DiffusionFolder | SingleFile


def is_pipeline(path: StrPath) -> bool:
    """Tell whether a path is a whole pipeline, and not weights for one: a diffusers folder, or a single file.

    Raises:
        CheckpointError: if it is a file that is damaged or hostile.
    """
    folder = Path(path)
    if (folder / "config.json").is_file() and not (folder / "model_index.json").is_file():
        return False  # one network with its own configuration
    return _is_folder(folder) or layout_of(tensor_names(path)) == "Stable Diffusion"


def open_pipeline(
    path: StrPath | None,
    classes: Mapping[str, str],
    family: str,
    base: StrPath | None = None,
    prediction_type: str | None = None,
) -> Pipeline:
    """Open a diffusers folder, or a single file in the original layout.

    Args:
        path: either.
        classes: components that are wanted, and their classes.
        family: model that a folder's pipeline must fit, see `diffusion_pipelines`.
        base: folder for what a single file does not hold.
        prediction_type: what the network returns, for single files that do not say it.

    Raises:
        CheckpointError: if it is neither, damaged, hostile or of another model.
    """
    if path is None or _is_folder(path) or not Path(path).exists():
        return DiffusionFolder.open(path, classes, family)
    layout = layout_of(tensor_names(path))
    if layout != "Stable Diffusion":
        raise other_layout(path, layout, "a whole model with text")
    whole = None if base is None else DiffusionFolder.open(base, classes, family)
    return SingleFile.open(path, classes, whole, prediction_type)


def _is_folder(path: StrPath) -> bool:
    """Tell a folder of diffusers, or one that lacks its index, from a file and from a folder of model files."""
    folder = Path(path)
    if not folder.is_dir() or (folder / "model_index.json").is_file():
        return folder.is_dir()
    return not any(entry.suffix.lower() in PICKLED | {".safetensors"} for entry in folder.iterdir())


def with_weights(pipeline: Pipeline, weights: StrPath | None, dtype: torch.dtype) -> Any:
    """Return the U-Net of a pipeline, with other weights if they are given.

    Args:
        pipeline: whose configuration the U-Net keeps.
        weights: None: the pipeline's own; a folder: one U-Net with its own configuration; a file: its tensors, by the
            names of diffusers or the original ones.
        dtype: precision of its forward pass.

    Raises:
        CheckpointError: if the weights are missing, damaged, hostile or do not fit.
    """
    if weights is None:
        return pipeline.load("unet", dtype)
    path, name = Path(weights), pipeline.classes["unet"]
    if path.is_dir() and (path / "config.json").is_file():
        return load_component(path, name, dtype)
    stored = unscaled(read_checkpoint_file(path)[0])
    check_finite_weights(f"U-Net weights {path}", stored)
    layout = layout_of(stored)
    if layout == "Stable Diffusion":
        tensors = {name: t for name, t in original_names(stored).items() if name.startswith("model.diffusion_model.")}
    else:
        tensors = network_names(stored)
        if layout not in ("diffusers U-Net", "unknown"):
            raise other_layout(path, layout, "the weights of a U-Net of diffusers")
    return diffusers_network(f"U-Net weights {path}", name, pipeline.config("unet"), tensors, dtype)


def weights_config(pipeline: Pipeline, weights: StrPath | None) -> dict[str, Any]:
    """Return the configuration of the U-Net that `with_weights` gives, as its folder states it.

    Raises:
        CheckpointError: if it is missing or no JSON object.
    """
    if weights is not None and (Path(weights) / "config.json").is_file():
        return read_json(Path(weights) / "config.json")
    return pipeline.config("unet")
