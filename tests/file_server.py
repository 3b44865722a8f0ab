"""A web server for tests, over a real socket, that can misbehave as real ones do."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Site:
    """What the server has and how it behaves; tests change it while it runs."""

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"one"'
    ranges: bool = True
    """Whether it can send parts."""
    drop_after: list[int] = field(default_factory=list)
    """After how many bytes each of the next answers breaks off."""
    refuse: list[int] = field(default_factory=list)
    """Statuses of the next answers."""
    redirect: dict[str, str] = field(default_factory=dict)
    lengths: bool = True
    """Whether it says how much it sends."""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    """What every answer carries besides."""
    pause: float = 0.0
    """Seconds before each answer."""
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.0"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        site = self.site
        site.requests.append((self.path, dict(self.headers)))
        time.sleep(site.pause)
        if site.refuse:
            return self.send_error(site.refuse.pop(0))
        if self.path in site.redirect:
            self.send_response(302)
            self.send_header("Location", site.redirect[self.path])
            return self.end_headers()
        if self.path not in site.files:
            return self.send_error(404)
        return self._send(site.files[self.path])

    do_HEAD = do_GET  # noqa: N815 - the name is the library's

    def _send(self, content: bytes) -> None:
        site, start = self.site, 0
        asked = self.headers.get("Range")
        if asked and site.ranges and self.headers.get("If-Range") == site.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if site.etag:
            self.send_header("ETag", site.etag)
        for name, value in site.headers.items():
            self.send_header(name, value)
        if site.lengths:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = content[start:]
        self.wfile.write(body[: site.drop_after.pop(0)] if site.drop_after else body)


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serve `site` on a free port of this machine while inside."""
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
