"""Capture under Lightning: rows reach their chunks whatever the batches, and processes share the work without gaps."""

import errno
import logging
import os
import shutil
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from diffviews.adapters.registry import load_adapter
from diffviews.core.generator import GenerationRequest
from diffviews.core.generator import generate as sample
from diffviews.data.activations import ActivationReader, ActivationWriter
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.errors import ShapeError
from diffviews.lightning.chunks import ChunkBuffer, WriteBehind
from diffviews.lightning.extraction import batches_of, unfinished_blocks
from diffviews.lightning.process_group import ProcessGroup
from diffviews.lightning.runner import GenerationModule, Span, predict
from diffviews.pipelines.capture.arrays import array_path, capture_activations
from diffviews.pipelines.capture.layer_array import link_tree
from diffviews.pipelines.generate_dataset import DatasetJob
from diffviews.pipelines.plan import ExtractionPlan
from diffviews.pipelines.series import Series
from diffviews.recipes import DatasetRecipe, Execution, ExtractionRecipe


@pytest.fixture(scope="module")
def adapter():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_adapter("edm-digits", device="cpu")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plan():
    """A plan of two layers whose widest is cut into chunks of 128 rows; the last layer exceeds float16."""
    loud = load_adapter("edm-digits", device="cpu")
    with torch.no_grad():
        loud.model.get_submodule(f"model.{loud.model.model.hook_points['decoder_block_9']}").conv1.weight *= 1e6
    recipe = ExtractionRecipe(layers=("decoder_block_7", "decoder_block_9"), batch_size=48, conditioning="none")
    return ExtractionPlan(loud, open_source("digits", max_samples=300), recipe)


def writer(path, rows, shape=(64, 16, 16), layer="midblock", sigma=2.0):
    return ActivationWriter(
        path, sample_ids=[f"s{row}" for row in range(rows)], layer=layer, shape=shape, dtype="float16", sigma=sigma,
        model_digest="m", dataset_digest="d",
    )  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 7, 128, 129, 200, 512])
@pytest.mark.parametrize("rows", [300, 256])
def test_rows_reach_their_chunks_whatever_the_batch_size(tmp_path, rows, batch_size):
    array = writer(tmp_path / "activations.zarr", rows, shape=(64, 16, 16))
    assert array.chunk_rows == 128
    values = np.arange(rows, dtype=np.float32)[:, None, None, None] * np.ones((1, 64, 16, 16), np.float32)
    with WriteBehind() as behind:
        buffer = ChunkBuffer(array, behind, on_overflow=lambda: None)
        for block in range(0, rows, 256):
            last = min(rows, block + 256)
            for start in range(block, last, batch_size):
                stop = min(last, start + batch_size)
                buffer.put(start, torch.zeros(stop - start, 64, 16, 16))
                buffer.put(start, torch.from_numpy(values[start:stop]))  # a layer run twice: the last output counts
                buffer.pass_on(stop, ends_block=stop == last)
    array.finish()
    assert np.array_equal(ActivationReader.open(array.path).array()[:, 0, 0, 0], np.arange(rows))


def test_chunks_that_are_there_are_left_alone(tmp_path):
    array = writer(tmp_path / "activations.zarr", 200)
    array.write(0, np.ones((128, 64, 16, 16), np.float32))
    chunk = next(path for path in array.path.glob("c/0/**/*") if path.is_file())
    before = chunk.stat().st_ino
    with WriteBehind() as behind:
        buffer = ChunkBuffer(array, behind, on_overflow=lambda: None)
        buffer.put(0, torch.zeros(200, 64, 16, 16))
        buffer.pass_on(200, ends_block=True)
    assert chunk.stat().st_ino == before
    array.finish()
    stored = ActivationReader.open(array.path).array()
    assert (stored[:128] == 1).all()
    assert (stored[128:] == 0).all()


def test_rows_of_another_shape_are_refused_and_not_broadcast(tmp_path):
    with WriteBehind() as behind:
        buffer = ChunkBuffer(writer(tmp_path / "a.zarr", 200), behind, on_overflow=lambda: None)
        with pytest.raises(ShapeError, match=r"\(2, 64, 1, 1\).*\(64, 16, 16\)"):
            buffer.put(0, torch.zeros(2, 64, 1, 1))


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -70000.0])
def test_overflow_is_told_once_and_only_of_finite_values(tmp_path, broken):
    array, told = writer(tmp_path / "a.zarr", 256), []
    with WriteBehind() as behind:
        buffer = ChunkBuffer(array, behind, on_overflow=lambda: told.append(1))
        for start in (0, 128):
            rows = torch.zeros(128, 64, 16, 16)
            rows[5, 3, 2, 1] = broken
            buffer.put(start, rows)
            buffer.pass_on(start + 128)
    overflows = np.isfinite(broken)
    assert told == ([1] if overflows else [])
    assert [array.is_done(chunk) for chunk in range(2)] == [not overflows] * 2
    assert array.nonfinite == (0 if overflows else 2)


def test_failure_of_the_writing_thread_reaches_the_caller_and_nothing_is_written_after_it():
    behind, done = WriteBehind(waiting=2), []

    def fail():
        raise OSError(errno.ENOSPC, "No space left on device")

    def submit_all():
        behind.submit(fail)
        for number in range(20):
            behind.submit(partial(done.append, number))
        behind.close()

    with pytest.raises(OSError, match="No space left"):
        submit_all()
    assert done == []


def test_model_waits_for_the_disk_when_the_queue_is_full():
    gate, submitted = threading.Event(), []
    behind = WriteBehind(waiting=3)

    def submit_all():
        for number in range(6):
            behind.submit(gate.wait)
            submitted.append(number)

    thread = threading.Thread(target=submit_all)
    thread.start()
    thread.join(0.2)
    assert len(submitted) == 3
    gate.set()
    thread.join()
    behind.close()
    assert len(submitted) == 6


def test_abandoned_work_is_dropped():
    begun, gate, done = threading.Event(), threading.Event(), []
    behind = WriteBehind(waiting=4)
    behind.submit(lambda: begun.set() or (gate.wait() and done.append("begun")))
    behind.submit(lambda: done.append("waiting"))
    begun.wait()
    thread = threading.Thread(target=behind.abandon)
    thread.start()
    while not behind._dropped:
        pass
    gate.set()
    thread.join()
    assert done == ["begun"]


def test_blocks_hold_whole_chunks_of_every_layer_and_only_unfinished_ones_are_dealt(tmp_path):
    narrow = writer(tmp_path / "narrow", 300, shape=(64, 4, 4), layer="midblock")
    wide = writer(tmp_path / "wide", 300, layer="decoder_block_7")
    later = writer(tmp_path / "later", 300, layer="decoder_block_7", sigma=5.0)
    assert (narrow.chunk_rows, wide.chunk_rows) == (512, 128)
    writers = {("midblock", 2.0): narrow, ("decoder_block_7", 2.0): wide}
    assert unfinished_blocks(writers) == [(2.0, 0)]
    only_wide = {("decoder_block_7", 2.0): wide, ("decoder_block_7", 5.0): later}
    assert unfinished_blocks(only_wide) == [(sigma, block) for sigma in (2.0, 5.0) for block in range(3)]
    wide.write(128, np.zeros((128, 64, 16, 16), np.float32))
    assert unfinished_blocks(only_wide) == [(2.0, 0), (2.0, 2), (5.0, 0), (5.0, 1), (5.0, 2)]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_blocks_without_overlap_or_gap(world):
    blocks = [(sigma, block) for sigma in (0.5, 2.0) for block in range(3)]
    seen = []
    for rank in range(world):
        own = ProcessGroup(rank, world).share(blocks)
        batches = batches_of(own, 300, block_rows=128, batch_size=48)
        seen += [(batch.sigma, row) for batch in batches for row in range(batch.start, batch.stop)]
        assert sum(batch.ends_block for batch in batches) == len(blocks[rank::world])
    assert sorted(seen) == [(sigma, row) for sigma in (0.5, 2.0) for row in range(300)]


def test_rows_are_captured_with_their_own_images_ids_and_classes(plan, monkeypatch):
    seen, rows, samples = [], np.arange(128, 148), plan.samples
    monkeypatch.setattr("diffviews.pipelines.plan.capture", lambda *arguments: seen.append(arguments))
    labelled = ExtractionPlan(plan.adapter, samples, replace(plan.recipe, conditioning="label"))
    labelled.capture_rows(2.0, ["midblock"], rows)
    _, x0, sample_ids, given, *_ = seen[0]
    assert tuple(sample_ids) == samples.sample_ids[128:148]
    assert torch.equal(x0, plan.adapter.encode(samples.images[128:148]))
    (classes,) = given.values()
    assert classes.argmax(dim=1).tolist() == samples.class_labels[128:148].tolist()


@pytest.fixture(scope="module")
def alone(adapter, plan, tmp_path_factory):
    """The arrays of one process."""
    return capture_activations(plan, plan.keys, tmp_path_factory.mktemp("alone"), progress=False)


def digests(arrays):
    return {key: array.digest for key, array in arrays.items()}


def dtypes(arrays):
    return {layer: ActivationReader.open(array.path).dtype.name for (layer, _), array in arrays.items()}


def test_layer_that_exceeds_float16_alone_is_captured_in_float32(alone):
    assert dtypes(alone) == {"decoder_block_7": "float16", "decoder_block_9": "float32"}


def test_resumed_capture_runs_no_finished_block_again(plan, alone, tmp_path, monkeypatch):
    keys = [("decoder_block_7", 2.0)]
    first = capture_activations(plan, keys, tmp_path, progress=False)
    path = array_path(tmp_path, keys[0], "float16")
    next(file for file in path.glob("c/1/**/*") if file.is_file()).unlink()
    metadata = path / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"finished": true', '"finished": false'))
    seen, capture_rows = [], ExtractionPlan.capture_rows

    def watched(self, sigma, layers, rows, keep):
        seen.append((rows[0], rows[-1] + 1))
        return capture_rows(self, sigma, layers, rows, keep)

    monkeypatch.setattr(ExtractionPlan, "capture_rows", watched)
    again = capture_activations(plan, keys, tmp_path, progress=False)
    assert digests(again) == digests(first)
    assert sorted(seen) == [(128, 176), (176, 224), (224, 256)]


def test_disk_need_counts_only_what_is_lacking(plan, tmp_path, caplog):
    caplog.set_level(logging.INFO, "diffviews.pipelines.capture.arrays")
    capture_activations(plan, plan.keys[:1], tmp_path, progress=False)
    capture_activations(plan, plan.keys[:1], tmp_path, progress=False)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "300 samples × 1 layer runs: 12.6 MB of activations, 12.6 MB of them still to be written",
        "300 samples × 1 layer runs: 12.6 MB of activations, 0 bytes of them still to be written",
    ]


def test_spans_make_the_samples_of_the_whole(adapter, tmp_path):
    request = GenerationRequest(num_samples=5, num_steps=2, seed=3, class_labels=tuple(range(5)))
    job = DatasetJob(adapter, Series(5), DatasetRecipe(), None, Execution())
    write = partial(job.write_span, tmp_path)
    predict(GenerationModule(adapter, request, write), [Span(0, 3), Span(3, 2)], adapter.device)
    parts = [SampleSet.read_parquet(path) for path in sorted(tmp_path.glob("*.parquet"))]
    assert [label for part in parts for label in part.class_labels] == list(range(5))
    images = np.concatenate([part.images for part in parts])
    assert np.abs(images.astype(int) - sample(adapter, request).images).max() <= 1


def test_linked_tree_survives_the_removal_of_the_first(tmp_path, monkeypatch):
    (tmp_path / "a" / "c").mkdir(parents=True)
    (tmp_path / "a" / "c" / "0").write_bytes(b"rows")
    (tmp_path / "b" / "stale").mkdir(parents=True)
    link_tree(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "c" / "0").stat().st_ino == (tmp_path / "a" / "c" / "0").stat().st_ino
    assert not (tmp_path / "b" / "stale").exists()

    def no_links(*arguments):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", no_links)
    link_tree(tmp_path / "a", tmp_path / "c")
    shutil.rmtree(tmp_path / "a")
    assert (tmp_path / "b" / "c" / "0").read_bytes() == (tmp_path / "c" / "c" / "0").read_bytes() == b"rows"
