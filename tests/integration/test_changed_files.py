"""A bit changed in a local file of a run is noticed by whoever reads it, whatever the file and the bit."""

import numpy as np
import pytest

from diffviews.errors import CorruptDataError
from diffviews.pipelines.workspace import open_workspace
from panel_app.library import LoggedRuns
from tests.jobs import extract

RNG = np.random.default_rng(3)


def reads(layer):
    """How a file of a layer run, or of its extraction, comes to be used: by the jobs and by the dashboard."""
    return {
        "map/points.parquet": [lambda w: LoggedRuns(w).points(layer.run_id)],
        "map/projector.safetensors": [
            lambda w: w.projectors(layer.run_id), lambda w: LoggedRuns(w).projector(layer.run_id)
        ],
        "activations.zarr/zarr.json": [lambda w: w.activations(layer)],
        "manifest.json": [lambda w: w.projectors(layer.run_id), lambda w: LoggedRuns(w).points(layer.run_id)],
        "samples.parquet": [lambda w: w.samples_of(layer), lambda w: LoggedRuns(w).samples(layer.parent_id)],
        "model.json": [lambda w: LoggedRuns(w).model(layer.parent_id)],
        "similarity/2.csv": [lambda w: LoggedRuns(w).similarity(layer.parent_id, 2.0)],
    }  # fmt: skip


@pytest.mark.usefixtures("store")
def test_changed_bit_in_a_local_file_is_always_noticed(workspace, layer_run):
    trials = 0
    for name, uses in reads(layer_run).items():
        own = name.startswith(("map/", "activations", "manifest"))
        file = open_workspace().folder(layer_run.run_id if own else layer_run.parent_id).root / name
        whole = file.read_bytes()
        for use in uses:
            use(open_workspace())
            for position in RNG.integers(0, 8 * len(whole), 6).tolist():
                changed = bytearray(whole)
                changed[position // 8] ^= 1 << position % 8
                try:
                    file.write_bytes(changed)
                    with pytest.raises(CorruptDataError, match=file.name.split("-")[0]):
                        use(open_workspace())
                finally:
                    file.write_bytes(whole)
                trials += 1
            use(open_workspace())
    assert trials >= 50


@pytest.mark.usefixtures("store")
def test_artifacts_of_another_run_are_refused(workspace, layer_run):
    """A folder put in the place of another has a manifest that fits it, but not the run's tag, nor its id."""
    other = next(r for r in workspace.catalog.layers(layer_run.parent_id) if r.run_id != layer_run.run_id)
    file = workspace.folder(layer_run.run_id).root / "manifest.json"
    whole = file.read_bytes()
    try:
        file.write_bytes((workspace.folder(other.run_id).root / "manifest.json").read_bytes())
        with pytest.raises(CorruptDataError, match="another digest than the run's tag says"):
            open_workspace().projectors(layer_run.run_id)
    finally:
        file.write_bytes(whole)


@pytest.mark.usefixtures("store")
def test_changed_row_is_not_taken_over_by_a_grown_set(workspace, caplog):
    options = {"layers": ("encoder_bottleneck",), "sigmas": (1.5,), "workers": 1, "experiment": "changed"}
    first = extract(**options, max_samples=30)
    file = workspace.folder(first.run_id).root / "samples.parquet"
    changed = bytearray(file.read_bytes())
    changed[len(changed) // 2] ^= 4
    file.write_bytes(changed)
    grown = extract(**options, max_samples=45)
    assert workspace.catalog.extraction(grown.run_id).metrics["samples_captured"] == 45
    assert f"the samples of run {first.run_id} are not re-used" in caplog.text
