"""Tensors and arrays as pickles describe them, rebuilt after every size has been checked."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffviews.data.pickles.machine import Budget
from diffviews.errors import CheckpointError

MAX_DIMENSIONS = 32

STORAGE_TYPES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
"""Element type of each of torch's storage classes."""

_NUMBER_TYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c8|c16|[SU][0-9]{1,4})")


@dataclass(slots=True, eq=False)
class StorageBytes:
    """The elements of a storage, as the bytes they have in the file."""

    dtype: torch.dtype
    """Their type."""
    count: int
    """How many the file says there are."""
    data: memoryview | None = None
    """Their bytes; None until they are found."""

    def __post_init__(self) -> None:
        _integers((self.count,))

    @property
    def size(self) -> int:
        """Bytes they take."""
        return self.count * self.dtype.itemsize

    def fill(self, data: memoryview) -> "StorageBytes":
        """Take the bytes of the elements.

        Raises:
            CheckpointError: if they are more or fewer than the elements need.
        """
        if len(data) != self.size:
            raise CheckpointError(f"claims a storage of {self.count} elements of {self.dtype} in {len(data)} bytes")
        self.data = data
        return self


@dataclass(slots=True, eq=False)
class TensorRecord:
    """A tensor that a file describes; it takes memory only when it is read."""

    budget: Budget
    """Charged with its bytes before they are taken."""
    storage: StorageBytes
    """Where its elements lie."""
    offset: int
    """Index of its first element."""
    shape: list[int]
    """Its sizes."""
    stride: list[int]
    """Steps between elements along each dimension, in elements."""

    def read(self) -> Tensor:
        """Return the tensor, contiguous, with memory of its own, on the CPU.

        Raises:
            CheckpointError: if it would reach outside its storage or hold more elements than that.
        """
        storage, count = self.storage, math.prod(self.shape)
        last = self.offset + sum((length - 1) * step for length, step in zip(self.shape, self.stride, strict=True))
        if storage.data is None or count > storage.count or (count and last >= storage.count):
            raise CheckpointError(
                f"claims a tensor of shape {tuple(self.shape)} with strides {tuple(self.stride)} from element "
                f"{self.offset} of a storage that has {storage.count}"
            )
        itemsize = storage.dtype.itemsize
        self.budget.charge(count * itemsize)
        if not count:
            return torch.empty(self.shape, dtype=storage.dtype)
        window = bytearray(storage.data[self.offset * itemsize : (last + 1) * itemsize])
        flat = torch.frombuffer(window, dtype=storage.dtype)
        return flat.as_strided(self.shape, self.stride).clone(memory_format=torch.contiguous_format)


def tensor_record(budget: Budget, storage: Any, offset: Any, shape: Any, stride: Any) -> TensorRecord:
    """Return the record of what `torch._utils._rebuild_tensor` is asked for."""
    if not isinstance(storage, StorageBytes):
        raise TypeError("a tensor is made of something that is no storage")
    sizes, steps = _integers(shape), _integers(stride)
    if len(sizes) != len(steps):
        raise CheckpointError(f"claims a tensor with {len(sizes)} dimensions and {len(steps)} strides")
    return TensorRecord(budget, storage, _integers((offset,))[0], sizes, steps)


def _integers(values: Any) -> list[int]:
    """Return sizes as plain integers that torch and its products can take."""
    if type(values) not in (tuple, list) or len(values) > MAX_DIMENSIONS:
        raise TypeError("a shape is not a short tuple of integers")
    for value in values:
        if type(value) is not int or not 0 <= value < 2**48:
            raise CheckpointError(f"claims a size, stride or offset of {_shown(value)}")
    return list(values)


def _shown(value: Any) -> str:
    """Return a value for a message: a hostile one may be too deep or too long to be written out."""
    return repr(value)[:40] if type(value) in (int, float, bool, str) else f"a {type(value).__name__}"


class ArrayType:
    """A numpy element type that holds numbers or text, never Python objects."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.set(name)

    def set(self, name: Any) -> None:
        """Take the type of this name.

        Raises:
            CheckpointError: if its elements could be anything but numbers or text.
        """
        if type(name) is not str or not _NUMBER_TYPE.fullmatch(name):
            raise CheckpointError(f"holds an array of the forbidden type {_shown(name)}")
        self.dtype = np.dtype(name)

    def set_order(self, state: Any) -> None:
        """Take the byte order from the state numpy stores: (version, order, ...)."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise TypeError("an array type has another state than numpy gives it")
        if any(part is not None for part in state[2:5]):
            raise CheckpointError("holds an array of a structured type")
        self.dtype = self.dtype.newbyteorder(state[1])


class ArrayShell:
    """A numpy array whose elements arrive after it was named."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.array = np.empty(0)

    def fill(self, state: Any) -> None:
        """Take the state numpy stores: (version, shape, type, Fortran order, bytes)."""
        _, shape, dtype, fortran, data = state
        self.array = array_of(self._budget, data, dtype, shape, "F" if fortran else "C")


def array_of(budget: Budget, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """Return an array of elements that fill `data` exactly.

    Raises:
        CheckpointError: if they do not.
    """
    if not isinstance(dtype, ArrayType) or not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError("an array is made of something that is no array")
    sizes = _integers(shape)
    if math.prod(sizes) * dtype.dtype.itemsize != len(data) or order not in ("C", "F"):
        raise CheckpointError(f"claims an array of shape {tuple(sizes)} and {dtype.dtype} in {len(data)} bytes")
    budget.charge(len(data))
    return np.frombuffer(bytes(data), dtype.dtype).reshape(sizes, order=order)


def scalar_of(dtype: Any, data: Any) -> Any:
    """Return a numpy scalar as the plain Python number it stands for."""
    if not isinstance(dtype, ArrayType) or not isinstance(data, bytes) or len(data) != dtype.dtype.itemsize:
        raise TypeError("a number is made of something that is no number")
    return np.frombuffer(data, dtype.dtype)[0].item()
