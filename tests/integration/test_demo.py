"""The demo's pipeline on few digits: every hook point at two noise levels, then one masked generation."""

import numpy as np
import pandas as pd

from diffviews.pipelines.demo import demo
from diffviews.pipelines.workspace import open_workspace


def test_demo_makes_a_layer_run_for_every_hook_point_and_a_second_call_nothing_new(experiment, adapter):
    options = {"serve": False, "max_samples": 40, "control_seeds": 0, "device": "cpu", "experiment": experiment}
    demo(**options)
    workspace = open_workspace(experiment=experiment)
    (parent,) = workspace.catalog.extractions(experiment)
    layers = workspace.catalog.layers(parent.run_id)
    assert {(record.layer, record.sigma) for record in layers} == {
        (layer, sigma) for layer in adapter.hookable_layers for sigma in (2.0, 5.0)
    }
    assert all({"map.png", "map/projector.safetensors"} <= set(workspace.folder(r.run_id).names()) for r in layers)
    cka = pd.read_csv(workspace.folder(parent.run_id).path("cka/2.csv"), index_col="layer")
    assert cka.shape == (16, 16)
    assert np.allclose(cka, cka.T, atol=1e-6)
    pairs = pd.read_csv(workspace.folder(parent.run_id).path("similarity/2.csv"))
    assert len(pairs) == 256
    assert np.allclose(pairs["cka"], cka.to_numpy().ravel())
    assert pairs["p_value"].between(0.005, 1).all()
    (generation,) = workspace.catalog.generations(experiment=experiment)
    assert generation.source_run in [record.run_id for record in layers]
    demo(**options)
    assert len(workspace.catalog.extractions(experiment, unfinished=True)) == 1
    assert len(workspace.catalog.generations(experiment=experiment, unfinished=True)) == 1
