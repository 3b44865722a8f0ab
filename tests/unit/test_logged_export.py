"""Exports as runs, and the way back from any run's id to what it shows, over a real store."""

import pytest

from diffviews.errors import ConfigError, RunNotFoundError
from diffviews.pipelines.export import log_export
from diffviews.pipelines.workspace import Workspace
from diffviews.recipes.generation import GenerationRecipe
from diffviews.tracking.catalog import Catalog
from diffviews.tracking.runs import Tracker
from diffviews.tracking.schema import Kind, MapKind, RunTags
from panel_app.library import LoggedRuns
from panel_app.state import Address, Selection


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An extraction with one layer run, two maps of it, a generation masked from it, and one without a mask."""
    tracker, ids = Tracker(f"sqlite:///{tmp_path_factory.mktemp('export')}/mlflow.db", "first"), {}
    about = RunTags(model="edm-digits", dataset="digits")
    with tracker.start("extract", "job", about) as job, tracker.start(
        "layer", "layer", RunTags(layer="midblock", layer_index=3, sigma=0.5), parent=job
    ) as layer:  # fmt: skip
        layer.log_text("points", "map/points.txt")
    ids |= {"job": job.run_id, "layer": layer.run_id}
    for kind in (MapKind.SINGLE, MapKind.JOINT):
        sigma = 0.5 if kind is MapKind.SINGLE else None
        tags = RunTags(model="edm-digits", layer="midblock", sigma=sigma, source_run=layer.run_id, map=kind)
        with tracker.start("embedding", "map", tags) as run:
            ids[kind.value] = run.run_id
    recipe = GenerationRecipe(layer_run=layer.run_id, map_run=ids["single"], sample_ids=("b", "a", "c"))
    for name, source, made in (("masked", layer.run_id, recipe), ("free", None, GenerationRecipe())):
        with tracker.start("generation", name, RunTags(model="edm-digits", source_run=source)) as run:
            run.log_text(made.to_json(), "recipe.json")
        ids[name] = run.run_id
    ids["running"] = tracker.start("layer", "running", RunTags(layer="midblock", sigma=2.0)).run_id
    return Workspace(tracker, Catalog(tracker.profile)), ids


@pytest.mark.parametrize(("source", "sigma"), [("layer", 0.5), ("joint", None)])
def test_export_is_a_finished_run_of_its_own_that_names_its_source(store, source, sigma):
    workspace, ids = store
    before = workspace.catalog.artifacts(ids[source]).names()
    link = "http://localhost/app?run=1"
    run_id = log_export(workspace, ids[source], {"a.csv": b"x\n", "../b": b"y"}, title="table", link=link)
    (record,) = [r for r in workspace.catalog.runs(Kind.EXPORT) if r.run_id == run_id]
    assert (record.source_run, record.sigma) == (ids[source], sigma)
    assert (record.model, record.layer) == ("edm-digits", "midblock")
    folder = workspace.catalog.artifacts(run_id)
    assert {name for name in folder.names() if name.startswith("export/")} == {"export/a.csv", "export/b"}
    assert folder.path("export/a.csv").read_bytes() == b"x\n"
    assert workspace.catalog.artifacts(ids[source]).names() == before
    run = workspace.catalog.connection.call(lambda client: client.get_run(run_id))
    assert link in run.data.tags["mlflow.note.content"]


def test_exports_are_in_no_list_of_maps_generations_or_extractions(store):
    workspace, ids = store
    run_id = log_export(workspace, ids["layer"], {"a.csv": b"x"}, title="table")
    catalog = workspace.catalog
    listed = [*catalog.maps(ids["layer"]), *catalog.generations(), *catalog.extractions(), *catalog.layers(ids["job"])]
    assert run_id not in {record.run_id for record in listed}


def test_export_of_nothing_or_from_nowhere_is_refused(store):
    workspace, ids = store
    with pytest.raises(ConfigError, match="no file"):
        log_export(workspace, ids["layer"], {}, title="table")
    with pytest.raises(RunNotFoundError):
        log_export(workspace, ids["job"], {"a": b""}, title="table")


def test_every_run_with_a_map_has_an_address(store):
    workspace, ids = store
    library = LoggedRuns(workspace)
    layer = Address(run=ids["job"], layer="midblock", sigma=0.5)
    assert library.address_of(ids["layer"]) == layer
    assert library.address_of(ids["joint"]) == Address(run=ids["job"], layer="midblock", sigma=0.5, map=ids["joint"])
    expected = Address(
        run=ids["job"], layer="midblock", sigma=0.5, map=ids["single"], selection=Selection("b", (), ("a", "c"))
    )
    assert library.address_of(ids["masked"]) == expected


@pytest.mark.parametrize("name", ["free", "running", "job"])
def test_runs_without_a_map_have_none(store, name):
    workspace, ids = store
    assert LoggedRuns(workspace).address_of(ids[name]) is None


@pytest.mark.parametrize("run_id", ["0" * 32, "no-such-run", "../../etc", "' or 1=1"])
def test_what_is_no_run_has_no_address(store, run_id):
    assert LoggedRuns(store[0]).address_of(run_id) is None
