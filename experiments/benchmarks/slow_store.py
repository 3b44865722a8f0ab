"""A store of small objects that speaks as much of S3 as a download needs, and takes its time.

`python -m experiments.benchmarks.slow_store COUNT BYTES LATENCY` prints its address and serves until its
standard input ends. It runs in a process of its own, so that it does not share a processor's turn with what
is measured.
"""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from experiments.benchmarks.fresh import FreshProcessError, fresh_environment

BUCKET, PREFIX = "benchmark", "data/model"
_PAGE = 1000


@contextmanager
def slow_store(count: int, size: int, latency: float) -> Iterator[str]:
    """Serve `count` objects of `size` bytes while inside, each answer `latency` seconds late; yields the address.

    Raises:
        FreshProcessError: if it cannot be started.
    """
    words = [sys.executable, "-P", "-m", __name__, str(count), str(size), str(latency)]
    process = subprocess.Popen(
        words, env=fresh_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            address = process.stdout.readline().strip() if process.stdout else ""
            if not address:
                raise FreshProcessError("the store that downloads are measured against did not start")
            yield address
        finally:
            process.kill()


class SlowStore:
    """The objects, and the answers to requests for them."""

    def __init__(self, count: int, size: int, latency: float) -> None:
        self.keys = [f"{PREFIX}/images/sample_{number:06d}.png" for number in range(count)]
        self.body, self.latency = bytes(size), latency
        self.etag = f'"{hashlib.md5(self.body, usedforsecurity=False).hexdigest()}"'

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client's requests until it goes."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(self.latency)
                writer.write(self.answer(head.decode("latin-1").split()[1]))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def answer(self, target: str) -> bytes:
        """Return the response to a GET: a page of the listing, or an object."""
        address = urlsplit(target)
        asked = parse_qs(address.query)
        if "list-type" in asked:
            return _response(200, self._listing(asked).encode(), "application/xml")
        if unquote(address.path).removeprefix(f"/{BUCKET}/").startswith(PREFIX):
            return _response(200, self.body, "image/png", self.etag)
        return _response(404, b"<Error><Code>NoSuchKey</Code></Error>", "application/xml")

    def _listing(self, asked: dict[str, list[str]]) -> str:
        start = int(asked.get("continuation-token", ["0"])[0])
        wanted = asked.get("prefix", [""])[0]
        found = [key for key in self.keys if key.startswith(wanted)]
        page, more = found[start : start + _PAGE], start + _PAGE < len(found)
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(self.etag)}</ETag><Size>{len(self.body)}</Size></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{start + _PAGE}</NextContinuationToken>" if more else ""
        return (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><KeyCount>{len(page)}</KeyCount><MaxKeys>{_PAGE}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}</ListBucketResult>"
        )


def _response(status: int, body: bytes, kind: str, etag: str = "") -> bytes:
    lines = [f"HTTP/1.1 {status} {'OK' if status == 200 else 'Not Found'}", f"Content-Type: {kind}"]
    lines += [f"Content-Length: {len(body)}", *([f"ETag: {etag}"] if etag else []), "", ""]
    return "\r\n".join(lines).encode() + body


async def _main(store: SlowStore) -> None:
    server = await asyncio.start_server(store.serve, "127.0.0.1", 0)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    # When the process that wanted this store is gone, its end of the pipe is closed.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main(SlowStore(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
