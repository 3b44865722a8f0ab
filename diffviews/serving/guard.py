"""The guard before a worker's endpoints: the token, the host that was asked for, both sides' versions."""

import hmac
import json
import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

from diffviews.serving.protocol import SCHEMA, SCHEMA_HEADER, VERSION_HEADER, versions

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

_OPEN = ("/health",)
"""Paths that anybody may ask for."""


class Guard:
    """ASGI middleware that lets through only requests it can vouch for.

    Args:
        app: what is guarded.
        token: bearer token that callers must show; None: none is needed.
        hosts: names by which callers may address the worker; empty: any. Without a token this keeps out web
            pages whose own name was made to lead to this machine.
    """

    def __init__(self, app: "ASGIApp", token: str | None, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._hosts = frozenset(hosts)
        self._versions = [(name.lower().encode(), value.encode()) for name, value in versions().items()]

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_versions(message: "Message") -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._versions]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send_with_versions)
            return
        status, reason = refusal
        body = json.dumps({"error": reason}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send_with_versions({"type": "http.response.start", "status": status, "headers": headers})
        await send_with_versions({"type": "http.response.body", "body": body})

    def _refusal(self, scope: "Scope") -> tuple[int, str] | None:
        """Return the status and the sentence a request is refused with, or None."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "").rpartition("]")
        name = host[0] + host[1] or host[2].partition(":")[0]
        if self._hosts and name not in self._hosts:
            return 421, f"this worker answers to {', '.join(sorted(self._hosts))} only"
        if scope["path"] in _OPEN:
            return None
        if not self._knows(headers.get("authorization", "")):
            return 401, "the token is missing or wrong; send the worker's DIFFVIEWS_WORKER_TOKEN as bearer token"
        return _version_refusal(scope["method"], headers)

    def _knows(self, authorization: str) -> bool:
        if self._token is None:
            return True
        scheme, _, shown = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(), self._token)


def _version_refusal(method: str, headers: dict[str, str]) -> tuple[int, str] | None:
    """Return the refusal of a caller with another schema; one who orders something must state its own.

    A web page cannot set this header on a worker that has no token, so it can order nothing there.
    """
    stated = headers.get(SCHEMA_HEADER.lower())
    if stated == SCHEMA or (stated is None and method == "GET"):
        return None
    theirs = "states none" if stated is None else f"has schema {stated[:40]!r}"
    program = headers.get(VERSION_HEADER.lower(), "")[:40]
    return 409, (
        f"this worker has schema {SCHEMA} (diffviews {versions()[VERSION_HEADER]}), the caller {theirs}"
        f"{f' (diffviews {program})' if program else ''}; install the same version of diffviews on both sides, "
        f"and send it as {SCHEMA_HEADER}"
    )
