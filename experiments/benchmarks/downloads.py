"""Downloading many small objects from a store that answers late."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from diffviews.data.storage.object_store import CONNECTIONS, ObjectStore
from experiments.benchmarks.benchmark import Benchmark, Measurement, Setting
from experiments.benchmarks.measurement import Comparison, Measure, Target, interleave, seconds_of
from experiments.benchmarks.slow_store import BUCKET, PREFIX, slow_store

LATENCY, SIZE = 0.05, 3000
EVERY = 8
"""One object in so many is fetched one at a time; the time is multiplied."""


def measure_downloads(setting: Setting) -> Measurement:
    """Download a prefix of small objects, against one object after another."""
    count = setting.size(2000, 16)
    with slow_store(count, SIZE, LATENCY if not setting.quick else 0.001) as address, _environment(_keys(address)):
        store = ObjectStore(f"s3://{BUCKET}")

        def fetch(workers: int, step: int) -> Measure:
            def work() -> int:
                shutil.rmtree(setting.folder / "fetched", ignore_errors=True)
                return store.download_prefix(
                    PREFIX, setting.folder / "fetched", workers=workers, keep=lambda name: _number(name) % step == 0
                )

            return seconds_of(work)

        fetch(CONNECTIONS, EVERY)()
        part = interleave(fetch(CONNECTIONS, 1), fetch(1, EVERY), repeats=min(setting.repeats, 3))
    compared = Comparison(part.ours, tuple(seconds * EVERY for seconds in part.alternative))
    facts = {"objects": count, "bytes each": SIZE, "latency, ms": LATENCY * 1e3, "connections": CONNECTIONS}
    return Measurement(compared, facts)


def _number(name: str) -> int:
    return int(name.rpartition("_")[2].removesuffix(".png"))


def _keys(address: str) -> dict[str, str]:
    return {
        "MLFLOW_S3_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables inside the block, as the client of the store reads its keys and address from there alone."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


DOWNLOADS = Benchmark(
    "downloads",
    "2,000 small objects from S3, every answer 50 ms late",
    f"`ObjectStore.download_prefix` with {CONNECTIONS} connections",
    f"one at a time, measured on every {EVERY}th object and multiplied by {EVERY}",
    Target("speedup", 8),
    measure_downloads,
)
