"""The worker's HTTP interface: jobs are ordered, watched and cancelled; what they made is fetched."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from diffviews.errors import ConfigError, DiffViewsError, TrackingError
from diffviews.pipelines.job_queue import Job, JobNotFoundError, QueueFullError, QueueStoppedError
from diffviews.serving.bodies import read_extraction, read_recipe
from diffviews.serving.errors import BodyTooLargeError, VersionMismatchError
from diffviews.serving.guard import Guard
from diffviews.serving.limits import Limits
from diffviews.serving.protocol import JOB_HEADER, SCHEMA, VERSION_HEADER, JobStatus, versions
from diffviews.serving.service import Service
from diffviews.tracking.connection import redact

logger = logging.getLogger(__name__)

STOPPED = "the worker was stopped before the job was done; order it again"
_MAX_EXPERIMENT = 200
_STATUS: dict[type[DiffViewsError], int] = {
    JobNotFoundError: 404,
    BodyTooLargeError: 413,
    QueueFullError: 429,
    QueueStoppedError: 503,
    VersionMismatchError: 409,
    TrackingError: 500,
}
"""HTTP status of errors; any other is 422, a request that cannot be followed."""


def create_app(service: Service, *, token: str | None = None, hosts: tuple[str, ...] = ()) -> Guard:
    """Return the worker as an ASGI application.

    Args:
        service: what it does.
        token: that callers must show; None: none is needed.
        hosts: names by which it may be addressed; empty: any.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.queue.stop, STOPPED)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(DiffViewsError, _in_words)
    app.add_exception_handler(Exception, _unforeseen)
    app.add_exception_handler(404, _nothing_here)
    app.add_exception_handler(405, _nothing_here)
    _add_orders(app, service)
    _add_questions(app, service)
    return Guard(app, token, hosts)


def _add_orders(app: FastAPI, service: Service) -> None:
    """Add what makes and ends jobs."""
    orders: dict[str, Callable[[bytes, str | None, str | None], Job]] = {
        "generate": lambda body, *where: service.generate(read_recipe(body), *where),
        "extract": lambda body, *where: service.extract(read_extraction(body), *where),
    }
    for kind, order in orders.items():

        async def submit(request: Request, order: Callable[..., Job] = order) -> JSONResponse:
            body = await _read(request, service.limits)
            asked = _checked(request.query_params.get("experiment")), request.headers.get(JOB_HEADER)
            job = await run_in_threadpool(order, body, *asked)
            return JSONResponse(JobStatus.of(job, service.queue).to_dict(), status_code=202)

        app.add_route(f"/jobs/{kind}", submit, methods=["POST"])

    @app.delete("/jobs/{job_id}")
    def cancel(job_id: str) -> dict[str, Any]:
        job = service.queue.find(job_id)
        service.queue.cancel(job)
        return JobStatus.of(job, service.queue).to_dict()


def _add_questions(app: FastAPI, service: Service) -> None:
    """Add what only looks."""

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/version")
    def version() -> dict[str, str]:
        return {"diffviews": versions()[VERSION_HEADER], "schema": SCHEMA}

    @app.get("/jobs")
    def jobs() -> dict[str, list[dict[str, Any]]]:
        return {"jobs": [JobStatus.of(job, service.queue).to_dict() for job in service.queue.jobs()]}

    @app.get("/jobs/{job_id}")
    def status(job_id: str, request: Request) -> dict[str, Any]:
        preview = request.query_params.get("preview") == "true"
        return JobStatus.of(service.queue.find(job_id), service.queue, preview=preview).to_dict()

    @app.get("/jobs/{job_id}/files")
    def files(job_id: str) -> dict[str, list[str]]:
        return {"files": list(service.files(job_id).names())}

    @app.get("/jobs/{job_id}/files/{name:path}")
    def file(job_id: str, name: str) -> Response:
        return Response(service.file(job_id, name), media_type="application/octet-stream")


async def _read(request: Request, limits: Limits) -> bytes:
    """Return a request's body.

    Raises:
        BodyTooLargeError: if it is too long, or takes too long to arrive.
    """
    body = bytearray()
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


def _checked(experiment: str | None) -> str | None:
    """Return the name of an experiment, None for none."""
    if experiment is not None and (len(experiment) > _MAX_EXPERIMENT or not experiment.isprintable()):
        raise ConfigError(f"an experiment's name is printable and has at most {_MAX_EXPERIMENT} characters")
    return experiment or None


def _in_words(_: Request, error: Exception) -> JSONResponse:
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 422)
    return JSONResponse({"error": redact(str(error))}, status_code=status)


def _unforeseen(_: Request, error: Exception) -> JSONResponse:
    logger.error("a request failed", exc_info=error)
    return JSONResponse({"error": f"the worker failed ({type(error).__name__}); its log has the details"}, 500)


def _nothing_here(request: Request, _: Exception) -> JSONResponse:
    return JSONResponse({"error": f"there is nothing at {request.url.path[:100]!r} for {request.method}"}, 404)
