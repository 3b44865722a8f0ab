"""Opening a logged layer in the dashboard, up to its first picture."""

import sys
import time

from diffviews.pipelines.extract import extract
from diffviews.pipelines.workspace import open_workspace
from diffviews.recipes import Execution, ExtractionRecipe
from experiments.benchmarks.benchmark import Benchmark, Measurement, Setting
from experiments.benchmarks.fresh import answer, ask_fresh, own_store
from experiments.benchmarks.measurement import Target, interleave

LAYER, SIGMA = "decoder_block_4", 2.0


def measure_opening(setting: Setting) -> Measurement:
    """Log a layer here; open and draw it in fresh processes, or fit its map again."""
    variables = own_store(setting.folder)
    ask_fresh(__name__, "log", str(setting.size(1168, 40)), environment=variables, folder=setting.folder)
    answers = list[dict[str, float]]()

    def ask(way: str) -> float:
        answers.append(ask_fresh(__name__, way, environment=variables, folder=setting.folder))
        return answers[-1]["seconds"]

    compared = interleave(lambda: ask("open"), lambda: ask("refit"), repeats=setting.repeats, alternative_repeats=2)
    first = answers[0]
    facts = {"samples": int(first["samples"]), "imports, s": round(first["imports"], 2)}
    facts |= {"opening the store and compiling the drawing, s": round(first["start"], 2)}
    return Measurement(
        compared, facts, failure="umap was loaded, so something may have been fitted." if first["umap"] else ""
    )


def log_layer(samples: int) -> None:
    """Log one layer of edm-digits over so many digits."""
    recipe = ExtractionRecipe(layers=(LAYER,), sigmas=(SIGMA,), max_samples=samples)
    extract(recipe, open_workspace(), Execution(device="cpu"))
    answer({})


def open_and_draw() -> None:
    """Do what the dashboard does when a layer is chosen, its server being up."""
    began = time.perf_counter()
    from diffviews.pipelines.workspace import open_workspace
    from panel_app.data import DataStore
    from panel_app.library import LoggedRuns
    from panel_app.map.raster import Window
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
    answer({
        "imports": imported - began, "start": started - imported, "seconds": ended - started,
        "samples": len(layer_map.table), "umap": float("umap" in sys.modules),
    })  # fmt: skip


def fit_again() -> None:
    """Read the layer's activations and fit its map anew, as opening a layer does without a logged projector."""
    from diffviews.pipelines.workspace import open_workspace
    from diffviews.processing.fitting import fit_map
    from diffviews.processing.umap_backend import warm_up

    warm_up()
    workspace = open_workspace(check_artifacts=False)
    (extraction,) = workspace.catalog.extractions()
    (layer,) = workspace.catalog.layers(extraction.run_id)
    began = time.perf_counter()
    reader = workspace.activations(layer)
    fit_map(reader, reader.sample_ids)
    answer({"seconds": time.perf_counter() - began})


OPENING = Benchmark(
    "opening",
    "opening a logged layer to its first picture, local store, server up; 1,168 samples",
    "`DataStore.open` and `LayerMap.picture` in a fresh process, drawing compiled as the server does when it starts",
    "reading the activations and fitting the map again, umap compiled before",
    Target("seconds", 1.0),
    measure_opening,
)

if __name__ == "__main__":
    if sys.argv[1] == "log":
        log_layer(int(sys.argv[2]))
    else:
        {"open": open_and_draw, "refit": fit_again}[sys.argv[1]]()
