"""Checkpoints that tests write for themselves: small EDM networks with random weights."""

import json
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

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


class Persistent(torch.nn.Module):
    """A module that pickles itself as EDM's persistence does: source, class name and state."""

    class_name = "Module"
    module_src = ""

    def __reduce__(self) -> tuple[Any, ...]:
        state = {key: value for key, value in self.__dict__.items() if key not in ("class_name", "module_src")}
        meta = {
            "type": "class",
            "version": 6,
            "module_src": self.module_src,
            "class_name": self.class_name,
            "state": state,
        }
        return sys.modules[_PERSISTENCE]._reconstruct_persistent_obj, (meta,), None


_PERSISTENCE = "torch_utils.persistence"


def edm_modules(weights: Mapping[str, torch.Tensor], config: Mapping[str, Any], module_src: str = "") -> Persistent:
    """Return the modules that EDM would have made of these weights, with its classes and arguments."""
    root = Persistent()
    root.class_name, root.module_src = "EDMPrecond", module_src
    root._init_args = ()
    root._init_kwargs = {**config, "use_fp16": False, "model_type": "DhariwalUNet", "augment_dim": 0}
    for name, tensor in weights.items():
        *path, leaf = name.split(".")
        module: torch.nn.Module = root
        for depth, part in enumerate(path):
            if part not in module._modules:
                made: torch.nn.Module = torch.nn.ModuleDict() if part in ("enc", "dec") else Persistent()
                if isinstance(made, Persistent):
                    made.class_name = "DhariwalUNet" if depth == 0 else "UNetBlock"
                    made.module_src = module_src
                    made.skip_scale = np.sqrt(0.5)  # EDM keeps such numbers of numpy's beside its parameters
                module.add_module(part, made)
            module = module._modules[part]
        if leaf == "resample_filter":
            module.register_buffer(leaf, tensor)
        else:
            setattr(module, leaf, torch.nn.Parameter(tensor, requires_grad=False))
    return root.eval()


@contextmanager
def edm_persistence(module: str = _PERSISTENCE) -> Iterator[None]:
    """Let pickle find the function that EDM's pickles name, in a module of that name."""
    fake = types.ModuleType(module)

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("nothing may call this")

    _reconstruct_persistent_obj.__module__ = module
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    fake._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    names = [".".join(module.split(".")[: i + 1]) for i in range(module.count(".") + 1)]
    kept = {name: sys.modules.get(name) for name in {*names, _PERSISTENCE}}
    for name in names[:-1]:
        sys.modules[name] = types.ModuleType(name)
    sys.modules[module] = sys.modules[_PERSISTENCE] = fake
    try:
        yield
    finally:
        for name, before in kept.items():
            if before is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = before


def edm_pickle(path: Path, *, protocol: int = 4, module: str = _PERSISTENCE, module_src: str = "", **more: Any) -> Path:
    """Write a small EDM network as EDM does, beside a safetensors file of its weights, and return the path."""
    twin = small_edm_checkpoint(path.with_suffix(".safetensors"))
    network = edm_modules(load_file(twin), SMALL, module_src)
    with edm_persistence(module):
        path.write_bytes(pickle.dumps({"ema": network, **more}, protocol=protocol))
    return path
