"""A million samples by sketches: time, memory and disk, by straight lines through two measured extractions."""

import threading
import time
from pathlib import Path

from diffviews.adapters.registry import load_adapter
from diffviews.pipelines.extract import extract
from diffviews.pipelines.workspace import open_workspace
from diffviews.recipes import Execution, ExtractionRecipe
from experiments.benchmarks.benchmark import Comparison, Measurement, Setting, Target, benchmark
from experiments.benchmarks.extraction import SIGMA, digits
from experiments.benchmarks.fresh import Answer, ask_fresh, peak_memory

SIZES, WANTED = (5000, 50_000), 1_000_000
NIGHT, MEMORY, DISK = 12 * 3600.0, 4e9, 2e9
"""What a million may take: seconds, bytes of memory, bytes of disk a sigma."""

COLUMNS = (
    ("in all, min", "seconds", 60, 1),
    ("fitting and capture, min", "capture_seconds", 60, 1),
    ("maps, min", "map_seconds", 60, 1),
    ("memory for fitting and capture, GB", "capture_memory", 1e9, 2),
    ("memory for maps, GB", "map_memory", 1e9, 2),
    ("disk while running, MB", "disk_running", 1e6, None),
    ("disk afterwards, MB", "disk", 1e6, None),
)
"""Of the table: heading, what is measured, unit, digits."""

SAMPLE_SET, MAP = "samples.parquet", "projector.safetensors"
LOOK_EVERY = 0.2


@benchmark(
    "sketch",
    "a million samples of digits-size as sketches, all 16 layers, one sigma, CPU: by straight lines through 5,000 "
    "and 50,000",
    "`extract --storage sketch`, a process of its own: fit, capture, maps of all samples, measures, logging",
    "",
    Target("seconds", NIGHT),
    large=True,
)
def sketch(setting: Setting) -> Measurement:
    """Extract all layers of two sets, each in a process of its own, and draw the lines to a million."""
    sizes, layers = ((40, 80), "midblock") if setting.quick else (SIZES, "all")
    found = [_measured(size, layers, setting.folder / str(size)) for size in sizes]
    beyond = (WANTED - sizes[1]) / (sizes[1] - sizes[0])
    million = {name: found[1][name] + beyond * (found[1][name] - found[0][name]) for name in found[0]}
    over = [
        f"{what} would be {million[name] / 1e9:.2f} GB, above {limit / 1e9:.0f} GB."
        for name, what, limit in (
            ("capture_memory", "memory for fitting and capturing", MEMORY),
            ("map_memory", "memory for the maps", MEMORY),
            ("disk_running", "disk while it runs", DISK),
            ("disk", "disk afterwards", DISK),
        )
        if million[name] > limit
    ]
    named = {f"{sizes[0]:,}": found[0], f"{sizes[1]:,}": found[1], f"{WANTED:,}, by the lines": million}
    rows = [
        {"samples": size, **{column: round(values[name] / unit, digits) for column, name, unit, digits in COLUMNS}}
        for size, values in named.items()
    ]
    facts: dict[str, str | float] = {
        "the sample set, counted apart, MB a million": round(million["sample_set"] / 1e6),
        "limits for a million": f"{NIGHT / 3600:.0f} h, {MEMORY / 1e9:.0f} GB of memory, {DISK / 1e9:.0f} GB of disk",
    }
    return Measurement(Comparison((million["seconds"],)), facts, rows, failure=" ".join(over))


def _measured(size: int, layers: str, folder: Path) -> Answer:
    folder.mkdir()
    digits(size, load_adapter("edm-digits", device="cpu").resolution).write_parquet(folder / SAMPLE_SET)
    return ask_fresh(extract_here, layers, store=folder)


class Watch:
    """Looks again and again, from a thread of its own, at what this process takes of disk and memory.

    Disk is the length of all files below the folder but sample sets and the tracking database. Memory is kept
    apart for the time before and after the first map was written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self.most_disk = 0
        self.memory_before_maps = 0

    def _look(self) -> None:
        while not self._ended.wait(LOOK_EVERY):
            sizes = sizes_below(self._folder)
            self.most_disk = max(self.most_disk, sum(sizes.values()))
            if not self.memory_before_maps and any(path.name == MAP for path in sizes):
                self.memory_before_maps = peak_memory()
                _forget_peak()

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def sizes_below(folder: Path) -> dict[Path, int]:
    """Return the length of every file that counts."""
    found = dict[Path, int]()
    for path in folder.rglob("*"):
        if path.name == SAMPLE_SET or path.name.startswith("mlflow.db"):
            continue
        try:
            if path.is_file():
                found[path] = path.stat().st_size
        except OSError:  # removed meanwhile
            continue
    return found


def _forget_peak() -> None:
    """Have the peak of this process's memory counted from now on, where the system can."""
    place = Path("/proc/self/clear_refs")
    if place.exists():
        place.write_text("5")


def extract_here(layers: str) -> Answer:
    """Extract layers of the folder's sample set as sketches, and tell what that took."""
    folder = Path.cwd()
    with Watch(folder) as watch:
        began = time.perf_counter()
        dataset = f"parquet:{folder / SAMPLE_SET}"
        recipe = ExtractionRecipe(dataset=dataset, layers=(layers,), sigmas=(SIGMA,), storage="sketch")
        extract(recipe, open_workspace(), Execution(device="cpu"))
        seconds = time.perf_counter() - began
    maps = _map_seconds()
    return {
        "seconds": seconds,
        "capture_seconds": seconds - maps,
        "map_seconds": maps,
        "capture_memory": watch.memory_before_maps or peak_memory(),
        "map_memory": peak_memory(),
        "disk_running": watch.most_disk,
        "disk": sum(sizes_below(folder).values()),
        "sample_set": (folder / SAMPLE_SET).stat().st_size,
    }


def _map_seconds() -> float:
    """Return the time from the start of the extraction's first layer run, which is its first map, to its end."""
    catalog = open_workspace(check_artifacts=False).catalog
    (extraction,) = catalog.extractions()
    first = min(record.start_time for record in catalog.layers(extraction.run_id))
    assert extraction.end_time is not None  # as it is finished
    return (extraction.end_time - first).total_seconds()
