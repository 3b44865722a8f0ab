"""What can go wrong between a worker and its client, in words for both."""

from diffviews.errors import DiffViewsError, SchemaVersionError


class WorkerUnreachableError(DiffViewsError, RuntimeError):
    """Nothing that answers like a worker is at the address."""


class WorkerRefusedError(DiffViewsError, PermissionError):
    """The worker does not accept the token."""


class VersionMismatchError(SchemaVersionError):
    """Worker and client speak different schemas."""


class WorkerStoppedError(DiffViewsError, RuntimeError):
    """The worker was stopped while it had the job."""


class JobNotFoundError(DiffViewsError, LookupError):
    """The worker knows no job of this id."""


class JobFailedError(DiffViewsError, RuntimeError):
    """A job ended without a result; the message says why."""


class JobLostError(DiffViewsError, RuntimeError):
    """The worker forgot a job before its result was fetched, as one that was killed does."""


class QueueFullError(DiffViewsError, RuntimeError):
    """The worker takes no further job now."""


class BodyTooLargeError(DiffViewsError, ValueError):
    """A request is longer, or slower, than a worker reads."""
