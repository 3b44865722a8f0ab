"""A reader of pickle streams that can build plain containers and nothing else by itself.

Python's own unpicklers act first and ask second: they look a global up by attribute, call
`__setstate__`, make room for whatever size a stream claims. Here the stream is only taken apart
(`pickletools.genops` decodes it without acting on it), and a small stack machine follows the
instructions that plain data needs. A global is never looked up: it becomes a `Symbol` if the exact
pair of module and name is in a table, and what is called is that table's function. Instructions
outside the list below are refused, so there is nothing to forget to forbid.
"""

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from diffviews.errors import CheckpointError

Build = Callable[[Any, Any], None]
"""Gives a state to an object made before: `build(object, state)`."""

_KEY_TYPES = (str, bytes, int, float, bool, type(None))
_MAX_INTEGER_BYTES = 64
_MALFORMED = (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, EOFError, struct.error)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A global that a stream names and the table knows; it is never imported."""

    module: str
    name: str
    call: Callable[..., Any] | None = None
    """What calling it means here; None: it can only be passed on, as a type is."""


class Slice:
    """The bytes of a checkpoint, read like a file; nothing beyond their end is ever asked for."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.position = 0

    def tell(self) -> int:
        return self.position

    def read(self, count: int) -> bytes | memoryview:
        """Return exactly `count` bytes; large ones as a view, without a copy."""
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise EOFError(f"{count} bytes are asked for where {len(self.data) - self.position} are left")
        part = self.data[self.position : end]
        self.position = end
        return bytes(part) if count < 4096 else part

    def readline(self) -> bytes:
        """Return the bytes up to and with the next line end."""
        window = bytes(self.data[self.position : self.position + 4096])
        line = window[: window.find(b"\n") + 1]
        if not line:
            raise EOFError("a line does not end")
        self.position += len(line)
        return line


class Budget:
    """How many bytes a stream may still make; it starts from the size of the file."""

    def __init__(self, size: int) -> None:
        self.left = size

    def charge(self, count: int) -> None:
        """Take `count` bytes, before they are made.

        Raises:
            CheckpointError: if the file claims more than it can hold.
        """
        self.left -= count
        if self.left < 0:
            raise CheckpointError("claims more data than the file holds")


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one kind of stream may name and do."""

    find: Callable[[str, str], Symbol | None]
    """The symbol of (module, name), or None if it is forbidden."""
    new: Callable[[Symbol], Any]
    """Makes an empty object of a symbol that stands for a class."""
    build: Build
    """Gives it its state."""
    load: Callable[[Any], Any] | None = None
    """Resolves a persistent id; None: there are none."""


def run_pickle(stream: Slice, dialect: Dialect) -> Any:
    """Return what one pickle in `stream` describes, and leave the stream just behind it.

    Raises:
        CheckpointError: if it names a forbidden global, uses an instruction outside the list or is
            cut short. The message has no file name; the caller, who knows the file, adds it.
    """
    machine = _Machine(dialect)
    try:
        for code, argument, _ in pickletools.genops(cast(BinaryIO, stream)):
            if code.name == "STOP":
                return machine.stack.pop()
            machine.step(code.name, argument)
    except CheckpointError:
        raise
    except _MALFORMED as error:
        reason = str(error)[:200] or type(error).__name__
        raise CheckpointError(f"is not a whole pickle of plain data ({reason})") from error
    raise CheckpointError("is not a whole pickle (it does not end)")


class _Machine:
    """Stack, marks and memo of one run."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            if type(argument) is int and argument.bit_length() > 8 * _MAX_INTEGER_BYTES:
                raise OverflowError(f"an integer has {argument.bit_length()} bits")
            self.stack.append(argument)
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise CheckpointError(f"uses the pickle instruction {name}, which plain data does not need")

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_to_mark()

    def memoize(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def find(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a global is not named by text")
        symbol = self.dialect.find(module, name)
        if symbol is None:
            raise CheckpointError(
                f"names the forbidden global {f'{module}.{name}'[:200]!r}; only tensors, arrays and plain "
                "containers are read, so convert it where you trust it, or fetch safetensors"
            )
        self.stack.append(symbol)

    def find_named(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.find(module, name)

    def find_on_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.find(module, name)

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Symbol) or function.call is None or not isinstance(arguments, tuple):
            raise TypeError("something is called that cannot be called")
        self.stack.append(function.call(*arguments))

    def make(self, _: Any) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        if not isinstance(cls, Symbol) or arguments != ():
            raise TypeError("an object is made with arguments")
        self.stack.append(self.dialect.new(cls))

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        self.dialect.build(self.stack[-1], state)

    def load_persistent(self, _: Any) -> None:
        if self.dialect.load is None:
            raise CheckpointError("refers to data outside itself, which plain data does not need")
        self.stack.append(self.dialect.load(self.stack.pop()))

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError(f"items are appended to a {type(target).__name__}")
        target.extend(items)

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise TypeError(f"items are set on a {type(target).__name__}")
        target.update(as_dict(items))

    def add(self, _: Any) -> None:
        items = self.pop_to_mark()
        target = self.stack[-1]
        if not isinstance(target, set):
            raise TypeError(f"items are added to a {type(target).__name__}")
        target.update(check_key(item) for item in items)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items


def check_key(key: Any) -> Any:
    """Return `key` if hashing it is harmless: a plain scalar, a known global, or a tuple of such.

    A tuple nested a million deep would end the process while it is hashed.
    """
    parts = key if type(key) is tuple else (key,)
    if not all(type(part) in _KEY_TYPES or type(part) is Symbol for part in parts):
        raise TypeError(f"a {type(key).__name__} is used as a key")
    return key


def as_dict(items: list[Any]) -> dict[Any, Any]:
    """Return keys and values that alternate in a list as a dict."""
    if len(items) % 2:
        raise ValueError("a key has no value")
    return {check_key(items[i]): items[i + 1] for i in range(0, len(items), 2)}


_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = frozenset(
    {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
        "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    }
)  # fmt: skip
_ACTIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda m, _: m.pop_to_mark().clear(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "PUT": _Machine.memoize,
    "BINPUT": _Machine.memoize,
    "LONG_BINPUT": _Machine.memoize,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.recall,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "LIST": lambda m, _: m.push(m.pop_to_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.push(tuple(m.pop_last(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.pop_last(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.pop_last(3))),
    "DICT": lambda m, _: m.push(as_dict(m.pop_to_mark())),
    "FROZENSET": lambda m, _: m.push(frozenset(check_key(item) for item in m.pop_to_mark())),
    "APPEND": lambda m, _: m.extend(m.pop_last(1)),
    "APPENDS": lambda m, _: m.extend(m.pop_to_mark()),
    "SETITEM": lambda m, _: m.update(m.pop_last(2)),
    "SETITEMS": lambda m, _: m.update(m.pop_to_mark()),
    "ADDITEMS": _Machine.add,
    "GLOBAL": _Machine.find_named,
    "STACK_GLOBAL": _Machine.find_on_stack,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.make,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.load_persistent,
}
