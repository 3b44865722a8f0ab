"""Sample sets and their Parquet files."""

import io
import json
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffviews.data.pictures import encode_png, thumbnail_png
from diffviews.data.sample_index import SampleIndex
from diffviews.data.samples import SampleSet, concatenate, stratified_rows
from diffviews.errors import (
    CorruptDataError,
    SampleSetError,
    SchemaVersionError,
    SelectionError,
    ShapeError,
)

NAMES = ("zero", "one", "two")


def pictures(count: int, height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def make(count: int = 9, **changes: object) -> SampleSet:
    options = {
        "sample_ids": [f"folder/sample {i}" for i in range(count)],
        "class_labels": [i % 3 for i in range(count)],
        "class_names": [NAMES[i % 3] for i in range(count)],
        "prompts": [None] * count,
        "seeds": [2**40 + i for i in range(count)],
        "sources": ["test"] * count,
    }
    return SampleSet.from_images(pictures(count), **{**options, **changes})


@pytest.fixture
def written(tmp_path: Path) -> Path:
    make(600).write_parquet(tmp_path / "samples.parquet")
    return tmp_path / "samples.parquet"


def test_table_has_typed_columns_and_na_where_there_is_nothing() -> None:
    table = make(3, class_labels=[0, None, -1], class_names=["zero", None, None]).table
    assert list(table.columns) == ["sample_id", "class_label", "class_name", "prompt", "seed", "source"]
    assert [str(table[c].dtype) for c in ("sample_id", "class_label", "seed")] == ["string", "Int64", "Int64"]
    assert table["class_label"].isna().tolist() == [False, True, False]
    assert table["prompt"].isna().all()
    assert table["seed"].tolist() == [2**40, 2**40 + 1, 2**40 + 2]


def test_class_filter_keeps_images_and_table_together_and_leaves_the_set_untouched() -> None:
    samples = make()
    before = samples.table
    ones = samples.of_classes([1])
    assert ones.sample_ids == ("folder/sample 1", "folder/sample 4", "folder/sample 7")
    np.testing.assert_array_equal(ones.images, samples.images[[1, 4, 7]])
    assert ones.index_of(["folder/sample 4"]).tolist() == [1]
    np.testing.assert_array_equal(ones.images_of(["folder/sample 4"]), samples.images_of(["folder/sample 4"]))
    pd.testing.assert_frame_equal(samples.table, before)
    assert len(samples) == 9


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(9)), st.integers(1, 9))
def test_select_keeps_every_sample_whole_in_any_order(order: list[int], count: int) -> None:
    samples = make()
    ids = [samples.sample_ids[row] for row in order[:count]]
    chosen = samples.select(ids)
    assert chosen.sample_ids == tuple(ids)
    np.testing.assert_array_equal(chosen.images, samples.images[order[:count]])
    assert chosen.class_labels.tolist() == [row % 3 for row in order[:count]]


def test_set_cannot_be_changed_through_what_it_hands_out() -> None:
    samples = make()
    digest = samples.digest
    table = samples.table
    table.loc[0, "class_label"] = 2
    samples.images[:] = 0
    with pytest.raises(ValueError, match="read-only"):
        samples.pictures.array[0] = 0
    assert samples.table["class_label"][0] == 0
    assert SampleSet(samples.table, samples.pictures).digest == digest


@pytest.mark.parametrize("selection", [[], ["folder/sample 0", "nobody"], ["folder/sample 0"] * 2])
def test_impossible_selections_are_refused(selection: list[str]) -> None:
    with pytest.raises(SelectionError):
        make().select(selection)


def test_unknown_ids_are_named() -> None:
    with pytest.raises(SelectionError, match="1 of 2 selected samples are not among these 9: 'nobody'"):
        make().index_of(["folder/sample 0", "nobody"])
    with pytest.raises(SelectionError, match="class 7"):
        make().of_classes([7])


def test_duplicate_and_impossible_ids_are_refused() -> None:
    with pytest.raises(SampleSetError, match="'b' occurs more than once"):
        make(3, sample_ids=["a", "b", "b"])
    for bad in ("", " a", "a\n", "a\x1fb", "\ud800", "x" * 201, None):
        with pytest.raises(SampleSetError, match="sample"):
            make(3, sample_ids=["a", bad, "c"])
    assert "日本/é 1.png" in SampleIndex(("日本/é 1.png",))


def test_images_and_lists_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SampleSetError, match="2 values of class_label were given for 9 images"):
        make(class_labels=[1, 2])
    with pytest.raises(ShapeError, match="float32"):
        SampleSet.from_images(np.zeros((1, 2, 2, 3), np.float32), ["a"])
    with pytest.raises(ShapeError):
        SampleSet.from_images(np.zeros((1, 3, 2, 2), np.uint8), ["a"])
    with pytest.raises(SampleSetError, match="at least one sample"):
        SampleSet.from_images(np.zeros((0, 2, 2, 3), np.uint8), [])
    with pytest.raises(SampleSetError, match="class -2"):
        make(3, class_labels=[0, -2, 1])
    typed = make(3).table
    typed["class_label"] = pd.array([0, -3, 1], dtype="Int64")
    with pytest.raises(SampleSetError, match="class -3"):
        SampleSet(typed, make(3).pictures)
    with pytest.raises(SampleSetError, match="class_label"):
        make(3, class_labels=[0, 1.5, 1])


def test_class_zero_is_a_class_like_the_others() -> None:
    samples = make(
        5,
        class_labels=[0, 0, -1, None, None],
        class_names=["zero", None, None, None, None],
        prompts=[None, None, None, "a red cube", None],
    )
    assert [samples.class_text(row) for row in range(5)] == ["0: zero", "0", "uniform", "a red cube", ""]
    assert samples.classes == {0: "zero"}
    assert samples.class_labels.tolist() == [0, 0, -1, -1, -1]
    assert samples.of_classes([0]).sample_ids == samples.sample_ids[:2]


def test_digest_depends_on_all_that_an_extraction_depends_on_and_nothing_else() -> None:
    samples = make()
    brighter = samples.images
    brighter[8, 4, 6, 2] ^= 1
    changed = [
        SampleSet(samples.table, type(samples.pictures)(brighter)),
        make(class_labels=[(i + 1) % 3 for i in range(9)]),
        make(class_labels=[None] * 9),
        make(class_labels=[-1] * 9),
        make(prompts=["a"] * 9),
        make(sample_ids=[f"other {i}" for i in range(9)]),
        samples.select(samples.sample_ids[::-1]),
        samples.select(samples.sample_ids[:8]),
    ]
    assert len({samples.digest, *(other.digest for other in changed)}) == len(changed) + 1
    assert make(sources=["elsewhere"] * 9, seeds=[None] * 9).digest == samples.digest


def test_digest_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = make()
    digest = samples.digest
    monkeypatch.setattr(type(samples.pictures), "pixels", None)
    assert samples.digest == digest


def test_parquet_round_trip_keeps_everything(written: Path) -> None:
    samples, read = make(600), SampleSet.read_parquet(written)
    pd.testing.assert_frame_equal(read.table, samples.table)
    np.testing.assert_array_equal(read.images, samples.images)
    assert (read.digest, read.pictures.size) == (samples.digest, (5, 7))
    assert read.classes == {0: "zero", 1: "one", 2: "two"}
    wanted = ["folder/sample 599", "folder/sample 3", "folder/sample 256"]
    np.testing.assert_array_equal(read.images_of(wanted), samples.images_of(wanted))


def test_parquet_follows_the_hugging_face_image_convention(written: Path) -> None:
    schema = pq.read_schema(written)
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == features["thumbnail"] == {"_type": "Image"}
    assert features["class_label"] == {"dtype": "int64", "_type": "Value"}
    assert list(features) == schema.names
    assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    first = pq.read_table(written)["image"][0]["bytes"].as_py()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(first))), make(600).images[0])


def test_parquet_of_a_selection_holds_the_selection(written: Path, tmp_path: Path) -> None:
    chosen = SampleSet.read_parquet(written).select(["folder/sample 599", "folder/sample 1"])
    chosen.write_parquet(tmp_path / "chosen.parquet")
    read = SampleSet.read_parquet(tmp_path / "chosen.parquet")
    assert (read.digest, read.sample_ids) == (chosen.digest, ("folder/sample 599", "folder/sample 1"))


def test_parquet_decodes_only_what_is_asked_for(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = SampleSet.read_parquet(written)
    groups: list[int] = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, **options: groups.append(i) or original(self, i, **options)
    )
    read.images_of(["folder/sample 300"])
    read.images_of(["folder/sample 301"])
    assert groups == [1]


def test_parquet_serves_many_threads(written: Path) -> None:
    read, expected = SampleSet.read_parquet(written), make(600).images
    wrong: list[int] = []

    def visit(start: int) -> None:
        rows = range(start, 600, 37)
        images = read.images_of([f"folder/sample {row}" for row in rows])
        wrong.extend(row for row, image in zip(rows, images, strict=True) if not (image == expected[row]).all())

    threads = [threading.Thread(target=visit, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_open_set_survives_the_replacement_of_its_file(written: Path) -> None:
    read = SampleSet.read_parquet(written)
    make(3).write_parquet(written)
    np.testing.assert_array_equal(read.images_of(["folder/sample 599"]), make(600).images[599:])
    assert [file.name for file in written.parent.iterdir()] == ["samples.parquet"]


def test_parquet_fits_images_to_another_resolution(written: Path) -> None:
    assert SampleSet.read_parquet(written, resolution=4).images.shape == (600, 4, 4, 3)


def test_thumbnails_are_small_png_of_the_same_picture(tmp_path: Path) -> None:
    large = np.zeros((1, 600, 300, 3), np.uint8)
    large[:, :300] = 255
    samples = SampleSet.from_images(large, ["a"])
    samples.write_parquet(tmp_path / "large.parquet")
    for source in (samples, SampleSet.read_parquet(tmp_path / "large.parquet")):
        thumbnail = Image.open(io.BytesIO(source.thumbnails_of(["a"])[0]))
        assert (thumbnail.format, thumbnail.size) == ("PNG", (128, 256))
        assert (thumbnail.getpixel((64, 20)), thumbnail.getpixel((64, 230))) == ((255,) * 3, (0,) * 3)
    tiny = pictures(1)[0]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(thumbnail_png(tiny)))), tiny)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text"])
def test_damaged_parquet_is_named(written: Path, damage: str) -> None:
    data = bytearray(written.read_bytes())
    data[2000] ^= 0xFF
    written.write_bytes({"truncated": data[: len(data) // 2], "flipped": data, "text": b"hello"}[damage])
    with pytest.raises(CorruptDataError, match=r"samples\.parquet"):
        _ = SampleSet.read_parquet(written).images


def test_no_flipped_byte_changes_a_parquet_file_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    samples = make(20, prompts=[f"prompt number {i * 7919}" for i in range(20)])
    samples.write_parquet(path)
    whole = path.read_bytes()
    noticed = 0
    for offset in range(4, len(whole), 53):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x10]) + whole[offset + 1 :])
        try:
            read = SampleSet.read_parquet(path)
            np.testing.assert_array_equal(read.images, samples.images)
            pd.testing.assert_frame_equal(read.table, samples.table)
        except CorruptDataError:
            noticed += 1
    assert noticed > 20


def test_failed_writing_leaves_neither_file_nor_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = make()

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(type(samples.pictures), "encoded", fail)
    with pytest.raises(OSError, match="No space"):
        samples.write_parquet(tmp_path / "samples.parquet")
    assert list(tmp_path.iterdir()) == []


def write_table(path: Path, metadata: dict[bytes, bytes] | None = None, **columns: object) -> Path:
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def files(images: np.ndarray) -> list[dict]:
    return [{"bytes": encode_png(image), "path": None} for image in images]


def test_parquet_of_others_needs_only_images_and_ids(tmp_path: Path) -> None:
    path = write_table(tmp_path / "p.parquet", image=files(pictures(2)), sample_id=["a", "b"], extra=[1.0, 2.0])
    read = SampleSet.read_parquet(path)
    np.testing.assert_array_equal(read.images, pictures(2))
    assert read.table["class_label"].isna().all()


def test_parquet_without_images_or_ids_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(SampleSetError, match="image and sample_id"):
        SampleSet.read_parquet(write_table(tmp_path / "p.parquet", other=[1]))
    with pytest.raises(SampleSetError, match="does not exist"):
        SampleSet.read_parquet(tmp_path / "missing.parquet")
    half_empty = [*files(pictures(1)), {"bytes": b"", "path": None}]
    path = write_table(tmp_path / "q.parquet", image=half_empty, sample_id=["a", "b"])
    with pytest.raises(CorruptDataError, match="row 1 of"):
        SampleSet.read_parquet(path)


def test_parquet_with_a_hostile_image_names_sample_and_file(tmp_path: Path) -> None:
    hostile = [{"bytes": b"\x89PNG\r\n\x1a\nnot really", "path": None}]
    path = write_table(tmp_path / "p.parquet", image=hostile, sample_id=["bad one"])
    with pytest.raises(CorruptDataError, match=r"bad one in .*p\.parquet"):
        SampleSet.read_parquet(path)


def test_parquet_of_another_schema_version_is_refused(written: Path) -> None:
    table = pq.read_table(written)
    own = json.loads(table.schema.metadata[b"diffviews"])
    changed = {**table.schema.metadata, b"diffviews": json.dumps({**own, "schema": 99}).encode()}
    pq.write_table(table.replace_schema_metadata(changed), written)
    with pytest.raises(SchemaVersionError, match="schema 99"):
        SampleSet.read_parquet(written)


def test_parquet_that_claims_another_image_size_is_found_out(written: Path) -> None:
    table = pq.read_table(written)
    own = json.loads(table.schema.metadata[b"diffviews"])
    changed = {**table.schema.metadata, b"diffviews": json.dumps({**own, "size": [5, 8]}).encode()}
    pq.write_table(table.replace_schema_metadata(changed), written)
    with pytest.raises(CorruptDataError, match="5×7, but the set says 5×8"):
        _ = SampleSet.read_parquet(written).images


def test_stratified_takes_evenly_from_every_class_and_always_the_same() -> None:
    labels = [0] * 50 + [1] * 2 + [2] * 50 + [None] * 5
    rows = stratified_rows(labels, 20)
    taken = [labels[row] for row in rows]
    assert [taken.count(label) for label in (0, 1, 2, None)] == [7, 2, 6, 5]
    np.testing.assert_array_equal(rows, np.sort(rows))
    np.testing.assert_array_equal(rows, stratified_rows(labels, 20))
    assert set(stratified_rows(labels, 10)) < set(rows)
    assert len(stratified_rows(labels, 10**6)) == len(labels)
    with pytest.raises(SampleSetError, match="at least 1"):
        stratified_rows(labels, 0)


def test_concatenation_holds_both_sets_and_refuses_what_does_not_go_together() -> None:
    first, second = make(3), make(2, sample_ids=["x", "y"])
    both = concatenate([first, second])
    assert both.sample_ids == first.sample_ids + second.sample_ids
    np.testing.assert_array_equal(both.images, np.concatenate([first.images, second.images]))
    with pytest.raises(SampleSetError, match="more than once"):
        concatenate([first, first])
    with pytest.raises(SampleSetError, match="do not go together"):
        concatenate([first, SampleSet.from_images(pictures(1, 8, 8), ["z"])])
    with pytest.raises(SampleSetError, match="nothing"):
        concatenate([])
