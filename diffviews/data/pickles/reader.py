"""Pickled checkpoints, read as data: EDM's persistence pickles, torch's files in both formats.

Exactly the globals in the tables below are known, each by a function of ours that checks sizes and
returns a tensor, an array, a container or an inert `Record`. The Python source that EDM stores beside
its objects is never looked at.
"""

import mmap
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from diffviews.data.pickles.machine import Budget, Dialect, Slice, Symbol, check_key, run_pickle
from diffviews.data.pickles.tensors import (
    STORAGE_TYPES,
    ArrayShell,
    ArrayType,
    StorageBytes,
    TensorRecord,
    array_of,
    scalar_of,
    tensor_record,
)
from diffviews.errors import CheckpointError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_MODULES = {
    "torch.nn.modules.container": ("ModuleDict", "ModuleList", "Sequential", "ParameterDict", "ParameterList"),
    "torch.nn.modules.activation": ("SiLU", "ReLU", "GELU", "Sigmoid", "Tanh"),
    "torch.nn.modules.linear": ("Identity",),
    "torch.nn.modules.dropout": ("Dropout",),
}
"""Classes of torch that hold the parameters of others, or none: their objects become records."""
_DTYPES = (
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
    "float8_e4m3fn", "float8_e5m2",
)  # fmt: skip
_CALLBACKS = ("pytorch_lightning.callbacks.model_checkpoint", "lightning.pytorch.callbacks.model_checkpoint")
"""Modules of a class by which Lightning's checkpoints, such as those of Stable Diffusion, name a part of theirs."""


@dataclass(slots=True, eq=False)
class Record:
    """An object of a checkpoint, inert: the name of its class and its state."""

    class_name: str
    state: dict[Any, Any] = field(default_factory=dict)
    """What was in its `__dict__`."""


def read_pickled(path: str | os.PathLike[str]) -> Any:
    """Return what a pickled checkpoint describes: containers, numbers, arrays and records.

    Tensors are `TensorRecord`s, which take memory when they are read.

    Args:
        path: a pickle such as EDM's, or a file of `torch.save` in its zip or its older format.

    Raises:
        CheckpointError: if it is missing, truncated or holds anything else; a forbidden global is named.
    """
    file = Path(path)
    data = _bytes_of(file)
    budget = Budget(4 * len(data) + 2**20)
    try:
        if bytes(data[:2]) == b"PK":
            return _read_zip(file, data, budget)
        if _is_legacy(data):
            return _read_legacy(data, budget)
        return run_pickle(Slice(data), _dialect(budget))
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {file} {error}") from error


def _bytes_of(file: Path) -> memoryview:
    """Return the bytes of a file, mapped, so that only those that are used are read."""
    if not file.is_file():
        raise CheckpointError(f"checkpoint {file} does not exist or is not a file; check the path")
    if not file.stat().st_size:
        raise CheckpointError(f"checkpoint {file} is empty; fetch it again")
    with file.open("rb") as opened:
        return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))


def _read_zip(file: Path, data: memoryview, budget: Budget) -> Any:
    """Read the zip format of `torch.save`: one pickle, and one stored member for each storage."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
            if any("/code/" in name for name in members):
                raise CheckpointError("is a program of TorchScript, which is not run; save its state_dict() instead")
            if len(pickles) != 1:
                raise CheckpointError("is a zip file, but none of torch.save")
            contents = {name: _member(data, info) for name, info in members.items()}
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"is not a whole zip file ({error}); fetch it again") from error
    root = pickles[0].removesuffix("data.pkl")
    if bytes(contents.get(root + "byteorder", memoryview(b"little"))) != b"little":
        raise CheckpointError("holds big-endian numbers, which are not read")
    storages = dict[str, StorageBytes]()

    def load(reference: Any) -> StorageBytes:
        key, dtype, count = _storage_reference(reference)
        if f"{root}data/{key}" not in contents:
            raise CheckpointError(f"lacks the data of its storage {key[:40]!r}")
        if key not in storages:
            storages[key] = StorageBytes(dtype, count).fill(contents[f"{root}data/{key}"])
        return _same_type(storages[key], dtype)

    return run_pickle(Slice(contents[pickles[0]]), _dialect(budget, load))


def _member(data: memoryview, info: zipfile.ZipInfo) -> memoryview:
    """Return the bytes of a zip member, which must lie uncompressed within the file."""
    start = info.header_offset
    header = bytes(data[start : start + 30])
    if info.compress_type != zipfile.ZIP_STORED or len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise CheckpointError(f"has the member {info.filename[:80]!r}, which torch.save would not write so")
    start += 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if start + info.file_size > len(data):
        raise CheckpointError(f"ends before its member {info.filename[:80]!r} does; fetch it again")
    return data[start : start + info.file_size]


def _is_legacy(data: memoryview) -> bool:
    return bytes(data[:14])[2:].startswith(b"\x8a\x0a" + _LEGACY_MAGIC.to_bytes(10, "little"))


def _read_legacy(data: memoryview, budget: Budget) -> Any:
    """Read the older format of `torch.save`: five pickles, then the storages one after another."""
    stream, storages = Slice(data), dict[str, StorageBytes]()

    def load(reference: Any) -> StorageBytes:
        key, dtype, count = _storage_reference(reference)
        return _same_type(storages.setdefault(key, StorageBytes(dtype, count)), dtype)

    plain = Dialect(lambda module, name: None, _new, _build)  # no global at all
    magic, version, system = (run_pickle(stream, plain) for _ in range(3))
    little = isinstance(system, dict) and system.get("little_endian") is True
    if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION or not little:
        raise CheckpointError("is of a version or byte order of torch.save that is not read")
    content = run_pickle(stream, _dialect(budget, load))
    keys = run_pickle(stream, plain)
    if type(keys) is not list or set(map(type, keys)) - {str} or sorted(keys) != sorted(storages):
        raise CheckpointError("does not list the storages it uses")
    try:
        for key in keys:
            storage = storages[key]
            if int.from_bytes(stream.read(8), "little") != storage.count:
                raise CheckpointError(f"says two sizes for its storage {key[:40]!r}")
            storage.fill(memoryview(stream.read(storage.size)))
    except EOFError as error:
        raise CheckpointError(f"ends before its storages do ({error}); fetch it again") from error
    return content


def _storage_reference(reference: Any) -> tuple[str, torch.dtype, int]:
    """Return key, element type and number of elements of a persistent id of torch's."""
    if type(reference) is not tuple or len(reference) not in (5, 6) or reference[0] != "storage":
        raise CheckpointError("refers to something that is no storage")
    _, kind, key, _, count = reference[:5]
    if reference[5:] not in ((), (None,)) or type(key) is not str or not isinstance(kind, Symbol):
        raise CheckpointError("refers to a storage in a way that is not read")
    if kind.name not in STORAGE_TYPES:
        raise CheckpointError(f"refers to a storage of type {kind.name}, which is not read")
    return key, STORAGE_TYPES[kind.name], count


def _same_type(storage: StorageBytes, dtype: torch.dtype) -> StorageBytes:
    if storage.dtype != dtype:
        raise CheckpointError(f"reads one storage both as {storage.dtype} and as {dtype}")
    return storage


def _of_type(storage: Any, kind: Any) -> Any:
    """Return a storage of bytes as one of elements of a type that has no class of storages, such as float8."""
    if not isinstance(storage, StorageBytes) or not isinstance(kind, Symbol) or kind.name not in _DTYPES:
        raise TypeError("a tensor is made of something that is no storage or no type")
    dtype = getattr(torch, kind.name)
    if storage.data is None or storage.size % dtype.itemsize:
        raise CheckpointError(f"claims elements of {dtype} in {storage.size} bytes")
    return StorageBytes(dtype, storage.size // dtype.itemsize, storage.data)


def _dialect(budget: Budget, load: Callable[[Any], Any] | None = None) -> Dialect:
    table = _symbols(budget, nested=load is None)

    def find(module: str, name: str) -> Symbol | None:
        if name == "_reconstruct_persistent_obj" and module.split(".")[-1] == "persistence":
            return Symbol(module, name, _persistent_record)
        return table.get((module, name))

    return Dialect(find, _new, _build, load)


def _symbols(budget: Budget, *, nested: bool) -> Mapping[tuple[str, str], Symbol]:
    """Return every global that may be named, with what calling it means here."""
    calls: dict[tuple[str, str], Callable[..., Any] | None] = {
        ("torch._utils", "_rebuild_tensor"): lambda *a: tensor_record(budget, *a),
        ("torch._utils", "_rebuild_tensor_v2"): lambda s, o, n, t, grad, hooks, *_: tensor_record(budget, s, o, n, t),
        ("torch._utils", "_rebuild_tensor_v3"): lambda s, o, n, t, grad, hooks, kind, *_: tensor_record(
            budget, _of_type(s, kind), o, n, t
        ),
        ("torch._utils", "_rebuild_parameter"): lambda tensor, grad, hooks: _tensor(tensor),
        ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, grad, hooks, state: _tensor(tensor),
        ("torch", "Size"): lambda sizes=(): tuple(_few(budget, sizes)),
        ("torch", "device"): lambda *_: "cpu",
        ("collections", "OrderedDict"): lambda pairs=(): _ordered(budget, pairs),
        ("dnnlib.util", "EasyDict"): lambda: {},
        ("_codecs", "encode"): lambda text, coding: _encode(budget, text, coding),
        ("copyreg", "_reconstructor"): lambda cls, base, state: _new(cls),
        ("copy_reg", "_reconstructor"): lambda cls, base, state: _new(cls),
        ("numpy", "dtype"): ArrayType,
        ("numpy", "ndarray"): None,
    }
    if nested:  # within such a stream storages are persistent ids, so bytes nest one level deep at most
        calls["torch.storage", "_load_from_bytes"] = lambda data: _load_from_bytes(budget, data)
    for core in ("numpy.core", "numpy._core"):
        calls[f"{core}.multiarray", "_reconstruct"] = lambda cls, shape, kind: ArrayShell(budget)
        calls[f"{core}.multiarray", "scalar"] = scalar_of
        calls[f"{core}.numeric", "_frombuffer"] = lambda data, kind, shape, order: array_of(
            budget, data, kind, shape, order
        )
    for builtins in ("builtins", "__builtin__"):
        calls[builtins, "object"] = None
        calls[builtins, "set"] = lambda items=(): {check_key(item) for item in _few(budget, items)}
        calls[builtins, "frozenset"] = lambda items=(): frozenset(check_key(item) for item in _few(budget, items))
        calls[builtins, "bytearray"] = lambda data=b"", *coding: (
            bytearray(_encode(budget, data, *coding) if coding else _few(budget, data))
        )
    for name in STORAGE_TYPES:
        calls["torch", name] = calls["torch.storage", name] = None
    for module, names in _MODULES.items():
        calls |= {(module, name): None for name in names}
    calls |= {("torch", name): None for name in _DTYPES}
    calls |= {(module, "ModelCheckpoint"): None for module in _CALLBACKS}
    return {key: Symbol(*key, call) for key, call in calls.items()}


def _load_from_bytes(budget: Budget, data: Any) -> StorageBytes:
    """Read the storage that torch puts into a plain pickle as a file of `torch.save` of its own."""
    content = memoryview(data)
    budget.charge(len(content))
    if not _is_legacy(content):
        raise CheckpointError("holds a nested storage in a format that is not read")
    storage = _read_legacy(content, budget)
    if not isinstance(storage, StorageBytes):
        raise CheckpointError("holds a nested file that is no storage")
    return storage


def _persistent_record(meta: Any) -> Record:
    """Return the object of EDM's persistence; its `module_src` is left alone."""
    if type(meta) is not dict or meta.get("type") != "class":
        raise TypeError("a persistent object has no description")
    name, state = meta.get("class_name"), meta.get("state")
    if type(name) is not str or type(state) is not dict:
        raise TypeError("a persistent object has no class name or no state")
    return Record(name, state)


def _tensor(value: Any) -> TensorRecord:
    if not isinstance(value, TensorRecord):
        raise TypeError("a parameter is made of something that is no tensor")
    return value


def _few(budget: Budget, items: Any) -> Any:
    if type(items) not in (list, tuple, bytes, set, frozenset):
        raise TypeError("a container is made of something that is none")
    budget.charge(8 * len(items))
    return items


def _ordered(budget: Budget, pairs: Any) -> dict[Any, Any]:
    return {check_key(key): value for key, value in _few(budget, pairs)}


def _encode(budget: Budget, text: Any, coding: Any) -> bytes:
    """Return bytes that an older pickle spells as text."""
    if type(text) is not str or coding not in ("latin1", "latin-1"):
        raise TypeError("bytes are spelled in another way than pickle spells them")
    budget.charge(len(text))
    return text.encode("latin1")


def _new(cls: Any) -> Any:
    if not isinstance(cls, Symbol):
        raise TypeError("an object is made of something that is no class")
    if (cls.module, cls.name) == ("dnnlib.util", "EasyDict"):
        return {}
    if cls.name in _MODULES.get(cls.module, ()):
        return Record(cls.name)
    raise CheckpointError(f"makes an object of {cls.module}.{cls.name}, which is not read")


def _build(target: Any, state: Any) -> None:
    """Give a record, an array or an element type its state; anything else takes none."""
    if isinstance(target, Record):
        if type(state) is not dict:
            raise TypeError("an object has a state that is no dict")
        target.state = state
    elif isinstance(target, ArrayShell):
        target.fill(state)
    elif isinstance(target, ArrayType):
        target.set_order(state)
    elif isinstance(target, dict):
        # torch notes versions as an attribute of a state dict; EasyDict has no attributes of its own.
        if type(state) is not dict:
            raise TypeError("a dict has a state that is no dict")
    else:
        raise CheckpointError(f"gives a state to a {type(target).__name__}, which takes none")
