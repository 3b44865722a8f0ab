"""Files and model folders from Hugging Face: `hf:owner/name[@revision][/path/in/repo]`."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from diffviews.data.files import check_name
from diffviews.data.storage.resumable import Expected
from diffviews.errors import CheckpointError, ConfigError

_TEXTS = (".json", ".txt", ".model")
_ADDRESS = re.compile(r"hf:(?://)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<path>.*))?")


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A repository of models, or something in it."""

    repo: str
    """`owner/name`."""
    path: str = ""
    """File or folder in it; empty: all of it."""
    revision: str | None = None
    """Branch, tag or commit; None: the main branch."""

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repo}{at}{'/' if self.path else ''}{self.path}"


def parse_hub_address(text: str) -> HubAddress:
    """Read an address on Hugging Face.

    Raises:
        ConfigError: if it is none.
    """
    found = _ADDRESS.fullmatch(text)
    if not found or ".." in found["repo"]:
        raise ConfigError(f"{text[:200]!r} is no address on Hugging Face; write hf:owner/name[@revision][/path]")
    path = (found["path"] or "").strip("/")
    if path:
        check_name(path, CheckpointError)
    return HubAddress(found["repo"], path, found["revision"])


def fetch_hub(address: HubAddress, folder: Path | None, expected: Expected) -> Path:
    """Return the local copy of a file, or of a folder with configurations and weights.

    Downloads lie in Hugging Face's own cache, shared with other programs, unless `folder` is given.
    A token is taken from where huggingface_hub keeps it (`HF_TOKEN`).

    Raises:
        CheckpointError: if there is nothing, the hub refuses, or huggingface_hub is not installed.
        ConfigError: if HF_ENDPOINT holds a password.
    """
    try:
        from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    except ImportError as error:
        raise CheckpointError(f"{address} needs huggingface_hub; pip install 'diffviews[diffusion]'") from error

    where: dict[str, Any] = {"revision": address.revision, "endpoint": _endpoint()}
    place = {**where, "cache_dir": str(folder) if folder else None}
    with _explained(address):
        names = HfApi(endpoint=where["endpoint"]).list_repo_files(address.repo, revision=address.revision)
        if address.path in names:
            file = Path(hf_hub_download(address.repo, address.path, **place))
            expected.check(file, str(address))
            return file
        prefix = f"{address.path}/" if address.path else ""
        wanted = wanted_files(name.removeprefix(prefix) for name in names if name.startswith(prefix))
        if not wanted:
            raise CheckpointError(f"{address} is neither a file nor a folder of model files; check the address")
        these = [re.sub(r"([*?\[])", r"[\1]", prefix + name) for name in wanted]  # patterns that fit the names alone
        root = snapshot_download(address.repo, allow_patterns=these, **place)
        return Path(root) / address.path


def _endpoint() -> str | None:
    """Return another hub's address, refused with a password in it: the hub's library writes addresses to its log."""
    endpoint = os.environ.get("HF_ENDPOINT") or None
    if endpoint and "@" in urlsplit(endpoint).netloc:
        raise ConfigError("HF_ENDPOINT has a name or password in its address; leave it out and set HF_TOKEN")
    return endpoint


@contextmanager
def _explained(address: HubAddress) -> Iterator[None]:
    """Turn what goes wrong at the hub into words."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except CheckpointError:
        raise
    except HFValidationError as error:
        raise CheckpointError(f"{address} is no address on Hugging Face: {error}") from error
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", "an error")
        remedy = "check the address, and HF_TOKEN if the model is private or must be agreed to"
        raise CheckpointError(f"{address} cannot be fetched: the hub answers {code}; {remedy}") from error
    except Exception as error:
        # What the hub's library says of a lost connection depends on the HTTP library of its version.
        family = type(error).__module__.partition(".")[0]
        if not isinstance(error, OSError) and family not in ("huggingface_hub", "httpx", "httpx2", "requests"):
            raise
        reason = next(iter(str(error).splitlines()), family)[:300]
        raise CheckpointError(f"{address} cannot be fetched: {reason}") from error


def wanted_files(names: Iterable[str]) -> list[str]:
    """Return the files of a model folder to fetch: configurations, and its weights in one form.

    Where a folder has safetensors its pickled twins are left out; where a file comes in variants
    (`model.fp16.safetensors` beside `model.safetensors`) the plain one is taken. Beside a
    `model_index.json`, weights at the top are copies of those in its folders.

    Raises:
        CheckpointError: if a name would lead out of the folder.
    """
    checked = sorted(check_name(name, CheckpointError) for name in names)
    listed = [name for name in checked if not name.rpartition("/")[2].startswith((".", "__"))]
    pipeline = "model_index.json" in listed
    texts = [name for name in listed if name.endswith(_TEXTS)]
    safe = [name for name in listed if name.endswith(".safetensors") and not (pipeline and "/" not in name)]
    folders = {name.rpartition("/")[0] for name in safe}
    pickled = [
        name
        for name in listed
        if name.endswith(".bin") and name.rpartition("/")[0] not in folders and not (pipeline and "/" not in name)
    ]
    weights = _without_variants(safe) + _without_variants(pickled)
    return sorted(texts + weights) if weights else []


def _without_variants(names: list[str]) -> list[str]:
    present = set(names)
    return [name for name in names if _plain_name(name) == name or _plain_name(name) not in present]


def _plain_name(name: str) -> str:
    """Return the name without a variant: 'unet/model.fp16.safetensors' → 'unet/model.safetensors'."""
    folder, slash, file = name.rpartition("/")
    parts = file.split(".")
    return f"{folder}{slash}{parts[0]}.{parts[-1]}" if len(parts) == 3 else name
