"""The benchmark command: what it logs, prints and writes, with benchmarks that take no time."""

import json

import pandas as pd
import pytest

from diffviews.cli import parse_arguments
from diffviews.errors import ConfigError
from diffviews.pipelines.workspace import open_workspace
from experiments.benchmarks import command
from experiments.benchmarks.benchmark import Benchmark, Comparison, Measurement, NotMeasuredError, Target
from experiments.benchmarks.command import benchmark


def quick(ours, alternative=(), **more):
    return lambda setting: Measurement(Comparison(ours, alternative), **more)


def absent(setting):
    raise NotMeasuredError("no CUDA device")


def fake_suite(seconds=2.0):
    entries = [
        Benchmark("map", "a map | wide", "ours", "theirs", Target("ratio", 0.5),
                  quick((1.0, seconds, 3.0), (4.0, 4.0, 4.0), facts={"points": 1168}, table=[{"n": 10, "s": 1.5}])),
        Benchmark("help", "the <help>", "ours", "", Target("seconds", 0.5), quick((0.7,)), "Imports take it."),
        Benchmark("gpu", "on a GPU", "ours", "theirs", Target("ratio", 1.1), absent),
    ]  # fmt: skip
    return {entry.name: entry for entry in entries}


@pytest.fixture
def own_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME",
                 "DIFFVIEWS_PROFILE"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    use(monkeypatch, fake_suite())
    return tmp_path


def use(monkeypatch, entries):
    monkeypatch.setattr(command, "SUITE", entries)


def test_benchmark_logs_a_run_with_params_metrics_and_tables(own_store):
    outcome = benchmark(repeats=3)
    workspace = open_workspace()
    (record,) = workspace.catalog.runs("benchmark")
    assert record.run_id == outcome.run_id
    assert record.metrics["map_ratio"] == 0.5
    assert record.metrics["map_met"] == 1.0
    assert record.metrics["help_seconds"] == 0.7
    assert record.metrics["help_met"] == 0.0
    assert not any(name.startswith("gpu") for name in record.metrics)
    assert record.params["repeats"] == "3"
    assert {"processor", "cores", "torch", "umap-learn", "device"} <= set(record.params)
    logged = json.loads(workspace.folder(record.run_id).path("benchmarks.json").read_text())
    assert [entry["name"] for entry in logged["results"]] == ["map", "help", "gpu"]
    table = pd.read_csv(workspace.folder(record.run_id).path("benchmarks.csv"), index_col="name")
    assert table.loc["map", ["ratio", "ratio_low", "ratio_high"]].tolist() == [0.5, 0.25, 0.75]


def test_benchmark_prints_each_row_with_its_verdict(own_store):
    lines = str(benchmark()).splitlines()
    assert lines[1].split()[0] == "map"
    assert lines[1].endswith("≤ 0.5 ×   met")
    assert lines[2].endswith("≤ 500 ms  not met")
    assert lines[3].endswith("≤ 1.1 ×   not measured")


def test_report_is_made_of_the_logged_run(own_store):
    benchmark(report="page.md")
    page = (own_store / "page.md").read_text()
    assert r"| a map \| wide | 2 s (1 s – 3 s) | 4 s | 0.5 (0.25 – 0.75) × | ≤ 0.5 × | met |" in page
    assert "| the &lt;help> | 700 ms |  |  | ≤ 500 ms | not met |" in page
    assert "**Not met**: Imports take it." in page
    assert "- on a GPU: not measured: no CUDA device." in page
    assert "points: 1,168" in page
    assert "| 10 | 1.5 |" in page


def test_report_joins_the_newest_full_measurement_of_each_benchmark(own_store, monkeypatch):
    benchmark(("map", "help"))
    use(monkeypatch, fake_suite(seconds=1.5))
    benchmark(("map",))
    use(monkeypatch, fake_suite(seconds=9.0))
    benchmark(("map",), quick=True)
    outcome = benchmark(measure=False, report="page.md")
    assert outcome.run_id is None
    page = (own_store / "page.md").read_text()
    assert "1.5 s (1 s – 3 s)" in page
    assert "the &lt;help>" in page
    assert "9 s" not in page


def test_report_names_what_was_not_measured_yet(own_store):
    benchmark(("map",), report="page.md")
    page = (own_store / "page.md").read_text()
    assert "- the &lt;help>: not measured yet; `diffviews benchmark help` does so." in page


def test_unknown_benchmark_is_refused_before_a_run_is_made(own_store):
    with pytest.raises(ConfigError, match="did you mean 'help'"):
        benchmark(("halp",))
    assert not (own_store / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("options", "sentence"), [({"repeats": 0}, "repeats is 0"), ({"measure": False}, "nothing to do")]
)
def test_options_that_measure_nothing_are_refused(own_store, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        benchmark(**options)


def test_several_names_are_taken_from_the_command_line():
    values = parse_arguments("benchmark", ["map", "--quick", "help", "--repeats", "2"])
    assert values["names"] == ("map", "help") or values["names"] == ["map", "help"]
    assert values["quick"] is True
    assert parse_arguments("benchmark", ["map"])["repeats"] == 5
    assert list(parse_arguments("benchmark", [])["names"]) == []
