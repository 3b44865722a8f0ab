"""Files and folders from S3 and R2, each object from any byte on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffviews.data.storage.model_files import safe_parts, wanted_files
from diffviews.data.storage.resumable import CHUNK, BrokenConnectionError, Expected, Piece, download
from diffviews.data.storage.s3_client import S3Address, s3_client
from diffviews.errors import CheckpointError

_MISSING = ("404", "NoSuchKey", "NotFound", "NoSuchBucket")
_CHANGED = ("412", "PreconditionFailed", "416", "InvalidRange")
_MAX_FILES = 1000


def fetch_s3(address: S3Address, folder: Path, expected: Expected) -> Path:
    """Return the local copy of an object, or of the folder that a prefix names.

    Args:
        address: what to fetch; a key that is no object is taken for a prefix.
        folder: where to put it.
        expected: size and digest of a single object, as far as they are known.

    Raises:
        CheckpointError: if there is nothing, or the store refuses.
        ConfigError: if credentials are missing.
    """
    client = s3_client(address.scheme, address.account)
    if address.key and not address.key.endswith("/") and _exists(client, address, address.key):
        return _fetch_object(client, address, address.key, folder / safe_parts(address.key)[-1], expected)
    prefix = f"{address.key.rstrip('/')}/" if address.key else ""
    names = wanted_files(key.removeprefix(prefix) for key in _keys(client, address, prefix))
    if not names:
        raise CheckpointError(f"{address} is neither an object nor a prefix of model files; check the address")
    root = folder / (safe_parts(prefix.rstrip("/"))[-1] if prefix else address.bucket)
    for name in names:
        target = root.joinpath(*safe_parts(name))
        _fetch_object(client, address, prefix + name, target, Expected())
    return root


def _fetch_object(client: Any, address: S3Address, key: str, target: Path, expected: Expected) -> Path:
    def open_piece(start: int, version: str | None) -> Piece:
        return _open_object(client, address, key, start, version)

    return download(open_piece, target, f"{address.scheme}://{address.bucket}/{key}", expected)


def _open_object(client: Any, address: S3Address, key: str, start: int, version: str | None) -> Piece:
    """Ask for an object from byte `start` on; another version, or no more bytes, starts it over."""
    from botocore.exceptions import BotoCoreError, ClientError

    options: dict[str, str] = {"Range": f"bytes={start}-", "IfMatch": version or ""} if start else {}
    try:
        try:
            answer = client.get_object(Bucket=address.bucket, Key=key, **options)
        except ClientError as error:
            if not start or _code(error) not in _CHANGED:
                raise
            start = 0
            answer = client.get_object(Bucket=address.bucket, Key=key)
    except ClientError as error:
        raise _explained(address, error) from error
    except BotoCoreError as error:
        raise _unreachable(address, error) from error
    return Piece(start, start + answer["ContentLength"], answer.get("ETag"), _chunks(answer["Body"]))


def _chunks(body: Any) -> Iterator[bytes]:
    from botocore.exceptions import BotoCoreError
    from urllib3.exceptions import HTTPError

    try:
        yield from body.iter_chunks(CHUNK)
    except (BotoCoreError, HTTPError, OSError) as error:
        raise BrokenConnectionError(f"the connection broke ({error})") from error


def _exists(client: Any, address: S3Address, key: str) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client.head_object(Bucket=address.bucket, Key=key)
    except ClientError as error:
        if _code(error) in _MISSING:
            return False
        raise _explained(address, error) from error
    except BotoCoreError as error:
        raise _unreachable(address, error) from error
    return True


def _keys(client: Any, address: S3Address, prefix: str) -> list[str]:
    from botocore.exceptions import BotoCoreError, ClientError

    keys: list[str] = []
    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=address.bucket, Prefix=prefix):
            keys += [entry["Key"] for entry in page.get("Contents", ()) if not entry["Key"].endswith("/")]
            if len(keys) > _MAX_FILES:
                raise CheckpointError(f"{address} names more than {_MAX_FILES} objects; give the folder of one model")
    except ClientError as error:
        raise _explained(address, error) from error
    except BotoCoreError as error:
        raise _unreachable(address, error) from error
    return keys


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _explained(address: S3Address, error: Any) -> CheckpointError:
    code = _code(error)
    remedy = "check the address" if code in _MISSING else "see that the keys in the environment may read it"
    return CheckpointError(f"{address} cannot be fetched: the store answers {code or 'with an error'}; {remedy}")


def _unreachable(address: S3Address, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{address} cannot be fetched: {error}; check the endpoint and the credentials in the environment"
    )
