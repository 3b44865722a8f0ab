"""Files and model folders from Hugging Face: `hf:owner/name[@revision][/path/in/repo]`."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from diffviews.data.storage.model_files import wanted_files
from diffviews.data.storage.names import check_name
from diffviews.data.storage.resumable import Expected
from diffviews.errors import CheckpointError, ConfigError

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
    with _Explained(address):
        names = HfApi(endpoint=where["endpoint"]).list_repo_files(address.repo, revision=address.revision)
        if address.path in names:
            file = Path(hf_hub_download(address.repo, address.path, **place))
            expected.check(file, str(address))
            return file
        prefix = f"{address.path}/" if address.path else ""
        wanted = wanted_files(name.removeprefix(prefix) for name in names if name.startswith(prefix))
        if not wanted:
            raise CheckpointError(f"{address} is neither a file nor a folder of model files; check the address")
        root = snapshot_download(address.repo, allow_patterns=[_literal(prefix + name) for name in wanted], **place)
        return Path(root) / address.path


def _endpoint() -> str | None:
    """Return another hub's address, refused with a password in it: the hub's library writes addresses to its log."""
    endpoint = os.environ.get("HF_ENDPOINT") or None
    if endpoint and "@" in urlsplit(endpoint).netloc:
        raise ConfigError("HF_ENDPOINT has a name or password in its address; leave it out and set HF_TOKEN")
    return endpoint


def _literal(name: str) -> str:
    """Return a pattern that fits this name alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)


class _Explained:
    """Turns what goes wrong at the hub into words."""

    def __init__(self, address: HubAddress) -> None:
        self.address = address

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        if isinstance(error, HFValidationError):
            raise CheckpointError(f"{self.address} is no address on Hugging Face: {error}") from error
        if isinstance(error, HfHubHTTPError):
            code = getattr(error.response, "status_code", "an error")
            remedy = "check the address, and HF_TOKEN if the model is private or must be agreed to"
            raise CheckpointError(f"{self.address} cannot be fetched: the hub answers {code}; {remedy}") from error
        # What the hub's library says of a lost connection depends on the HTTP library of its version.
        family = type(error).__module__.partition(".")[0]
        if isinstance(error, OSError) or family in ("huggingface_hub", "httpx", "httpx2", "requests"):
            reason = next(iter(str(error).splitlines()), family)[:300]
            raise CheckpointError(f"{self.address} cannot be fetched: {reason}") from error
