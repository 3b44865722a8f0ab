"""What can go wrong between a worker and its client, in words for both."""

from diffviews.errors import DiffViewsError, SchemaVersionError


class WorkerUnreachableError(DiffViewsError, RuntimeError):
    """Nothing that answers like a worker is at the address."""


class WorkerRefusedError(DiffViewsError, PermissionError):
    """The worker does not accept the token."""


class VersionMismatchError(SchemaVersionError):
    """Worker and client speak different schemas."""


class JobLostError(DiffViewsError, RuntimeError):
    """The worker forgot a job before its result was fetched, as one that was killed does."""


class BodyTooLargeError(DiffViewsError, ValueError):
    """A request is longer, or slower, than a worker reads."""
