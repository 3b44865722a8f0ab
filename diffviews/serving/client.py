"""The client of a worker: it orders jobs, follows them and brings their results, given an address and a token."""

import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError, NameResolutionError, ReadTimeoutError, SSLError

from diffviews.data.storage.https import LOCAL_HOSTS
from diffviews.errors import CancelledError, ConfigError, DiffViewsError
from diffviews.pipelines.generate import LoggedGeneration
from diffviews.pipelines.job_queue import JobFailedError, JobNotFoundError
from diffviews.recipes import ExtractionRecipe, GenerationRecipe
from diffviews.serving.protocol import (
    JOB_HEADER,
    SCHEMA,
    SCHEMA_HEADER,
    TOKEN_VARIABLE,
    VERSION_HEADER,
    JobLostError,
    JobStatus,
    VersionMismatchError,
    WorkerUnreachableError,
    error_of,
    versions,
)
from diffviews.serving.result import read_result

logger = logging.getLogger(__name__)

Watch = Callable[[JobStatus], None]
"""Told of a job whenever it was asked about; it cancels the job by raising `CancelledError`."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
_ASLEEP = (502, 503, 504)
"""What a proxy answers while the host behind it starts."""


class _AsleepError(Exception):
    """The worker does not answer, and may be about to start."""


class WorkerClient:
    """One worker; usable from several threads.

    Args:
        url: its address, `https://…` or `http://…`.
        token: bearer token; None takes DIFFVIEWS_WORKER_TOKEN.
        timeout: seconds in which a request must be answered.
        patience: seconds for which a worker that does not answer is taken for one that wakes.

    Raises:
        ConfigError: if the address is none.
    """

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float = 15.0, patience: float = 120.0
    ) -> None:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname or address.username:
            raise ConfigError(f"worker address {url[:200]!r} must be http://host:port or https://host")
        self.url = url.rstrip("/")
        self._headers = versions()
        shown = token if token is not None else os.environ.get(TOKEN_VARIABLE, "").strip()
        if shown:
            self._headers["Authorization"] = f"Bearer {shown}"
            if address.scheme == "http" and address.hostname not in LOCAL_HOSTS:
                logger.warning("the token goes to %s unencrypted; put the worker behind https", address.hostname)
        self._patience = patience
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=min(timeout, 5.0), read=timeout), retries=False, maxsize=4
        )

    def __repr__(self) -> str:
        return f"WorkerClient({self.url!r})"

    def version(self) -> dict[str, str]:
        """Return the versions of the worker: `diffviews` and `schema`."""
        answer = self._json("GET", "/version")
        return {str(name): str(value) for name, value in answer.items()}

    def submit(
        self,
        recipe: GenerationRecipe | ExtractionRecipe,
        experiment: str | None = None,
        on_waking: Watch | None = None,
    ) -> JobStatus:
        """Order what a recipe says; a worker that is asleep is waited for, and `on_waking` told.

        Raises:
            WorkerUnreachableError, WorkerRefusedError, VersionMismatchError, QueueFullError: as the names say.
            ConfigError: if the worker refuses the recipe, with its reason.
        """
        kind = "extract" if isinstance(recipe, ExtractionRecipe) else "generate"
        # The id is ours, so an order that is sent twice, since its answer was lost, makes one job.
        job = JobStatus(secrets.token_hex(16), kind, "queued")
        query = f"?{urlencode({'experiment': experiment})}" if experiment else ""
        return next(self._states("POST", f"/jobs/{kind}{query}", job, on_waking, recipe.to_json()))

    def status(self, job_id: str, *, preview: bool = False) -> JobStatus:
        """Return a job as it is now.

        Raises:
            JobNotFoundError: if the worker knows no such job.
        """
        asked = "?preview=true" if preview else ""
        return JobStatus.from_json(self._request("GET", f"/jobs/{quote(job_id)}{asked}"))

    def jobs(self) -> list[JobStatus]:
        """Return all jobs that the worker knows."""
        return [JobStatus.from_json(json.dumps(job).encode()) for job in self._json("GET", "/jobs").get("jobs", [])]

    def cancel(self, job_id: str) -> JobStatus:
        """End a job, between two steps when it runs."""
        return JobStatus.from_json(self._request("DELETE", f"/jobs/{quote(job_id)}"))

    def watch(self, job: JobStatus, callback: Watch | None = None) -> JobStatus:
        """Follow a job to its end.

        Args:
            job: as ordered.
            callback: told of it at every change, and once a second; its CancelledError cancels the job and goes on.

        Raises:
            JobLostError: if the worker was killed or started anew meanwhile.
            JobFailedError: if the job failed. CancelledError: if it was cancelled.
            WorkerUnreachableError: if the worker stays silent.
        """
        states = self._states("GET", f"/jobs/{quote(job.id)}/events", job, callback)
        try:
            for job in states:
                if job.over:
                    break
                self._tell(callback, job)
        except JobNotFoundError as error:
            raise JobLostError(
                f"the worker at {self.url} was started anew while it had the job; what it made so far is not counted "
                "as finished. Order it again"
            ) from error
        return _ended(job)

    def generate(
        self, recipe: GenerationRecipe, callback: Watch | None = None, *, experiment: str | None = None
    ) -> LoggedGeneration:
        """Order a generation, follow it and return what it gave; raises as `submit` and `watch` do."""
        job = self.watch(self.submit(recipe, experiment, callback), callback)
        return self.result(job)

    def extract(
        self, recipe: ExtractionRecipe, callback: Watch | None = None, *, experiment: str | None = None
    ) -> str:
        """Order an extraction, follow it and return its run id; raises as `generate` does."""
        job = self.watch(self.submit(recipe, experiment, callback), callback)
        return job.run_id or ""

    def result(self, job: JobStatus) -> LoggedGeneration:
        """Return what a finished generation logged, read through the worker."""
        files = f"/jobs/{quote(job.id)}/files"
        names = [str(name) for name in self._json("GET", files).get("files", [])]
        return read_result(job.run_id or "", names, lambda name: self._request("GET", f"{files}/{quote(name)}"))

    def _states(
        self, method: str, path: str, job: JobStatus, callback: Watch | None, body: str | None = None
    ) -> Iterator[JobStatus]:
        """Yield the states of a job that a request is answered with; it is sent again while the worker is asleep.

        Raises:
            WorkerUnreachableError: if it is for longer than the client's patience. Else as the worker says.
        """
        headers = {JOB_HEADER: job.id} if body is not None else {}
        pause, deadline = _FIRST_PAUSE, time.monotonic() + self._patience
        while True:
            try:
                for line in self._lines(method, path, body, headers):
                    job = JobStatus.from_json(line)
                    pause, deadline = _FIRST_PAUSE, time.monotonic() + self._patience
                    yield job
                reason = "it stopped before the end of the job"
            except _AsleepError as error:
                reason = str(error)
            self._tell(callback, replace(job, state="waking", preview=None))
            if time.monotonic() + pause > deadline:
                raise self._silence(reason)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _lines(self, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> Iterator[bytes]:
        """Yield the lines of an answer as they come."""
        with contextlib.closing(self._send(method, path, body, headers, stream=True)) as answer:
            try:
                yield from answer
            except (HTTPError, OSError) as error:
                raise _AsleepError(type(error).__name__) from error

    def _tell(self, callback: Watch | None, job: JobStatus) -> None:
        if callback is None:
            return
        try:
            callback(job)
        except CancelledError:
            self._cancel_quietly(job.id)
            raise

    def _cancel_quietly(self, job_id: str) -> None:
        try:
            self.cancel(job_id)
        except DiffViewsError as trouble:  # it was not ordered yet, or is over, or the worker is gone
            logger.info("job %s was not cancelled at the worker: %s", job_id, trouble)

    def _json(self, method: str, path: str) -> dict[str, Any]:
        content = self._request(method, path)
        try:
            values = json.loads(content)
        except ValueError as error:
            raise WorkerUnreachableError("the answer is not JSON; is this the address of a worker?") from error
        return values if isinstance(values, dict) else {}

    def _request(self, method: str, path: str) -> bytes:
        """Return the answer to one request, which is sent once.

        Raises:
            WorkerUnreachableError: if there is none. Else as the worker says.
        """
        try:
            return self._send(method, path).data
        except _AsleepError as error:
            raise self._silence(str(error)) from error

    def _silence(self, reason: str) -> WorkerUnreachableError:
        return WorkerUnreachableError(
            f"the worker at {self.url} does not answer ({reason}); see that it runs and that the address is right"
        )

    def _send(
        self,
        method: str,
        path: str,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        try:
            answer = self._pool.request(
                method,
                self.url + path,
                body=None if body is None else body.encode(),
                headers={**self._headers, **(headers or {})},
                preload_content=not stream,
                redirect=False,  # the token is for this host alone
            )
        except (NameResolutionError, SSLError, LocationParseError) as error:
            raise WorkerUnreachableError(f"{self.url} is no worker's address: {error}") from error
        except ReadTimeoutError as error:
            raise _AsleepError("no answer in time") from error
        except (HTTPError, OSError) as error:
            raise _AsleepError(type(error).__name__) from error
        return self._checked(answer)

    def _checked(self, answer: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
        schema = answer.headers.get(SCHEMA_HEADER)
        if answer.status in _ASLEEP and schema is None:
            raise _AsleepError(f"status {answer.status}")
        if schema is not None and schema != SCHEMA:
            raise VersionMismatchError(
                f"the worker at {self.url} has schema {schema[:40]!r} (diffviews "
                f"{str(answer.headers.get(VERSION_HEADER))[:40]}), this program {SCHEMA} (diffviews "
                f"{versions()[VERSION_HEADER]}); install the same version on both sides"
            )
        if 200 <= answer.status < 300 and schema is not None:
            return answer
        if schema is None:
            raise WorkerUnreachableError(f"{self.url} answers {answer.status}, but not as a worker; check the address")
        raise error_of(answer.status, _reason(answer))


def _reason(answer: urllib3.BaseHTTPResponse) -> str:
    """Return the sentence in a refusal."""
    try:
        return str(json.loads(answer.data)["error"])[:2000]
    except (ValueError, KeyError, TypeError):
        return f"the worker answers {answer.status}; see its log"


def _ended(job: JobStatus) -> JobStatus:
    if job.state == "failed":
        raise JobFailedError(job.error or f"{job.kind} failed; the worker's log has the details")
    if job.state == "cancelled":
        raise CancelledError(job.error or f"{job.kind} was cancelled at step {job.step} of {job.total}")
    return job
