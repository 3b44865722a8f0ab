"""An S3 server for tests, over real sockets, and a proxy before it that makes it slow and unreliable."""

import http.client
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

KEY, SECRET = "planted-access-key-4711", "planted/secret+key=0815"
"""Keys that the tests use; they must turn up nowhere."""
BUCKET = "team"


@dataclass
class Faults:
    """What the proxy does to requests; tests change it while it runs."""

    latency: float = 0.0
    """Seconds before each request is passed on."""
    unavailable: float = 0.0
    """Share of requests that get a 503."""
    stalled: float = 0.0
    """Share of requests that get no answer at all."""
    cut: float = 0.0
    """Share of downloads whose body breaks off."""
    kept: float = 0.5
    """Share of such a body that arrives."""
    cut_next: int = 0
    """How many of the next downloads break off."""
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    """{HTTP method: (status, S3 code)} answered to each such request."""
    passing: int | None = None
    """How many further requests are passed on; None: all. Each after them is answered `afterwards`."""
    afterwards: tuple[int, str] = (503, "SlowDown")
    hold: threading.Event | None = None
    """While it is given and not set, uploads wait here half-sent."""
    seed: int = 0


@dataclass
class Proxy:
    """A running proxy and what passed through it."""

    url: str
    faults: Faults
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """(method, path with query, headers) of each request, in the order they came."""
    failed: int = 0
    """Requests that got a 503 or no answer by chance."""
    in_flight: int = 0
    most_in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    uploading: threading.Event = field(default_factory=threading.Event)
    """Set when the first half of an upload that is held has arrived."""

    def clear(self) -> None:
        self.requests.clear()
        self.most_in_flight = 0

    def gets(self, part: str = "") -> list[str]:
        """Return the keys of the objects that were fetched, whose paths hold `part`."""
        return [
            urlsplit(path).path
            for method, path, _ in self.requests
            if method == "GET" and "list-type" not in path and "location" not in path and part in path
        ]

    def puts(self, part: str = "") -> list[str]:
        return [urlsplit(path).path for method, path, _ in self.requests if method in ("PUT", "POST") and part in path]


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    upstream: tuple[str, int]
    chance: random.Random
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _pass_on(self) -> None:
        proxy, faults = self.proxy, self.proxy.faults
        with proxy.lock:
            proxy.requests.append((self.command, self.path, dict(self.headers)))
            proxy.in_flight += 1
            proxy.most_in_flight = max(proxy.most_in_flight, proxy.in_flight)
            draw = self.chance.random()
            cut = self.command == "GET" and (faults.cut_next > 0 or self.chance.random() < faults.cut)
            faults.cut_next -= bool(faults.cut_next and cut)
            if faults.passing is not None:
                faults.passing -= 1
            proxy.failed += draw < faults.unavailable + faults.stalled
        try:
            time.sleep(faults.latency)
            body = self._body()
            if faults.passing is not None and faults.passing < 0:
                self._answer(*faults.afterwards)
            elif self.command in faults.refuse:
                self._answer(*faults.refuse[self.command])
            elif draw < faults.unavailable:
                self._answer(503, "SlowDown")
            elif draw < faults.unavailable + faults.stalled:
                self.close_connection = True
                time.sleep(3)
            else:
                self._forward(body, cut=cut)
        except (BrokenPipeError, ConnectionError, TimeoutError):
            self.close_connection = True
        finally:
            with proxy.lock:
                proxy.in_flight -= 1

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815 - names of the library

    def _body(self) -> bytes:
        length = int(self.headers.get("Content-Length", 0))
        if self.headers.get("Expect", "").lower() == "100-continue" and not length:
            return b""
        if self.proxy.faults.hold is not None and length >= 1000:
            first = self.rfile.read(length // 2)
            self.proxy.uploading.set()
            self.proxy.faults.hold.wait(30)
            rest = self.rfile.read(length - len(first))
            if len(first) + len(rest) < length:
                raise ConnectionError("the client is gone")
            return first + rest
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the client is gone")
        return body

    def _answer(self, status: int, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>refused by the test</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _forward(self, body: bytes, *, cut: bool) -> None:
        connection = http.client.HTTPConnection(*self.upstream, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if cut and answer.status in (200, 206) and len(content) > 1:
            self.wfile.write(content[: int(len(content) * self.proxy.faults.kept)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that went away."""


@contextmanager
def proxied(upstream: str, faults: Faults | None = None) -> Iterator[Proxy]:
    """Pass requests on to `upstream` from a free port of this machine while inside."""
    faults = faults or Faults()
    address = urlsplit(upstream)
    handler = type("Handler", (_Handler,), {"chance": random.Random(faults.seed)})
    server = _Server(("127.0.0.1", 0), handler)
    proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}", faults)
    handler.proxy, handler.upstream = proxy, (address.hostname, address.port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        if faults.hold is not None:
            faults.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def s3_server() -> Iterator[str]:
    """Run moto's S3 server on a free port while inside; yields its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def raw_client(endpoint: str) -> Any:
    """Return a client of the tests' own, that goes past the proxy."""
    return boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1",
        config=Config(max_pool_connections=32),
    )  # fmt: skip


def fresh_bucket(endpoint: str, name: str = BUCKET) -> Any:
    """Make an empty bucket and return a client."""
    client = raw_client(endpoint)
    if name in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        for key in stored_keys(client, name):
            client.delete_object(Bucket=name, Key=key)
    else:
        client.create_bucket(Bucket=name)
    return client


def stored_keys(client: Any, bucket: str = BUCKET) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


STORE_VARIABLES = (
    "R2_ACCOUNT_ID", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "R2_BUCKET_NAME", "MLFLOW_S3_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION", "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY",
    "all_proxy",
)  # fmt: skip


def use_store(patch: pytest.MonkeyPatch, endpoint: str, bucket: str = BUCKET) -> None:
    """Set the environment as for a team's bucket, and nothing else that boto3 reads."""
    for name in STORE_VARIABLES:
        patch.setenv(name, "")  # registered, so that what code sets meanwhile is taken back
        patch.delenv(name)
    values = {
        "R2_ACCESS_KEY_ID": KEY,
        "R2_SECRET_ACCESS_KEY": SECRET,
        "R2_BUCKET_NAME": bucket,
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }
    for name, value in values.items():
        patch.setenv(name, value)
