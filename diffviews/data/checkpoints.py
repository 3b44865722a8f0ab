"""Checkpoint files, read without ever running anything they contain.

`read_checkpoint_file` takes a file or a folder: safetensors, whole or in shards; the pickles of EDM; the
files of `torch.save` under any of their names. Its opposite, `write_safetensors`, writes a file that is
whole or not there.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffviews.data.files import sha256_of
from diffviews.data.tensor_file import order_header, read_arrays
from diffviews.data.weight_files import PICKLED, check_weights_file, is_pickled
from diffviews.errors import CheckpointError, CorruptDataError

if TYPE_CHECKING:
    from torch import Tensor

_INDEX = ".index.json"
_USUAL_NAMES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_lora_weights.bin",
)
"""Names of model files, the one to take first."""
_MAX_INDEX_BYTES = 64 * 2**20


def read_checkpoint_file(path: str | os.PathLike[str]) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Return the tensors of a checkpoint by name, on the CPU, and what it says about them.

    Args:
        path: a file, or a folder with one model file in it.

    Returns:
        The tensors as stored, and: the metadata of a safetensors file, or `class_name`, `init_args` and
        `init_kwargs` of a pickled network of EDM, or nothing.

    Raises:
        CheckpointError: if it is missing, truncated, hostile or holds no network's weights.
    """
    file = model_file(path)
    if file.name.endswith(_INDEX):
        return _read_shards(file)
    if is_pickled(file):
        return _read_pickled_network(file)
    return read_safetensors(file)


def tensor_names(path: str | os.PathLike[str]) -> list[str]:
    """Return the names of the tensors of a checkpoint, without reading them where its format allows.

    Raises:
        CheckpointError: as `read_checkpoint_file`.
    """
    file = model_file(path)
    if file.name.endswith(_INDEX):
        return list(_shard_names(file))
    return list(_read_pickled_network(file)[0] if is_pickled(file) else _stored_types(file))


def integer_weights(path: str | os.PathLike[str]) -> list[str]:
    """Return the names of weights and biases that a file stores as whole numbers; a pickle is read for that.

    Raises:
        CheckpointError: as `read_checkpoint_file`.
    """
    file = model_file(path)
    if is_pickled(file):
        types = {name: str(tensor.dtype) for name, tensor in _read_pickled_network(file)[0].items()}
    else:
        types = _stored_types(file)
    named = (name for name in types if name.endswith((".weight", ".bias")))
    return [name for name in named if types[name].removeprefix("torch.").lower().startswith(("i", "u"))]


def _stored_types(file: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {file} is not a whole safetensors file ({error}); fetch it again") from error


def model_file(path: str | os.PathLike[str]) -> Path:
    """Return the file to read: `path` itself, or the one model file of a folder.

    Raises:
        CheckpointError: if there is none, or several with no usual name among them.
    """
    folder = Path(path)
    if not folder.is_dir():
        return _existing_file(path)
    usual = next((folder / name for name in _USUAL_NAMES if (folder / name).is_file()), None)
    if usual is not None:
        return usual
    for suffixes in ({".safetensors"}, PICKLED):
        files = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in suffixes)
        if len(files) == 1:
            return files[0]
        if files:
            names = ", ".join(file.name for file in files[:5])
            raise CheckpointError(f"folder {folder} holds several model files ({names}); give the one to read")
    inner = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    hint = f"give one of its folders: {', '.join(inner[:8])}" if inner else "give one that does"
    endings = ", ".join((".safetensors", *sorted(PICKLED)))
    raise CheckpointError(f"folder {folder} holds no model file ({endings}); {hint}")


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Return the tensors of a safetensors file, on the CPU, and its metadata.

    Raises:
        CheckpointError: if the file is missing, truncated, hostile or of another format.
    """
    file = _existing_file(path)
    if is_pickled(file):
        raise CheckpointError(
            f"checkpoint {file} is pickled and no safetensors file; convert it with "
            f"`diffviews convert-checkpoint {file.name}`"
        )
    try:
        return read_arrays(file, "pt")
    except CorruptDataError as error:
        raise CheckpointError(
            f"checkpoint {file} is not a whole safetensors file ({error.__cause__}); fetch or convert it again"
        ) from error


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write tensors and metadata as a safetensors file, which appears under its name only when whole.

    The same tensors and metadata give the same bytes, hence the same digest.

    Raises:
        CheckpointError: if there are no tensors.
        OSError: if the disk refuses.
    """
    from safetensors.torch import save_file

    file = Path(path)
    if not tensors:
        raise CheckpointError(f"there are no tensors to write to {file}")
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(6)}.part")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode  # as the user's umask wants it; safetensors would let nobody else read it
        save_file(_apart(tensors), temporary, metadata=dict(metadata or {}))
        temporary.chmod(mode)
        with temporary.open("r+b") as stream:
            order_header(stream)
        os.replace(temporary, file)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return file


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file's bytes in hexadecimal."""
    return sha256_of(_existing_file(path))


def _read_pickled_network(file: Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    from diffviews.data.pickles.reader import read_pickled
    from diffviews.data.pickles.state_dicts import state_dict_of

    content = read_pickled(file)
    try:
        return state_dict_of(content)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {file} {error}") from error


def _read_shards(index: Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Read a model that an index spreads over several files in the same folder."""
    tensors: dict[str, Tensor] = {}
    names = _shard_names(index)
    for shard in sorted(set(names.values())):
        stored, _ = read_checkpoint_file(index.parent / shard)
        for name in (name for name, place in names.items() if place == shard):
            if name not in stored:
                raise CheckpointError(f"{index.parent / shard} lacks the tensor {name!r} that {index.name} promises")
            tensors[name] = stored[name]
    return tensors, {}


def _shard_names(index: Path) -> dict[str, str]:
    """Return tensor name → file name, none of which leads out of the folder."""
    if index.stat().st_size > _MAX_INDEX_BYTES:
        raise CheckpointError(f"the index {index} is too large to be one")
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"the index {index} cannot be read: {error!r}") from error
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"the index {index} names no tensors")
    for shard in set(map(str, names.values())):
        plain = shard == Path(shard).name and "\\" not in shard and shard not in ("", ".", "..")
        if not plain or shard.endswith(_INDEX) or not (index.parent / shard).is_file():
            raise CheckpointError(f"the index {index} names the file {shard[:200]!r}, which is not in its folder")
    return {name: str(shard) for name, shard in names.items()}


def _apart(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Return the tensors contiguous and each with memory of its own, as the format wants them."""
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        packed = tensor.contiguous()
        place = packed.untyped_storage().data_ptr()
        apart[name] = packed.clone() if place in seen and packed.numel() else packed
        seen.add(place)
    return apart


def _existing_file(path: str | os.PathLike[str]) -> Path:
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"checkpoint {file} does not exist or is not a file; check the path")
    if not file.name.endswith(_INDEX):
        check_weights_file(file)
    return file
