"""A Zarr store over one function that fetches bytes by key, whatever store they lie in."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from diffviews.errors import CorruptDataError

Fetch = Callable[[str], bytes | None]
"""Returns the bytes stored under a key such as 'zarr.json' or 'c/0/0/0/0', or None if there are none."""

METADATA_KEY = "zarr.json"
PARALLEL_FETCHES = 8


class FetchStore(Store):
    """A read-only Zarr store over a fetch function; a missing chunk is an error, not a block of zeros."""

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, fetch: Fetch, metadata: bytes, name: str) -> None:
        super().__init__(read_only=True)
        self._fetch = fetch
        self._metadata = metadata
        self._name = name
        self._pool = ThreadPoolExecutor(PARALLEL_FETCHES, thread_name_prefix="fetch")

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the whole value of `key`; this array's codecs never ask for a part."""
        if key == METADATA_KEY:
            return prototype.buffer.from_bytes(self._metadata)
        if not key.startswith("c/"):
            return None
        if byte_range is not None:
            raise NotImplementedError("chunks are fetched whole")
        data = await asyncio.get_running_loop().run_in_executor(self._pool, self._fetch, key)
        if data is None:
            raise CorruptDataError(f"{self._name}/{key} is missing; extract it or fetch it again")
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return the value of each key."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Say whether `key` is the metadata; chunks are known by fetching them."""
        return key == METADATA_KEY

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse: the store is read-only."""
        raise NotImplementedError("this store is read-only")

    async def delete(self, key: str) -> None:
        """Refuse: the store is read-only."""
        raise NotImplementedError("this store is read-only")

    async def list(self) -> AsyncIterator[str]:
        """Yield the one key that is known without asking."""
        yield METADATA_KEY

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the metadata key if it starts with `prefix`."""
        if METADATA_KEY.startswith(prefix):
            yield METADATA_KEY

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the metadata key for the root."""
        if not prefix:
            yield METADATA_KEY


def folder_fetch(folder: Path) -> Fetch:
    """Return the fetch function of a local folder."""

    def fetch(key: str) -> bytes | None:
        try:
            return (folder / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    return fetch
