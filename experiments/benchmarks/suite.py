"""All benchmarks by name, in the order of the page, and running them."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from diffviews.errors import ConfigError, DiffViewsError, unknown_name
from experiments.benchmarks.benchmark import Benchmark, Result, Setting
from experiments.benchmarks.demo import DEMO
from experiments.benchmarks.downloads import DOWNLOADS
from experiments.benchmarks.extraction import ALL_LAYERS, GROWING, LAYER_BY_LAYER
from experiments.benchmarks.gpu_extraction import GPU_BFLOAT16, GPU_FLOAT16, GPU_FLOAT32
from experiments.benchmarks.maps import WIDE_MAP
from experiments.benchmarks.masking import MASKED
from experiments.benchmarks.opening import OPENING
from experiments.benchmarks.placing import PATH
from experiments.benchmarks.raster import DRAW_1M, DRAW_10M, LOOKUP
from experiments.benchmarks.scaling import KNN, MAPS, PROJECTION
from experiments.benchmarks.sketching import SKETCH
from experiments.benchmarks.startup import HELP, IMPORT

logger = logging.getLogger(__name__)

SUITE: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        ALL_LAYERS,
        GPU_FLOAT32,
        GPU_FLOAT16,
        GPU_BFLOAT16,
        LAYER_BY_LAYER,
        WIDE_MAP,
        PATH,
        OPENING,
        DRAW_1M,
        DRAW_10M,
        LOOKUP,
        MASKED,
        DOWNLOADS,
        HELP,
        DEMO,
        SKETCH,
        GROWING,
        PROJECTION,
        KNN,
        MAPS,
        IMPORT,
    )
}


def choose(names: Sequence[str], *, large: bool = False) -> list[Benchmark]:
    """Return the benchmarks with these names, in the order of the page; without names all but the large ones.

    Raises:
        ConfigError: if there is no such benchmark; the nearest names are offered.
    """
    for name in names:
        if name not in SUITE:
            raise ConfigError(unknown_name("benchmark", name, SUITE))
    return [found for found in SUITE.values() if (found.name in names if names else large or not found.large)]


def run(
    benchmarks: Sequence[Benchmark], setting: Setting, *, progress: Callable[[Result], None] = lambda _: None
) -> Iterator[Result]:
    """Measure one benchmark after another, each in a scratch folder of its own."""
    for benchmark in benchmarks:
        logger.info("measuring %s: %s", benchmark.name, benchmark.title)
        with tempfile.TemporaryDirectory(dir=setting.folder, prefix=f"{benchmark.name}-") as folder:
            result = _measured(benchmark, replace(setting, folder=Path(folder)))
        progress(result)
        yield result


def _measured(benchmark: Benchmark, setting: Setting) -> Result:
    try:
        return Result.of(benchmark, benchmark.measure(setting))
    except DiffViewsError as reason:  # the others are measured all the same
        logger.warning("%s: %s", benchmark.name, reason)
        return Result.missing(benchmark, str(reason))
