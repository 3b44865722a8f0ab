"""Downloading many small objects from a store that answers late."""

import os
import shutil
from unittest.mock import patch

from diffviews.data.storage.object_store import CONNECTIONS, ObjectStore
from experiments.benchmarks.benchmark import Measurement, Setting, benchmark
from experiments.benchmarks.measurement import Comparison, Measure, Target, interleave, seconds_of
from experiments.benchmarks.slow_store import BUCKET, PREFIX, slow_store

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
    count = setting.size(2000, 16)
    late = 0.001 if setting.quick else LATENCY
    with slow_store(count, SIZE, late) as address, patch.dict(os.environ, _keys(address)):
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
