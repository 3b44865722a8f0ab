"""What goes wrong with an object store, in words: what happened, where, and what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager

from diffviews.data.storage.s3_client import S3Address
from diffviews.errors import DiffViewsError

MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
"""Answers to a request for an object that is not there."""
CHANGED = frozenset({"412", "PreconditionFailed", "416", "InvalidRange"})
"""Answers to a request for the rest of an object that is another one by now."""
_NO_BUCKET = frozenset({"NoSuchBucket"})
_WRONG_KEYS = frozenset({"401", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Unauthorized", "InvalidArgument"})
_REFUSED = frozenset({"403", "AccessDenied", "Forbidden", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"})
_UNREACHABLE = (
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ConnectionError",
    "ProxyConnectionError",
    "SSLError",
    "InvalidEndpointConfigurationError",
)
_SILENT = (
    "ReadTimeoutError", "ConnectionClosedError", "HTTPClientError", "ResponseStreamingError", "IncompleteReadError",
    "ConnectionResetError", "TimeoutError",
)  # fmt: skip


class StoreError(DiffViewsError, RuntimeError):
    """An object store cannot be reached, refuses, or broke off; the message says which and the remedy."""


class ObjectNotFoundError(StoreError, LookupError):
    """The store has no such object, or no such bucket."""


@contextmanager
def explained(address: S3Address | None = None, key: str = "") -> Iterator[None]:
    """Turn boto3's errors within the block into sentences.

    Args:
        address: the store; None where a library chose it, as MLflow does for artifacts.
        key: the object, where it is about one.

    Raises:
        ObjectNotFoundError: if the object or the bucket does not exist.
        StoreError: for every other failure of the store.
    """
    try:
        yield
    except _failures() as error:  # evaluated only now: who has no trouble need not load boto3
        raise _sentence(address, key, error) from error


def error_code(error: BaseException) -> str:
    """Return S3's code of a refusal, such as 'NoSuchKey'; the HTTP status where there is no body."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _failures() -> tuple[type[Exception], ...]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError
    from urllib3.exceptions import HTTPError

    return ClientError, BotoCoreError, HTTPError, Boto3Error, RetriesExceededError, S3DownloadFailedError


def _sentence(address: S3Address | None, key: str, error: Exception) -> StoreError:
    cause: BaseException = error
    if type(error).__module__.startswith(("boto3.", "s3transfer.")):  # it says what failed; what led to it says why
        cause = getattr(error, "last_exception", None) or error.__cause__ or error.__context__ or error
    place = f"{address.scheme}://{address.bucket}" if address else "the artifact store"
    prefix = "R2" if address and address.scheme == "r2" else "AWS"
    keys = f"{prefix}_ACCESS_KEY_ID and {prefix}_SECRET_ACCESS_KEY"
    code = error_code(cause)
    return _refusal(address, place, key, keys, code) if code else _failure(place, keys, cause)


def _refusal(address: S3Address | None, place: str, key: str, keys: str, code: str) -> StoreError:
    what = f"{place}/{key}" if key else place
    if code in _NO_BUCKET:
        name = f"bucket {address.bucket!r}" if address else "such bucket for artifacts"
        return ObjectNotFoundError(
            f"there is no {name}; create it, or name another by R2_BUCKET_NAME or in the profile"
        )
    if code in MISSING:
        return ObjectNotFoundError(f"{what} does not exist; check the name")
    if code in _WRONG_KEYS:
        return StoreError(f"{place} does not know the keys ({code}); check {keys} and that they belong to this account")
    if code in _REFUSED:
        return StoreError(
            f"{what} is refused ({code}); the keys in {keys} were revoked, have expired or may not do this: make a "
            "token with read and write access to this bucket"
        )
    return StoreError(f"{what} failed: the store answers {code}; try again later")


def _failure(place: str, keys: str, error: BaseException) -> StoreError:
    name = type(error).__name__
    if name in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"):
        return StoreError(f"{place} needs credentials; set {keys}")
    if name in _UNREACHABLE:
        return StoreError(
            f"{place} cannot be reached ({name}); check the network, R2_ACCOUNT_ID or MLFLOW_S3_ENDPOINT_URL"
        )
    if name in _SILENT:
        return StoreError(f"{place} broke off or fell silent again and again ({name}); try again later")
    return StoreError(f"{place} failed: {name}; check the endpoint and the credentials in the environment")
