"""One function that turns the address of a checkpoint into a local path."""

import hashlib
import os
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

from diffviews.data.files import check_name
from diffviews.data.storage.cache import cache_folder
from diffviews.data.storage.https import check_secure, open_https, shown
from diffviews.data.storage.hub import fetch_hub, parse_hub_address, wanted_files
from diffviews.data.storage.object_store import ObjectStore
from diffviews.data.storage.resumable import Expected, download
from diffviews.data.storage.s3_client import S3Address, parse_s3_address
from diffviews.data.storage.store_errors import StoreError
from diffviews.errors import CheckpointError

REMOTE = ("https://", "http://", "hf:", "s3://", "r2://")
"""How the addresses begin that `fetch` understands; anything else is a local path."""
_MAX_FILES = 1000


def is_remote(address: str) -> bool:
    """Tell whether an address names something on another machine."""
    return address.lower().startswith(REMOTE)


def fetch(
    address: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    digest: str | None = None,
    size: int | None = None,
) -> Path:
    """Return the local path of a checkpoint, downloaded unless it is there already.

    Args:
        address: a local path; `https://…`; `hf:owner/name[@revision][/path]`; `s3://bucket/key`;
            `r2://bucket/key` or `r2://bucket@account.r2.cloudflarestorage.com/key`.
        folder: where to keep downloads; None: below `DIFFVIEWS_CACHE_DIR` (~/.cache/diffviews).
        digest: sha256 that the file must have, in hexadecimal.
        size: bytes that the file must have.

    Returns:
        A file, or for an address of several files a folder.

    Raises:
        CheckpointError: if it is missing, refused, cut short, or another file than expected.
        ConfigError: if the address has no such form or credentials are missing.
        DiskSpaceError: if the disk is too small.
    """
    text, expected = os.fspath(address), Expected(size, digest)
    if not is_remote(text):
        path = Path(text)
        if not path.exists():
            raise CheckpointError(f"checkpoint {path} does not exist; check the path")
        if path.is_file():
            expected.check(path, f"checkpoint {path}")
        return path
    keep = Path(folder) if folder is not None else cache_folder() / "checkpoints"
    if text.startswith("hf:"):
        return fetch_hub(parse_hub_address(text), Path(folder) if folder is not None else None, expected)
    own = keep / hashlib.sha256(text.encode()).hexdigest()[:16]
    if text.startswith(("s3://", "r2://")):
        return _fetch_from_bucket(parse_s3_address(text), own, expected)
    check_secure(text)
    name = unquote(urlsplit(text).path).rstrip("/").rsplit("/", 1)[-1]
    check_name(name or "checkpoint", CheckpointError)
    return download(partial(open_https, text), own / (name or "checkpoint"), shown(text), expected)


def _fetch_from_bucket(address: S3Address, folder: Path, expected: Expected) -> Path:
    """Fetch an object; a key that is none is taken for the prefix of a model folder."""
    store, key = ObjectStore(replace(address, key="")), address.key

    def get(key: str, target: Path, expected: Expected) -> Path:
        return download(partial(store.open, key), target, f"{store.address}{key}", expected)

    try:
        if key and not key.endswith("/") and store.exists(key):
            return get(key, folder / key.rpartition("/")[2], expected)
        prefix = f"{key.rstrip('/')}/" if key else ""
        listed = list(islice(store.list(prefix), _MAX_FILES + 1))
        if len(listed) > _MAX_FILES:
            raise CheckpointError(f"{address} names more than {_MAX_FILES} objects; give the folder of one model")
        names = wanted_files(found.key.removeprefix(prefix) for found in listed)
        if not names:
            raise CheckpointError(f"{address} is neither an object nor a prefix of model files; check the address")
        root = folder / (prefix.rstrip("/").rpartition("/")[2] or address.bucket)
        for name in names:
            get(prefix + name, root / name, Expected())
        return root
    except StoreError as error:
        raise CheckpointError(f"{address} cannot be fetched: {error}") from error
