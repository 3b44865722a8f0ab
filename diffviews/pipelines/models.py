"""Models by name and checkpoint address: everything a job needs to have one in memory; the `layers` command."""

import inspect
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Self

from diffviews.adapters.base import GeneratorAdapter
from diffviews.adapters.defaults import SamplingDefaults
from diffviews.adapters.registry import get_adapter, load_adapter
from diffviews.data.checkpoint_catalog import PREFIX, catalogue, find_checkpoint, get_checkpoint
from diffviews.data.storage.fetch import fetch, is_remote
from diffviews.data.weight_files import PICKLED
from diffviews.errors import CheckpointError, ConfigError, unknown_name
from diffviews.pipelines.workspace import Workspace
from diffviews.recipes.base import ModelRecipe
from diffviews.tracking.models import SCHEME, download_model
from diffviews.tracking.profiles import Profile

_log = logging.getLogger(__name__)

_FILE_ENDINGS = PICKLED | {".safetensors", ".json"}
FILES = ("base", "unet")
"""Keys that name further weights, options of the adapter's `from_checkpoint`; `lora` may name several files."""
OPTIONS = ("lora_scale", "adapter_partial", "prediction_type", "label_dropout", "null_class")
"""Keys that are options of the adapter's `from_checkpoint` as they stand."""

_NO_OPTIONS = {"checkpoint_path", "device", "precision", "lora", *FILES}
"""Arguments of `from_checkpoint` that `options` cannot give: they are said elsewhere, where places are checked."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What a folder's `config.json` says."""

    adapter: str
    """Adapter that loads the checkpoint."""
    checkpoint: str | None
    """Path of the weights, or their address; None takes the adapter's own."""
    files: dict[str, str] = field(default_factory=dict)
    """Further weights by option, paths or addresses."""
    loras: dict[str, float | None] = field(default_factory=dict)
    """LoRA with their strengths, None where `lora_scale` says it; paths or addresses."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further options of the adapter."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Sampling defaults that replace the adapter's."""
    class_names: Sequence[str] | None = None
    """Names of the model's classes in the order of its labels."""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return what a folder says, None when it has no `config.json` that names an adapter.

        Raises:
            CheckpointError: if the file is damaged, or names weights outside its folder.
        """
        path = folder / "config.json"
        if not path.is_file():
            return None
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} is not JSON: {error}") from error
        if not isinstance(said, dict) or "adapter" not in said:
            return None
        if said.get("lora") and not (said.get("checkpoint") or said.get("base")):
            raise CheckpointError(
                f"{path} names a lora but no weights to merge it into; add \"base\": a diffusers folder or its "
                "address, such as hf:stabilityai/stable-diffusion-xl-base-1.0"
            )
        known = {"adapter", "checkpoint", "lora", "options", "class_names", *FILES, *OPTIONS, *SamplingDefaults.names()}
        unused = sorted(said.keys() - known)
        if unused:
            _log.info("%s also says %s, which is not used", path, ", ".join(map(str, unused)))
        named = {name: _inside(folder, name, said[name]) for name in ("checkpoint", *FILES) if said.get(name)}
        return cls(
            adapter=str(said["adapter"]),
            checkpoint=named.pop("checkpoint", None),
            files=named,
            loras=_loras(folder, said.get("lora")),
            options=_own_options(path, said) | {name: said[name] for name in OPTIONS if name in said},
            defaults={name: said[name] for name in SamplingDefaults.names() if name in said},
            class_names=said.get("class_names"),
        )


def _own_options(path: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` of a `config.json`, which go to the adapter's `from_checkpoint`; places of files are none.

    Raises:
        CheckpointError: if they are no mapping, or the adapter takes no such option.
    """
    options = said.get("options") or {}
    if not isinstance(options, dict):
        raise CheckpointError(f"{path}: options must be a mapping of names to values, not {options!r:.50}")
    taken = inspect.signature(get_adapter(str(said["adapter"])).from_checkpoint).parameters
    free = any(option.kind is option.VAR_KEYWORD for option in taken.values())
    names = [n for n, option in taken.items() if n not in _NO_OPTIONS and option.kind is not option.VAR_KEYWORD]
    for name in options:
        if name in _NO_OPTIONS or not (free or name in names):
            hint = unknown_name(f"option of adapter {said['adapter']!r}", str(name)[:100], names)
            raise CheckpointError(f"{path}: {hint}")
    return options


def _loras(folder: Path, said: Any) -> dict[str, float | None]:
    """Return the LoRA that a `config.json` names: one, a list, or a mapping to strengths."""
    if isinstance(said, dict):
        return {_inside(folder, "lora", name): strength for name, strength in said.items()}
    several = said if isinstance(said, list) else [said] if said else []
    return {_inside(folder, "lora", name): None for name in several}


def _inside(folder: Path, name: str, value: Any) -> str:
    """Return the place of weights that a `config.json` names: an address, or a path that stays in its folder."""
    text = str(value)
    if is_remote(text) or text.startswith("models:/"):
        return text
    place = (folder / text).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise CheckpointError(
            f"{folder / 'config.json'} names {name} {text!r}, which lies outside its folder; put it there, or give "
            "an address"
        )
    return str(place) if place.exists() else text


def load_model(
    recipe: ModelRecipe, workspace: Workspace | None = None, device: str = "auto"
) -> GeneratorAdapter:
    """Return the adapter of a recipe with its weights, fetched first where they lie elsewhere.

    Args:
        recipe: names the adapter, what `resolve_checkpoint` understands or a folder whose `config.json` names
            adapter, checkpoint and sampling defaults, and the precision.
        workspace: whose registry `models:/` addresses belong to; None: the environment's.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        AdapterNotFoundError: if no adapter has this name.
        CheckpointError: if the checkpoint cannot be fetched or does not fit, or the folder gives options that the
            network does not take.
        ConfigError: if the precision or the device is none.
    """
    model, checkpoint = recipe.model, recipe.checkpoint
    profile = None if workspace is None else workspace.profile
    options = _precision_option(model, recipe.precision) | _partial_option(model, recipe.adapter_partial)
    folder = Path(checkpoint) if checkpoint is not None else None
    said = ModelFolder.read(folder) if folder is not None and folder.is_dir() else None
    if said is None or folder is None:
        options |= _base_of(checkpoint, profile)
        return load_adapter(model, _weights(model, checkpoint, profile), device, **options)
    if said.adapter != model:
        raise ConfigError(f"{folder / 'config.json'} is for adapter {said.adapter!r}, not {model!r}; name that one")
    files = {name: resolve_checkpoint(place, profile) for name, place in said.files.items()}
    options = said.options | files | _lora_option(said, profile) | options
    weights = None if said.checkpoint is None and said.files else _weights(model, said.checkpoint, profile)
    try:
        adapter = load_adapter(model, weights, device, **options)
    except TypeError as error:  # an adapter may pass any option on to a network that does not take it
        if not said.options:
            raise
        said_in = folder / "config.json"
        raise CheckpointError(f"{said_in}: adapter {model!r} cannot take its options: {error}") from error
    adapter.override_defaults(**said.defaults)
    if said.class_names is not None:
        adapter.name_classes(said.class_names)
    return adapter


def _precision_option(model: str, precision: str) -> dict[str, Any]:
    """Return the option `precision` for an adapter; one that has no choice runs in float32.

    Raises:
        ConfigError: if another format is asked of it.
    """
    if precision == "auto":
        return {}
    if "precision" in inspect.signature(get_adapter(model).from_checkpoint).parameters:
        return {"precision": precision}
    if precision != "float32":
        raise ConfigError(f"model {model!r} runs in float32 alone, not in {precision}; take auto or float32")
    return {}


def _partial_option(model: str, partial: bool) -> dict[str, Any]:
    """Return the option `adapter_partial` for an adapter that takes LoRA.

    Raises:
        ConfigError: if it takes none.
    """
    if not partial:
        return {}
    if "adapter_partial" not in inspect.signature(get_adapter(model).from_checkpoint).parameters:
        raise ConfigError(f"model {model!r} takes no LoRA of which a part could be left out; leave out adapter_partial")
    return {"adapter_partial": True}


def _lora_option(said: ModelFolder, profile: Profile | str | None) -> dict[str, Any]:
    """Return the option `lora` of what a folder says, files fetched where they lie elsewhere."""
    if not said.loras:
        return {}
    found = {place: resolve_checkpoint(place, profile) for place in said.loras}
    if None in said.loras.values():
        return {"lora": list(found.values())}
    return {"lora": {found[place]: strength for place, strength in said.loras.items()}}


def left_out(adapter: GeneratorAdapter) -> str | None:
    """Return in words what a model did not take of its LoRA, None if it took all: a tag of every run with it."""
    files = adapter.config.get("adapter_partial")
    return ", ".join(files) if files else None


def _weights(model: str, checkpoint: str | PathLike[str] | None, profile: Profile | str | None) -> Path | None:
    """Return the local path of a model's weights, None for a model that brings its own.

    Raises:
        CheckpointError: if it brings none; those of the catalogue are offered.
    """
    public = [entry.name for entry in catalogue() if entry.adapter == model]
    if checkpoint is None and public:
        raise CheckpointError(
            f"model {model!r} brings no weights; give a checkpoint: a file or folder, an address, or one of the "
            f"catalogue: {', '.join(public)}"
        )
    return resolve_checkpoint(checkpoint, profile)


def _base_of(checkpoint: str | PathLike[str] | None, profile: Profile | str | None) -> dict[str, Path | None]:
    """Return the option `base` of a catalogue checkpoint that is only a part of a pipeline."""
    entry = None if checkpoint is None or Path(checkpoint).exists() else find_checkpoint(fspath(checkpoint))
    return {} if entry is None or entry.base is None else {"base": resolve_checkpoint(entry.base, profile)}


def resolve_checkpoint(checkpoint: str | PathLike[str] | None, profile: Profile | str | None = None) -> Path | None:
    """Return the local path of a checkpoint, None for none.

    Args:
        checkpoint: a local file or folder, which wins over a name; `https://…`, `hf:owner/name[/path]`,
            `s3://…`, `r2://…`; `models:/name/version`; a name of the catalogue, with or without `catalogue:`.
        profile: tracking set-up that a `models:/` address belongs to.

    Raises:
        CheckpointError: if it cannot be fetched, or no catalogue entry has this name.
        ConfigError: if an address is malformed.
        TrackingError: if the model registry cannot be reached.
    """
    if checkpoint is None:
        return None
    text = fspath(checkpoint)
    if text.startswith(SCHEME):
        return _weights_in(download_model(text, profile))
    if is_remote(text):
        return fetch(text)
    if Path(text).exists():
        return Path(text)
    entry = get_checkpoint(text) if text.startswith(PREFIX) or _is_bare(text) else find_checkpoint(text)
    if entry is None:
        return Path(text)
    _log.info("checkpoint %s, licence %s: %s", entry.name, entry.licence, entry.address)
    return fetch(entry.address, digest=entry.sha256, size=entry.size)


def _weights_in(folder: Path) -> Path:
    """Return the folder with the weights of a registered model, which lie beside or below its description."""
    found = {
        file.parent
        for file in sorted(folder.rglob("*"))
        if file.name == "model_index.json" or file.suffix.lower() in PICKLED | {".safetensors"}
    }
    tops = [place for place in found if not any(other in place.parents for other in found)]
    return tops[0] if len(tops) == 1 else folder


def _is_bare(text: str) -> bool:
    """Tell whether a text can only be meant as a name: it has no folder and no ending of a file."""
    return "/" not in text and "\\" not in text and Path(text).suffix not in _FILE_ENDINGS


def absolute(checkpoint: str | None) -> str | None:
    """Return a checkpoint by a name that holds in any working directory; addresses stay as they are."""
    return str(Path(checkpoint).resolve()) if checkpoint is not None and Path(checkpoint).exists() else checkpoint


def describe(adapter: GeneratorAdapter) -> dict[str, Any]:
    """Return what a form must know of a model to offer what it can do, without loading it."""
    return {
        "takes_prompts": adapter.takes_prompts,
        "num_classes": adapter.num_classes,
        "class_names": adapter.class_names,
        **asdict(adapter.defaults),
        "layers": {layer: list(shape) for layer, shape in adapter.get_layer_shapes().items()},
    }


def layers(recipe: ModelRecipe, workspace: Workspace, device: str = "cpu") -> str:
    """List a model's hook points, their shapes, and what one sample's activation takes in float16.

    Args:
        recipe: the model and its weights.
        workspace: whose registry `models:/` addresses belong to.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    adapter = load_model(recipe, workspace, device=device)
    shapes = adapter.get_layer_shapes()
    rows = [
        (name, " × ".join(map(str, shapes[name])), f"{2 * math.prod(shapes[name]):,}")
        for name in adapter.hookable_layers
    ]
    total = sum(2 * math.prod(shape) for shape in shapes.values())
    rows = [("layer", "shape", "bytes a sample"), *rows, ("all", "", f"{total:,}")]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {size:>{widths[2]}}" for name, shape, size in rows)
