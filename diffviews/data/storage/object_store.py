"""The objects of one bucket, below one prefix; everything here raises, and says what to do about it.

    store = ObjectStore("r2://diffviews/data")
    store.put("digits/config.json", b"{}")
    store.download_prefix("digits", Path("data/digits"))

What botocore does not try again, a body that breaks off, is asked for from the byte it broke at.
"""

import hashlib
import logging
import random
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from diffviews.data.storage.bulk import (
    EXCLUDED_FOLDERS,
    StoredObject,
    check_key,
    in_parallel,
    is_safe,
    is_there,
    is_wanted,
)
from diffviews.data.storage.resumable import CHUNK, BrokenConnectionError, Piece, download
from diffviews.data.storage.s3_client import S3Address, parse_s3_address, s3_client
from diffviews.data.storage.store_errors import CHANGED, MISSING, StoreError, error_code, explained
from diffviews.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

CONNECTIONS = 32
"""Requests that a store answers at once."""
ATTEMPTS = 5
"""Bodies in a row that may break off without a byte arriving."""
LARGE = 16 * 2**20
"""Bytes from which a download is kept for another process to go on with, and an upload is sent in parts."""


class ObjectStore:
    """Objects of a bucket. Safe to share between threads.

    Args:
        address: bucket and prefix, as `s3://bucket/prefix` or `r2://bucket/prefix`.
        connections: how many requests may run at once.
        read_timeout: seconds without a byte after which a request is tried again.

    Raises:
        ConfigError: if the address is malformed or a variable with R2's keys is missing.
    """

    def __init__(
        self, address: S3Address | str, *, connections: int = CONNECTIONS, read_timeout: float = 60.0
    ) -> None:
        found = parse_s3_address(address) if isinstance(address, str) else address
        prefix = found.key.strip("/")
        self.address = replace(found, key=f"{check_key(prefix)}/" if prefix else "")
        self._client = s3_client(
            found.scheme, found.account, max_pool_connections=connections, read_timeout=read_timeout
        )
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
        start = self.address.key + (f"{check_key(prefix)}/" if prefix else "")
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
        from botocore.exceptions import ClientError

        with explained(self.address, key):
            try:
                self._client.head_object(Bucket=self.address.bucket, Key=self._full(key))
            except ClientError as error:
                if error_code(error) not in MISSING:
                    raise
                if not self._bucket_seen:  # the answer to HEAD does not tell a missing bucket from a missing key
                    self.check()
                return False
        return True

    def read(self, key: str) -> bytes:
        """Return a whole object.

        Raises:
            ObjectNotFoundError: if there is none.
            StoreError: if the store cannot be used.
        """
        arrived = BytesIO()
        self._receive(key, arrived, 0, None)
        return arrived.getvalue()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return `length` bytes of an object from byte `start` on, fewer where it ends earlier; raises as `read`."""
        if start < 0 or length < 1:
            raise ConfigError(f"a range of {length} bytes from {start} is none; take 1 or more from 0 on")
        arrived = BytesIO()
        self._receive(key, arrived, start, start + length)
        return arrived.getvalue()

    def get(self, key: str, target: Path) -> Path:
        """Download an object to `target`, which is replaced at once when everything has arrived.

        A large one is kept, as far as it came, for the next attempt to go on with.

        Raises:
            ObjectNotFoundError: if there is no such object.
            StoreError: if the store cannot be used.
            DiskSpaceError: if the disk is too small.
        """
        target = Path(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        piece = self._open(key, 0, None, None)
        if piece.total is not None and piece.total >= LARGE:
            return self._get_large(key, target, piece)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
        try:
            with temporary.open("wb") as file:
                self._receive(key, file, 0, None, piece)
            return temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def _get_large(self, key: str, target: Path, first: Piece) -> Path:
        """Download through a file named by the object's version, which survives this process."""
        mark = hashlib.sha256(f"{self.address}{key} {first.version}".encode()).hexdigest()[:12]
        whole = target.with_name(f".{target.name}.{mark}")
        given = [first]

        def open_piece(start: int, version: str | None) -> Piece:
            if given and not start:
                return given.pop()
            return self._open(key, start, None, version)

        try:
            download(open_piece, whole, f"{self.address}{key}")
        except CheckpointError as error:
            raise StoreError(str(error)) from error
        finally:
            for unused in given:
                unused.chunks.close()  # type: ignore[attr-defined]
        whole.replace(target)
        whole.with_name(f".{whole.name}.lock").unlink(missing_ok=True)
        return target

    def put(self, key: str, content: bytes | Path) -> None:
        """Store bytes or a file under a key; it is there whole, or not at all.

        Raises:
            StoreError: if the store cannot be used.
        """
        from boto3.s3.transfer import TransferConfig

        place = {"Bucket": self.address.bucket, "Key": self._full(key)}
        with explained(self.address, key):
            if isinstance(content, bytes):
                self._client.put_object(Body=content, **place)
            else:
                # Without threads of its own: at the interpreter's end no pool takes new work.
                parts = TransferConfig(multipart_threshold=LARGE, multipart_chunksize=LARGE, use_threads=False)
                self._client.upload_file(str(content), Config=parts, **place)
        self._bucket_seen = True

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with explained(self.address, key):
            self._client.delete_object(Bucket=self.address.bucket, Key=self._full(key))

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
        start = f"{check_key(prefix)}/" if prefix else ""
        left_out = EXCLUDED_FOLDERS if exclude_dirs is None else frozenset(exclude_dirs)
        wanted = []
        for found in self.list(start):
            name = found.key.removeprefix(start)
            if not is_safe(name):
                logger.warning("%s%s is left out: its name could lead out of the folder", self.address, found.key)
            elif is_wanted(name, left_out) and (keep is None or keep(name)) and not is_there(folder / name, found):
                wanted.append((found.key, folder / name))
        in_parallel(lambda item: self.get(*item), wanted, workers, describe=f"download {prefix}")
        return len(wanted)

    def upload_folder(
        self, folder: Path, prefix: str, names: Iterable[str], *, workers: int = CONNECTIONS, force: bool = False
    ) -> int:
        """Upload files of a folder that the prefix lacks; return how many were sent."""
        start = f"{check_key(prefix)}/" if prefix else ""
        there = {} if force else {found.key: found for found in self.list(start)}
        wanted = []
        for name in names:
            key = start + check_key(name)
            if key not in there or not is_there(folder / name, there[key]):
                wanted.append((key, folder / name))
        in_parallel(lambda item: self.put(*item), wanted, workers, describe=f"upload {prefix}")
        return len(wanted)

    def _full(self, key: str) -> str:
        return self.address.key + check_key(key)

    def _receive(self, key: str, file: Any, start: int, stop: int | None, piece: Piece | None = None) -> None:
        """Write bytes [start, stop) of an object to `file`, asking again for what a broken body lacked."""
        begin, position, idle, version = start, start, 0, piece.version if piece else None
        while True:
            piece = piece or self._open(key, position, stop, version, begin)
            if piece.start != position:  # another version by now: everything from the first byte on
                file.seek(0)
                file.truncate()
                position = begin
            version, before, end = piece.version, position, piece.total
            try:
                for chunk in piece.chunks:
                    file.write(chunk)
                    position += len(chunk)
            except BrokenConnectionError as error:
                reason = str(error)
            else:
                reason = "the body ended early"
            if end is None or position >= end:
                return
            idle = 0 if position > before else idle + 1
            if idle >= ATTEMPTS:
                raise StoreError(f"{self.address}{key} cannot be fetched: {reason}, {idle} times in a row; try again")
            logger.info("%s%s: %s after %d bytes; asking for the rest", self.address, key, reason, position - begin)
            time.sleep(_pause(idle))
            piece = None

    def _open(self, key: str, start: int, stop: int | None, version: str | None, begin: int = 0) -> Piece:
        """Ask for bytes [start, stop) of an object; for those from `begin` on if it is another one by now."""
        from botocore.exceptions import ClientError

        options: dict[str, str] = {}
        if start or stop is not None:
            options["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        if version is not None:
            options["IfMatch"] = version
        with explained(self.address, key):
            try:
                answer = self._client.get_object(Bucket=self.address.bucket, Key=self._full(key), **options)
            except ClientError as error:
                if version is None or error_code(error) not in CHANGED:
                    raise
                return self._open(key, begin, stop, None)
        self._bucket_seen = True
        return Piece(start, start + answer["ContentLength"], answer.get("ETag"), _chunks(answer["Body"]))


def _chunks(body: Any) -> Iterator[bytes]:
    from botocore.exceptions import BotoCoreError
    from urllib3.exceptions import HTTPError

    try:
        yield from body.iter_chunks(CHUNK)
    except (BotoCoreError, HTTPError, OSError) as error:
        raise BrokenConnectionError(f"the connection broke ({type(error).__name__})") from error
    finally:
        body.close()


def _pause(idle: int) -> float:
    """Return seconds to wait: longer each time nothing came, and not the same for all who wait."""
    return min(8.0, 0.2 * 2**idle) * random.uniform(0.5, 1.5)
