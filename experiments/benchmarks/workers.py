"""Maps of several layers by two worker processes, against one after the other."""

import shutil
from collections.abc import Callable

from diffviews.adapters.registry import load_adapter
from diffviews.data.layout import LayerKey
from diffviews.pipelines.capture.arrays import capture_activations
from diffviews.pipelines.capture.layer_array import LayerArray
from diffviews.pipelines.layers.runs import make_results
from diffviews.processing.umap_backend import warm_up
from experiments.benchmarks.benchmark import Measurement, Setting, benchmark
from experiments.benchmarks.extraction import plan_of
from experiments.benchmarks.measurement import Target, interleave, seconds_of

LAYERS = ("encoder_block_3", "encoder_bottleneck", "midblock", "decoder_block_4")


@benchmark(
    "map-workers",
    "maps and measures of four layers, edm-digits, 10,000 samples, on two cores",
    "`workers 2`: two processes, started for it",
    "`workers 1`: one after the other",
    Target("ratio", 0.6),
)
def map_workers(setting: Setting) -> Measurement:
    """Map and measure four layers with two workers, whose start counts, and with one; compare what they wrote."""
    plan = plan_of(load_adapter("edm-digits", device="cpu"), setting.size(10_000, 40), LAYERS)
    arrays = capture_activations(plan, plan.keys, setting.folder / "arrays", progress=False)
    written = dict[int, dict[str, bytes]]()

    def maps(workers: int) -> Callable[[], None]:
        def make() -> None:
            for array in arrays.values():
                shutil.rmtree(array.results, ignore_errors=True)
            make_results(arrays, plan.samples, plan.recipe.maps, plan.recipe.model, workers=workers)
            written[workers] = _files(arrays)

        return make

    warm_up()
    compared = interleave(seconds_of(maps(2)), seconds_of(maps(1)), repeats=min(setting.repeats, 3))
    same = written[1] == written[2]
    facts = {"samples": len(plan.samples), "layers": len(LAYERS), "files": "the same bytes" if same else "differ"}
    return Measurement(compared, facts, failure="" if same else "the two ways write other bytes.")


def _files(arrays: dict[LayerKey, LayerArray]) -> dict[str, bytes]:
    paths = [path for array in arrays.values() for path in sorted(array.results.rglob("*")) if path.is_file()]
    return {str(path): path.read_bytes() for path in paths}
