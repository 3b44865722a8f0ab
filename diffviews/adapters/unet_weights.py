"""Other weights for a U-Net: a file of all its tensors, or a LoRA fused into it."""

import logging
from pathlib import Path
from typing import Any

import torch

from diffviews.adapters.checkpoint import check_finite_weights, check_names_and_shapes, network_names
from diffviews.adapters.diffusion_folder import DiffusionFolder, diffusion_package, load_component, read_json
from diffviews.data.checkpoints import read_checkpoint_file
from diffviews.errors import CheckpointError

_log = logging.getLogger(__name__)


def with_weights(folder: DiffusionFolder, weights: str | Path | None, dtype: torch.dtype) -> Any:
    """Return the U-Net of a folder, with other weights if they are given.

    Args:
        folder: the pipeline, whose configuration the U-Net keeps.
        weights: None: the folder's own; a folder: one U-Net with its own configuration; a file: plain tensors.
        dtype: precision of its forward pass.

    Raises:
        CheckpointError: if the weights are missing, damaged, hostile or do not fit.
    """
    if weights is None:
        return folder.load("unet", dtype)
    path, name = Path(weights), folder.classes["unet"]
    if path.is_dir():
        return load_component(path, name, dtype)
    tensors = network_names(read_checkpoint_file(path)[0])
    with torch.device("meta"):
        unet = getattr(diffusion_package("diffusers"), name).from_config(folder.config("unet"))
    check_names_and_shapes(f"U-Net weights {path}", tensors, unet.state_dict())
    check_finite_weights(f"U-Net weights {path}", tensors)
    unet.load_state_dict({key: tensor.to(dtype) for key, tensor in tensors.items()}, assign=True)
    return unet.requires_grad_(False).eval()


def weights_config(folder: DiffusionFolder, weights: str | Path | None) -> dict[str, Any]:
    """Return the configuration of the U-Net that `with_weights` gives, as its folder states it.

    Raises:
        CheckpointError: if it is missing or no JSON object.
    """
    if weights is not None and Path(weights).is_dir():
        return read_json(Path(weights) / "config.json")
    return folder.config("unet")


def is_lora(path: str | Path) -> bool:
    """Tell whether a file of weights holds a LoRA and not a whole network.

    Raises:
        CheckpointError: if it is missing, damaged or hostile.
    """
    return any("lora" in name for name in read_checkpoint_file(path)[0])


def fuse_lora(unet: Any, path: str | Path, scale: float = 1.0) -> None:
    """Add a LoRA to a U-Net's weights: W + scale · alpha / rank · up @ down, for each layer it has.

    Args:
        unet: a UNet2DConditionModel, changed in place.
        path: a LoRA file in diffusers', peft's or kohya's naming.
        scale: its strength.

    Raises:
        CheckpointError: if the file is missing, damaged, hostile or does not fit.
        ConfigError: if peft is not installed.
    """
    diffusion_package("peft")
    loaders = diffusion_package("diffusers.loaders")
    tensors, _ = read_checkpoint_file(path)
    before = {name: (tensor.data_ptr(), tensor.shape) for name, tensor in unet.state_dict().items()}
    try:
        mixin = loaders.StableDiffusionXLLoraLoaderMixin
        weights, alphas = mixin.lora_state_dict(tensors, unet_config=unet.config)
        ours = {name: tensor for name, tensor in weights.items() if name.startswith("unet.")}
        if not ours:
            raise CheckpointError(f"LoRA {path} has no weights for the U-Net")
        if len(ours) < len(weights):
            _log.warning("LoRA %s changes the text encoder too; only its U-Net part is used", path)
        mixin.load_lora_into_unet(ours, alphas, unet)
        unet.fuse_lora(lora_scale=scale)
        unet.unload_lora()
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"LoRA {path} does not fit the U-Net: {error}") from error
    after = {name: tensor.shape for name, tensor in unet.state_dict().items()}
    if after != {name: shape for name, (_, shape) in before.items()}:
        raise CheckpointError(f"LoRA {path} left the U-Net with other tensors than before")
    unet.requires_grad_(False).eval()
