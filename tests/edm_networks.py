"""Small networks of EDM, EDM2 and guided-diffusion with weights by formula, and what their authors' code makes of them.

`data/edm_networks_reference.safetensors` has, for each case, every seventh number of the denoised images that the
authors' implementations (NVlabs/edm, NVlabs/edm2, openai/guided-diffusion) return for `inputs` with weights by
`fill`; the options of each case are in its metadata. The files of the cases are written here as theirs are.
"""

import hashlib
import json
import math
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors import safe_open
from torch import Tensor

from diffviews.adapters.edm import network_of
from diffviews.adapters.edm_networks import PRECONDITIONERS, parameters_of, pickled_config
from diffviews.adapters.guided_diffusion import adm_network
from diffviews.adapters.guided_diffusion_weights import places
from diffviews.models.blocks import BlockStyle
from tests.checkpoints import Persistent, edm_persistence

REFERENCE = Path(__file__).parent / "data" / "edm_networks_reference.safetensors"
STRIDE = 7
SIGMAS = (0.3, 9.0)
SIZE = 8


def fill(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Give parameters and random buffers values by a formula of their name: norms near 1, others small."""
    for name, tensor in tensors:
        if name.endswith(("resample_filter", ".u")) or name == "u":
            continue
        steps = torch.arange(tensor.numel(), dtype=torch.float64) * 12.9898 + crc32(name.encode()) % 997
        scale = 1.0 if tensor.ndim < 2 else math.sqrt(3 / tensor[0].numel())
        values = (2 * (steps.sin() * 43758.5453).frac() - steps.sin().sign()) * scale  # as good as uniform noise
        if tensor.ndim == 1 and name.endswith("weight"):
            values = 1 + 0.3 * values
        tensor.data.copy_((0.7 + values if tensor.ndim == 0 else values).reshape(tensor.shape))


def inputs(channels: int, classes: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return two noised images, their noise levels, and their labels: the second class, and the uniform one."""
    sigma = torch.tensor(SIGMAS)
    steps = torch.arange(2 * channels * SIZE**2, dtype=torch.float64)
    x = ((steps * 1.7).sin() * 1.4).reshape(2, channels, SIZE, SIZE) * (1 + sigma).reshape(-1, 1, 1, 1)
    labels = None
    if classes:
        labels = torch.stack([torch.eye(classes)[1], torch.full((classes,), 1 / classes)])
    return x.to(torch.float32), sigma, labels


def cases(kind: str) -> dict[str, dict[str, Any]]:
    """Return the options of all cases of a kind: edm, edm2 or guided."""
    with safe_open(REFERENCE, "pt") as file:
        options: dict[str, dict[str, Any]] = json.loads(file.metadata()["cases"])
    return {name: case for name, case in options.items() if case["kind"] == kind}


def expected(case: str) -> Tensor:
    """Return the numbers that the authors' code makes in a case."""
    with safe_open(REFERENCE, "pt") as file:
        return file.get_tensor(case)


def sampled(denoised: Tensor) -> Tensor:
    """Return the numbers of which a case keeps the expected values."""
    return denoised.flatten()[::STRIDE]


def edm_snapshot(path: Path, class_name: str, options: Mapping[str, Any], **beside: Any) -> Path:
    """Write a network as EDM's and EDM2's training does, half precision for EDM2, and return the path.

    Args:
        path: where to.
        class_name: of the preconditioner.
        options: arguments it was made with.
        beside: what else the file has.
    """
    config = pickled_config(class_name, (), options)
    network = network_of(config, BlockStyle(narrow_attention=False)).to_empty(device="cpu")
    for name, buffer in network.named_buffers():
        if name.endswith("resample_filter"):
            line = torch.tensor(config.get("resample_filter", [1, 1]), dtype=torch.float32)
            buffer.copy_((torch.outer(line, line) / line.sum() ** 2)[None, None])
    inner = "unet" if class_name == "Precond" else "model"
    named = [(f"{inner}.{name}", tensor) for name, tensor in network.state_dict().items()]
    if options.get("augment_dim"):
        width = network.map_layer0.in_features
        named.append((f"{inner}.map_augment.weight", torch.ones(width, options["augment_dim"])))
    if class_name == "Precond":
        named += [("logvar_fourier.freqs", torch.ones(8)), ("logvar_linear.weight", torch.ones(1, 8))]
    fill(named)
    if class_name == "iDDPMPrecond":
        scaling = {name: config[name] for name in parameters_of(PRECONDITIONERS[class_name])}
        named.append(("u", PRECONDITIONERS[class_name](network, **scaling).u))
    dtype = torch.float16 if class_name == "Precond" else torch.float32
    root = _modules(named, class_name, dtype)
    root._init_args, root._init_kwargs = (), dict(options)
    with edm_persistence():
        path.write_bytes(pickle.dumps({"ema": root, **beside}))
    return path


def _modules(named: Iterable[tuple[str, Tensor]], class_name: str, dtype: torch.dtype) -> Persistent:
    root = Persistent()
    root.class_name = class_name
    for name, tensor in named:
        *path, leaf = name.split(".")
        module: torch.nn.Module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.ModuleDict() if part in ("enc", "dec") else Persistent())
            module = module._modules[part]  # type: ignore[assignment]
        if leaf in ("resample_filter", "freqs", "phases", "u"):
            module.register_buffer(leaf, tensor.to(dtype))
        else:
            setattr(module, leaf, torch.nn.Parameter(tensor.to(dtype), requires_grad=False))
    return root


def tables(kind: str | None) -> dict[str, tuple[str | None, dict[str, Any], int, str]]:
    """Return of full-size networks the class (None: the adapter's own), options, parameters and digest of shapes.

    Args:
        kind: 'guided', or None for those of EDM and EDM2.
    """
    with safe_open(REFERENCE, "pt") as file:
        listed: dict[str, Any] = json.loads(file.metadata()["tables"])
    return {name: tuple(row) for name, row in listed.items() if (row[0] == "guided") == (kind == "guided")}


def listing_digest(shapes: Mapping[str, Iterable[int]]) -> str:
    """Return the sha256 of parameter names and shapes."""
    listed = json.dumps([[name, list(shape)] for name, shape in sorted(shapes.items())])
    return hashlib.sha256(listed.encode()).hexdigest()


def guided_shapes(config: Mapping[str, Any], network: torch.nn.Module) -> dict[str, list[int]]:
    """Return the names and shapes that guided-diffusion gives the parameters of one of our networks."""
    names = {ours: theirs for theirs, ours in places(config)}
    shapes = {}
    for name, tensor in network.state_dict().items():
        place, _, leaf = name.rpartition(".")
        if leaf == "resample_filter":
            continue
        shape = list(tensor.shape)
        if place == "map_label":
            shape.reverse()
        shapes[f"{names[place]}.{leaf}"] = shape[:-1] if leaf == "weight" and place.endswith(("qkv", "proj")) else shape
    return shapes


def guided_file(path: Path, case: Mapping[str, Any]) -> Path:
    """Write a case's state dict as guided-diffusion's training does, its flags beside it, and return the path."""
    options = case["options"]
    config = {
        **options,
        "img_channels": 3,
        "out_channels": 6 if options["learn_sigma"] else 3,
        "model_channels": options["num_channels"],
        "num_blocks": options["num_res_blocks"],
        "attn_resolutions": options["attention"],
        "attn_levels": [int(math.log2(options["image_size"] // size)) for size in options["attention"]],
        "label_dropout": 0.0,
    }
    shapes = guided_shapes(config, adm_network(config))
    assert listing_digest(shapes) == case["names"], "these are not the names that guided-diffusion gives"
    weights = {name: torch.empty(shape) for name, shape in shapes.items()}
    fill(weights.items())
    torch.save(weights, path)
    path.with_suffix(".json").write_text(json.dumps({"network": options}))
    return path


def tiny_vae(folder: Path) -> Path:
    """Write a random AutoencoderKL, which makes 8 × 8 latents of 32 × 32 pixels, in its folder, and return the path."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    widths = (8, 8, 8)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    AutoencoderKL(block_out_channels=widths, latent_channels=4, norm_num_groups=4, **blocks).save_pretrained(folder)
    return folder
