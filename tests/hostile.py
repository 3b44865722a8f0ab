"""A corpus of hostile checkpoints, made when a test runs; each would leave a mark if anything in it were run."""

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.checkpoints import edm_persistence


class Calls:
    """Unpickles as a call of a function, given by itself or by 'module name'."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def raw_call(module: str, name: str, argument: str) -> bytes:
    """Return the pickle, protocol 0, of one call with one text."""
    return f"c{module}\n{name}\n(V{argument}\ntR.".encode()


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def stack_global(module: str, name: str, argument: str) -> bytes:
    """Return the pickle, protocol 4, of one call; the name may be dotted, which walks attributes."""
    return b"\x80\x04" + short(module) + short(name) + b"\x93" + short(argument) + b"\x85R."


def legacy_storage(
    count: int, stored: int, data: bytes = b"\0" * 16, key: str = "k", kind: str = "FloatStorage"
) -> bytes:
    """Return a file in torch's older format with one storage, whose sizes need not be true."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system))
    number = pickle.dumps(count, 2)[2:-1]
    text = b"X" + struct.pack("<I", len(key)) + key.encode()
    body = b"\x80\x02(X\x07\0\0\0storagectorch\n" + kind.encode() + b"\n"
    body += text + b"X\x03\0\0\0cpu" + number + b"NtQ."
    return head + body + pickle.dumps([key], 2) + struct.pack("<q", stored) + data


def tensor_call(storage: bytes, offset: Any, shape: Any, stride: Any, repeat: int = 1) -> bytes:
    """Return a pickle {'a0': tensor, …} of tensors on one nested storage, with any sizes."""
    numbers = [pickle.dumps(part, 2)[2:-1] for part in (offset, shape, stride)]
    bytes_ = b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(storage)) + storage + b"\x85Rr\xff\0\0\0"
    out = b"\x80\x03" + bytes_ + b"0}("
    for index in range(repeat):
        key = f"a{index}".encode()
        out += b"X" + struct.pack("<I", len(key)) + key
        out += b"ctorch._utils\n_rebuild_tensor_v2\n(j\xff\0\0\0" + b"".join(numbers) + b"\x89}tR"
    return out + b"u."


def torch_zip(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    return stream.getvalue()


def saved(content: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def persistence(meta: Any, module: str = "torch_utils.persistence") -> bytes:
    with edm_persistence(module):
        import sys

        return pickle.dumps({"ema": Calls(sys.modules[module]._reconstruct_persistent_obj, meta)}, 4)


def deep(levels: int) -> bytes:
    """Return the pickle of {((((…)))): None}, which ends a process that hashes it."""
    return b"\x80\x02})" + b"\x85" * levels + b"Ns."


def running(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Return files that run something in an ordinary unpickler: name → (content, what a refusal names)."""
    shell, touch = f"touch {marker}", f"__import__('pathlib').Path({str(marker)!r}).touch()"
    import os

    touching = Calls(os.system, shell)
    return {
        "os-system.pkl": (pickle.dumps({"ema": touching}, 4), "posix.system"),
        "os-system-2.pkl": (pickle.dumps({"ema": touching}, 2), "posix.system"),
        "os-system-0.pkl": (raw_call("os", "system", shell), "os.system"),
        "eval.pkl": (pickle.dumps(Calls(eval, touch), 4), "builtins.eval"),
        "exec.pkl": (pickle.dumps([Calls(exec, touch)], 5), "builtins.exec"),
        "dotted.pkl": (stack_global("torch", "serialization.os.system", shell), "torch.serialization.os.system"),
        "inst.pkl": (f"(V{shell}\nios\nsystem\n.".encode(), "INST"),
        "obj.pkl": (b"(cos\nsystem\n" + b"V" + shell.encode() + b"\no.", "os.system"),
        "getattr.pkl": (pickle.dumps(Calls(Path(marker).touch), 4), "builtins.getattr"),
        "state-dict.pt": (pickle.dumps({"w": torch.ones(2), "x": touching}, 2), "posix.system"),
        "array.pkl": (pickle.dumps({"w": np.array([touching], dtype=object)}, 4), "forbidden type"),
    }  # fmt: skip


def silent(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Return files that hide a call, lie about sizes, or wear the reader out: name → (content, refusal)."""
    import os

    touching = Calls(os.system, f"touch {marker}")
    source = f"open({str(marker)!r}, 'w').close()"
    ordinary = legacy_storage(4, 4)
    big = b"\x80\x04X" + struct.pack("<I", 40_000) + b"a" * 40_000 + b"q\0"
    encode = b"c_codecs\nencode\nh\0X\x06\0\0\0latin1\x86R"
    ext = b"\x80\x02\x82\x01."
    reference = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0xX\x03\0\0\0cpuK\x04tQ"
    return {
        "zip.bin": (saved({"w": touching}), "posix.system"),
        "legacy.bin": (saved({"w": touching}, _use_new_zipfile_serialization=False), "posix.system"),
        "zip-named-ckpt.ckpt": (saved({"state_dict": {"w": touching}}), "posix.system"),
        "nested-pickle.pkl": (pickle.dumps(Calls(torch.storage._load_from_bytes, pickle.dumps(touching))), "nested"),
        "nested-legacy.pkl": (
            pickle.dumps(Calls(torch.storage._load_from_bytes, saved(touching, _use_new_zipfile_serialization=False))),
            "posix.system",
        ),
        "nested-twice.pkl": (
            pickle.dumps(
                Calls(
                    torch.storage._load_from_bytes,
                    saved(Calls(torch.storage._load_from_bytes, ordinary), _use_new_zipfile_serialization=False),
                )
            ),
            "torch.storage._load_from_bytes",
        ),
        "source-only.pkl": (
            persistence({"type": "class", "version": 6, "module_src": source, "class_name": "N", "state": {}}),
            "not fit|no tensors|ADM|N around",
        ),
        "source-in-state.pkl": (
            persistence({"type": "class", "version": 6, "module_src": source, "class_name": "N", "state": touching}),
            "posix.system",
        ),
        "no-meta.pkl": (persistence(["class"]), "persistent object"),
        "setstate.pkl": (b"\x80\x02cnumpy\ndtype\nX\x02\0\0\0f8\x85R}b.", "state"),
        "state-of-number.pkl": (b"\x80\x02K\x01}b.", "takes none"),
        "object-array.pkl": (pickle.dumps({"w": np.array([None, 1], dtype=object)}, 4), "forbidden type"),
        "structured-array.pkl": (pickle.dumps({"w": np.zeros(2, [("a", "f4")])}, 4), "forbidden type"),
        "extension.pkl": (ext, "EXT1"),
        "persistent-id.pkl": (b"\x80\x02K\x01Q.", "outside itself"),
        "foreign-id.bin": (torch_zip({"data.pkl": b"\x80\x02(X\x06\0\0\0modulecos\nsystem\ntQ."}), "os.system"),
        "new-object.pkl": (b"\x80\x02cnumpy\nndarray\n)\x81.", "numpy.ndarray"),
        "call-of-type.pkl": (b"\x80\x02cnumpy\nndarray\n)R.", "cannot be called"),
        "huge-bytes.pkl": (b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.", "asked for"),
        "huge-text.pkl": (b"\x80\x04X" + struct.pack("<I", 2**32 - 1) + b"abc.", "asked for"),
        "huge-frame.pkl": (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.", "no network"),
        "huge-memo.pkl": (b"\x80\x02Nr\xff\xff\xff\xff.", "no network"),
        "huge-integer.pkl": (b"\x80\x02\x8b" + struct.pack("<i", 4000) + b"\x7f" * 4000 + b".", "bits"),
        "negative-length.pkl": (b"\x80\x02\x8b" + struct.pack("<i", -5) + b".", "pickle"),
        "deep-key.pkl": (deep(200_000), "as a key"),
        "unhashable-key.pkl": (b"\x80\x02}]Ns.", "as a key"),
        "endless.pkl": (b"\x80\x02" + b"]" * 1000, "pickle"),
        "empty-stack.pkl": (b"\x80\x02R.", "pickle"),
        "no-memo.pkl": (b"\x80\x02h\x07.", "pickle"),
        "huge-shape.pkl": (tensor_call(ordinary, 0, (2**40,), (1,)), "claims a tensor"),
        "many-zero-strides.pkl": (tensor_call(ordinary, 0, (2**20, 2**20), (0, 0)), "claims a tensor"),
        "beyond-storage.pkl": (tensor_call(ordinary, 3, (2,), (1,)), "claims a tensor"),
        "negative-offset.pkl": (tensor_call(ordinary, -1, (2,), (1,)), "claims a size"),
        "negative-stride.pkl": (tensor_call(ordinary, 3, (2,), (-1,)), "claims a size"),
        "negative-shape.pkl": (tensor_call(ordinary, 0, (-2, -2), (1, 1)), "claims a size"),
        "overflowing-shape.pkl": (tensor_call(ordinary, 0, (2**63, 2), (0, 0)), "claims a size"),
        "many-dimensions.pkl": (tensor_call(ordinary, 0, (1,) * 64, (1,) * 64), "shape"),
        "text-shape.pkl": (tensor_call(ordinary, 0, ("4",), (1,)), "claims a size"),
        "amplified.pkl": (tensor_call(legacy_storage(2500, 2500, b"\0" * 10_000), 0, (2500,), (1,), 3000), "more data"),
        "encoded-again.pkl": (big + encode * 2000 + b".", "more data"),
        "storage-larger.pkl": (tensor_call(legacy_storage(2**40, 2**40), 0, (4,), (1,)), "ends before"),
        "storage-two-sizes.pkl": (tensor_call(legacy_storage(4, 5), 0, (4,), (1,)), "two sizes"),
        "storage-negative.pkl": (tensor_call(legacy_storage(-4, -4), 0, (4,), (1,)), "claims a size"),
        "storage-odd.pkl": (tensor_call(legacy_storage(4, 4, kind="QInt8Storage"), 0, (4,), (1,)), "QInt8Storage"),
        "compressed.bin": (torch_zip({"data.pkl": b"\x80\x02}."}, zipfile.ZIP_DEFLATED), "would not write"),
        "no-pickle.bin": (torch_zip({"version": b"3\n"}), "none of torch.save"),
        "lacks-storage.bin": (torch_zip({"data.pkl": b"\x80\x02" + reference + b"."}), "lacks the data"),
        "smaller-storage.bin": (
            torch_zip({"data.pkl": b"\x80\x02" + reference + b".", "data/x": b"\0" * 12}),
            "4 elements of torch.float32 in 12 bytes",
        ),
        "other-type.bin": (
            torch_zip(
                {
                    "data.pkl": b"\x80\x02(" + reference + reference.replace(b"Float", b"Int") + b"t.",
                    "data/x": b"\0" * 16,
                }
            ),
            "both as torch.float32 and as torch.int32",
        ),
        "big-endian.bin": (torch_zip({"data.pkl": b"\x80\x02}.", "byteorder": b"big"}), "big-endian"),
        "truncated.bin": (saved({"w": torch.ones(100)})[:-200], "zip"),
        "truncated-legacy.bin": (saved({"w": torch.ones(9)}, _use_new_zipfile_serialization=False)[:-5], "ends before"),
        "truncated.pkl": (pickle.dumps({"w": torch.ones(100)}, 4)[:-150], "pickle"),
        "empty.pkl": (b"", "empty"),
        "text.pkl": (b"not found", "pickle"),
        "page.pkl": (b"<html>not found</html>", "web page"),
        "nothing.pt": (pickle.dumps({"epoch": 3}), "no network"),
        "number.pt": (pickle.dumps(3), "no network"),
    }


def module_bomb() -> bytes:
    """Return a network of 64 modules that each hold the next twice: 2^64 names in a few kilobytes."""
    state: dict[str, Any] = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    with edm_persistence():
        import sys

        make: Callable[..., Any] = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj
        node = Calls(make, {"type": "class", "class_name": "N", "state": state})
        for _ in range(64):
            modules = {"_modules": {"a": node, "b": node}}
            node = Calls(make, {"type": "class", "class_name": "N", "state": modules})
        return pickle.dumps({"ema": node}, 4)


def instructions(data: bytes) -> list[str]:
    """Return the names of a pickle's instructions, for tests of the corpus itself."""
    return [code.name for code, _, _ in pickletools.genops(data)]
