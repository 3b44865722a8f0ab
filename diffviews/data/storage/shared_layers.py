"""Computed layers in the shared bucket, `data/{model}/layer_cache/v2/{fingerprint}/…`, each complete by itself.

`entry.json` lists the files and is sent last: a layer without it is not there, whatever else of it is.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from hashlib import sha256
from pathlib import Path
from typing import Any

from diffviews.data.disk import require_disk_space
from diffviews.data.files import check_name
from diffviews.data.r2_cache import DATA, missing_credentials, shared_bucket
from diffviews.data.storage.cache import ENTRY, Cache, CachedLayer, check_fingerprint
from diffviews.data.storage.manifest import Manifest
from diffviews.data.storage.object_store import CONNECTIONS, ObjectStore
from diffviews.data.storage.parallel import in_parallel
from diffviews.data.storage.store_errors import ObjectNotFoundError
from diffviews.data.storage.uploads import UploadQueue
from diffviews.errors import CorruptDataError

logger = logging.getLogger(__name__)


class SharedLayers:
    """Layers of a bucket, exchanged with the local cache; raises what its store raises."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.uploads = UploadQueue(store)

    @classmethod
    def configured(cls) -> "SharedLayers | None":
        """Return the layers of the shared bucket, None where no credentials are set."""
        missing = missing_credentials()
        if missing:
            logger.debug("no shared bucket: %s not set", ", ".join(missing))
            return None
        return cls(shared_bucket())

    def find(self, model: str, fingerprint: str) -> Manifest | None:
        """Return what the bucket says of a layer, None if it has none, or not all of it yet.

        Raises:
            StoreError: if the store cannot be used.
            CorruptDataError: if the list there is no such list, or of another layer.
        """
        key = f"{_prefix(model, fingerprint)}/{ENTRY}"
        try:
            content = self.store.read(key)
        except ObjectNotFoundError:
            self.store.check()  # a bucket that is missing is not an empty one
            return None
        listed = Manifest.from_json(content, key)
        if listed.owner != fingerprint:
            raise CorruptDataError(f"{self.store.address}{key} describes another layer; remove it")
        return listed

    def fetch(self, model: str, fingerprint: str, cache: Cache) -> CachedLayer | None:
        """Download a layer into the local cache and return it open, None if the bucket has none; raises as `find`."""
        listed = self.find(model, fingerprint)
        if listed is None:
            return None
        require_disk_space(cache.layers, listed.size)
        prefix = _prefix(model, fingerprint)

        def fill(folder: Path) -> Mapping[str, Any]:
            in_parallel(
                lambda name: self.store.get(f"{prefix}/{name}", folder / name, listed.files[name].size),
                list(listed.files),
                CONNECTIONS,
                describe=f"layer {fingerprint[:12]}",
            )
            try:
                listed.verify(folder)
            except CorruptDataError as error:
                raise CorruptDataError(f"a layer in the shared bucket is damaged: {error}; remove {prefix}") from error
            self._note(folder).touch()
            return listed.about

        return cache.add(fingerprint, fill)

    def offer(self, model: str, entry: CachedLayer, cache: Cache) -> "Future[bool] | None":
        """Upload a layer in the background unless it was before; that it is there is noted beside its files.

        It stays in the local cache until then.
        """
        fingerprint, note = entry.fingerprint, self._note(entry.folder)
        held = None if note.exists() else cache.open(fingerprint)
        if held is None:
            return None
        prefix = _prefix(model, fingerprint)

        def end(arrived: bool) -> None:
            if arrived:
                note.touch()
            held.close()

        files = [(f"{prefix}/{name}", held.folder / name) for name in (*held.manifest.files, ENTRY)]
        return self.uploads.submit(f"layer {fingerprint[:12]} of {model}", files, end)

    def _note(self, folder: Path) -> Path:
        """Return the file that says that this bucket has the layer in `folder`; its manifest does not list it."""
        endpoint = f"{self.store.address} {self.store.endpoint}"
        return folder / f".in-{sha256(endpoint.encode()).hexdigest()[:12]}"


def _prefix(model: str, fingerprint: str) -> str:
    return check_name(f"{DATA}/{model}/layer_cache/v2/{check_fingerprint(fingerprint)}")

