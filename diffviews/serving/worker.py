"""The `worker` command: the application on a port, until it is stopped or has long had nothing to do."""

import logging
import os
import socket
import threading
import time

import uvicorn
from starlette.concurrency import run_in_threadpool

from diffviews.device import is_this_machine, resolve_device
from diffviews.errors import ConfigError
from diffviews.pipelines.job_queue import JobQueue
from diffviews.pipelines.model_runner import ModelRunner
from diffviews.pipelines.workspace import open_workspace
from diffviews.serving.app import STOPPED, create_app
from diffviews.serving.protocol import TOKEN_VARIABLE
from diffviews.serving.requests import Limits
from diffviews.serving.service import AccessPolicy, Service

logger = logging.getLogger(__name__)

SHORTEST_TOKEN = 16
_THIS_MACHINE = ("127.0.0.1", "localhost", "[::1]")


def worker(
    host: str = "127.0.0.1",
    port: int = 8080,
    device: str = "auto",
    *,
    idle_shutdown: float | None = None,
    allow_checkpoints: tuple[str, ...] = (),
    allow_datasets: tuple[str, ...] = (),
    profile: str | None = None,
    experiment: str | None = None,
) -> None:
    """Generate and extract for others over HTTP, one job at a time, until interrupted.

    Callers must show the bearer token in DIFFVIEWS_WORKER_TOKEN. Without that variable the worker
    listens on this machine only.

    Args:
        host: address to listen on.
        port: to listen on.
        device: auto, cpu, cuda, cuda:N or mps.
        idle_shutdown: end after so many seconds without a job; null never does.
        allow_checkpoints: patterns of checkpoints that callers may name beside those of the catalogue, the
            model registry and the layer runs, for example /models/*.
        allow_datasets: patterns of data sets that callers may extract beside digits and logged runs, for
            example folder:/data/*.
        profile: tracking profile of mlruns_config.
        experiment: MLflow experiment of jobs that name none.

    Raises:
        ConfigError: if others could reach the worker without a token.
    """
    if idle_shutdown is not None and not idle_shutdown > 0:
        raise ConfigError(f"idle_shutdown is {idle_shutdown}; give seconds above 0, or leave it out")
    token = read_token(host)
    policy = AccessPolicy(tuple(allow_checkpoints), tuple(allow_datasets))
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    with listen(host, port) as listening:
        service = make_service(profile, experiment, device=device, policy=policy)
        app = create_app(service, token=token, hosts=_THIS_MACHINE if token is None else ())
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False,
            limit_concurrency=200, timeout_graceful_shutdown=10,
        )  # fmt: skip
        server = Server(config, service.queue)
        if idle_shutdown is not None:
            threading.Thread(target=_end_when_idle, args=(server, service.queue, idle_shutdown), daemon=True).start()
        address = f"http://{host}:{listening.getsockname()[1]}"
        logger.info("Worker      %s, %s", address, "with a token" if token else "for this machine only")
        server.run(sockets=[listening])


class Server(uvicorn.Server):
    """Ends the jobs first and the connections of those who follow them after that, so that they are told why."""

    def __init__(self, config: uvicorn.Config, queue: JobQueue) -> None:
        super().__init__(config)
        self._queue = queue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the queue, then as ever."""
        await run_in_threadpool(self._queue.stop, STOPPED)
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigError: if the address is not this machine's, or the port is taken.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"the worker cannot listen on {host}:{port} ({error}); stop what does, or choose another"
        ) from error


def make_service(
    profile: str | None = None,
    experiment: str | None = None,
    *,
    device: str = "auto",
    policy: AccessPolicy = AccessPolicy(),  # noqa: B008 - immutable
) -> Service:
    """Return a worker's parts; a tracking store that cannot be used is said now, not at the first job."""
    runner = ModelRunner(open_workspace(profile, experiment), str(resolve_device(device)))
    return Service(runner, Limits(), policy)


def read_token(host: str) -> str | None:
    """Return the token that callers must show, None where only this machine can call.

    Raises:
        ConfigError: if there is none and others can call, or it is too short.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        if not is_this_machine(host):
            raise ConfigError(
                f"a worker on {host} can be reached by others and needs a token; set {TOKEN_VARIABLE}, for example to "
                "the output of: openssl rand -hex 32"
            )
        return None
    if len(token) < SHORTEST_TOKEN:
        raise ConfigError(f"{TOKEN_VARIABLE} has fewer than {SHORTEST_TOKEN} characters; take a longer one")
    return token


def _end_when_idle(server: uvicorn.Server, queue: JobQueue, seconds: float) -> None:
    while queue.idle_seconds < seconds:
        time.sleep(min(1.0, seconds / 4))
    logger.info("no job for %g s: the worker ends", seconds)
    server.should_exit = True
