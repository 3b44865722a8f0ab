"""Checkpoints that tests write for themselves: small EDM networks with random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from diffviews.models.adm_unet import ADMUNet

SMALL = {
    "img_resolution": 16,
    "img_channels": 3,
    "label_dim": 10,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "channel_mult_emb": 2,
    "num_blocks": 1,
    "attn_resolutions": [],
    "label_dropout": 0.1,
}


def small_edm_checkpoint(path: Path, **options: Any) -> Path:
    """Write the weights of a tiny network, every parameter random, and return the path."""
    config = {**SMALL, **options}
    with torch.device("meta"):
        network = ADMUNet(**config)
    generator = torch.Generator().manual_seed(3)
    weights = {
        f"model.{name}": torch.full(tensor.shape, 0.25)
        if name.endswith("resample_filter")
        else torch.randn(tensor.shape, generator=generator) * 0.2
        for name, tensor in network.state_dict().items()
    }
    save_file(weights, path, metadata={"config": json.dumps(config)})
    return path
