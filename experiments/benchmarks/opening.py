"""Opening a logged layer in the dashboard, up to its first picture."""

import sys
import time

from diffviews.pipelines.extract import extract
from diffviews.pipelines.workspace import open_workspace
from diffviews.recipes import Execution, ExtractionRecipe
from experiments.benchmarks.benchmark import Measurement, Setting, Target, benchmark
from experiments.benchmarks.fresh import Answer, ask_fresh, compare_fresh

LAYER, SIGMA = "decoder_block_4", 2.0


@benchmark(
    "opening",
    "opening a logged layer to its first picture, local store, server up; 1,168 samples",
    "`DataStore.open` and `LayerMap.picture` in a fresh process, drawing compiled as the server does when it starts",
    "reading the activations and fitting the map again, umap compiled before",
    Target("seconds", 1.0),
)
def opening(setting: Setting) -> Measurement:
    """Log a layer here; open and draw it in fresh processes, or fit its map again."""
    ask_fresh(log_layer, str(setting.size(1168, 40)), store=setting.folder)
    compared, first = compare_fresh(
        open_and_draw, fit_again, repeats=setting.repeats, theirs_repeats=2, store=setting.folder
    )
    facts = {"samples": int(first["samples"]), "imports, s": round(first["imports"], 2)}
    facts |= {"opening the store and compiling the drawing, s": round(first["start"], 2)}
    failure = "umap was loaded, so something may have been fitted." if first["umap"] else ""
    return Measurement(compared, facts, failure=failure)


def log_layer(samples: str) -> Answer:
    """Log one layer of edm-digits over so many digits."""
    recipe = ExtractionRecipe(layers=(LAYER,), sigmas=(SIGMA,), max_samples=int(samples))
    extract(recipe, open_workspace(), Execution(device="cpu"))
    return {}


def open_and_draw() -> Answer:
    """Do what the dashboard does when a layer is chosen, its server being up."""
    began = time.perf_counter()
    from panel_app.data import DataStore
    from panel_app.library import LoggedRuns
    from panel_app.raster import Window
    from panel_app.shared import compile_drawing

    imported = time.perf_counter()
    compile_drawing()
    workspace = open_workspace(check_artifacts=False)
    (extraction,) = workspace.catalog.extractions()
    started = time.perf_counter()
    store = DataStore(LoggedRuns(workspace))
    layer_map = store.open(store.layer_run(extraction.run_id, LAYER, SIGMA))
    layer_map.picture(Window(*layer_map.bounds, 820, 540), layer_map.default_colour)
    ended = time.perf_counter()
    return {
        "imports": imported - began, "start": started - imported, "seconds": ended - started,
        "samples": len(layer_map.table), "umap": float("umap" in sys.modules),
    }  # fmt: skip


def fit_again() -> Answer:
    """Read the layer's activations and fit its map anew, as opening a layer does without a logged projector."""
    from diffviews.processing.fitting import fit_map
    from diffviews.processing.umap_backend import warm_up

    warm_up()
    workspace = open_workspace(check_artifacts=False)
    (extraction,) = workspace.catalog.extractions()
    (layer,) = workspace.catalog.layers(extraction.run_id)
    began = time.perf_counter()
    reader = workspace.activations(layer)
    fit_map(reader, reader.sample_ids)
    return {"seconds": time.perf_counter() - began}
