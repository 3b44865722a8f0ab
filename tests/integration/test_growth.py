"""Growth: a grown, shrunken or changed sample set re-uses the rows that earlier extractions hold, and no other."""

import numpy as np
import pytest

from diffviews.adapters.registry import load_adapter
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.lightning.extraction import batches_of
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes import ExtractionRecipe
from tests.jobs import extract, generate_dataset

pytestmark = pytest.mark.usefixtures("store")
QUICK = {
    "layers": ("encoder_bottleneck", "decoder_block_4"), "sigmas": (2.0,), "batch_size": 32,
    "maps": MapParameters(n_neighbors=5), "workers": 1,
}  # fmt: skip


@pytest.fixture
def passes(monkeypatch):
    """The rows that each forward pass captures."""
    seen, capture_rows = [], ExtractionPlan.capture_rows

    def watched(self, sigma, layers, rows, *keep):
        seen.append(len(rows))
        return capture_rows(self, sigma, layers, rows, *keep)

    monkeypatch.setattr(ExtractionPlan, "capture_rows", watched)
    return seen


def metrics_of(workspace, made):
    found = workspace.catalog.extraction(made.run_id).metrics
    return found["samples_captured"], found["samples_reused"]


def test_grown_set_captures_the_new_rows_only_and_is_what_it_is_from_nothing(workspace, passes, tmp_path):
    first = extract(**QUICK, max_samples=70, experiment="grown")
    assert sum(passes) == 70
    passes.clear()
    grown = extract(**QUICK, max_samples=117, experiment="grown")
    assert sum(passes) == 47
    assert metrics_of(workspace, grown) == (47, 70)
    passes.clear()
    nothing = extract(**QUICK, max_samples=117, experiment="from nothing", force=True)
    assert sum(passes) == 117
    assert grown.digests == nothing.digests
    assert set(grown.digests.values()).isdisjoint(first.digests.values())
    passes.clear()
    shrunken = extract(**QUICK, max_samples=51, experiment="grown")
    assert passes == []
    assert metrics_of(workspace, shrunken) == (0, 51)
    assert shrunken.digests == extract(**QUICK, max_samples=51, experiment="from nothing", force=True).digests
    passes.clear()
    # A layer that no earlier extraction holds is captured for all, and those that one holds beside it as well.
    wider = extract(**{**QUICK, "layers": ("encoder_bottleneck", "midblock")}, max_samples=117, experiment="grown")
    assert sum(passes) == 117
    assert wider.digests["encoder_bottleneck@2"] == nothing.digests["encoder_bottleneck@2"]
    passes.clear()
    for other in ({"sigmas": (1.0,)}, {"conditioning": "uniform"}, {"batch_size": 64}):
        extract(**{**QUICK, "layers": ("encoder_bottleneck",), **other}, max_samples=40, experiment="grown")
    assert sum(passes) == 3 * 40
    passes.clear()
    _check_changed_images(passes, tmp_path)


def _check_changed_images(passes, folder):
    """A changed image is another sample although its id is the same; a changed class matters where it conditions."""
    samples = open_source("digits", max_samples=40, resolution=16)
    images, options = samples.images.copy(), {**QUICK, "layers": ("encoder_bottleneck",), "experiment": "grown"}
    images[7, 3, 3] ^= 255
    labels = samples.class_labels.copy()
    labels[11] = (labels[11] + 1) % 10
    changed = SampleSet.from_images(images, samples.sample_ids, class_labels=labels, class_order="digits")
    changed.write_parquet(folder / "changed.parquet")
    extract(**options, dataset=f"parquet:{folder / 'changed.parquet'}")
    assert passes == [1]
    passes.clear()
    extract(**options, max_samples=40, conditioning="label")
    assert sum(passes) == 40
    passes.clear()
    extract(**options, dataset=f"parquet:{folder / 'changed.parquet'}", conditioning="label")
    assert passes == [2]


def test_grown_generated_set_captures_the_new_rows_only(workspace, passes):
    options = {**QUICK, "layers": ("encoder_bottleneck",), "experiment": "generated"}
    sets = [generate_dataset(num_samples=count, num_steps=2, experiment="generated") for count in (20, 29)]
    assert (sets[1].num_samples, sets[1].made) == (29, 9)
    extract(**options, dataset=f"run:{sets[0].run_id}")
    passes.clear()
    grown = extract(**options, dataset=f"run:{sets[1].run_id}")
    assert sum(passes) == 9
    nothing = extract(**options, dataset=f"run:{sets[1].run_id}", force=True)
    assert grown.digests == nothing.digests


def test_damaged_rows_of_an_earlier_extraction_are_captured_anew(workspace, passes, caplog):
    options = {**QUICK, "layers": ("encoder_bottleneck",), "sigmas": (3.5,), "experiment": "damaged"}
    first = extract(**options, max_samples=30)
    (record,) = workspace.catalog.layers(first.run_id)
    chunk = workspace.folder(record.run_id).path("activations.zarr/c/0/0/0/0")
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    passes.clear()
    grown = extract(**options, max_samples=45)
    assert sum(passes) == 45
    assert f"the rows of layer run {record.run_id} are captured anew" in caplog.text
    assert metrics_of(workspace, grown) == (45, 0)


@pytest.mark.parametrize("batch_size", [1, 4, 15, 16, 40, 64])
def test_row_is_the_same_however_many_are_captured_with_it(batch_size):
    adapter = load_adapter("edm-digits", device="cpu")
    recipe = ExtractionRecipe(batch_size=batch_size, conditioning="none", maps=MapParameters(n_neighbors=5))
    plan = ExtractionPlan.of(recipe, adapter, open_source("digits", max_samples=70, resolution=16))
    layers, rows = plan.recipe.layers[::5], np.arange(70)

    def captured(parts):
        found = [plan.capture_rows(2.0, layers, part) for part in parts]
        return {layer: np.concatenate([f[layer].float().numpy() for f in found]) for layer in layers}

    whole = captured([rows[i : i + batch_size] for i in range(0, 70, batch_size)])
    for count in (1, 2, 5, min(17, batch_size)):
        count = min(count, batch_size)
        part = captured([rows[i : i + count] for i in range(0, 2 * count, count)])
        assert all(np.array_equal(part[layer], whole[layer][: 2 * count]) for layer in layers)


def test_batches_skip_what_is_known_and_end_where_their_blocks_do():
    known = np.zeros(300, dtype=bool)
    known[10:200] = True
    known[290:] = True
    blocks = [(2.0, 0), (2.0, 1), (0.5, 2)]
    batches = batches_of(blocks, 300, block_rows=128, batch_size=48, known={2.0: known})
    seen = np.concatenate([b.rows for b in batches if b.sigma == 2.0])
    assert seen.tolist() == [*range(10), *range(200, 256)]
    assert np.concatenate([b.rows for b in batches if b.sigma == 0.5]).tolist() == list(range(256, 300))
    for first, stop, sigma in ((0, 128, 2.0), (128, 256, 2.0), (256, 300, 0.5)):
        own = [b for b in batches if first <= b.start < stop]
        assert {b.sigma for b in own} == {sigma}
        assert [b.start for b in own] == [first, *(b.stop for b in own[:-1])]
        assert [b.ends_block for b in own] == [*[False] * (len(own) - 1), True]
        assert own[-1].stop == stop
