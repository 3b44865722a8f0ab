"""The worker's HTTP interface: jobs are ordered, followed and cancelled; what they made is fetched."""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AfterValidator
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import RequestResponseEndpoint

from diffviews.errors import DiffViewsError
from diffviews.pipelines.job_queue import Job, JobQueue
from diffviews.recipes.base import fault_in_words
from diffviews.serving.protocol import (
    JOB_HEADER,
    KNOWN_SCHEMAS,
    SCHEMA,
    SCHEMA_HEADER,
    VERSION_HEADER,
    BodyTooLargeError,
    HostRefusedError,
    JobStatus,
    VersionMismatchError,
    WorkerRefusedError,
    status_of,
    versions,
)
from diffviews.serving.requests import read_extraction, read_recipe
from diffviews.serving.service import Service
from diffviews.tracking.connection import redact

logger = logging.getLogger(__name__)

STOPPED = "the worker was stopped before the job was done; order it again"
_LOOK_SECONDS, _BEAT_SECONDS = 0.1, 1.0
_EVERY_METHOD = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def create_app(service: Service, *, token: str | None = None, hosts: tuple[str, ...] = ()) -> FastAPI:
    """Return the worker as an application.

    Args:
        service: what it does.
        token: that callers must show; None: none is needed.
        hosts: names by which it may be addressed; empty: any. Without a token this keeps out web pages whose own
            name was made to lead to this machine.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.queue.stop, STOPPED)

    app = FastAPI(
        lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False,
        dependencies=[Depends(_check_host)],
        exception_handlers={
            DiffViewsError: _refused, RequestValidationError: _invalid, Exception: _unforeseen,
            404: _nothing_here, 405: _nothing_here,
        },
    )  # fmt: skip
    app.state.service, app.state.token, app.state.hosts = service, token, frozenset(hosts)
    app.middleware("http")(_state_versions)
    app.get("/health")(_health)
    app.include_router(_router)
    return app


# -- who is let in ------------------------------------------------------------------------


async def _check_host(request: Request) -> None:
    hosts = request.app.state.hosts
    host = request.headers.get("host", "").rpartition("]")
    if hosts and (host[0] + host[1] or host[2].partition(":")[0]) not in hosts:
        raise HostRefusedError(f"this worker answers to {', '.join(sorted(hosts))} only")


async def _check_token(
    request: Request,
    shown: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> None:
    token = request.app.state.token
    if token is not None and not (shown and hmac.compare_digest(shown.credentials.encode(), token.encode())):
        raise WorkerRefusedError(
            "the token is missing or wrong; send the worker's DIFFVIEWS_WORKER_TOKEN as bearer token"
        )


async def _check_schema(
    request: Request,
    stated: Annotated[str | None, Header(alias=SCHEMA_HEADER)] = None,
    version: Annotated[str, Header(alias=VERSION_HEADER)] = "",
) -> None:
    """Refuse a caller with an unknown schema; one who orders something must state its own.

    A web page cannot set this header on a worker that has no token, so it can order nothing there.
    """
    if stated in KNOWN_SCHEMAS or (stated is None and request.method == "GET"):
        return
    theirs = "states none" if stated is None else f"has schema {stated[:40]!r}"
    raise VersionMismatchError(
        f"this worker has schema {SCHEMA} (diffviews {versions()[VERSION_HEADER]}), the caller {theirs}"
        f"{f' (diffviews {version[:40]})' if version else ''}; install the same version of diffviews on both sides, "
        f"and send it as {SCHEMA_HEADER}"
    )


# -- what is asked ------------------------------------------------------------------------


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Worker = Annotated[Service, Depends(_service)]


async def _body(request: Request, service: Worker) -> bytes:
    """Return a request's body.

    Raises:
        BodyTooLargeError: if it is too long, or takes too long to arrive.
    """
    limits, body = service.limits, bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise BodyTooLargeError(
                        f"the request is longer than {limits.body_bytes:,} bytes; name fewer samples"
                    )
    except TimeoutError as error:
        raise BodyTooLargeError(f"the request did not arrive within {limits.body_seconds:.0f} s; try again") from error
    return bytes(body)


Body = Annotated[bytes, Depends(_body)]


def _printable(name: str | None) -> str | None:
    if name is not None and not name.isprintable():
        raise ValueError("an experiment's name is printable; leave out other characters")
    return name or None


Experiment = Annotated[str | None, Query(max_length=200), AfterValidator(_printable)]
JobId = Annotated[str | None, Header(alias=JOB_HEADER)]
_router = APIRouter(dependencies=[Depends(_check_token), Depends(_check_schema)])


async def _health() -> dict[str, str]:
    return {"status": "ok"}


@_router.get("/version")
def _version() -> dict[str, str]:
    return {"diffviews": versions()[VERSION_HEADER], "schema": SCHEMA}


@_router.post("/jobs/generate", status_code=202)
def _generate(service: Worker, body: Body, experiment: Experiment = None, job_id: JobId = None) -> JobStatus:
    return JobStatus.of(service.generate(read_recipe(body), experiment, job_id), service.queue)


@_router.post("/jobs/extract", status_code=202)
def _extract(service: Worker, body: Body, experiment: Experiment = None, job_id: JobId = None) -> JobStatus:
    return JobStatus.of(service.extract(*read_extraction(body), experiment, job_id), service.queue)


@_router.delete("/jobs/{job_id}")
def _cancel(job_id: str, service: Worker) -> JobStatus:
    job = service.queue.find(job_id)
    service.queue.cancel(job)
    return JobStatus.of(job, service.queue)


@_router.get("/jobs")
def _jobs(service: Worker) -> dict[str, list[JobStatus]]:
    return {"jobs": [JobStatus.of(job, service.queue) for job in service.queue.jobs()]}


@_router.get("/jobs/{job_id}")
def _job(job_id: str, service: Worker, preview: bool = False) -> JobStatus:
    return JobStatus.of(service.queue.find(job_id), service.queue, preview=preview)


@_router.get("/jobs/{job_id}/events")
def _events(job_id: str, service: Worker) -> StreamingResponse:
    lines = _lines(service.queue.find(job_id), service.queue)
    return StreamingResponse(lines, media_type="application/x-ndjson", headers={"X-Accel-Buffering": "no"})


async def _lines(job: Job, queue: JobQueue) -> AsyncIterator[bytes]:
    """Yield a job's state as a line of JSON when it changes, and once a second, until it is over."""
    said, shown, at = None, None, 0.0
    while said is None or not said.over:
        news = job.preview is not shown
        shown = job.preview
        state = await run_in_threadpool(JobStatus.of, job, queue, preview=news)
        if state.preview is not None or state != said or time.monotonic() - at > _BEAT_SECONDS:
            yield state.to_json() + b"\n"
            at = time.monotonic()
        said = replace(state, preview=None)
        await asyncio.sleep(0 if said.over else _LOOK_SECONDS)


@_router.get("/jobs/{job_id}/files")
def _files(job_id: str, service: Worker) -> dict[str, list[str]]:
    return {"files": list(service.files(job_id).names())}


@_router.get("/jobs/{job_id}/files/{name:path}")
def _file(job_id: str, name: str, service: Worker) -> FileResponse:
    return FileResponse(service.file(job_id, name), media_type="application/octet-stream")


@_router.api_route("/{path:path}", methods=_EVERY_METHOD)
async def _nothing() -> None:
    """Tell only those who are let in that there is nothing."""
    raise HTTPException(404)


# -- what is answered ---------------------------------------------------------------------


async def _state_versions(request: Request, call_next: RequestResponseEndpoint) -> Response:
    answer = await call_next(request)
    answer.headers.update(versions())
    return answer


def _sentence(text: str, status: int) -> JSONResponse:
    headers = versions() | ({"WWW-Authenticate": "Bearer"} if status == 401 else {})
    return JSONResponse({"error": text}, status, headers)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    return _sentence(redact(str(error)), status_of(error))


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _sentence(fault_in_words(error.errors()[0]), 422)


async def _unforeseen(_: Request, error: Exception) -> JSONResponse:
    logger.error("a request failed", exc_info=error)
    return _sentence(f"the worker failed ({type(error).__name__}); its log has the details", 500)


async def _nothing_here(request: Request, _: Exception) -> JSONResponse:
    return _sentence(f"there is nothing at {request.url.path[:100]!r} for {request.method}", 404)
