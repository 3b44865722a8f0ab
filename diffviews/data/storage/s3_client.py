"""The one place that builds a client for S3, Cloudflare R2 and what speaks like them.

Keys come from the environment alone: `R2_ACCESS_KEY_ID`, `R2_SECRET_ACCESS_KEY` and `R2_ACCOUNT_ID` for
`r2://`, what boto3 reads (`AWS_…`, profiles, roles) for `s3://`. `MLFLOW_S3_ENDPOINT_URL`, which MLflow reads
too, overrides the endpoint of both; boto3 itself reads `AWS_ENDPOINT_URL`.
"""

import os
import re
from dataclasses import dataclass
from typing import Any

from diffviews.errors import ConfigError

R2_HOST = "r2.cloudflarestorage.com"
_R2_KEYS = ("R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,62}")
_ACCOUNT = re.compile(r"[0-9A-Za-z-]{1,64}")


@dataclass(frozen=True, slots=True)
class S3Address:
    """Where an object, or all objects below a prefix, lie."""

    scheme: str
    """`s3` or `r2`."""
    bucket: str
    key: str
    """Without a leading slash; ends in one, or is empty, for a prefix."""
    account: str | None = None
    """R2 account, where the address names it."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


def parse_s3_address(text: str) -> S3Address:
    """Read `s3://bucket/key`, `r2://bucket/key` or `r2://bucket@account.r2.cloudflarestorage.com/key`.

    Raises:
        ConfigError: if it is none of them.
    """
    scheme, _, rest = text.partition("://")
    place, _, key = rest.partition("/")
    bucket, _, host = place.partition("@")
    account = host.removesuffix(f".{R2_HOST}") if host else None
    wrong_host = host and (scheme != "r2" or not host.endswith(f".{R2_HOST}") or not _ACCOUNT.fullmatch(account or ""))
    if scheme not in ("s3", "r2") or not _BUCKET.fullmatch(bucket) or wrong_host:
        raise ConfigError(
            f"{text.rpartition('@')[2][:200]!r} is no address of a store; write s3://bucket/key, r2://bucket/key or "
            f"r2://bucket@account.{R2_HOST}/key"
        )
    return S3Address(scheme, bucket, key, account)


def s3_client(
    scheme: str = "s3", account: str | None = None, *, max_pool_connections: int = 16, read_timeout: float = 60.0
) -> Any:
    """Return a boto3 client; threads may share it.

    Args:
        scheme: `r2` takes R2's keys and endpoint, `s3` those of AWS.
        account: R2 account; None takes `R2_ACCOUNT_ID`.
        max_pool_connections: how many requests may run at once.
        read_timeout: seconds without a byte after which a request is tried again.

    Raises:
        ConfigError: if an R2 variable is missing, by name.
    """
    import boto3
    from botocore.config import Config

    options: dict[str, Any] = {"endpoint_url": os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None}
    if scheme == "r2":
        options |= _r2_options(options["endpoint_url"], account)
    config = Config(
        # Newer defaults add checksums that R2 and other stores do not know.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"max_attempts": 5, "mode": "standard"},
        connect_timeout=10,
        read_timeout=read_timeout,
        max_pool_connections=max_pool_connections,
    )
    # A session of its own: boto3's shared one keeps the first keys it saw, and is not safe between threads.
    return boto3.session.Session().client("s3", config=config, **options)


def missing_r2_variables(account: str | None = None) -> list[str]:
    """Return the environment variables that a client for R2 needs and that are not set."""
    located = account or os.environ.get("MLFLOW_S3_ENDPOINT_URL")
    return [name for name in (*_R2_KEYS, *(() if located else ("R2_ACCOUNT_ID",))) if not os.environ.get(name)]


def _r2_options(endpoint: str | None, account: str | None) -> dict[str, str]:
    missing = missing_r2_variables(account)
    if missing:
        raise ConfigError(f"r2:// needs the environment variables {', '.join(missing)}, which are not set")
    return {
        "endpoint_url": endpoint or f"https://{account or os.environ['R2_ACCOUNT_ID']}.{R2_HOST}",
        "aws_access_key_id": os.environ[_R2_KEYS[0]],
        "aws_secret_access_key": os.environ[_R2_KEYS[1]],
        "region_name": "auto",
    }
