"""The benchmark of sketches: what is counted, and the lines that lead to a million samples."""

import time

import pytest

from experiments.benchmarks import sketching
from experiments.benchmarks.benchmark import Result, Setting
from experiments.benchmarks.sketching import MAP, SAMPLE_SET, Watch, sizes_below, sketch


def found(size, *, seconds=0.01, disk=1500.0, memory=2000.0):
    return {
        "seconds": 100 + seconds * size,
        "capture_seconds": 100 + 0.4 * seconds * size,
        "map_seconds": 0.6 * seconds * size,
        "capture_memory": 1.9e9,
        "map_memory": 1e9 + memory * size,
        "disk_running": 2e7 + 1.1 * disk * size,
        "disk": 1e7 + disk * size,
        "sample_set": 900.0 * size,
    }


@pytest.fixture
def measured(monkeypatch, tmp_path):
    def measure(**changes):
        monkeypatch.setattr(sketching, "_measured", lambda size, *_: found(size, **changes))
        return Result.of(sketch, sketch.measure(Setting(tmp_path)))

    return measure


def test_a_million_is_on_the_lines_through_both_sizes(measured):
    result = measured()
    assert result.seconds.median == pytest.approx(100 + 0.01 * 1e6)
    small, large, million = result.table
    assert (small["samples"], large["samples"]) == ("5,000", "50,000")
    assert million["maps, min"] == pytest.approx(100)
    assert million["memory for fitting and capture, GB"] == 1.9
    assert million["memory for maps, GB"] == 3.0
    assert million["disk afterwards, MB"] == 1510
    assert result.met
    assert result.note == ""


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"seconds": 0.05}, ""),
        ({"memory": 3500.0}, "memory for the maps would be 4.50 GB, above 4 GB."),
        ({"disk": 1900.0}, "disk while it runs would be 2.11 GB, above 2 GB."),
    ],
    ids=["night", "memory", "disk"],
)
def test_what_a_million_would_exceed_is_said(measured, changes, note):
    result = measured(**changes)
    assert result.met is False
    assert result.note == note


def test_sample_set_and_tracking_database_are_not_counted(tmp_path):
    for name, size in (("deep/a.bin", 7), (SAMPLE_SET, 100), (f"deep/{SAMPLE_SET}", 100), ("mlflow.db-wal", 50)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    assert sizes_below(tmp_path) == {tmp_path / "deep/a.bin": 7}


def test_watch_sees_what_is_gone_again_and_when_maps_begin(tmp_path, monkeypatch):
    monkeypatch.setattr(sketching, "LOOK_EVERY", 0.001)
    monkeypatch.setattr(sketching, "_forget_peak", lambda: None)

    def wait_until(seen):
        limit = time.monotonic() + 20
        while not seen() and time.monotonic() < limit:
            time.sleep(0.001)

    with Watch(tmp_path) as watch:
        (tmp_path / "large").write_bytes(bytes(10_000))
        wait_until(lambda: watch.most_disk >= 10_000)
        (tmp_path / "large").unlink()
        assert watch.memory_before_maps == 0
        (tmp_path / MAP).write_bytes(b"map")
        wait_until(lambda: watch.memory_before_maps)
    assert watch.most_disk == 10_000
    assert watch.memory_before_maps > 1_000_000
