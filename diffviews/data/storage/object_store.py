"""The objects of one bucket, below one prefix; everything here raises, and says what to do about it.

    store = ObjectStore("r2://diffviews/data")
    store.put("digits/config.json", b"{}")
    store.download_prefix("digits", Path("data/digits"))

boto3's own transfers (s3transfer) carry the bytes and ask again for bodies that break off. Ours is what they leave
open: which keys are safe and wanted, files that appear when they are whole, and a large object that another process
goes on with, as s3transfer throws away what it has when its process ends (`data.storage.resumable`).
"""

import hashlib
import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from diffviews.data.disk import named_disk_errors
from diffviews.data.files import check_name, is_plain_name
from diffviews.data.storage.parallel import in_parallel
from diffviews.data.storage.resumable import CHUNK, BrokenConnectionError, Piece, download
from diffviews.data.storage.s3_client import S3Address, parse_s3_address, s3_client
from diffviews.data.storage.store_errors import (
    CHANGED,
    MISSING,
    ObjectNotFoundError,
    StoreError,
    error_code,
    explained,
)
from diffviews.errors import CheckpointError

logger = logging.getLogger(__name__)

CONNECTIONS = 32
"""Requests that a store answers at once."""
LARGE = 16 * 2**20
"""Bytes from which a download is kept for another process to go on with, and an upload is sent in parts."""
EXCLUDED_FOLDERS = frozenset({"intermediates", "layer_cache"})
EXCLUDED_ENDINGS = (".npz", ".pkl")
"""What a bulk download leaves out."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a listing says of one object."""

    key: str
    """Below the store's prefix."""
    size: int
    """Bytes."""
    etag: str
    """The store's mark of this version: the MD5 of what was sent in one piece."""

    def is_at(self, path: Path) -> bool:
        """Say whether a file is this object, as far as its size and, where it has one, its MD5 tell."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if "-" in self.etag or len(self.etag) != 32:  # sent in parts
            return True
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == self.etag


class ObjectStore:
    """Objects of a bucket. Safe to share between threads.

    Args:
        address: bucket and prefix, as `s3://bucket/prefix` or `r2://bucket/prefix`.
        connections: how many requests may run at once.
        read_timeout: seconds without a byte after which a request is tried again.

    Raises:
        ConfigError: if the address is malformed or a variable with R2's keys is missing.
    """

    def __init__(self, address: S3Address | str, *, connections: int = CONNECTIONS, read_timeout: float = 60.0) -> None:
        from s3transfer.futures import NonThreadedExecutor
        from s3transfer.manager import TransferConfig, TransferManager

        found = parse_s3_address(address) if isinstance(address, str) else address
        prefix = found.key.strip("/")
        self.address = replace(found, key=f"{check_name(prefix)}/" if prefix else "")
        self._client = s3_client(
            found.scheme, found.account, max_pool_connections=connections, read_timeout=read_timeout
        )
        # Without threads of its own: the callers bring theirs, and at the interpreter's end no pool takes new work.
        parts = TransferConfig(multipart_threshold=LARGE, multipart_chunksize=LARGE)
        self._transfers = TransferManager(self._client, parts, executor_cls=NonThreadedExecutor)
        self._bucket_seen = False

    @property
    def endpoint(self) -> str:
        """Address of the server."""
        return str(self._client.meta.endpoint_url)

    def __repr__(self) -> str:
        return f"ObjectStore({str(self.address)!r})"

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose keys begin with `prefix`, by key; folders' own markers are left out.

        Raises:
            StoreError: if the store cannot be used.
        """
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.address.bucket, Prefix=self.address.key + prefix
        )
        with explained(self.address):
            for page in pages:
                self._bucket_seen = True
                for entry in page.get("Contents", ()):
                    key = entry["Key"].removeprefix(self.address.key)
                    if key and not key.endswith("/"):
                        yield StoredObject(key, entry["Size"], entry.get("ETag", "").strip('"'))

    def folders(self, prefix: str = "") -> tuple[str, ...]:
        """Return the names directly below `prefix` that further keys lie under, sorted; raises as `list`."""
        start = self.address.key + (f"{check_name(prefix)}/" if prefix else "")
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.address.bucket, Prefix=start, Delimiter="/"
        )
        with explained(self.address):
            found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", ())]
        return tuple(sorted(name.removeprefix(start).rstrip("/") for name in found))

    def check(self) -> None:
        """Ask the bucket for one key.

        Raises:
            ObjectNotFoundError: if there is no such bucket.
            StoreError: if it cannot be read.
        """
        with explained(self.address):
            self._client.list_objects_v2(Bucket=self.address.bucket, MaxKeys=1)
        self._bucket_seen = True

    def exists(self, key: str) -> bool:
        """Say whether there is such an object; a bucket that does not exist is an error, not a 'no'."""
        return self._head(key) is not None

    def read(self, key: str) -> bytes:
        """Return a whole object.

        Raises:
            ObjectNotFoundError: if there is none.
            StoreError: if the store cannot be used.
        """
        arrived = BytesIO()
        with explained(self.address, key):
            self._transfers.download(*self._place(key), arrived).result()
        self._bucket_seen = True
        return arrived.getvalue()

    def get(self, key: str, target: Path, size: int | None = None) -> Path:
        """Download an object to `target`, which is replaced at once when everything has arrived.

        A large one is kept, as far as it came, for the next attempt to go on with.

        Args:
            key: the object.
            target: the file.
            size: bytes of the object; None asks the store.

        Raises:
            ObjectNotFoundError: if there is no such object.
            StoreError: if the store cannot be used.
            DiskSpaceError: if the disk is too small.
        """
        target = Path(target)
        with named_disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if size is None or size >= LARGE:
                found = self._head(key)
                if found is None:
                    raise ObjectNotFoundError(f"{self.address}{key} does not exist; check the name")
                if found["ContentLength"] >= LARGE:
                    return self._get_large(key, target, found["ETag"])
            temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
            try:
                with explained(self.address, key):
                    self._transfers.download(*self._place(key), str(temporary)).result()
                return temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)

    def _get_large(self, key: str, target: Path, version: str) -> Path:
        """Download through a file named by the object's version, which survives this process."""
        mark = hashlib.sha256(f"{self.address}{key} {version}".encode()).hexdigest()[:12]
        whole = target.with_name(f".{target.name}.{mark}")
        try:
            download(partial(self.open, key), whole, f"{self.address}{key}")
        except CheckpointError as error:
            raise StoreError(str(error)) from error
        whole.replace(target)
        whole.with_name(f".{whole.name}.lock").unlink(missing_ok=True)
        return target

    def open(self, key: str, start: int = 0, version: str | None = None) -> Piece:
        """Ask for an object from byte `start` on, for all of it if it is no more of that version; raises as `read`."""
        from botocore.exceptions import ClientError

        options = {"Range": f"bytes={start}-", "IfMatch": version or ""} if start else {}
        with explained(self.address, key):
            try:
                answer = self._client.get_object(**self._named(key), **options)
            except ClientError as error:
                if not start or error_code(error) not in CHANGED:
                    raise
                return self.open(key)
        return Piece(start, start + answer["ContentLength"], answer.get("ETag"), _chunks(answer["Body"]))

    def put(self, key: str, content: bytes | Path) -> None:
        """Store bytes or a file under a key; it is there whole, or not at all.

        Raises:
            StoreError: if the store cannot be used.
        """
        with explained(self.address, key):
            if isinstance(content, bytes):
                self._client.put_object(Body=content, **self._named(key))
            else:
                self._transfers.upload(str(content), *self._place(key)).result()
        self._bucket_seen = True

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with explained(self.address, key):
            self._client.delete_object(**self._named(key))

    def download_prefix(
        self,
        prefix: str,
        folder: Path,
        *,
        exclude_dirs: Collection[str] | None = None,
        workers: int = CONNECTIONS,
        keep: Callable[[str], bool] | None = None,
    ) -> int:
        """Download the objects below a prefix that the folder lacks; return how many were fetched.

        Args:
            prefix: without a slash at its end.
            folder: where their names continue.
            exclude_dirs: folders to leave out wherever they occur; None: intermediates, layer_cache.
                `.npz` and `.pkl` are always left out.
            workers: downloads at once.
            keep: takes a name below the prefix and says whether it is wanted.

        Raises:
            StoreError: if the store cannot be used; what arrived before is there, whole files alone.
        """
        start = f"{check_name(prefix)}/" if prefix else ""
        left_out = EXCLUDED_FOLDERS if exclude_dirs is None else frozenset(exclude_dirs)
        wanted = []
        for found in self.list(start):
            name = found.key.removeprefix(start)
            if not is_plain_name(name):
                logger.warning("%s%s is left out: its name could lead out of the folder", self.address, found.key)
            elif left_out.intersection(name.split("/")[:-1]) or name.lower().endswith(EXCLUDED_ENDINGS):
                continue
            elif (keep is None or keep(name)) and not found.is_at(folder / name):
                wanted.append((found.key, folder / name, found.size))
        in_parallel(lambda item: self.get(*item), wanted, workers, describe=f"download {prefix}")
        return len(wanted)

    def upload_folder(self, folder: Path, prefix: str, names: Iterable[str]) -> int:
        """Upload files of a folder that the prefix lacks; return how many were sent."""
        start = f"{check_name(prefix)}/" if prefix else ""
        there = {found.key: found for found in self.list(start)}
        wanted = []
        for name in names:
            key = start + check_name(name)
            if key not in there or not there[key].is_at(folder / name):
                wanted.append((key, folder / name))
        in_parallel(lambda item: self.put(*item), wanted, CONNECTIONS, describe=f"upload {prefix}")
        return len(wanted)

    def _head(self, key: str) -> dict[str, Any] | None:
        """Return what the store says of an object, None if there is none; a bucket that is missing is an error."""
        from botocore.exceptions import ClientError

        with explained(self.address, key):
            try:
                return dict(self._client.head_object(**self._named(key)))
            except ClientError as error:
                if error_code(error) not in MISSING:
                    raise
                if not self._bucket_seen:  # the answer to HEAD does not tell a missing bucket from a missing key
                    self.check()
        return None

    def _place(self, key: str) -> tuple[str, str]:
        return self.address.bucket, self.address.key + check_name(key)

    def _named(self, key: str) -> dict[str, str]:
        return dict(zip(("Bucket", "Key"), self._place(key), strict=True))


def _chunks(body: Any) -> Iterator[bytes]:
    from botocore.exceptions import BotoCoreError
    from urllib3.exceptions import HTTPError

    try:
        yield from body.iter_chunks(CHUNK)
    except (BotoCoreError, HTTPError, OSError) as error:
        raise BrokenConnectionError(f"the connection broke ({type(error).__name__})") from error
    finally:
        body.close()
