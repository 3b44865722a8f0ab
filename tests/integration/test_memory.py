"""Memory: activations of ten times what the process may use are captured and mapped all the same."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import re, resource, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from diffviews.data.samples import SampleSet
from diffviews.pipelines.capture import arrays, sketches
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.recipes.extraction import ExtractionRecipe
from tests.fakes import _Fake

GIVEN, VALUES = int(sys.argv[2]), 1024 * 8 * 8

class Wide(_Fake):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers["wide"] = nn.Conv2d(3, 1024, 1)
    def forward(self, x, sigma, class_labels=None, **kwargs):
        self.layers["wide"](x)
        return x
    def get_layer_shapes(self):
        return {"wide": (1024, 8, 8)}

def extract(count, folder):
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    samples = SampleSet.from_images(images, [f"s{row}" for row in range(count)])
    recipe = ExtractionRecipe(
        layers=("wide",), sigmas=(2.0,), batch_size=64, conditioning="none", storage="sketch", sketch_samples=256,
    )
    plan = ExtractionPlan(Wide(), samples, recipe)
    (array,) = arrays.capture_activations(plan, plan.keys, folder, progress=False).values()
    return array.fit(samples.sample_ids, recipe.maps)

def used():
    return int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

sketches.MEMORY = GIVEN // 4
extract(400, Path(sys.argv[1]) / "small")          # what the programs themselves need
resource.setrlimit(resource.RLIMIT_DATA, (used() + GIVEN,) * 2)
count = 10 * GIVEN // (2 * VALUES)
fitted = extract(count, Path(sys.argv[1]) / "large")
assert fitted.projector.embedding.shape == (count, 2)
try:
    np.ones(2 * GIVEN, np.uint8)
except MemoryError:
    print("mapped", count)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as Linux does")
def test_set_ten_times_larger_than_the_memory_is_extracted_and_mapped(tmp_path, command_environment):
    given = 256 << 20
    environment = command_environment | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(given)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == f"mapped {10 * given // (2 * 65_536)}", done.stderr
    stored = sum(file.stat().st_size for file in (tmp_path / "large").rglob("*") if file.is_file())
    assert stored < given / 4
