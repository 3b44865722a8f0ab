"""The run schema: tags there and back, versions, fingerprints."""

import json
import subprocess
import sys
from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffviews.errors import ConfigError, SchemaVersionError
from diffviews.tracking.schema import SCHEMA_VERSION, Kind, MapKind, RunTags, Tag, check_schema, fingerprint

FULL = RunTags(
    model="edm-digits",
    dataset="digits",
    fingerprint="ab" * 32,
    layer="midblock",
    layer_index=0,
    sigma=2.0,
    source_run="r1",
    map=MapKind.ALIGNED,
)


def test_tags_of_a_layer_run_are_those_of_the_specification():
    assert FULL.as_tags("layer") == {
        "diffviews.kind": "layer",
        "diffviews.schema": "1",
        "diffviews.model": "edm-digits",
        "diffviews.dataset": "digits",
        "diffviews.fingerprint": "ab" * 32,
        "diffviews.layer": "midblock",
        "diffviews.layer_index": "0",
        "diffviews.sigma": "2",
        "diffviews.source_run": "r1",
        "diffviews.map": "aligned",
    }


def test_tags_of_a_parent_leave_absent_fields_out():
    tags = RunTags(model="m").as_tags(Kind.EXTRACT)
    assert set(tags) == {Tag.KIND, Tag.SCHEMA, Tag.MODEL}


@given(st.floats(min_value=0, max_value=1e6), st.integers(min_value=0, max_value=500))
def test_tags_written_and_read_are_the_same(sigma, index):
    tags = RunTags(layer="a", layer_index=index, sigma=sigma, map=MapKind.JOINT)
    assert RunTags.from_tags(tags.as_tags("layer")) == tags


def test_layer_index_zero_is_written():
    assert RunTags(layer="a", layer_index=0, sigma=0.0).as_tags("layer")[Tag.LAYER_INDEX] == "0"


@pytest.mark.parametrize("fields", [{"sigma": 1.0}, {"layer": "a"}])
def test_layer_run_without_layer_or_sigma_is_refused(fields):
    with pytest.raises(ConfigError, match="needs layer and sigma"):
        RunTags(**fields).as_tags("layer")


@pytest.mark.parametrize("sigma", [float("nan"), float("inf"), -1.0])
def test_impossible_sigma_is_refused(sigma):
    with pytest.raises(ConfigError, match="sigma"):
        RunTags(sigma=sigma)


def test_unknown_kind_and_map_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'extract'"):
        RunTags().as_tags("extrct")
    with pytest.raises(ConfigError, match="did you mean 'aligned'"):
        RunTags(map="alined")


def test_child_takes_model_and_dataset_from_its_parent_but_not_the_rest():
    parent = RunTags(model="m", dataset="d", fingerprint="f", source_run="s")
    assert RunTags(layer="a", sigma=1.0).filled_from(parent) == RunTags(model="m", dataset="d", layer="a", sigma=1.0)
    assert RunTags(model="own").filled_from(parent).model == "own"


def test_newer_schema_is_refused_with_both_versions():
    with pytest.raises(SchemaVersionError, match=f"version 99.*up to {SCHEMA_VERSION}.*upgrade"):
        check_schema({Tag.SCHEMA: "99"})


@pytest.mark.parametrize("tags", [{}, {Tag.SCHEMA: "x"}, {Tag.SCHEMA: "0"}, {Tag.SCHEMA: "1", Tag.SIGMA: "two"}])
def test_missing_or_unreadable_tags_are_a_schema_error(tags):
    with pytest.raises(SchemaVersionError):
        RunTags.from_tags(tags)


def test_fingerprint_does_not_depend_on_order_or_on_how_a_number_is_written():
    first = fingerprint(model="m", sigmas=[2, 0.5], sizes={"a": 1, "b": 2}, layers=frozenset("ab"))
    second = fingerprint(layers={"b", "a"}, sizes={"b": 2.0, "a": 1}, sigmas=(2.0, np.float64(0.5)), model="m")
    assert first == second
    assert len(first) == 64


def test_fingerprint_changes_with_every_part():
    base = {"model": "m", "sigma": 2.0, "flag": True, "none": None, "path": PurePosixPath("a/b"), "list": [1, [2]]}
    changed = [
        {"model": "n"},
        {"sigma": np.nextafter(2.0, 3.0)},
        {"flag": 1},
        {"none": ""},
        {"path": PurePosixPath("a/c")},
        {"list": [[1], 2]},
        {"extra": 0},
    ]
    digests = {fingerprint(**base)} | {fingerprint(**(base | change)) for change in changed}
    assert len(digests) == len(changed) + 1


def test_fingerprint_is_the_same_in_another_process():
    code = "from diffviews.tracking.schema import fingerprint; print(fingerprint(a={'x','y','z'}, b=0.1))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == fingerprint(a={"x", "y", "z"}, b=0.1)


@pytest.mark.parametrize("value", [float("nan"), np.zeros(3), object(), b"bytes", [float("inf")]])
def test_fingerprint_refuses_what_has_no_canonical_form(value):
    with pytest.raises(ConfigError, match="what="):
        fingerprint(what=value)


def test_importing_tracking_loads_neither_mlflow_nor_torch():
    code = "import sys, json, diffviews.tracking; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"mlflow", "torch", "pandas", "sqlalchemy"}.isdisjoint(json.loads(out.stdout))
