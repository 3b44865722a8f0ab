"""What can go wrong between a worker and its client, in words for both, and the HTTP status that says so."""

from collections.abc import Mapping

from diffviews.errors import ConfigError, DiffViewsError, SchemaVersionError, TrackingError
from diffviews.pipelines.job_queue import JobFailedError, JobNotFoundError, QueueFullError, QueueStoppedError


class WorkerUnreachableError(DiffViewsError, RuntimeError):
    """Nothing that answers like a worker is at the address."""


class WorkerRefusedError(DiffViewsError, PermissionError):
    """The worker does not accept the token."""


class HostRefusedError(DiffViewsError, PermissionError):
    """The worker does not answer to the name by which it was addressed."""


class VersionMismatchError(SchemaVersionError):
    """Worker and client speak different schemas."""


class JobLostError(DiffViewsError, RuntimeError):
    """The worker forgot a job before its result was fetched, as one that was killed does."""


class BodyTooLargeError(DiffViewsError, ValueError):
    """A request is longer, or slower, than a worker reads."""


_STATUS: Mapping[type[DiffViewsError], int] = {
    WorkerRefusedError: 401,
    JobNotFoundError: 404,
    VersionMismatchError: 409,
    BodyTooLargeError: 413,
    HostRefusedError: 421,
    QueueFullError: 429,
    QueueStoppedError: 503,
}
"""Any other error is 422, a request that cannot be followed."""


def status_of(error: Exception) -> int:
    """Return the HTTP status that a worker answers an error with."""
    if isinstance(error, TrackingError):
        return 500
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 422)


def error_of(status: int, sentence: str) -> DiffViewsError:
    """Return the error that a worker's answer stands for."""
    kinds = {status: kind for kind, status in _STATUS.items()}
    return kinds.get(status, ConfigError if status < 500 else JobFailedError)(sentence)
