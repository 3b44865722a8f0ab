"""What worker and client say to each other: headers, versions, the state of a job; and what can go wrong between them,
in words for both, with the HTTP status that says so."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, Self

import numpy as np
from pydantic import TypeAdapter, ValidationError

from diffviews import __version__
from diffviews.data.pictures import decode_image, encode_png
from diffviews.errors import ConfigError, CorruptDataError, DiffViewsError, SchemaVersionError, TrackingError
from diffviews.pipelines.extraction_process import WORKER_TOKEN
from diffviews.pipelines.job_queue import (
    Job,
    JobFailedError,
    JobNotFoundError,
    JobQueue,
    QueueFullError,
    QueueStoppedError,
    State,
)
from diffviews.recipes.base import RECIPE_VERSION


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


TOKEN_VARIABLE = WORKER_TOKEN
"""Environment variable that holds the bearer token, on both sides."""
SCHEMA = str(RECIPE_VERSION)
"""Version of what is sent; a worker takes orders of earlier ones too."""
KNOWN_SCHEMAS = frozenset(str(version) for version in range(1, RECIPE_VERSION + 1))
SCHEMA_HEADER = "X-DiffViews-Schema"
VERSION_HEADER = "X-DiffViews-Version"
JOB_HEADER = "X-DiffViews-Job"
"""Id that a client chooses for its job, so that a repeated request does not make a second one."""

RemoteState = Literal[State, "waking"]
"""`waking` is the client's own: the host of the worker does not answer yet."""


def versions() -> dict[str, str]:
    """Return the headers by which each side states its version."""
    return {SCHEMA_HEADER: SCHEMA, VERSION_HEADER: __version__}


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job at one moment."""

    id: str
    kind: str
    """`generate` or `extract`."""
    state: RemoteState
    ahead: int = 0
    """Jobs that run before this one, the running one included."""
    step: int = 0
    total: int = 0
    """Steps there are; 0 while that is not known."""
    run_id: str | None = None
    """The logged run, once there is one."""
    error: str | None = None
    """Sentence that says why there is no result."""
    note: str = ""
    """What keeps a running job from going on."""
    preview: str | None = None
    """Present estimate of the first image: a PNG in base64."""

    @classmethod
    def of(cls, job: Job, queue: JobQueue, *, preview: bool = False) -> Self:
        """Return a job of a queue as it is now."""
        shown = job.preview if preview else None
        picture = None if shown is None else base64.b64encode(encode_png(shown)).decode()
        values = (job.id, job.kind, job.state, queue.ahead_of(job), job.step, job.total)
        return cls(*values, job.run_id, job.error, job.note, picture)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("finished", "failed", "cancelled")

    def to_json(self) -> bytes:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Read what a worker answered; fields of a newer worker are left out.

        Raises:
            WorkerUnreachableError: if it is no state of a job, so that no worker can have said it.
        """
        try:
            status: Self = TypeAdapter(cls).validate_json(content, strict=True)
        except ValidationError as error:
            raise WorkerUnreachableError(
                "the answer is not the state of a job; is this the address of a worker?"
            ) from error
        return status

    def preview_image(self) -> np.ndarray | None:
        """Return the preview, (H, W, 3) uint8, or None."""
        if self.preview is None:
            return None
        try:
            return decode_image(base64.b64decode(self.preview, validate=True), "preview")
        except (binascii.Error, CorruptDataError):
            return None
