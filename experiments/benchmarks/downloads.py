"""Downloading many small objects from a store that answers late.

`python -m experiments.benchmarks.downloads` serves a store that speaks as much of S3 as a download needs, in a
process of its own, so that it does not share a processor's turn with what is measured.
"""

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

from diffviews.data.storage.object_store import CONNECTIONS, ObjectStore
from experiments.benchmarks.benchmark import (
    Comparison,
    Measurement,
    NotMeasuredError,
    Setting,
    Target,
    benchmark,
    seconds_of,
)
from experiments.benchmarks.fresh import fresh_environment

BUCKET, PREFIX = "benchmark", "data/model"
LATENCY, SIZE = 0.05, 3000
EVERY = 8
"""One object in so many is fetched one at a time; the time is multiplied."""


@benchmark(
    "downloads",
    "2,000 small objects from S3, every answer 50 ms late",
    f"`ObjectStore.download_prefix` with {CONNECTIONS} connections",
    f"one at a time, measured on every {EVERY}th object and multiplied by {EVERY}",
    Target("speedup", 8),
)
def downloads(setting: Setting) -> Measurement:
    """Download a prefix of small objects, against one object after another."""
    count, folder = setting.size(2000, 16), setting.folder / "fetched"
    late = 0.001 if setting.quick else LATENCY
    with slow_store(count, SIZE, late) as address, patch.dict(os.environ, _keys(address)):
        store = ObjectStore(f"s3://{BUCKET}")

        def fetch(workers: int, step: int) -> int:
            shutil.rmtree(folder, ignore_errors=True)
            return store.download_prefix(PREFIX, folder, workers=workers, keep=lambda name: int(name[:6]) % step == 0)

        fetch(CONNECTIONS, EVERY)
        ours, theirs = partial(fetch, CONNECTIONS, 1), partial(fetch, 1, EVERY)
        part = setting.compare(seconds_of(ours), seconds_of(theirs), most=3)
    compared = Comparison(part.ours, tuple(seconds * EVERY for seconds in part.alternative))
    facts = {"objects": count, "bytes each": SIZE, "latency, ms": LATENCY * 1e3, "connections": CONNECTIONS}
    return Measurement(compared, facts)


def _keys(address: str) -> dict[str, str]:
    return {
        "MLFLOW_S3_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }


@contextmanager
def slow_store(count: int, size: int, latency: float) -> Iterator[str]:
    """Serve `count` objects of `size` bytes while inside, each answer `latency` seconds late; yields the address.

    Raises:
        NotMeasuredError: if it cannot be started.
    """
    words = [sys.executable, "-P", "-m", __name__, str(count), str(size), str(latency)]
    process = subprocess.Popen(
        words, env=fresh_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            address = process.stdout.readline().strip() if process.stdout else ""
            if not address:
                raise NotMeasuredError("the store that downloads are measured against did not start")
            yield address
        finally:
            process.kill()


async def _serve(count: int, size: int, latency: float) -> None:
    """Print the address, and answer each request with the listing of all objects or with an object's bytes."""
    body = bytes(size)
    etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
    objects = "".join(
        f"<Contents><Key>{PREFIX}/{number:06d}.png</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>{etag}</ETag><Size>{size}</Size></Contents>"
        for number in range(count)
    )
    listing = (
        f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{BUCKET}</Name>'
        f"<KeyCount>{count}</KeyCount><IsTruncated>false</IsTruncated>{objects}</ListBucketResult>"
    )
    answers = {True: _response(listing.encode(), "application/xml"), False: _response(body, "image/png", etag)}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(latency)
                writer.write(answers[b"list-type=" in head.partition(b"\r\n")[0]])
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    # When the process that wanted this store is gone, its end of the pipe is closed.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def _response(body: bytes, kind: str, etag: str = "") -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *([f"ETag: {etag}"] if etag else []), "", ""]).encode() + body


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
