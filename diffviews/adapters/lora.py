"""LoRA and its kin: files of small changes, merged into the weights of a U-Net and its text encoders.

Every module that a file names is looked up among those of the networks, whatever the program that wrote it calls
them: kohya (`lora_unet_…`, also by the original names of SDXL's blocks), peft, diffusers old and new, or bare paths.
What is not found is counted, and refuses the file.
"""

import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffviews.adapters.checkpoint import check_finite_weights
from diffviews.adapters.low_rank import merged, rank_of, scaled_by_ia3, split_name
from diffviews.adapters.module_names import find_module, spellings
from diffviews.data.checkpoints import model_file, read_checkpoint_file, tensor_names
from diffviews.errors import CheckpointError, ConfigError

_log = logging.getLogger(__name__)

StrPath = str | Path
Loras = StrPath | Sequence[StrPath] | Mapping[StrPath, float]
"""One file, several, or several with a strength each."""

KINDS = "LoRA, DoRA, LoHa, LoKr, IA3 and plain differences"
_TYPES = ("LORA", "LOHA", "LOKR", "IA3")
_CHANGED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways of peft to begin a LoRA that change the weights beneath it, so that the file alone is not the change."""
_OTHER_LAYERS = (
    "fan_in_fan_out", "layer_replication", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config",
    "kasa_config", "monteclora_config", "modules_to_save",
)  # fmt: skip
"""Settings of peft by which the change is another than the factors say, or whole modules are replaced."""
_HARD_PATTERN = re.compile(r"\)\s*[*+?{]|(?:[*+?}].*){4}")
"""Patterns that could take for ever: a repeated group, or many repetitions."""


@dataclass(frozen=True, slots=True)
class LoraFile:
    """The changes in a file, by the module's name in it."""

    path: Path
    changes: dict[str, dict[str, Tensor]]
    """Module as named → its tensors by kind."""
    unknown: tuple[str, ...]
    """Tensors that belong to no known kind of change."""
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What peft notes of its settings, by network; '' is for all."""

    @classmethod
    def read(cls, path: StrPath) -> "LoraFile":
        """Read a file, or a folder with one.

        Raises:
            CheckpointError: if it is missing, damaged, hostile, holds NaN, or no such changes.
        """
        file = model_file(path)
        tensors, metadata = read_checkpoint_file(file)
        check_finite_weights(f"LoRA {file}", tensors)
        changes: dict[str, dict[str, Tensor]] = defaultdict(dict)
        unknown = []
        for name, tensor in tensors.items():
            split = split_name(name)
            if split is None or split[1] in changes[split[0]]:
                unknown.append(name)
            else:
                changes[split[0]][split[1]] = tensor
            if split and split[1] != "alpha" and not tensor.is_floating_point():
                raise CheckpointError(
                    f"LoRA {file}: tensor {name!r} holds {str(tensor.dtype).removeprefix('torch.')} numbers, as if it "
                    "were quantised; give it in float16 or float32"
                )
        if not changes:
            raise CheckpointError(f"LoRA {file} holds none of {KINDS}, but {', '.join(sorted(unknown)[:3])} …")
        configs = _configs(file, metadata)
        if not configs and any(name.startswith("base_model.") for name in changes):
            _log.warning("LoRA %s has no adapter_config.json beside it, so its alpha is taken to be its rank", file)
        return cls(file, dict(changes), tuple(unknown), configs)

    def config(self, network: str) -> dict[str, Any]:
        """Return what peft notes of its settings for a network, {} where it notes none."""
        return self.configs.get(network, self.configs.get("", {}))


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Modules of a file that the networks do not have."""

    path: Path
    modules: int
    """How many were left out."""
    named: int
    """How many the file names."""

    def __str__(self) -> str:
        return f"{self.modules} of the {self.named} modules of {self.path.name}"


def is_lora(path: StrPath) -> bool:
    """Tell whether a file of weights holds changes and not a whole network.

    Raises:
        CheckpointError: if it is missing, damaged or hostile.
    """
    kinds = {split[1] for name in tensor_names(path) if (split := split_name(name))}
    return bool(kinds - {"alpha"})


def both_loras(first: StrPath, others: Loras | None) -> Loras:
    """Return a LoRA and others in one list; strengths, if some have their own, are kept, and the first has 1."""
    if others is None:
        return first
    if isinstance(others, Mapping):
        return {first: 1.0, **others}
    return [first, *([others] if isinstance(others, str | Path) else others)]


def with_strengths(loras: Loras | None, scale: float | Sequence[float] = 1.0) -> list[tuple[Path, float]]:
    """Return files with their strengths.

    Raises:
        ConfigError: if there are not as many strengths as files, or one is not finite.
    """
    if loras is None:
        return []
    if isinstance(loras, Mapping):
        pairs = [(Path(path), strength) for path, strength in loras.items()]
    else:
        paths = [loras] if isinstance(loras, str | Path) else list(loras)
        scales: list[Any] = list(scale) if isinstance(scale, list | tuple) else [scale] * len(paths)
        if len(paths) != len(scales):
            raise ConfigError(f"lora_scale has {len(scales)} strengths for {len(paths)} files of lora; give one each")
        pairs = [(Path(path), strength) for path, strength in zip(paths, scales, strict=True)]
    for path, strength in pairs:
        if isinstance(strength, bool) or not isinstance(strength, int | float) or not math.isfinite(strength):
            raise ConfigError(f"the strength {strength!r} of LoRA {path} is not a finite number")
    return [(path, float(strength)) for path, strength in pairs]


def merge_loras(
    networks: Mapping[str, nn.Module], loras: Sequence[tuple[Path, float]], *, partial: bool = False
) -> list[LeftOut]:
    """Merge files into networks, in place, one after another.

    Args:
        networks: 'unet' and, where the model has them, 'text_encoder' and 'text_encoder_2'.
        loras: files with their strengths.
        partial: leave out modules that the networks do not have, instead of refusing.

    Returns:
        What was left out, a file each.

    Raises:
        CheckpointError: if a file is missing, damaged, hostile, or of another model.
    """
    tables = {name: dict(spellings(name, network)) for name, network in networks.items()}
    files = [(LoraFile.read(path), strength) for path, strength in loras]
    return [left for file, strength in files if (left := _merge(networks, tables, file, strength, partial))]


def _merge(
    networks: Mapping[str, nn.Module],
    tables: Mapping[str, Mapping[str, str]],
    file: LoraFile,
    strength: float,
    partial: bool,
) -> LeftOut | None:
    changed: dict[tuple[str, str], dict[str, Tensor]] = {}
    left = list(file.unknown)
    for name, parts in file.changes.items():
        place = find_module(name, tables)
        module = None if place is None else networks[place[0]].get_submodule(place[1])
        if place is None or module is None or place in changed:
            left.append(name)
            continue
        try:
            changed[place] = _changed(module, place, parts, file, strength)
        except CheckpointError as error:
            left.append(f"{name}, which {error}")
    told = LeftOut(file.path, len(left), len(file.changes) + len(file.unknown))
    if left and not (partial and changed):
        raise CheckpointError(_refusal(told, left, len(changed)))
    for (network, path), values in changed.items():
        module = networks[network].get_submodule(path)
        with torch.no_grad():
            for name, value in values.items():
                parameter = getattr(module, name)
                parameter.copy_(value.to(parameter.dtype))
    if not left:
        return None
    _log.warning("LoRA: %s are not in this model and were left out (%s)", told, ", ".join(left[:3]))
    return told


def _refusal(told: LeftOut, left: Sequence[str], fitting: int) -> str:
    remedy = (
        f"adapter_partial: true (--adapter_partial true) applies the other {fitting}"
        if fitting
        else f"what is read is {KINDS}; merge anything else into the model by the program that trained it"
    )
    return (
        f"LoRA {told.path} belongs to another model: {told.modules} of its {told.named} modules are not in this one "
        f"({'; '.join(left[:3])}); {remedy}"
    )


def _changed(
    module: nn.Module, place: tuple[str, str], parts: Mapping[str, Tensor], file: LoraFile, strength: float
) -> dict[str, Tensor]:
    """Return a module's parameters with a change merged into them.

    Raises:
        CheckpointError: if it does not fit, without the module's name.
    """
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, Tensor):
        raise CheckpointError("is no layer with weights")
    config = file.config(place[0])
    if "ia3" in parts:
        forward = _is_named(config.get("feedforward_modules"), place[1])
        forward = forward or (parts["ia3"].shape[0] == 1 and weight.ndim == 2)
        new, changed_bias = scaled_by_ia3(weight, bias, parts["ia3"], strength, on_input=forward)
        return {"weight": new} if changed_bias is None else {"weight": new, "bias": changed_bias}
    scale = strength * _scale(parts, config, place[1])
    values = {}
    if set(parts) - {"alpha", "bias_difference"}:
        if config.get("use_dora") and not {"magnitude", "dora_scale"} & parts.keys():
            raise CheckpointError("is said to be DoRA but has no magnitudes")
        values["weight"] = merged(weight, parts, scale)
    for kind, amount in (("up_bias", scale), ("bias_difference", strength)):
        if kind in parts:
            if not isinstance(bias, Tensor) or parts[kind].numel() != bias.numel():
                raise CheckpointError("changes a bias that is not there")
            values["bias"] = bias.to(torch.float32) + amount * parts[kind].to(torch.float32).reshape(bias.shape)
    if not values:
        raise CheckpointError("has an alpha and nothing else")
    return values


def _scale(parts: Mapping[str, Tensor], config: Mapping[str, Any], path: str) -> float:
    """Return alpha / rank, from the tensor that kohya stores or from peft's settings; 1 where neither is given."""
    rank = rank_of(parts)
    if rank == 0:
        raise CheckpointError("has rank 0, by which it changes nothing")
    if "alpha" in parts and parts["alpha"].numel() != 1:
        raise CheckpointError(f"has an alpha of {parts['alpha'].numel()} numbers")
    if "alpha" in parts:
        return float(parts["alpha"]) / rank if rank else 1.0
    alpha = _by_pattern(config, "alpha_pattern", path, config.get("lora_alpha", config.get("alpha")))
    rank = rank or _by_pattern(config, "rank_pattern", path, config.get("r"))
    if alpha is None or not rank or "difference" in parts:
        return 1.0
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(config: Mapping[str, Any], name: str, path: str, default: Any) -> Any:
    """Return what peft notes for modules whose path ends as a regular expression says; its first match counts."""
    for pattern, value in (config.get(name) or {}).items():
        # Since its version 5.6 transformers has a text model's own paths without `text_model`.
        if any(re.match(rf"(.*\.)?({pattern})$", spelling) for spelling in (path, f"text_model.{path}")):
            return value
    return default


def _is_named(names: Any, path: str) -> bool:
    """Tell whether peft means a module: by a regular expression of its whole path, or by one of several endings."""
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path.endswith(str(name)) for name in names or ())


def _configs(file: Path, metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return peft's settings: of a folder that it saved, or as diffusers notes them in the file.

    Raises:
        CheckpointError: if they cannot be read, or say of a change that it is none of those read here.
    """
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    beside = file.with_name("adapter_config.json")  # peft's; diffusers keeps its own in the file
    try:
        if "lora_adapter_metadata" in metadata:
            for name, value in json.loads(metadata["lora_adapter_metadata"]).items():
                network, _, key = name.partition(".")
                found[network][key] = value
        elif beside.is_file() and not file.name.startswith("pytorch_lora_weights"):
            found[""] = dict(json.loads(beside.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the settings of LoRA {file} cannot be read: {error}") from error
    for config in found.values():
        _check_config(file, config)
    return dict(found)


def _check_config(file: Path, config: Mapping[str, Any]) -> None:
    kind, begun = str(config.get("peft_type") or "LORA").upper(), str(config.get("init_lora_weights")).lower()
    if kind not in _TYPES:
        raise CheckpointError(
            f"LoRA {file} is peft's {kind}, which is not read; merge it by peft's merge_and_unload and give the "
            f"whole weights (what is read is {KINDS})"
        )
    if begun.startswith(_CHANGED_BASES):
        raise CheckpointError(
            f"LoRA {file} was begun by {begun}, which changed the weights beneath it; save it once more by peft's "
            "save_pretrained(…, path_initial_model_for_weight_conversion=…)"
        )
    odd = [name for name in _OTHER_LAYERS if config.get(name)]
    if config.get("bias", "none") != "none":
        odd.append(f"bias {config['bias']!r}")
    if odd:
        raise CheckpointError(
            f"LoRA {file} was made with {odd[0]}, which is not read; merge it by peft's merge_and_unload and give the "
            "whole weights"
        )
    _check_numbers(file, config)


def _check_numbers(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse settings of peft that are no numbers, or patterns of modules that could take for ever."""
    for name in ("alpha_pattern", "rank_pattern", "feedforward_modules"):
        value = config.get(name)
        patterns = list(value) if isinstance(value, dict) else [value] if isinstance(value, str) else []
        for pattern in patterns:
            try:
                hard = len(pattern) > 200 or _HARD_PATTERN.search(pattern) or not re.compile(f"({pattern})")
            except (re.error, RecursionError, OverflowError):
                hard = True
            if hard:
                raise CheckpointError(f"LoRA {file}: its {name} has {str(pattern)[:60]!r}, which is not read")
    numbers = [config.get(name) for name in ("r", "lora_alpha", "alpha")]
    for name in ("alpha_pattern", "rank_pattern"):
        pattern = config.get(name) or {}
        numbers += pattern.values() if isinstance(pattern, dict) else [pattern]
    odd = [number for number in numbers if number is not None and not _is_number(number)]
    if odd:
        raise CheckpointError(f"LoRA {file}: its settings have {str(odd[0])[:60]!r} where a rank or an alpha belongs")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
