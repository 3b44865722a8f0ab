"""How a file of weights is stored, told by its first bytes and not its name, and the way from files of other kinds."""

from collections.abc import Mapping
from pathlib import Path

from diffviews.errors import CheckpointError

PICKLED = frozenset({".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt"})
"""Endings of pickled checkpoints."""

_UNPACK = "an archive; unpack it and give the file or folder that is in it"
_OTHER = "whose tensors are not read; give the safetensors or pickle that it was made from"
_STARTS: Mapping[bytes, str] = {
    b"version https://git-lfs": "a pointer of git-lfs and not the file itself; run `git lfs pull` in its folder",
    b"<!doctype html": "a web page, as sites send where a file is gone or asks for a login; fetch it again, with "
    "HF_TOKEN where it asks for one",
    b"<html": "a web page, as sites send where a file is gone or asks for a login; fetch it again",
    b"gguf": f"of GGUF, {_OTHER}",
    b"\x89hdf": f"of HDF5, {_OTHER}",
    b"\x1f\x8b": _UNPACK, b"7z\xbc\xaf": _UNPACK, b"rar!": _UNPACK,
}  # fmt: skip
"""What files of other kinds begin with, in small letters."""
_ENDINGS: Mapping[str, str] = {
    ".onnx": f"of ONNX, {_OTHER}", ".msgpack": f"of Flax, {_OTHER}",
    ".json": "a description and no weights; give the folder that it lies in",
    ".yaml": "a description and no weights; give the file of weights that it lies beside",
    ".npy": f"of numpy, {_OTHER}", ".npz": f"of numpy, {_OTHER}", ".tar": _UNPACK, ".zip": _UNPACK,
}  # fmt: skip
"""Endings of files that are never weights which are read here."""


def check_weights_file(file: Path) -> None:
    """Refuse a file that is of another kind than weights which are read.

    Raises:
        CheckpointError: saying what it is, and the way.
    """
    begin = _beginning(file).lower().lstrip()
    kind = next((kind for start, kind in _STARTS.items() if begin.startswith(start)), None)
    kind = kind or _ENDINGS.get(file.suffix.lower())
    if kind is not None:
        raise CheckpointError(f"checkpoint {file} is {kind}")


def is_pickled(file: Path) -> bool:
    """Tell whether a file is a pickle or of `torch.save`, and not safetensors; its name decides where it is neither."""
    begin = _beginning(file)
    if begin[8:9] == b"{":
        return False
    return begin[:2] == b"PK" or begin[:1] == b"\x80" or file.suffix.lower() in PICKLED


def _beginning(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(64)
