"""From what a pickled checkpoint describes to one flat mapping of names to tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from diffviews.data.pickles.reader import Record
from diffviews.data.pickles.tensors import ArrayShell, TensorRecord
from diffviews.errors import CheckpointError

WRAPPERS = (
    "ema", "model_ema", "ema_state_dict", "params_ema", "state_dict", "model_state_dict",
    "model", "net", "network", "generator", "unet", "params", "module",
)  # fmt: skip
"""Keys under which training programs keep a network's weights, averaged ones first."""

MAX_MODULES = 100_000
MAX_SETTINGS = 10_000
MAX_NESTING = 8


def state_dict_of(content: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of the one network in `content`, by dotted name, and what is known of it.

    Args:
        content: what `read_pickled` returned: a record, a state dict, or a dict that has one of them
            under one of `WRAPPERS`.

    Returns:
        The tensors on the CPU, and for a record its `class_name`, `init_args` and `init_kwargs`.

    Raises:
        CheckpointError: if there is no network in it. The message has no file name.
    """
    network = _network_in(content)
    if isinstance(network, Record):
        tensors = {name: record.read() for name, record in _named_tensors(network)}
        return tensors, {"class_name": network.class_name, **_settings(network)}
    return {name: value.read() for name, value in network.items() if isinstance(value, TensorRecord)}, {}


def _network_in(content: Any) -> Record | dict[str, Any]:
    for _ in range(MAX_NESTING):
        if isinstance(content, Record):
            return content
        if not isinstance(content, dict):
            break
        if "string_to_param" in content:
            raise CheckpointError("holds a textual inversion, an embedding of words; give the model it belongs to")
        if "emas" in content:
            raise CheckpointError("holds the state of a training by EDM2's code; give its network-snapshot-*.pkl")
        inner = next((key for key in WRAPPERS if isinstance(content.get(key), dict | Record)), None)
        if inner is None:
            if any(isinstance(value, TensorRecord) for value in content.values()):
                return {key: value for key, value in content.items() if isinstance(key, str)}
            break
        content = content[inner]
    keys = ", ".join(map(str, list(content)[:8]))[:200] if isinstance(content, dict) else ""
    found = f"a {type(content).__name__} with {keys or 'nothing'}" if keys or isinstance(content, dict) else "no dict"
    raise CheckpointError(f"holds no network's weights but {found}; looked under {', '.join(WRAPPERS)}")


def _named_tensors(network: Record) -> Iterator[tuple[str, TensorRecord]]:
    """Yield the parameters and buffers of a module and of those in it, as `state_dict` names them."""
    waiting, seen = [("", network)], 0
    while waiting:
        prefix, module = waiting.pop()
        seen += 1
        if seen > MAX_MODULES:
            raise CheckpointError(f"holds a network of more than {MAX_MODULES} modules")
        passing = module.state.get("_non_persistent_buffers_set")
        hidden = passing if isinstance(passing, set) else set()
        for kind in ("_parameters", "_buffers"):
            for name, value in _members(module, kind):
                if isinstance(value, TensorRecord) and not (kind == "_buffers" and name in hidden):
                    yield prefix + name, value
        for name, value in _members(module, "_modules"):
            if isinstance(value, Record):
                waiting.append((f"{prefix}{name}.", value))


def _members(module: Record, kind: str) -> list[tuple[str, Any]]:
    members = module.state.get(kind, {})
    if not isinstance(members, dict) or not all(isinstance(name, str) for name in members):
        raise CheckpointError(f"holds a {module.class_name[:80]} whose {kind} are not named")
    return list(members.items())


def _settings(network: Record) -> dict[str, Any]:
    """Return the arguments the network was made with, plain values only, as `init_args` and `init_kwargs`."""
    positional, named, left = network.state.get("_init_args"), network.state.get("_init_kwargs"), [MAX_SETTINGS]
    plain = _plain(named, left, MAX_NESTING) if isinstance(named, Mapping) else {}
    return {
        "init_args": _plain(positional, left, MAX_NESTING) if isinstance(positional, tuple | list) else [],
        "init_kwargs": {key: value for key, value in plain.items() if isinstance(key, str)},
    }


def _plain(value: Any, left: list[int], depth: int) -> Any:
    """Return a copy of plain data; `left` counts how many values may still be copied."""
    left[0] -= 1
    if left[0] < 0 or depth < 0:
        raise CheckpointError("describes its network by more settings than a network has")
    if isinstance(value, ArrayShell):
        value = value.array
    if hasattr(value, "tolist"):
        return value.tolist() if value.size <= left[0] else None
    if isinstance(value, dict):
        return {key: _plain(item, left, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, left, depth - 1) for item in value]
    return value if isinstance(value, str | int | float | bool) else None
