"""Diffusers folders, read without running or importing anything that they name.

`model_index.json` and all configurations are data. A component is loaded by the one class that this project
expects for it, from files in the folder alone; a folder that names another class is refused.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from diffviews.adapters.checkpoint import check_finite_weights
from diffviews.adapters.diffusion_pipelines import check_pipeline
from diffviews.adapters.layouts import layout_of, other_layout
from diffviews.data.checkpoints import integer_weights, tensor_names
from diffviews.errors import CheckpointError, ConfigError

_log = logging.getLogger(__name__)

KNOWN_CLASSES = {
    "UNet2DConditionModel": "diffusers",
    "UNet2DModel": "diffusers",
    "AutoencoderKL": "diffusers",
    "CLIPModel": "transformers",
    "CLIPTextModel": "transformers",
    "CLIPTextModelWithProjection": "transformers",
    "CLIPTokenizer": "transformers",
}
"""Every class that a folder's component may be loaded by, and the package it comes from."""

SPELLINGS = {"CLIPTokenizerFast": "CLIPTokenizer", "CLIPTokenizerLegacy": "CLIPTokenizer"}
"""Other names by which folders call a known class."""

WEIGHTS = {"diffusers": ("diffusion_pytorch_model",), "transformers": ("model", "pytorch_model")}
"""File stems of weights, by package."""

CIRCUMSTANCES = ("transformers_version", "torch_dtype", "dtype", "architectures", "auto_map")
"""Entries of configurations that do not describe the model."""

TOKENIZER_FILES = (("vocab.json", "merges.txt"), ("tokenizer.json",))
"""Files of which a tokenizer is made; either will do."""

VARIANTS = (None, "fp16")
"""Variants of weights; the first that is there is read, and where neither is, the only other one."""


def diffusion_package(name: str) -> Any:
    """Import diffusers or transformers.

    Raises:
        ConfigError: if it is not installed, with the command that installs it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"this model needs the package {name}, which is missing ({error}); run: pip install 'diffviews[diffusion]'"
        ) from error


@dataclass(frozen=True, slots=True)
class DiffusionFolder:
    """A pipeline saved by diffusers: one sub-folder a component.

    folder = DiffusionFolder.open(path, {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}, "sd-v1.5")
    unet = folder.load("unet", torch.float16)
    """

    path: Path
    """The folder."""
    index: Mapping[str, Any]
    """What its `model_index.json` says."""
    classes: Mapping[str, str]
    """Class of each component that is wanted of it."""

    @classmethod
    def open(cls, path: str | Path | None, classes: Mapping[str, str], family: str) -> "DiffusionFolder":
        """Return the folder after a look at its index.

        Args:
            path: the folder.
            classes: components that are wanted, and their classes.
            family: model that its pipeline must fit, see `diffusion_pipelines`.

        Raises:
            CheckpointError: if it is no diffusers folder, of a pipeline or with components that do not fit, or its
                components are not of these classes.
        """
        if path is None:
            raise CheckpointError("this model ships no weights; give a diffusers folder as its checkpoint")
        folder = Path(path)
        if folder.is_file():
            raise other_layout(folder, layout_of(tensor_names(folder)), "a diffusers folder with model_index.json")
        if not folder.is_dir():
            raise CheckpointError(
                f"checkpoint {folder} does not exist; give the diffusers folder with model_index.json, and a file "
                "of U-Net or LoRA weights by unet= or lora="
            )
        index = _index_in(folder)
        check_pipeline(folder, index, classes, family)
        for component, expected in classes.items():
            found = _class_named(index.get(component))
            if found != expected:
                raise CheckpointError(
                    f"checkpoint {folder}: component {component!r} is a {found or 'missing part'}, but this model "
                    f"takes a {expected}"
                )
        return cls(folder, index, classes)

    def config(self, component: str) -> dict[str, Any]:
        """Return a component's configuration.

        Raises:
            CheckpointError: if it is missing or no JSON object.
        """
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        return read_json(self._folder(component) / name)

    def scheduler(self) -> dict[str, Any]:
        """Return the scheduler's configuration, with the class that the index names, as diffusers takes it.

        Raises:
            CheckpointError: if it is missing or no JSON object.
        """
        config, named = self.config("scheduler"), _class_named(self.index.get("scheduler"))
        return {**config, "_class_name": named} if named else config

    def load(self, component: str, dtype: torch.dtype) -> nn.Module:
        """Return a network with its weights, in inference mode, on the CPU.

        Raises:
            CheckpointError: if its files are missing, damaged, hostile or do not fit.
        """
        folder = self._folder(component)
        return load_component(folder, self.classes[component], dtype)

    def tokenizer(self, component: str) -> Any:
        """Return a CLIP tokenizer.

        Raises:
            CheckpointError: if its files are missing or damaged.
        """
        return load_tokenizer(self._folder(component))

    def _folder(self, component: str) -> Path:
        # Some older pipelines of one network keep its files beside the index.
        inside = self.path / component
        return self.path if len(self.classes) == 1 and not inside.is_dir() else inside


def _index_in(folder: Path) -> dict[str, Any]:
    """Return the index of a folder; where it lacks one, the error names one within, as in a cache of Hugging Face."""
    try:
        return read_json(folder / "model_index.json")
    except CheckpointError as error:
        inner = [file.parent for place in ("*", "snapshots/*") for file in folder.glob(f"{place}/model_index.json")]
        if not inner or (folder / "model_index.json").exists():
            raise
        raise CheckpointError(f"{error}, such as {sorted(inner)[0]}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        CheckpointError: if there is none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; give a whole diffusers folder") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__} instead of an object")
    return value


def model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration says of the model itself: neither its path nor who wrote it, nor its precision."""
    return {
        name: value
        for name, value in config.items()
        if name == "_class_name" or not (name.startswith("_") or name in CIRCUMSTANCES)
    }


def load_component(folder: Path, class_name: str, dtype: torch.dtype) -> nn.Module:
    """Return a network from its own folder by one of `KNOWN_CLASSES`.

    Raises:
        CheckpointError: if its files are missing, damaged, hostile or do not fit.
    """
    package = KNOWN_CLASSES[class_name]
    found = getattr(diffusion_package(package), class_name)
    _check_plain(folder, class_name)
    weights = _weights(folder, WEIGHTS[package])
    # Without a dtype transformers would round to the one in the configuration. Attention is named, since a
    # configuration may ask for a kernel from elsewhere.
    options = {"torch_dtype": dtype} if package == "diffusers" else {"dtype": dtype, "attn_implementation": "sdpa"}
    try:
        network, report = found.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=weights.safe, variant=weights.variant,
            output_loading_info=True, **options,
        )  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{class_name} in {folder} cannot be loaded: {error}") from error
    if report["missing_keys"]:
        lacking = sorted(report["missing_keys"])
        raise CheckpointError(f"the weights in {folder} lack {len(lacking)} tensors ({', '.join(lacking[:3])})")
    check_finite_weights(f"the weights in {folder}", network.state_dict())
    return network.requires_grad_(False).eval()


def load_tokenizer(folder: Path) -> Any:
    """Return the CLIP tokenizer in a folder.

    Raises:
        CheckpointError: if its files are missing or damaged.
    """
    if not any(all((folder / name).is_file() for name in names) for names in TOKENIZER_FILES):
        raise CheckpointError(f"{folder} lacks {' and '.join(TOKENIZER_FILES[0])}; give a whole diffusers folder")
    transformers = diffusion_package("transformers")
    try:
        return transformers.CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"the tokenizer in {folder} cannot be read: {error}") from error


def _check_plain(folder: Path, class_name: str) -> None:
    """Refuse another network, and what would make the loading libraries fetch or apply more than the weights there."""
    config = read_json(folder / "config.json")
    if config.get("_class_name", class_name) != class_name:
        raise CheckpointError(f"{folder} holds a {config['_class_name']}, but this model takes a {class_name}")
    if config.get("quantization_config") is not None or (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder} holds quantised weights or an adapter over another model; give the plain weights"
        )
    if config.get("transformers_weights") is not None:  # transformers would read them, pickled or not
        raise CheckpointError(f"{folder}: config.json names the weights to read; remove its transformers_weights")


def _class_named(entry: Any) -> str:
    """Return the class of an index entry `[package, class]`, by its usual name."""
    if not isinstance(entry, (list, tuple)) or len(entry) != 2 or not isinstance(entry[1], str):
        return ""
    return SPELLINGS.get(entry[1], entry[1])


@dataclass(frozen=True, slots=True)
class _Weights:
    """The file of a component's weights, or the index of several."""

    file: Path
    variant: str | None
    safe: bool


def _weights(folder: Path, stems: tuple[str, ...]) -> _Weights:
    """Return the weights to read, safetensors before pickles.

    Pickled weights are read once here, so that a hostile file is named by this project's own error.
    """
    found = next(filter(lambda weights: weights.file.is_file(), _candidates(folder, stems, VARIANTS)), None)
    if found is None:
        others = _other_variants(folder, stems)
        found = next(filter(lambda weights: weights.file.is_file(), _candidates(folder, stems, others)), None)
        if found is None or len(others) > 1:
            told = f"; it has the variants {', '.join(others)}: copy one to that name" if others else ""
            usual = f"{stems[0]}.safetensors or {stems[-1]}.bin"
            raise CheckpointError(f"{folder} holds no weights; expected {usual}{told}")
        _log.warning("%s holds the variant %r of its weights alone, which is read", folder, found.variant)
    for part in _parts(found.file):
        if odd := integer_weights(part):
            raise CheckpointError(f"{part} holds whole numbers ({odd[0]}), as if it were quantised; give plain weights")
    return found


def _other_variants(folder: Path, stems: tuple[str, ...]) -> list[str]:
    """Return the names of variants of which a folder has weights, sorted."""
    either = "|".join(map(re.escape, stems))
    name = re.compile(rf"(?:{either})\.(?:([\w-]+?)(?:-\d+-of-\d+)?\.)?(?:safetensors|bin)(?:\.index\.([\w-]+)\.json)?")
    found = (name.fullmatch(file.name) for file in folder.iterdir())
    return sorted({match[1] or match[2] for match in found if match and (match[1] or match[2])})


def _candidates(folder: Path, stems: tuple[str, ...], variants: Iterable[str | None]) -> Iterator[_Weights]:
    for suffix, variant, stem in product((".safetensors", ".bin"), variants, stems):
        marked = f".{variant}" if variant else ""
        for name in (f"{stem}{marked}{suffix}", f"{stem}{suffix}.index{marked}.json"):
            yield _Weights(folder / name, variant, suffix == ".safetensors")


def _parts(file: Path) -> list[Path]:
    """Return the files of weights: the file itself, or those that an index names, which lie beside it."""
    if file.suffix != ".json":
        return [file]
    names = read_json(file).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{file} has no weight_map from tensors to files")
    for name in names.values():
        if Path(name).name != name:
            raise CheckpointError(f"{file} names the file {name!r}, which is not in the same folder")
    return [file.parent / name for name in sorted(set(names.values()))]
