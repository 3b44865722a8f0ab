"""Which files of a published model are wanted."""

from collections.abc import Iterable

from diffviews.data.storage.names import check_name
from diffviews.errors import CheckpointError

_TEXTS = (".json", ".txt", ".model")
_WEIGHTS = ".safetensors"
_PICKLED = (".bin",)
_SKIPPED_PREFIXES = (".", "__")


def wanted_files(names: Iterable[str]) -> list[str]:
    """Return the files of a model folder to fetch: configurations, and its weights in one form.

    Where a folder has safetensors its pickled twins are left out; where a file comes in variants
    (`model.fp16.safetensors` beside `model.safetensors`) the plain one is taken. Beside a
    `model_index.json`, weights at the top are copies of those in its folders.

    Raises:
        CheckpointError: if a name would lead out of the folder.
    """
    listed = sorted(name for name in names if not _file_of(name).startswith(_SKIPPED_PREFIXES))
    pipeline = "model_index.json" in listed
    texts = [name for name in listed if name.endswith(_TEXTS)]
    safe = [name for name in listed if name.endswith(_WEIGHTS) and not (pipeline and "/" not in name)]
    folders = {name.rpartition("/")[0] for name in safe}
    pickled = [
        name
        for name in listed
        if name.endswith(_PICKLED) and name.rpartition("/")[0] not in folders and not (pipeline and "/" not in name)
    ]
    weights = _without_variants(safe) + _without_variants(pickled)
    return sorted(texts + weights) if weights else []


def _file_of(name: str) -> str:
    return check_name(name, CheckpointError).rpartition("/")[2]


def _without_variants(names: list[str]) -> list[str]:
    present = set(names)
    return [name for name in names if _plain_name(name) == name or _plain_name(name) not in present]


def _plain_name(name: str) -> str:
    """Return the name without a variant: 'unet/model.fp16.safetensors' → 'unet/model.safetensors'."""
    folder, slash, file = name.rpartition("/")
    parts = file.split(".")
    return f"{folder}{slash}{parts[0]}.{parts[-1]}" if len(parts) == 3 else name
