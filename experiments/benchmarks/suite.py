"""All benchmarks by name, in the order of the page, and running them."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from diffviews.errors import ConfigError, DiffViewsError, unknown_name
from experiments.benchmarks.benchmark import Benchmark, Result, Setting
from experiments.benchmarks.demo import demo
from experiments.benchmarks.downloads import downloads
from experiments.benchmarks.extraction import all_layers, early_stop, growing, layer_by_layer
from experiments.benchmarks.gpu_extraction import ON_GPU
from experiments.benchmarks.maps import wide_map
from experiments.benchmarks.masking import masked
from experiments.benchmarks.opening import opening
from experiments.benchmarks.placing import path
from experiments.benchmarks.raster import DRAWING, lookup
from experiments.benchmarks.scaling import maps, neighbours, projection
from experiments.benchmarks.sketching import sketch
from experiments.benchmarks.startup import help_text, imports
from experiments.benchmarks.workers import map_workers

logger = logging.getLogger(__name__)

_PAGE = (
    all_layers, *ON_GPU, layer_by_layer, early_stop, wide_map, map_workers, path, opening, *DRAWING, lookup, masked,
    downloads, help_text, demo, sketch, growing, projection, neighbours, maps, imports,
)  # fmt: skip
SUITE: Mapping[str, Benchmark] = {found.name: found for found in _PAGE}


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
