"""The catalog: what a store of known runs answers."""

import dataclasses
import time

import pytest

from diffviews.errors import RunNotFoundError, SchemaVersionError
from diffviews.tracking.catalog import Catalog
from diffviews.tracking.records import LayerRecord
from diffviews.tracking.runs import Tracker
from diffviews.tracking.schema import Kind, MapKind, RunTags, Tag, fingerprint

LAYERS = (("encoder_block_10", 2), ("encoder_block_2", 1), ("conv_in", 0))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two experiments; one extraction with layers at two sigmas, a map, a generation, and bad runs."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('catalog')}/mlflow.db"
    tracker, ids = Tracker(uri, "first"), {}
    about = RunTags(model="edm-digits", dataset="digits", fingerprint=fingerprint(run="job"))
    with tracker.start("extract", "a name", about, params={"batch_size": 8}) as job:
        ids["job"] = job.run_id
        for sigma in (10.0, 2.0):
            for layer, index in LAYERS:
                tags = RunTags(layer=layer, layer_index=index, sigma=sigma)
                with tracker.start("layer", "any name", tags, parent=job) as run:
                    run.log_metrics({"knn_accuracy_activation": index / 10})
                    run.log_text(f"{layer} {sigma}", "map.txt")
                ids[layer, sigma] = run.run_id
        with tracker.start("layer", "combined", RunTags(layer="combined", sigma=0.5), parent=job):
            pass
    source = ids["conv_in", 2.0]
    with tracker.start("embedding", "map", RunTags(model="edm-digits", source_run=source, map=MapKind.SINGLE)) as run:
        ids["map"] = run.run_id
    with tracker.start("generation", "gen", RunTags(model="edm-digits", source_run=source)) as run:
        ids["generation"] = run.run_id
    ids["running"] = tracker.start("extract", "running", about).run_id
    failed = tracker.start("extract", "failed", about)
    ids["failed"] = failed.run_id
    with pytest.raises(ValueError, match="broken"), failed:
        raise ValueError("broken")
    with tracker.start("extract", "from the future", RunTags(model="edm-digits")) as run:
        run.set_tag(Tag.SCHEMA, 99)
        ids["future"] = run.run_id
    with Tracker(uri, "second").start("extract", "elsewhere", RunTags(model="other")) as run:
        ids["second"] = run.run_id
    tracker.connection.call(lambda client: client.create_run("0", tags={"who": "someone else"}))
    return uri, ids


@pytest.fixture
def catalog(store):
    return Catalog(store[0])


def test_experiments_are_listed_by_name(catalog):
    assert [experiment.name for experiment in catalog.experiments()] == ["Default", "first", "second"]


def test_extractions_are_finished_ones_newest_first(catalog, store):
    ids = store[1]
    assert [record.run_id for record in catalog.extractions()] == [ids["second"], ids["job"]]
    assert [record.run_id for record in catalog.extractions("first")] == [ids["job"]]
    assert [record.run_id for record in catalog.extractions(model="other")] == [ids["second"]]


def test_imports_are_listed_with_the_extractions_in_order_of_time(tmp_path):
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", "mixed")
    runs = []
    for kind in ("extract", "import", "extract", "train"):
        with tracker.start(kind, kind, RunTags(model="edm-digits")) as run:
            runs.append(run.run_id)
        time.sleep(0.01)  # starts are told apart by milliseconds
    catalog = Catalog(tracker.profile)
    assert [record.run_id for record in catalog.extractions()] == [runs[2], runs[1], runs[0]]
    assert catalog.extraction(runs[1]).kind is Kind.IMPORT
    with pytest.raises(RunNotFoundError, match="of kind train, not extract or import"):
        catalog.extraction(runs[3])


def test_unfinished_extractions_are_listed_only_when_asked_for(catalog, store):
    ids = store[1]
    records = {record.run_id: record for record in catalog.extractions("first", unfinished=True)}
    assert set(records) == {ids["job"], ids["running"], ids["failed"]}
    assert (records[ids["running"]].status, records[ids["running"]].end_time) == ("RUNNING", None)
    assert not records[ids["running"]].is_finished
    assert (records[ids["failed"]].status, records[ids["failed"]].error) == ("FAILED", "ValueError: broken")


def test_run_of_a_newer_schema_is_left_out_with_the_reason(catalog, store, caplog):
    assert store[1]["future"] not in {record.run_id for record in catalog.extractions()}
    assert f"{store[1]['future']} (from the future): " in caplog.text
    assert "version 99" in caplog.text
    with pytest.raises(SchemaVersionError, match="version 99"):
        catalog.extraction(store[1]["future"])


def test_layers_are_in_the_network_order_then_by_sigma(catalog, store):
    layers = catalog.layers(store[1]["job"])
    assert [(layer.layer, layer.sigma) for layer in layers] == [
        ("conv_in", 2.0),
        ("conv_in", 10.0),
        ("encoder_block_2", 2.0),
        ("encoder_block_2", 10.0),
        ("encoder_block_10", 2.0),
        ("encoder_block_10", 10.0),
        ("combined", 0.5),
    ]
    assert layers[0].layer_index == 0
    assert len(layers[:3]) == 3


def test_layer_record_says_all_that_the_dashboard_needs(catalog, store):
    ids = store[1]
    record = catalog.layer(ids["encoder_block_2", 2.0])
    assert isinstance(record, LayerRecord)
    assert (record.model, record.dataset, record.experiment) == ("edm-digits", "digits", "first")
    assert (record.parent_id, record.status, record.is_finished) == (ids["job"], "FINISHED", True)
    assert record.metrics == {"knn_accuracy_activation": 0.1}
    place = f"/#/experiments/{record.experiment_id}/runs/{record.run_id}"
    assert record.ui_path == f"{place}?workflowType=machine_learning"
    assert record.start_time <= record.end_time
    assert catalog.extraction(ids["job"]).params == {"batch_size": "8"}
    assert catalog.extraction(ids["job"]).fingerprint == fingerprint(run="job")


def test_record_cannot_be_changed(catalog, store):
    record = catalog.layer(store[1]["conv_in", 2.0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.layer = "other"
    with pytest.raises(TypeError):
        record.metrics["a"] = 1.0


def test_maps_and_generations_are_found_by_their_source(catalog, store):
    ids = store[1]
    (found,) = catalog.maps(ids["conv_in", 2.0])
    assert (found.run_id, found.map) == (ids["map"], MapKind.SINGLE)
    assert [record.run_id for record in catalog.generations(ids["conv_in", 2.0])] == [ids["generation"]]
    assert [record.run_id for record in catalog.generations()] == [ids["generation"]]
    assert len(catalog.maps(ids["conv_in", 10.0])) == 0


@pytest.mark.parametrize("ask", ["layer", "extraction", "map", "generation", "layers", "maps", "artifacts"])
def test_run_id_that_is_none_is_refused_before_it_reaches_a_query(catalog, ask):
    with pytest.raises(RunNotFoundError, match="not a run id"):
        getattr(catalog, ask)("x' or tags.a = 'b")


def test_run_of_another_kind_or_none_is_not_found(catalog, store):
    with pytest.raises(RunNotFoundError, match="is of kind extract, not layer"):
        catalog.layer(store[1]["job"])
    with pytest.raises(RunNotFoundError):
        catalog.layer("0" * 32)
    with pytest.raises(RunNotFoundError, match="did you mean 'first'"):
        catalog.extractions("frist")


def test_artifacts_are_those_of_the_run(catalog, store):
    record = catalog.layer(store[1]["conv_in", 2.0])
    assert catalog.artifacts(record).fetch("map.txt") == b"conv_in 2.0"
    assert catalog.artifacts(record.run_id).names() == ("map.txt",)


def test_list_costs_the_same_number_of_queries_however_long_it_is(catalog, store, monkeypatch):
    calls = []
    call = catalog.connection.call
    monkeypatch.setattr(catalog.connection, "call", lambda operation, **kw: calls.append(1) or call(operation, **kw))
    assert len(catalog.layers(store[1]["job"])) == 7
    assert len(calls) == 3  # experiments, the layer runs, and their parent's params


def test_layer_runs_have_the_params_that_their_parent_holds_for_all(catalog, store):
    ids = store[1]
    one = catalog.layer(ids["conv_in", 2.0])
    assert dict(one.params) == {"batch_size": "8"}
    assert {tuple(record.params.items()) for record in catalog.layers(ids["job"])} == {(("batch_size", "8"),)}
    # A run of an earlier version holds them itself, and its own go first.
    assert dict(one.with_shared({"batch_size": "64", "more": "1"}).params) == {"batch_size": "8", "more": "1"}


def test_list_longer_than_a_page_is_whole(catalog, store, monkeypatch):
    monkeypatch.setattr("diffviews.tracking.catalog._PAGE", 2)
    assert len(catalog.layers(store[1]["job"])) == 7
    assert len(catalog.experiments()) == 3


def test_store_without_experiments_is_an_empty_list(catalog, monkeypatch):
    monkeypatch.setattr(catalog, "experiments", tuple)
    assert len(catalog.extractions()) == 0
