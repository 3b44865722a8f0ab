"""Stable Diffusion and SDXL as one file in the original layout, opened as a diffusers folder would be.

The tensors are read by this project's own reader, given diffusers' names by diffusers' own converters, and must fill
the networks exactly. What a file does not say stands in `published`, or in a diffusers folder given as its base.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffviews.adapters.checkpoint import check_finite_weights, check_names_and_shapes
from diffviews.adapters.clip_tokenizer import clip_tokenizer
from diffviews.adapters.diffusion_folder import KNOWN_CLASSES, DiffusionFolder, diffusion_package
from diffviews.adapters.layouts import WRAPPED
from diffviews.adapters.published import BY_TEXT_WIDTH, Published
from diffviews.data.checkpoints import read_checkpoint_file
from diffviews.errors import CheckpointError

_log = logging.getLogger(__name__)

UNET = "model.diffusion_model."
PREFIXES = {
    "unet": (UNET,),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": (
        "cond_stage_model.transformer.", "cond_stage_model.model.", "conditioner.embedders.0.transformer.",
    ),
    "text_encoder_2": ("conditioner.embedders.1.model.",),
}  # fmt: skip
"""Where the tensors of each part are; those of OpenCLIP end in `model.`."""

CHANNELS = {
    5: "a depth-to-image model",
    7: "an upscaler",
    8: "InstructPix2Pix",
    9: "an inpainting model",
}
"""U-Nets that take more than latents, by their channels."""


@dataclass(frozen=True, slots=True)
class SingleFile:
    """A pipeline in one file; it answers as a `DiffusionFolder` does."""

    path: Path
    """The file."""
    tensors: Mapping[str, Tensor]
    """All that it holds, by the original names."""
    classes: Mapping[str, str]
    """Class of each component that is wanted of it."""
    base: DiffusionFolder | None
    """What the file does not say or hold is taken from here."""
    published: Published | None
    """The published model it is of; None where a base is given."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of the scheduler's configuration."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        classes: Mapping[str, str],
        base: DiffusionFolder | None = None,
        prediction_type: str | None = None,
    ) -> "SingleFile":
        """Read a file, or a folder of its shards.

        Args:
            path: safetensors, or a file of `torch.save`.
            classes: components that are wanted, and their classes.
            base: diffusers folder it was made from; None: a published model's own configuration.
            prediction_type: epsilon or v_prediction, for models that were published with either.

        Raises:
            CheckpointError: if it is missing, damaged, hostile, not finite or of another model.
        """
        tensors = original_names(unscaled(read_checkpoint_file(path)[0]))
        check_finite_weights(f"checkpoint {path}", tensors)
        width = _check_kind(Path(path), tensors)
        if sum(name.startswith("model_ema.") for name in tensors) > 100:
            _log.info("%s holds averaged weights too; the plain ones are taken, as diffusers does", path)
        changes: dict[str, Any] = {"prediction_type": prediction_type} if prediction_type else {}
        if "v_pred" in tensors:  # how trainers of SDXL note it
            changes["prediction_type"] = "v_prediction"
        if "ztsnr" in tensors:
            changes["rescale_betas_zero_snr"] = True
        published = None if base is not None else _published(Path(path), width, classes, changes)
        return cls(Path(path), tensors, classes, base, published, changes)

    @property
    def index(self) -> Mapping[str, Any]:
        """What the base's `model_index.json` says."""
        return {} if self.base is None else self.base.index

    def config(self, component: str) -> dict[str, Any]:
        """Return a component's configuration.

        Raises:
            CheckpointError: if the base has none.
        """
        if self.base is not None:
            config = self.base.config(component)
        else:
            assert self.published is not None  # as `open` sees to
            config = dict(self.published.configs[component])
        if component == "scheduler":
            config |= self.changes
        either = self.published is not None and self.published.prediction is None
        if component == "unet" and either and self.changes.get("prediction_type") == "epsilon":
            config["sample_size"] = 64  # Stable Diffusion 2 was published for 512 pixels with noise, for 768 with v
        return config

    def scheduler(self) -> dict[str, Any]:
        """Return the scheduler's configuration, as `DiffusionFolder.scheduler`."""
        return self.config("scheduler") if self.base is None else {**self.base.scheduler(), **self.changes}

    def load(self, component: str, dtype: torch.dtype) -> nn.Module:
        """Return a network with its weights, in inference mode, on the CPU.

        Raises:
            CheckpointError: if the file does not hold it and no base does, or its tensors do not fit.
        """
        prefix = next((p for p in PREFIXES[component] if any(name.startswith(p) for name in self.tensors)), None)
        if prefix is None:
            if self.base is not None:
                return self.base.load(component, dtype)
            raise CheckpointError(
                f"checkpoint {self.path} holds no {component}; give the diffusers folder it belongs to by base= or in "
                "a model folder (docs/checkpoints.md)"
            )
        own = {name: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}
        what = f"checkpoint {self.path}: its {component}"
        config, kind = self.config(component), self.classes[component]
        if KNOWN_CLASSES[kind] == "diffusers":
            return diffusers_network(what, kind, config, own, dtype)
        return _text_encoder(what, kind, config, own, prefix, dtype)

    def tokenizer(self, component: str) -> Any:
        """Return a CLIP tokenizer: the base's, or that of the published model."""
        if self.base is not None:
            return self.base.tokenizer(component)
        assert self.published is not None  # as `open` sees to
        return clip_tokenizer(self.published.pads[component])


def original_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with the names of a whole model, where a file holds a U-Net alone, or torch has wrapped it."""
    tensors = {WRAPPED.sub("", name): tensor for name, tensor in tensors.items()}
    if any(name.startswith(UNET) for name in tensors):
        return tensors
    bare = "diffusion_model." if any(name.startswith("diffusion_model.") for name in tensors) else ""
    return {UNET + name.removeprefix(bare): tensor for name, tensor in tensors.items()}


def unscaled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with float8 made float16, exactly, and the scales applied that some programs keep beside them."""
    marks = (".scale_weight", ".weight_scale", ".scale_input", ".input_scale")
    plain = {name: t for name, t in tensors.items() if not name.endswith(marks) and name.split(".")[-1] != "scaled_fp8"}
    for mark in marks[:2]:
        for name in (name for name in tensors if name.endswith(mark)):
            weight = f"{name.removesuffix(mark)}.weight"
            if weight in plain:
                plain[weight] = plain[weight].to(torch.float32) * tensors[name].to(torch.float32)
    return {name: t.to(torch.float16) if t.is_floating_point() and t.itemsize == 1 else t for name, t in plain.items()}


def diffusers_network(
    what: str, kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> nn.Module:
    """Return a U-Net or VAE of diffusers filled with tensors in the original layout or its own.

    Args:
        what: what the tensors are, for messages.
        kind: class of diffusers.
        config: its configuration.
        tensors: by the original names, or by those of diffusers.
        dtype: precision of its forward pass.

    Raises:
        CheckpointError: if they do not fill it exactly.
    """
    with torch.device("meta"):
        network: Any = getattr(diffusion_package("diffusers"), kind).from_config(dict(config))
    converters = diffusion_package("diffusers.loaders.single_file_utils")
    try:
        if any(name.startswith(UNET) for name in tensors):
            named = converters.convert_ldm_unet_checkpoint(dict(tensors), network.config)
        elif any(name.startswith(PREFIXES["vae"]) for name in tensors):
            named = converters.convert_ldm_vae_checkpoint(dict(tensors), network.config)
        else:
            named = dict(tensors)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{what} is not of its configuration's blocks ({error!r})") from error
    if kind == "UNet2DConditionModel" and len(named) < len(tensors):
        raise CheckpointError(f"{what} has {len(tensors) - len(named)} tensors for which there is no place")
    check_names_and_shapes(what, named, network.state_dict())
    network.load_state_dict({name: tensor.to(dtype) for name, tensor in named.items()}, assign=True)
    return network.requires_grad_(False).eval()


def _text_encoder(
    what: str, kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str, dtype: torch.dtype
) -> nn.Module:
    """Return a CLIP text encoder of transformers filled with tensors of OpenAI's or OpenCLIP's layout."""
    transformers = diffusion_package("transformers")
    converters = diffusion_package("diffusers.loaders.single_file_utils")
    settings = transformers.CLIPTextConfig(**{k: v for k, v in config.items() if not k.startswith("_")})
    with torch.device("meta"):
        expected = getattr(transformers, kind)(settings).state_dict()
    if prefix.endswith(".model."):
        named = converters.convert_open_clip_checkpoint(None, _with_projection(tensors, prefix), prefix=prefix)
        # Stable Diffusion 2 reads the last layer but one, and its file has the last one as well.
        unused = f"text_model.encoder.layers.{settings.num_hidden_layers}."
        named = {name: tensor for name, tensor in named.items() if not name.startswith(unused)}
    else:
        named = converters.convert_ldm_clip_checkpoint(dict(tensors))
    # Since its version 5.6 transformers has a text model's own names without `text_model`.
    inner = "text_model." if any(name.startswith("text_model.") for name in expected) else ""
    fitted = {
        name if name.startswith("text_projection") else inner + name.removeprefix("text_model."): tensor
        for name, tensor in named.items()
        if not name.endswith(("position_ids", "logit_scale"))
    }
    if "text_projection.weight" not in expected:
        fitted.pop("text_projection.weight", None)
    check_names_and_shapes(what, fitted, expected)
    network = getattr(transformers, kind).from_pretrained(
        None, config=settings, state_dict=fitted, dtype=dtype, attn_implementation="sdpa"
    )
    return network.requires_grad_(False).eval()


def _with_projection(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return OpenCLIP's tensors with a projection, whose rows tell the converter the width."""
    width = tensors[f"{prefix}positional_embedding"].shape[-1]
    return {f"{prefix}text_projection": torch.empty(width, 0), **tensors}


def _check_kind(path: Path, tensors: Mapping[str, Tensor]) -> int:
    """Return the width of the text that the U-Net attends to.

    Raises:
        CheckpointError: if it is not a U-Net of latents and a prompt.
    """
    first = tensors.get(f"{UNET}input_blocks.0.0.weight")
    texts = (t for name, t in tensors.items() if name.startswith(UNET) and name.endswith("attn2.to_k.weight"))
    text = next(texts, None)
    if first is None or text is None or first.ndim != 4 or text.ndim != 2:
        raise CheckpointError(f"checkpoint {path} lacks its U-Net's first convolution or its attention to a text")
    if first.shape[1] in CHANNELS:
        raise CheckpointError(
            f"checkpoint {path} is {CHANNELS[first.shape[1]]}, whose U-Net takes {first.shape[1]} channels; models of "
            "text alone are supported, such as the one it was made from"
        )
    if "edm_mean" in tensors or any(name.startswith("edm_vpred") for name in tensors):
        raise CheckpointError(
            f"checkpoint {path} was trained with EDM's preconditioning of latents (Playground 2.5, CosXL), which is "
            "not supported; take the SDXL it was made from"
        )
    return int(text.shape[1])


def _published(path: Path, width: int, classes: Mapping[str, str], changes: Mapping[str, Any]) -> Published:
    found = BY_TEXT_WIDTH.get(width)
    if found is None:
        refiner = "the refiner of SDXL, which ends what another model began" if width == 1280 else "not one of them"
        sizes = ", ".join(f"{model.title} {size}" for size, model in BY_TEXT_WIDTH.items())
        raise CheckpointError(
            f"checkpoint {path} attends to texts of width {width} ({sizes}): it is {refiner}; give the diffusers "
            "folder that it was made from by base= or in a model folder (docs/checkpoints.md)"
        )
    if ("text_encoder_2" in found.configs) != ("text_encoder_2" in classes):
        model = "sdxl" if "text_encoder_2" in found.configs else "sd-v1.5"
        raise CheckpointError(f"checkpoint {path} is {found.title}; load it as model {model!r} or a student of it")
    if found.prediction is None and "prediction_type" not in changes:
        raise CheckpointError(
            f"checkpoint {path} is {found.title}, whose files do not say what the network returns; say prediction_type "
            "v_prediction (published for 768 pixels) or epsilon (512 pixels, 2-base) in a model folder "
            "(docs/checkpoints.md) or as an option"
        )
    return found
