"""The team's shared bucket for scripts and notebooks: answers are True, False or a count, never an exception.

What went wrong is in the log, with its remedy. Who wants the exception takes the store beneath,
`shared_bucket()`.
"""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from diffviews.data.files import check_name
from diffviews.data.storage.object_store import CONNECTIONS, ObjectStore, StoredObject
from diffviews.data.storage.s3_client import missing_r2_variables, parse_s3_address
from diffviews.data.storage.uploads import UploadQueue
from diffviews.errors import ConfigError, DiffViewsError

logger = logging.getLogger(__name__)

DEFAULT_BUCKET = "diffviews"
DATA = "data"
"""What all keys of the shared layout begin with."""
LAYER_FILES = (".npy", ".json", ".csv")
"""A layer of the legacy cache: activations, parameters, and the table, sent last, by which others find it."""


def shared_bucket_address(bucket: str | None = None) -> str:
    """Return the address of the shared bucket: `bucket`, else R2_BUCKET_NAME, else 'diffviews'.

    Args:
        bucket: name of a bucket on R2, or an address such as s3://bucket or r2://bucket/prefix.
    """
    name = bucket or os.environ.get("R2_BUCKET_NAME", "").strip() or DEFAULT_BUCKET
    return name if "://" in name else f"r2://{name}"


def missing_credentials(bucket: str | None = None) -> list[str]:
    """Return the environment variables that the shared bucket needs and that are not set."""
    address = parse_s3_address(shared_bucket_address(bucket))
    if address.scheme == "s3":
        profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE")
        names = () if profile else ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        return [name for name in names if not os.environ.get(name)]
    return missing_r2_variables(address.account)


def shared_bucket(bucket: str | None = None) -> ObjectStore:
    """Return the store of the shared bucket, which raises.

    Raises:
        ConfigError: naming the variables that are not set.
    """
    missing = missing_credentials(bucket)
    if missing:
        raise ConfigError(f"the shared bucket needs {', '.join(missing)}; set them, or work without it")
    return ObjectStore(shared_bucket_address(bucket))


class _Bucket:
    """The shared bucket, opened at the first use; without credentials there is none."""

    def __init__(self, bucket: str | None = None) -> None:
        self._bucket = bucket
        self._opened: ObjectStore | None = None

    @property
    def enabled(self) -> bool:
        """Whether a bucket and the keys to it are configured; nothing is asked over the network."""
        try:
            return not missing_credentials(self._bucket)
        except ConfigError as error:
            logger.warning("the shared bucket is off: %s", error)
            return False

    @property
    def store(self) -> ObjectStore:
        """The store beneath, which raises.

        Raises:
            ConfigError: if it is not configured.
        """
        if self._opened is None:
            self._opened = shared_bucket(self._bucket)
        return self._opened


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    """Write a failure within the block to the log instead of raising it."""
    try:
        yield
    except (DiffViewsError, OSError) as error:
        logger.warning("%s: %s", what, error)


class R2DataStore(_Bucket):
    """Files of the shared bucket.

    Args:
        bucket: its name, or an address such as s3://bucket; None: R2_BUCKET_NAME, else 'diffviews'.
    """

    def list_objects(self, prefix: str) -> list[str]:
        """Return the keys that begin with `prefix`, sorted; none if the store cannot be used."""
        with _logged(f"objects at {prefix!r} cannot be listed"):
            return [found.key for found in self.store.list(prefix)]
        return []

    def file_exists(self, key: str) -> bool:
        """Say whether there is an object; False also if the store cannot be used."""
        with _logged(f"whether {key!r} exists is not known"):
            return self.store.exists(key)
        return False

    def download_file(self, key: str, local_path: str | os.PathLike[str]) -> bool:
        """Download one object; the file appears when it is whole. Return whether it did."""
        with _logged(f"{key!r} cannot be downloaded"):
            self.store.get(check_name(key), Path(local_path))
            return True
        return False

    def download_prefix(
        self,
        prefix: str,
        local_dir: str | os.PathLike[str],
        exclude_dirs: Collection[str] | None = None,
        max_workers: int = 8,
    ) -> int:
        """Download what the folder lacks of the objects below a prefix; return how many files were fetched.

        Args:
            prefix: for example 'data/edm-digits'; `prefix/a/b` becomes `local_dir/a/b`.
            local_dir: folder for them.
            exclude_dirs: folders to leave out; None: intermediates and layer_cache. `.npz` and `.pkl`
                are always left out.
            max_workers: downloads at once.
        """
        with _logged(f"{prefix!r} cannot be downloaded whole"):
            return self.store.download_prefix(
                prefix.strip("/"), Path(local_dir), exclude_dirs=exclude_dirs, workers=max_workers
            )
        return 0

    def download_model_data(self, model: str, local_dir: str | os.PathLike[str]) -> bool:
        """Download a model's folder and the class lists to `local_dir`; return whether the model is there."""
        with _logged(f"the data of {model!r} cannot be downloaded"):
            fetched = download_model(self.store, model, Path(local_dir))
            logger.info("%d files of %s fetched to %s", fetched, model, local_dir)
            return (Path(local_dir) / model).is_dir()
        return False


def download_model(store: ObjectStore, model: str, folder: Path, *, checkpoints: bool = True) -> int:
    """Download `data/{model}/` to `folder/{model}` and `data/*.json` to `folder`; return how many were fetched.

    Raises:
        StoreError: if the store cannot be used.
    """
    prefix = f"{DATA}/{check_name(model)}"
    left_out = None if checkpoints else {"intermediates", "layer_cache", "checkpoints"}
    count = store.download_prefix(prefix, folder / model, exclude_dirs=left_out, workers=CONNECTIONS)
    return count + store.download_prefix(DATA, folder, keep=lambda name: "/" not in name and name.endswith(".json"))


class R2LayerCache(_Bucket):
    """Computed layers of the legacy cache: `data/{model}/layer_cache/{layer}.csv`, `.json` and `.npy`.

    It knows a layer by model and name alone; the cache by fingerprint is `data.shared_layers`.

    Args:
        bucket: its name, or an address such as s3://bucket; None: R2_BUCKET_NAME, else 'diffviews'.
    """

    def __init__(self, bucket: str | None = None) -> None:
        super().__init__(bucket)
        self._queue: UploadQueue | None = None

    def layer_exists(self, model: str, layer: str) -> bool:
        """Say whether the layer's table and parameters are there; False also if the store cannot be used."""
        with _logged(f"whether layer {layer!r} of {model!r} is cached is not known"):
            stem = _stem(model, layer)
            return all(self.store.exists(f"{stem}{ending}") for ending in (".csv", ".json"))
        return False

    def download_layer(self, model: str, layer: str, local_dir: str | os.PathLike[str]) -> bool:
        """Download the layer's files, `.npy` where it has one; return whether table and parameters arrived.

        They appear in `local_dir` together, the table last.
        """
        folder = Path(local_dir)
        with _logged(f"layer {layer!r} of {model!r} cannot be downloaded"):
            present = legacy_layer_objects(self.store, model, layer)
            if not {".csv", ".json"} <= set(present):
                return False
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".incoming-") as incoming:
                for ending, found in present.items():
                    self.store.get(found.key, Path(incoming) / f"layer{ending}", found.size)
                for ending in present:
                    (Path(incoming) / f"layer{ending}").replace(folder / f"{layer}{ending}")
            return True
        return False

    def upload_layer(self, model: str, layer: str, local_dir: str | os.PathLike[str]) -> bool:
        """Upload the layer's files; return whether they are there. The table, by which it is found, goes last."""
        with _logged(f"layer {layer!r} of {model!r} cannot be uploaded"):
            for key, file in _files(model, layer, Path(local_dir)):
                self.store.put(key, file)
            return True
        return False

    def upload_layer_async(self, model: str, layer: str, local_dir: str | os.PathLike[str]) -> bool:
        """Upload the layer's files in the background; return whether they are on their way.

        They are copied first, so that they may change. What still waits when the program ends is sent
        then; `flush` waits for it now.
        """
        with _logged(f"layer {layer!r} of {model!r} cannot be uploaded"):
            if self._queue is None:
                self._queue = UploadQueue(self.store)
            files = _files(model, layer, Path(local_dir))
            copies = Path(tempfile.mkdtemp(prefix="diffviews-upload-"))
            copied = [(key, Path(shutil.copy2(file, copies))) for key, file in files]
            self._queue.submit(
                f"layer {layer} of {model}", copied, lambda _: shutil.rmtree(copies, ignore_errors=True)
            )
            return True
        return False

    def flush(self, timeout: float | None = None) -> bool:
        """Wait for uploads in the background; return whether all of them succeeded."""
        return self._queue is None or self._queue.flush(timeout)


def legacy_layer_objects(store: ObjectStore, model: str, layer: str) -> dict[str, StoredObject]:
    """Return {ending: object} of a layer in the legacy cache, the table last.

    Raises:
        StoreError: if the store cannot be used.
    """
    stem = _stem(model, layer)
    found = {item.key.removeprefix(stem): item for item in store.list(f"{stem}.")}
    return {ending: found[ending] for ending in LAYER_FILES if ending in found}


def _stem(model: str, layer: str) -> str:
    if "/" in layer or "/" in model:
        raise ConfigError(f"{model!r} or {layer!r} is no name of a model or layer; it holds a slash")
    return check_name(f"{DATA}/{model}/layer_cache/{layer}")


def _files(model: str, layer: str, folder: Path) -> list[tuple[str, Path]]:
    """Return (key, file) of a layer's files, the table last."""
    stem = _stem(model, layer)
    files = [(f"{stem}{ending}", folder / f"{layer}{ending}") for ending in LAYER_FILES]
    missing = [file for _, file in files if not file.is_file() and file.suffix != ".npy"]
    if missing:
        raise ConfigError(f"{missing[0]} does not exist; a layer is cached by its .csv and .json")
    return [(key, file) for key, file in files if file.is_file()]
