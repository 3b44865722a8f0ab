"""The benchmark suite: its statistics, its order of measuring, and that each benchmark runs at a tiny size."""

import json
from dataclasses import asdict

import pytest
from pydantic import TypeAdapter

from diffviews.adapters.registry import load_adapter
from diffviews.errors import ConfigError
from experiments.benchmarks.benchmark import (
    Benchmark,
    Comparison,
    Measurement,
    NotMeasuredError,
    Result,
    Setting,
    Spread,
    Target,
    duration,
    interleave,
    measure_doubling,
    seconds_of,
)
from experiments.benchmarks.command import SUITE, choose, run
from experiments.benchmarks.extraction import compare_sketching
from experiments.benchmarks.fresh import ask_fresh, own_store, run_fresh

SLOW = {
    "path", "opening", "downloads", "help", "demo", "maps-scaling", "import", "map", "sketch", "projection-scaling",
    "map-workers", "draw-1m", "draw-10m", "judges",
}  # fmt: skip
"""Benchmarks that compile UMAP or Datashader, or start processes each of which imports everything anew."""


def recorder(log, name, seconds):
    remaining = iter(seconds)

    def measure():
        log.append(name)
        return next(remaining)

    return measure


def test_measurements_alternate_ours_first():
    log = []
    compared = interleave(recorder(log, "A", [1, 2, 3]), recorder(log, "B", [4, 5, 6]), repeats=3)
    assert log == ["A", "B", "A", "B", "A", "B"]
    assert compared == Comparison((1, 2, 3), (4, 5, 6))


def test_a_slow_alternative_is_measured_less_often_and_compared_with_its_neighbour():
    log = []
    compared = interleave(
        recorder(log, "A", [1, 2, 3]), recorder(log, "B", [10, 20]), repeats=3, alternative_repeats=2
    )
    assert log == ["A", "B", "A", "B", "A"]
    assert compared.ratios == (0.1, 0.1, 0.15)


def test_ratio_is_that_of_neighbouring_measurements_and_not_of_medians():
    compared = Comparison((1.0, 10.0, 3.0), (1.0, 5.0, 30.0))
    assert Spread.of(compared.ratios) == Spread(1.0, 0.1, 2.0)
    assert Spread.of(compared.speedups) == Spread(1.0, 0.5, 10.0)


def test_measuring_nothing_is_refused():
    with pytest.raises(ConfigError, match="repeats"):
        interleave(lambda: 1.0, repeats=0)


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target("ratio", 0.5), True),
        (Target("ratio", 0.49), False),
        (Target("speedup", 2.0), True),
        (Target("speedup", 2.1), False),
        (Target("seconds", 2.0), True),
        (Target("seconds", 1.9), False),
    ],
)
def test_target_is_judged_by_the_median(target, met):
    assert target.is_met(Comparison((2.0, 9.0, 1.0), (4.0, 10.0, 8.0))) is met


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (Target("ratio", 1.15), "≤ 1.15 ×"),
        (Target("speedup", 12.8), "≥ 12.8 × faster"),
        (Target("seconds", 0.05), "≤ 50 ms"),
        (Target("seconds", 180), "≤ 3 min 00 s"),
    ],
)
def test_target_is_written_as_the_page_shows_it(target, text):
    assert str(target) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.00025, "250 µs"), (0.0414, "41.4 ms"), (1.239, "1.24 s"), (185.2, "3 min 05 s")]
)
def test_duration_is_written_in_the_unit_people_use(seconds, text):
    assert duration(seconds) == text


def test_seconds_of_counts_the_work_and_only_it(monkeypatch):
    clock = iter([10.0, 12.5])
    monkeypatch.setattr("experiments.benchmarks.benchmark.time.perf_counter", lambda: next(clock))
    assert seconds_of(lambda: "kept")() == 2.5


def made(target=None, *, failure="", unmet="", ours=(1.0, 2.0), alternative=(4.0, 4.0)):
    measured = Measurement(Comparison(ours, alternative), {"samples": 3}, [{"n": 1}], failure=failure)
    return Result.of(Benchmark("name", "title", "ours", "theirs", target, lambda _: measured, unmet), measured)


def test_result_says_whether_the_target_is_met_and_why_not():
    assert made(Target("ratio", 0.5)).met is True
    assert made().met is None
    missed = made(Target("ratio", 0.1), unmet="writing takes longest.")
    assert (missed.met, missed.note) == (False, "writing takes longest.")
    worse = made(Target("ratio", 0.5), failure="it is worse.")
    assert (worse.met, worse.note) == (False, "it is worse.")


def test_result_gives_the_ratio_in_the_terms_of_its_target():
    assert made(Target("ratio", 1)).ratio == Spread(0.375, 0.25, 0.5)
    faster = made(Target("speedup", 1))
    assert faster.faster
    assert faster.ratio == Spread(3.0, 2.0, 4.0)


def test_result_survives_being_logged():
    logged = json.loads(json.dumps(asdict(made(Target("speedup", 3)))))
    assert asdict(TypeAdapter(Result).validate_python(logged)) == logged


def test_benchmark_that_cannot_be_measured_says_why_and_the_others_go_on(tmp_path):
    def refuse(_):
        raise NotMeasuredError("no CUDA device")

    good = Benchmark("good", "t", "o", "", None, lambda _: Measurement(Comparison((1.0,))))
    missing, measured = run([Benchmark("gpu", "t", "o", "", Target("ratio", 1), refuse), good], Setting(tmp_path))
    assert missing.note == "not measured: no CUDA device"
    assert (missing.seconds, missing.met) == (None, None)
    assert measured.seconds == Spread(1.0, 1.0, 1.0)
    assert list(tmp_path.iterdir()) == []


def test_unknown_benchmark_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'extraction'"):
        choose(["extractoin"])


def test_benchmarks_come_in_the_order_of_the_page_and_large_ones_when_asked_for(monkeypatch):
    assert [entry.name for entry in choose(["help", "map"])] == ["map", "help"]
    large = Benchmark("huge", "t", "o", "", None, lambda _: Measurement(Comparison((1.0,))), large=True)
    monkeypatch.setattr("experiments.benchmarks.command.SUITE", {**SUITE, "huge": large})
    assert large not in choose([])
    assert large in choose([], large=True)
    assert choose(["huge"]) == [large]


def test_doubling_compares_the_costliest_doubling_with_twice_its_half():
    seconds = {1: 1.0, 2: 2.0, 4: 6.0, 8: 10.0}
    measured = measure_doubling(lambda size: lambda: seconds[size], [1, 2, 4, 8], repeats=2)
    assert measured.comparison == Comparison((6.0, 6.0), (4.0, 4.0))
    assert [row["times the half"] for row in measured.table] == ["", 2.0, 3.0, 1.67]


def test_failed_process_is_quoted():
    with pytest.raises(NotMeasuredError, match="ended with status 3: ouch"):
        run_fresh(["-c", "import sys; sys.stderr.write('ouch'); sys.exit(3)"])


def test_fresh_process_tells_its_own_memory_and_runs_this_code_from_anywhere(tmp_path):
    held = bytearray(200_000_000)
    found = ask_fresh(json.loads, '{"found": 1.0}', store=tmp_path)
    assert found["found"] == 1.0
    assert 1_000_000 < found["peak_memory"] < len(held)


def test_measured_jobs_log_to_a_store_of_their_own(tmp_path):
    variables = own_store(tmp_path)
    assert variables["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert {variables[name] for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "DIFFVIEWS_PROFILE")} == {""}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in SUITE]
)
def test_benchmark_runs_at_a_tiny_size(name, tmp_path):
    (result,) = run([SUITE[name]], Setting(tmp_path, repeats=1, quick=True))
    if result.note.startswith("not measured: no CUDA"):
        return
    assert result.seconds is not None, result.note
    assert result.repeats >= 1
    assert bool(result.alternative) == (result.alternative_seconds is not None)
    assert (result.met is None) == (result.target == "")
    assert all(row.keys() == result.table[0].keys() for row in result.table)
    json.dumps(asdict(result))


def test_sketching_is_compared_with_bare_passes_on_any_device(tmp_path):
    adapter = load_adapter("edm-digits", device="cpu")
    measured = compare_sketching(adapter, Setting(tmp_path, repeats=1), samples=48, batch=16)
    assert measured.facts["layers"] == len(adapter.hookable_layers)
    assert len(measured.comparison.ours) == len(measured.comparison.alternative) == 1


def test_every_benchmark_of_the_suite_is_described():
    assert [name for name, entry in SUITE.items() if name != entry.name] == []
    for entry in SUITE.values():
        assert entry.title
        assert entry.ours
        assert not entry.ours.endswith(".")
        assert entry.target is None or entry.alternative or entry.target.kind == "seconds"

