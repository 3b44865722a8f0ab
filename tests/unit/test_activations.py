"""Stored activations: crash safety, damage, rows by id, remote reading, overflow."""

import errno
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffviews.data.activation_reader import count_nonfinite
from diffviews.data.activations import ActivationReader, ActivationWriter, DoesNotFitError
from diffviews.data.sample_index import SampleIndex
from diffviews.errors import (
    ConfigError,
    CorruptDataError,
    DiskSpaceError,
    SampleSetError,
    SchemaVersionError,
    SelectionError,
    ShapeError,
)

SHAPE = (256, 16, 16)  # 128 KiB a row in float16, so 32 rows are a chunk of 4 MiB
IDS = [f"class/{i % 3}/s-{i:03d}" for i in range(70)]


def open_writer(path: Path, **changes: object) -> ActivationWriter:
    options = {
        "sample_ids": IDS,
        "layer": "midblock",
        "shape": SHAPE,
        "dtype": "float16",
        "sigma": 0.002,
        "model_digest": "model",
        "dataset_digest": "data",
    }
    return ActivationWriter(path, **{**options, **changes})


def values(count: int = len(IDS), shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *shape), dtype=np.float32).astype(np.float16)


def write_all(writer: ActivationWriter, rows: np.ndarray) -> str:
    for chunk in range(writer.num_chunks):
        span = writer.rows_of(chunk)
        writer.write(span.start, rows[span])
    return writer.finish()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    path, rows = tmp_path_factory.mktemp("stored") / "activations.zarr", values()
    write_all(open_writer(path), rows)
    return path, rows


@pytest.fixture
def copied(stored: tuple[Path, np.ndarray], tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored[0], tmp_path / "activations.zarr"))


def edit_metadata(path: Path, change: object) -> None:
    metadata = json.loads((path / "zarr.json").read_text())
    change(metadata)
    (path / "zarr.json").write_text(json.dumps(metadata))


def test_array_reads_back_bitwise_what_was_written(stored: tuple[Path, np.ndarray]) -> None:
    path, rows = stored
    reader = ActivationReader.open(path)
    assert (reader.shape, reader.dtype, reader.chunk_rows) == ((70, *SHAPE), np.float16, 32)
    assert (reader.layer, reader.sigma, reader.sample_ids) == ("midblock", 0.002, tuple(IDS))
    assert (reader.attrs["model_digest"], reader.attrs["dataset_digest"]) == ("model", "data")
    np.testing.assert_array_equal(reader.array(), rows)


def test_chunk_files_are_those_that_zarr_writes(stored: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, rows = stored
    shutil.copytree(path, tmp_path / "a.zarr")
    shutil.rmtree(tmp_path / "a.zarr" / "c")
    zarr.open_array(tmp_path / "a.zarr", mode="r+")[...] = rows
    chunks = sorted(file.relative_to(path) for file in path.rglob("c/**/*") if file.is_file())
    assert len(chunks) == 3
    for chunk in chunks:
        assert (tmp_path / "a.zarr" / chunk).read_bytes() == (path / chunk).read_bytes()


def test_finish_reads_no_chunk_it_has_written_and_every_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, read = values(), []
    chunk_of = ActivationReader.chunk
    monkeypatch.setattr(ActivationReader, "chunk", lambda self, chunk: read.append(chunk) or chunk_of(self, chunk))
    open_writer(tmp_path / "a.zarr").write(32, rows[32:64])
    writer = open_writer(tmp_path / "a.zarr")
    writer.write(0, rows[:32])
    writer.write(64, rows[64:])
    digest = writer.finish()
    assert read == [1]
    monkeypatch.undo()
    assert ActivationReader.open(tmp_path / "a.zarr").compute_digest()[0] == digest


def test_writer_sent_to_another_process_goes_on_with_the_same_array(tmp_path: Path) -> None:
    writer, rows = open_writer(tmp_path / "a.zarr"), values()
    there = ForkingPickler.loads(bytes(ForkingPickler.dumps(writer)))
    there.write(0, rows)
    assert writer.finish() == ActivationReader.open(tmp_path / "a.zarr").digest
    np.testing.assert_array_equal(ActivationReader.open(tmp_path / "a.zarr").array(), rows)


def test_reader_shares_an_index_that_has_its_ids_and_no_other(stored: tuple[Path, np.ndarray]) -> None:
    same, other = SampleIndex(tuple(IDS)), SampleIndex(tuple(IDS[::-1]))
    assert ActivationReader.open(stored[0], index=same).sample_ids is same.sample_ids
    assert ActivationReader.open(stored[0], index=other).sample_ids == tuple(IDS)


def test_array_is_plain_zarr_for_other_programs(stored: tuple[Path, np.ndarray]) -> None:
    np.testing.assert_array_equal(zarr.open_array(stored[0], mode="r")[...], stored[1])


def test_rows_are_found_by_id_in_the_order_asked_with_repeats(stored: tuple[Path, np.ndarray]) -> None:
    path, rows = stored
    wanted = [69, 0, 33, 0, 31, 32]
    reader = ActivationReader.open(path)
    np.testing.assert_array_equal(reader.rows([IDS[i] for i in wanted]), rows[wanted])
    np.testing.assert_array_equal(reader.rows(np.array(wanted)), rows[wanted])
    np.testing.assert_array_equal(reader.rows(np.array(IDS[:2])), rows[:2])


def test_rows_follow_the_ids_and_not_the_position_of_another_order(tmp_path: Path) -> None:
    rows = values(4, (2,))
    path = tmp_path / "a.zarr"
    write_all(open_writer(path, sample_ids=["d", "b", "a", "c"], shape=(2,)), rows)
    np.testing.assert_array_equal(ActivationReader.open(path).rows(["a", "b", "c", "d"]), rows[[2, 1, 3, 0]])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 69), min_size=1, max_size=12))
def test_rows_equal_fancy_indexing_for_any_selection(stored: tuple[Path, np.ndarray], wanted: list[int]) -> None:
    path, rows = stored
    np.testing.assert_array_equal(ActivationReader.open(path).rows(wanted), rows[wanted])


@pytest.mark.parametrize("selection", [[], ["missing"], [70], [-1], ["class/0/s-000", 3], [1.5]])
def test_impossible_selections_are_refused(stored: tuple[Path, np.ndarray], selection: list) -> None:
    with pytest.raises(SelectionError):
        ActivationReader.open(stored[0]).rows(selection)


def test_chunks_come_in_order_and_cover_every_row_once(stored: tuple[Path, np.ndarray]) -> None:
    pieces = list(ActivationReader.open(stored[0]).chunks())
    assert [start for start, _ in pieces] == [0, 32, 64]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in pieces]), stored[1])


def test_reading_through_fetch_gets_only_the_chunks_needed(stored: tuple[Path, np.ndarray]) -> None:
    path, rows = stored
    asked: list[str] = []

    def fetch(key: str) -> bytes | None:
        asked.append(key)
        file = path / key
        return file.read_bytes() if file.is_file() else None

    reader = ActivationReader.open(fetch)
    assert asked == ["zarr.json"]
    np.testing.assert_array_equal(reader.rows([IDS[66], IDS[1], IDS[65]]), rows[[66, 1, 65]])
    assert sorted(asked[1:]) == ["c/0/0/0/0", "c/2/0/0/0"]


def test_reading_through_fetch_asks_for_several_chunks_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    rows = values(8, (2**21,))  # one row a chunk
    write_all(open_writer(path, sample_ids=IDS[:8], shape=(2**21,)), rows)
    together = threading.Barrier(8, timeout=20)  # breaks unless eight fetches are under way at once

    def fetch(key: str) -> bytes | None:
        if key.startswith("c/"):
            together.wait()
        return (path / key).read_bytes()

    np.testing.assert_array_equal(ActivationReader.open(fetch).array(), rows)


def test_reading_through_fetch_names_a_missing_chunk_and_passes_its_errors_on(copied: Path) -> None:
    def fetch(key: str) -> bytes | None:
        if key == "c/1/0/0/0":
            raise ConnectionError("store is away")
        return None if key.startswith("c/") else (copied / key).read_bytes()

    reader = ActivationReader.open(fetch, name="r2://bucket/run")
    with pytest.raises(CorruptDataError, match="r2://bucket/run/c/0/0/0/0 is missing"):
        reader.rows([0])
    with pytest.raises(ConnectionError, match="store is away"):
        reader.rows([40])


def test_interrupted_writing_ends_with_the_digest_of_an_uninterrupted_one(
    stored: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, rows = tmp_path / "activations.zarr", stored[1]
    open_writer(path).write(64, rows[64:])
    resumed = open_writer(path)
    assert [resumed.is_done(chunk) for chunk in range(3)] == [False, False, True]
    resumed.write(0, rows[:64].astype(np.float32))  # two chunks in one call, from float32
    assert resumed.finish() == ActivationReader.open(stored[0]).digest
    assert open_writer(path).finish() == ActivationReader.open(stored[0]).digest  # again is harmless


def test_digest_depends_on_values_sample_order_and_dtype(tmp_path: Path) -> None:
    rows = values(3, (4,))
    changed = rows.copy()
    changed[2, 3] += 1
    ids = ["a", "b", "c"]
    variants = [
        ({"sample_ids": ids}, rows),
        ({"sample_ids": ids}, changed),
        ({"sample_ids": ids[::-1]}, rows),
        ({"sample_ids": ids, "dtype": "float32"}, rows.astype(np.float32)),
    ]
    digests = [
        write_all(open_writer(tmp_path / str(i), shape=(4,), **options), data)
        for i, (options, data) in enumerate(variants)
    ]
    assert len(set(digests)) == len(variants)


WRITE_FOREVER = """
import sys
sys.path.insert(0, "tests/unit")
from test_activations import open_writer, values
rows = values()
print("ready", flush=True)
while True:
    writer = open_writer(sys.argv[1])
    for chunk in range(writer.num_chunks):
        span = writer.rows_of(chunk)
        writer.write(span.start, rows[span])
"""


@pytest.mark.parametrize("delay", [0.0, 0.004, 0.011])
def test_sigkill_while_writing_loses_nothing_and_shows_nothing_half_written(
    stored: tuple[Path, np.ndarray], tmp_path: Path, delay: float
) -> None:
    path, rows = tmp_path / "activations.zarr", stored[1]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOREVER, str(path)], cwd=root, stdout=subprocess.PIPE, env={"PYTHONPATH": "."}
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 30
        while not (path / "c").is_dir() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(delay)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with pytest.raises(CorruptDataError, match="never finished"):
        ActivationReader.open(path)
    resumed = open_writer(path)
    for chunk in range(resumed.num_chunks):
        if resumed.is_done(chunk):
            np.testing.assert_array_equal(
                ActivationReader.open(path, allow_unfinished=True).chunk(chunk), rows[resumed.rows_of(chunk)]
            )
        else:
            resumed.write(resumed.rows_of(chunk).start, rows[resumed.rows_of(chunk)])
    assert resumed.finish() == ActivationReader.open(stored[0]).digest


def test_finish_sweeps_what_killed_writers_left(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    writer = open_writer(path, sample_ids=["a"], shape=(4,))
    writer.write(0, values(1, (4,)))
    (path / "c" / "0" / "0.1234.partial").write_bytes(b"half")
    writer.finish()
    assert sorted(p.name for p in path.rglob("*") if p.is_file()) == ["0", "zarr.json"]


def test_unfinished_array_is_refused_unless_asked_for(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.zarr", values()
    writer = open_writer(path)
    writer.write(32, rows[32:64])
    with pytest.raises(CorruptDataError, match=r"c/0/0/0/0 is missing"):
        writer.finish()
    with pytest.raises(CorruptDataError, match="never finished"):
        ActivationReader.open(path)
    reader = ActivationReader.open(path, allow_unfinished=True)
    np.testing.assert_array_equal(reader.rows([IDS[40]])[0], rows[40])
    assert (reader.digest, reader.finished) == ("", False)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_damaged_chunk_is_named_and_written_again_on_resume(copied: Path, damage: str) -> None:
    chunk = copied / "c" / "2" / "0" / "0" / "0"  # the last one, which is only partly filled
    data = bytearray(chunk.read_bytes())
    data[1000] ^= 1
    replacement = {"flip": bytes(data), "truncate": bytes(data[:5000]), "empty": b""}.get(damage)
    chunk.unlink() if replacement is None else chunk.write_bytes(replacement)
    reader = ActivationReader.open(copied)
    reader.rows([0])  # other chunks still serve
    with pytest.raises(CorruptDataError, match=str(chunk.relative_to(copied))):
        reader.rows([IDS[69]])
    with pytest.raises(CorruptDataError, match=str(chunk.relative_to(copied))):
        reader.verify()
    edit_metadata(copied, lambda metadata: metadata["attributes"]["diffviews"].update(finished=False))
    writer = open_writer(copied)
    assert [writer.is_done(chunk) for chunk in range(3)] == [True, True, False]
    writer.write(64, values()[64:])
    assert writer.finish() == reader.digest


def test_verify_finds_a_chunk_exchanged_for_another_valid_one(copied: Path) -> None:
    first, second = (copied / "c" / n / "0" / "0" / "0" for n in "01")
    first.write_bytes(second.read_bytes())
    with pytest.raises(CorruptDataError, match="changed after they were finished"):
        ActivationReader.open(copied).verify()


def test_other_schema_version_is_refused(copied: Path) -> None:
    edit_metadata(copied, lambda metadata: metadata["attributes"]["diffviews"].update(schema=99))
    with pytest.raises(SchemaVersionError, match="schema 99"):
        ActivationReader.open(copied)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["attributes"].pop("diffviews"),
        lambda m: m["attributes"]["diffviews"]["sample_ids"].pop(),
        lambda m: m["attributes"]["diffviews"].update(sample_ids=["same"] * 70),
        lambda m: m["attributes"]["diffviews"].update(sample_ids=list(range(70))),
        lambda m: m["attributes"]["diffviews"].pop("sigma"),
        lambda m: m.update(data_type="object"),
        lambda m: m.update(shape=[70, -1, 16, 16]),
        lambda m: m.update(codecs=m["codecs"][:1]),
        lambda m: m["chunk_grid"]["configuration"].update(chunk_shape=[10**12, *SHAPE]),
        lambda m: m.update(shape="x"),
    ],
)
def test_hostile_metadata_is_refused_and_named(copied: Path, change: object) -> None:
    edit_metadata(copied, change)
    with pytest.raises(CorruptDataError, match=r"zarr\.json"):
        ActivationReader.open(copied)


def test_unreadable_metadata_and_missing_arrays_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptDataError, match=r"nowhere holds no activations"):
        ActivationReader.open(tmp_path / "nowhere")
    (tmp_path / "zarr.json").write_bytes(b'{"half":')
    with pytest.raises(CorruptDataError, match=r"zarr\.json"):
        ActivationReader.open(tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        {"layer": "encoder_block_0"},
        {"sigma": 2.0},
        {"model_digest": "other"},
        {"dataset_digest": "other"},
        {"dtype": "float32"},
        {"shape": (256, 16, 15)},
        {"sample_ids": IDS[::-1]},
        {"sample_ids": IDS[:-1]},
    ],
)
def test_reopening_for_something_else_is_refused(copied: Path, other: dict) -> None:
    with pytest.raises(ConfigError, match="were written for"):
        open_writer(copied, **other)


def test_finished_array_takes_no_more_rows(copied: Path) -> None:
    with pytest.raises(ConfigError, match="finished"):
        open_writer(copied).write(64, values()[64:])


def test_two_writers_at_once_make_one_array(stored: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, rows = tmp_path / "a.zarr", stored[1]
    first, second = open_writer(path), open_writer(path)
    second.write(0, rows[:32])
    first.write(0, rows)
    second.write(32, rows[32:])
    assert first.finish() == second.finish() == ActivationReader.open(stored[0]).digest


def test_writer_whose_temporary_file_another_swept_goes_on_if_the_array_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"sample_ids": ["a"], "shape": (4,)}
    first, second = (open_writer(tmp_path / "a.zarr", **options) for _ in range(2))
    rows = values(1, (4,))
    first.write(0, rows)

    def swept(*_: object, **__: object) -> None:
        monkeypatch.undo()
        first.finish()
        raise FileNotFoundError(errno.ENOENT, "swept")

    monkeypatch.setattr("diffviews.data.activations._write_all", swept)
    second.write(0, rows)
    assert second.finish() == first.finish()


def test_only_whole_chunks_of_the_right_shape_are_taken(tmp_path: Path) -> None:
    writer, rows = open_writer(tmp_path / "a.zarr"), values()
    for start, part in [(0, rows[:31]), (1, rows[1:32]), (64, rows[:7]), (32, rows[:0]), (-32, rows[:32])]:
        with pytest.raises(ShapeError, match="not whole chunks"):
            writer.write(start, part)
    with pytest.raises(ShapeError, match=r"\(256, 16, 16\)"):
        writer.write(0, rows[:32, :, :, :15])
    with pytest.raises(ShapeError, match="int64"):
        writer.write(0, rows[:32].astype(np.int64))
    assert not (tmp_path / "a.zarr" / "c").exists()


def test_nan_and_infinite_values_are_counted_and_kept(tmp_path: Path) -> None:
    rows = values(3, (4,)).astype(np.float32)
    rows[0, 1], rows[1, 2], rows[2, 3] = np.nan, np.inf, -np.inf
    writer = open_writer(tmp_path / "a.zarr", sample_ids=["a", "b", "c"], shape=(4,))
    writer.write(0, rows)
    writer.write(0, rows)  # writing a chunk again counts it once
    assert writer.nonfinite == 3
    writer.finish()
    reader = ActivationReader.open(tmp_path / "a.zarr")
    assert reader.nonfinite == 3
    np.testing.assert_array_equal(reader.array(), rows.astype(np.float16))


def test_nonfinite_count_of_a_resumed_array_includes_the_earlier_chunks(tmp_path: Path) -> None:
    rows = values(2, (2**21,))
    rows[0, 5] = np.nan
    options = {"sample_ids": ["a", "b"], "shape": (2**21,)}
    open_writer(tmp_path / "a.zarr", **options).write(0, rows[:1])
    resumed = open_writer(tmp_path / "a.zarr", **options)
    resumed.write(1, rows[1:])
    resumed.finish()
    assert ActivationReader.open(tmp_path / "a.zarr").nonfinite == 1


def test_finite_value_too_large_for_float16_raises_and_writes_nothing(tmp_path: Path) -> None:
    rows = np.zeros((3, 4), np.float32)
    rows[1, 1], rows[2, 2] = np.nan, -70000.0
    writer = open_writer(tmp_path / "a.zarr", sample_ids=["a", "b", "c"], shape=(4,))
    with pytest.raises(DoesNotFitError, match=r"midblock.*70000.*float32") as caught:
        writer.write(0, rows)
    assert isinstance(caught.value, OverflowError)
    assert not writer.is_done(0)
    rows[2, 2] = 65504.0
    writer.write(0, rows)
    assert writer.is_done(0)


@pytest.mark.filterwarnings("error")
def test_conversion_to_float16_rounds_to_nearest_even_and_leaves_the_input_alone(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((5, 64), dtype=np.float32) * 1000
    rows.flags.writeable = False
    before = rows.copy()
    writer = open_writer(tmp_path / "a.zarr", sample_ids=list("abcde"), shape=(64,))
    write_all(writer, rows)
    np.testing.assert_array_equal(ActivationReader.open(tmp_path / "a.zarr").array(), rows.astype(np.float16))
    np.testing.assert_array_equal(rows, before)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=16), max_size=40), st.sampled_from([np.float16, np.float32, np.float64]))
def test_count_nonfinite_agrees_with_isfinite_for_every_width(numbers: list[float], dtype: type) -> None:
    array = np.array(numbers, dtype=dtype)
    assert count_nonfinite(array) == int((~np.isfinite(array)).sum())


def test_chunk_of_zeros_is_stored_and_not_taken_for_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_all(open_writer(path), np.zeros((70, *SHAPE), np.float16))
    assert not ActivationReader.open(path).array().any()


def test_full_disk_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = open_writer(tmp_path / "a.zarr")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("diffviews.data.activations._write_all", full)
    with pytest.raises(DiskSpaceError, match=r"the disk is full: .*c/0/0"):
        writer.write(0, values()[:32])
    monkeypatch.undo()
    assert not writer.is_done(0)
    assert writer.nonfinite == 0
    assert not list((tmp_path / "a.zarr").rglob("*.partial"))


@pytest.mark.parametrize("sigma", [-1.0, float("nan"), float("inf")])
def test_impossible_sigma_is_refused(tmp_path: Path, sigma: float) -> None:
    with pytest.raises(ConfigError, match="sigma"):
        open_writer(tmp_path / "a.zarr", sigma=sigma)


def test_impossible_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="float64"):
        open_writer(tmp_path / "a.zarr", dtype="float64")
    with pytest.raises(ConfigError, match="no samples"):
        open_writer(tmp_path / "a.zarr", sample_ids=[])
    with pytest.raises(SampleSetError, match="more than once"):
        open_writer(tmp_path / "a.zarr", sample_ids=["a", "a"])
    assert not (tmp_path / "a.zarr").exists()


def test_metadata_is_one_line_since_a_line_an_id_would_double_it(stored: tuple[Path, np.ndarray]) -> None:
    assert b"\n" not in (stored[0] / "zarr.json").read_bytes()
