"""Further maps of a logged layer: they are runs of their own and leave what was logged as it is."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from diffviews.cli import call, load_function, parse_arguments
from diffviews.errors import ConfigError, RunNotFoundError
from diffviews.pipelines.generate import generate
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes import GenerationRecipe, Sampling
from diffviews.tracking.schema import MapKind
from tests.jobs import embed

PARAMETERS = MapParameters(n_neighbors=8, min_dist=0.3)


def files(workspace, run_id):
    """Return {artifact: sha256 of what lies on the disk}."""
    root = workspace.folder(run_id).root
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def points_of(workspace, run_id, name="points"):
    return pd.read_parquet(workspace.folder(run_id).path(f"map/{name}.parquet"))


def test_new_map_leaves_the_logged_one_bitwise_unchanged(workspace, layer_run):
    before = files(workspace, layer_run.run_id)
    outcome = embed(layer_run.run_id, PARAMETERS, workspace)
    assert not outcome.reused
    assert outcome.run_id != layer_run.run_id
    assert files(workspace, layer_run.run_id) == before
    old, new = points_of(workspace, layer_run.run_id), points_of(workspace, outcome.run_id)
    assert list(old["sample_id"]) == list(new["sample_id"])
    assert not np.allclose(old[["x", "y"]], new[["x", "y"]])


def test_opening_a_logged_map_refits_nothing(workspace, layer_run, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("fitted again")

    for name in ("fit_map", "embed_neighbors", "reduce_activations"):
        monkeypatch.setattr(f"diffviews.processing.fitting.{name}", refuse)
    before = files(workspace, layer_run.run_id)
    ((sigma, projector),) = workspace.projectors(layer_run.run_id).items()
    assert sigma == layer_run.sigma
    assert np.array_equal(projector.embedding, points_of(workspace, layer_run.run_id)[["x", "y"]].to_numpy())
    assert files(workspace, layer_run.run_id) == before


def test_same_parameters_are_reused_and_others_are_another_run(workspace, layer_run):
    first = embed(layer_run.run_id, MapParameters(n_neighbors=9), workspace)
    again = embed(layer_run.run_id, MapParameters(n_neighbors=9), workspace)
    assert again.reused
    assert again.run_id == first.run_id
    assert not embed(layer_run.run_id, MapParameters(n_neighbors=10), workspace).reused
    forced = embed(layer_run.run_id, MapParameters(n_neighbors=9), workspace, force=True)
    assert forced.run_id != first.run_id
    same = points_of(workspace, forced.run_id), points_of(workspace, first.run_id)
    pd.testing.assert_frame_equal(*same)


def test_map_run_says_what_it_is(workspace, layer_run):
    outcome = embed(layer_run.run_id, PARAMETERS, workspace)
    record = workspace.catalog.map(outcome.run_id)
    assert (record.layer, record.sigma, record.source_run) == ("decoder_block_4", 2.0, layer_run.run_id)
    assert list(workspace.projectors(outcome.run_id)) == [2.0]
    assert record.map is MapKind.SINGLE
    assert record.params["n_neighbors"] == "8"
    assert {"trustworthiness", "continuity", "knn_accuracy_map"} <= set(record.metrics)
    assert outcome.run_id in [listed.run_id for listed in workspace.catalog.maps(layer_run.run_id)]
    workspace.folder(outcome.run_id).verify()


def test_map_in_three_dimensions(workspace, layer_run):
    outcome = embed(layer_run.run_id, MapParameters(n_neighbors=8, n_components=3), workspace)
    assert {"x", "y", "z"} <= set(points_of(workspace, outcome.run_id))


def test_joint_map_holds_every_sample_at_every_sigma(workspace, layer_run):
    outcome = embed(layer_run.run_id, PARAMETERS, workspace, kind=MapKind.JOINT)
    points = points_of(workspace, outcome.run_id)
    assert len(points) == 240
    assert set(points["sigma"]) == {0.5, 2.0}
    for _, level in points.groupby("sigma"):
        assert tuple(level["sample_id"]) == workspace.activations(layer_run).sample_ids
    record = workspace.catalog.map(outcome.run_id)
    assert record.map is MapKind.JOINT
    assert record.sigma is None
    assert list(workspace.projectors(outcome.run_id)) == [0.5]
    path = generate(
        GenerationRecipe(layer_run=layer_run.run_id, map_run=outcome.run_id, sampling=Sampling(num_steps=2)),
        workspace,
        device="cpu",
    ).path
    assert len(path) == 2


def test_aligned_map_has_a_slice_a_sigma_and_a_path_uses_the_nearest(workspace, layer_run):
    outcome = embed(layer_run.run_id, PARAMETERS, workspace, kind=MapKind.ALIGNED)
    slices = workspace.projectors(outcome.run_id)
    assert sorted(slices) == [0.5, 2.0]
    tables = [points_of(workspace, outcome.run_id, f"points-{sigma}") for sigma in ("0.5", "2")]
    assert all(tuple(table["sample_id"]) == workspace.activations(layer_run).sample_ids for table in tables)
    spots = [table[["x", "y"]].to_numpy() for table in tables]
    moved = np.linalg.norm(spots[0] - spots[1], axis=1)
    apart = np.linalg.norm(spots[0] - np.roll(spots[1], 7, axis=0), axis=1)
    assert np.median(moved) < np.median(apart) / 2
    metrics = workspace.catalog.map(outcome.run_id).metrics
    assert {"trustworthiness-0.5", "trustworthiness-2"} <= set(metrics)
    result = generate(
        GenerationRecipe(layer_run=layer_run.run_id, map_run=outcome.run_id, sampling=Sampling(num_steps=6)),
        workspace,
        device="cpu",
    )
    activations = result.result.trajectory[layer_run.layer]
    for step, sigma in ((0, 2.0), (5, 0.5)):
        own = result.path[result.path["step"] == step][["x", "y"]]
        assert np.allclose(own, slices[sigma].transform(activations[step]).coordinates, atol=1e-5)


def test_missing_sigma_is_named_with_those_there_are(workspace, layer_run):
    with pytest.raises(RunNotFoundError, match=r"no run at sigma 7 in this extraction, only at 0\.5, 2"):
        embed(layer_run.run_id, PARAMETERS, workspace, kind=MapKind.JOINT, sigmas=(0.5, 7.0))


def test_sigmas_of_a_single_map_are_refused(workspace, layer_run):
    with pytest.raises(ConfigError, match="joint and aligned"):
        embed(layer_run.run_id, PARAMETERS, workspace, sigmas=(0.5,))


def test_aligned_map_of_one_sigma_is_refused(workspace, layer_run):
    with pytest.raises(ConfigError, match="two noise levels or more"):
        embed(layer_run.run_id, PARAMETERS, workspace, kind=MapKind.ALIGNED, sigmas=(0.5,))


def test_too_many_neighbours_are_refused_and_the_run_says_so(workspace, layer_run):
    with pytest.raises(ConfigError, match="n_neighbors 120 needs more than 120 samples"):
        embed(layer_run.run_id, MapParameters(n_neighbors=120), workspace)
    newest = workspace.catalog.maps(layer_run.run_id, unfinished=True)[0]
    assert newest.status == "FAILED"
    assert "n_neighbors 120" in newest.error


def test_what_is_no_layer_run_is_refused(workspace, layer_run):
    with pytest.raises(RunNotFoundError, match="of kind extract, not layer"):
        embed(layer_run.parent_id, PARAMETERS, workspace)


def test_command_takes_the_same_parameters(store, workspace, layer_run):
    first = embed(layer_run.run_id, MapParameters(n_neighbors=11), workspace)
    values = parse_arguments("embed", [f"--layer_run={layer_run.run_id}", "--n_neighbors=11"])
    again = call(load_function("embed"), values)
    assert again == type(first)(first.run_id, reused=True)
