"""Data sets of Hugging Face, plain Parquet and WebDataset become sample sets, labels named."""

import decimal
import io
import json
import logging
import re
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffviews.data import hf_source
from diffviews.data.class_labels import load_class_labels_map
from diffviews.data.prompts import read_prompts
from diffviews.data.sources import open_source
from diffviews.errors import CorruptDataError, SampleSetError

datasets = pytest.importorskip("datasets", reason="needs diffviews[hf]")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 2, 2, 2]
NAMES = ["cat", "dog", "bird"]


def made(**columns: Any) -> "datasets.Dataset":
    """Return a data set of the twelve images with further columns, {name: (values, feature)}."""
    features = datasets.Features({"image": datasets.Image(), **{name: kind for name, (_, kind) in columns.items()}})
    values = {"image": [Image.fromarray(pixels) for pixels in PIXELS], **{n: v for n, (v, _) in columns.items()}}
    return datasets.Dataset.from_dict(values, features=features)


def named(names: list[str] = NAMES, labels: list[int] = LABELS) -> tuple[list[int], Any]:
    return labels, datasets.ClassLabel(names=names)


def parquet_file(data: "datasets.Dataset", path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data.to_parquet(str(path))
    return path


# Saved data sets


def test_saved_data_set_opens_with_named_labels_and_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(label=named()).save_to_disk(str(tmp_path / "set"))
    with caplog.at_level(logging.INFO, "diffviews"):
        samples = open_source(f"hf:{tmp_path / 'set'}")
    assert np.array_equal(samples.images, PIXELS)
    assert samples.class_labels.tolist() == LABELS
    assert samples.classes == dict(enumerate(NAMES))
    assert samples.sample_ids[:2] == ("set-0000000", "set-0000001")
    assert not caplog.messages


@pytest.mark.parametrize("resolution", [None, 4])
def test_hub_folder_parquet_and_disk_are_the_same_samples(
    tmp_path: Path, resolution: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = made(label=named(), id=([f"x{n}" for n in range(12)], datasets.Value("string")))
    datasets.DatasetDict(train=data).save_to_disk(str(tmp_path / "disk"))
    parquet_file(data, tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    specs = [f"hf:{tmp_path / 'disk'}", f"hf:{tmp_path / 'hub'}", f"parquet:{tmp_path / 'hub'}"]
    found = [open_source(spec, resolution=resolution) for spec in [*specs, f"hf:{tmp_path / 'disk'}:train"]]
    assert len({samples.digest for samples in found}) == 1
    assert all(samples.sample_ids[3] == "x3" and samples.classes[2] == "bird" for samples in found)


def test_splits_are_chosen_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = made(label=named())
    datasets.DatasetDict(train=data, test=data.select(range(5))).save_to_disk(str(tmp_path / "set"))
    assert len(open_source(f"hf:{tmp_path / 'set'}:test")) == 5
    with caplog.at_level(logging.INFO, "diffviews"):
        assert len(open_source(f"hf:{tmp_path / 'set'}")) == 12
    assert "has the splits train, test; train is taken" in caplog.text
    with pytest.raises(SampleSetError, match=r"split 'tset'.*did you mean 'test'"):
        open_source(f"hf:{tmp_path / 'set'}:tset")
    datasets.DatasetDict(one=data, two=data).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(SampleSetError, match=r"splits one, two; choose one: hf:.*:one"):
        open_source(f"hf:{tmp_path / 'both'}")


def test_max_samples_are_even_over_the_classes_and_keep_their_ids(tmp_path: Path) -> None:
    made(label=named()).save_to_disk(str(tmp_path / "set"))
    whole, few = (open_source(f"hf:{tmp_path / 'set'}", max_samples=most) for most in (None, 6))
    assert few.class_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert few.digest == whole.select(few.sample_ids).digest


def test_prompts_and_several_columns_of_labels_are_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = made(
        coarse_label=named(["a", "b", "c"], [2 - label for label in LABELS]),
        fine_label=named(),
        text=([["a cat", "another"]] * 12, datasets.List(datasets.Value("string"))),
        width=([6] * 12, datasets.Value("int64")),
    )
    data.save_to_disk(str(tmp_path / "set"))
    with caplog.at_level(logging.INFO, "diffviews"):
        samples = open_source(f"hf:{tmp_path / 'set'}")
    assert samples.classes == dict(enumerate(NAMES))
    assert set(samples.prompts) == {"a cat"}
    assert caplog.messages == [f"columns of hf:{tmp_path / 'set'} that are not used: coarse_label, width"]


def test_ids_that_do_not_tell_rows_apart_are_not_taken(tmp_path: Path) -> None:
    made(id=([1] * 12, datasets.Value("int64"))).save_to_disk(str(tmp_path / "set"))
    assert open_source(f"hf:{tmp_path / 'set'}").sample_ids[11] == "set-0000011"


def test_unlabelled_rows_have_no_class(tmp_path: Path) -> None:
    made(label=named(labels=[-1, *LABELS[1:]])).save_to_disk(str(tmp_path / "set"))
    samples = open_source(f"hf:{tmp_path / 'set'}")
    assert samples.table["class_label"].isna().sum() == 1
    assert samples.class_labels.tolist() == [-1, *LABELS[1:]]


@pytest.mark.parametrize(
    ("names", "labels", "order"),
    [
        (["0", "1", "10"], [0, 1, 10], "own"),
        (["7", "3", "5"], [7, 3, 5], "own"),
        (["n01443537", "n01440764", "n02099601"], [1, 0, 207], "standard"),
    ],
)
def test_names_of_classes_that_are_numbers_or_synsets_are_labels(
    tmp_path: Path, names: list[str], labels: list[int], order: str
) -> None:
    made(label=named(names)).save_to_disk(str(tmp_path / "set"))
    samples = open_source(f"hf:{tmp_path / 'set'}")
    assert samples.class_labels.tolist() == [labels[label] for label in LABELS]
    assert samples.class_order == order


def test_imagenet_by_its_names_is_imagenet(tmp_path: Path) -> None:
    entries = load_class_labels_map()
    names = [f"{entries[str(n)][1].replace('_', ' ')}, {n}" for n in range(1000)]  # 'tench, Tinca tinca'
    made(label=named(names, [207, 0, 999] * 4)).save_to_disk(str(tmp_path / "set"))
    samples = open_source(f"hf:{tmp_path / 'set'}")
    assert samples.class_order == "standard"
    assert samples.classes == {0: "tench", 207: "golden_retriever", 999: "toilet_tissue"}


def test_image_folder_of_the_library_is_read_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name, pixels in zip(("cat/a", "cat/b", "dog/a"), PIXELS, strict=False):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "set" / f"{name}.png")
    samples = open_source(f"hf:{tmp_path / 'set'}")
    assert samples.classes == {0: "cat", 1: "dog"}
    assert sorted(map(bytes, samples.images)) == sorted(map(bytes, PIXELS[:3]))


def test_images_outside_the_data_set_are_refused(tmp_path: Path) -> None:
    Image.fromarray(PIXELS[0]).save(tmp_path / "secret.png")
    files = hf_source.DatasetImages([{}], "image", "hf:x", (tmp_path / "set",))
    with pytest.raises(CorruptDataError, match="outside the data set"):
        files._bytes({"bytes": None, "path": str(tmp_path / "secret.png")}, 0)
    with pytest.raises(CorruptDataError, match="row 0 of hf:x has no image"):
        files._bytes({"bytes": None, "path": None}, 0)


def test_large_sets_are_streamed_evenly_over_their_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hf_source, "STREAM_BYTES", 0)
    data = made(label=named(labels=sorted(LABELS)), id=(list(range(12)), datasets.Value("int64")))
    parquet_file(data, tmp_path / "hub" / "train.parquet")
    (tmp_path / "hub" / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
        "      class_label:\n        names:\n          '0': cat\n          '1': dog\n          '2': bird\n"
        "  - name: id\n    dtype: int64\n  splits:\n  - name: train\n    num_bytes: 9000\n    num_examples: 12\n"
        "  download_size: 9000\n  dataset_size: 9000\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: train.parquet\n---\n"
    )
    samples = open_source(f"hf:{tmp_path / 'hub'}", max_samples=6)
    assert samples.sample_ids == ("0", "1", "3", "4", "6", "7")
    assert np.array_equal(samples.images[2], PIXELS[3])


@pytest.mark.parametrize(
    ("spec", "said"),
    [("hf:", "needs a name"), ("hf:/no/such/folder", "cannot be opened"), ("hf:no/such:test", "cannot be opened")],
)
def test_data_sets_that_are_not_there_are_refused(spec: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(SampleSetError, match=said):
        open_source(spec)


def test_a_set_without_images_or_the_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.Dataset.from_dict({"text": ["a"], "label": [1]}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(SampleSetError, match="lacks a column of images; its columns are text, label"):
        open_source(f"hf:{tmp_path / 'set'}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SampleSetError, match=r"pip install 'diffviews\[hf\]'"):
        open_source(f"hf:{tmp_path / 'set'}")


# Parquet


def test_plain_file_opens_with_named_labels_and_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = parquet_file(made(label=named()), tmp_path / "mnist.parquet")
    with caplog.at_level(logging.INFO):
        samples = open_source(f"parquet:{path}")
    assert np.array_equal(samples.images, PIXELS)
    assert samples.classes == dict(enumerate(NAMES))
    assert samples.sample_ids[5] == "mnist-0000005"
    assert not caplog.messages
    assert open_source(f"parquet:{path}", max_samples=3).class_labels.tolist() == [0, 1, 2]


def test_shards_of_a_folder_are_one_set_and_splits_a_choice(tmp_path: Path) -> None:
    data = made(label=named())
    for number, rows in enumerate((range(0, 5), range(5, 12))):
        parquet_file(data.select(rows), tmp_path / "one" / "data" / f"train-{number:05d}-of-00002.parquet")
    samples = open_source(f"parquet:{tmp_path / 'one'}")
    assert np.array_equal(samples.images, PIXELS)
    assert samples.sample_ids[6] == "train-0000006"
    assert np.array_equal(samples.images_of(["train-0000007", "train-0000001"]), PIXELS[[7, 1]])
    parquet_file(data.select(range(3)), tmp_path / "one" / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(SampleSetError, match=r"holds the splits test, train; choose one: parquet:.*:train"):
        open_source(f"parquet:{tmp_path / 'one'}")
    assert len(open_source(f"parquet:{tmp_path / 'one'}:test")) == 3
    (tmp_path / "one" / "data" / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(SampleSetError, match=r"shard 00000 of .* is missing, of 00002"):
        open_source(f"parquet:{tmp_path / 'one'}:train")


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_files_of_other_writers_are_read_too(tmp_path: Path) -> None:
    files = [png(pixels) for pixels in PIXELS[:3]]
    pq.write_table(pa.table({"img": files, "y": [2, 0, 2], "caption": ["a", "b", None]}), tmp_path / "bytes.parquet")
    samples = open_source(f"parquet:{tmp_path / 'bytes.parquet'}")
    assert (samples.class_labels.tolist(), samples.classes) == ([2, 0, 2], {0: "", 2: ""})
    assert samples.prompts == ("a", "b", None)
    pq.write_table(pa.table({"jpg": files, "Class": ["dog", "cat", None]}), tmp_path / "text.parquet")
    samples = open_source(f"parquet:{tmp_path / 'text.parquet'}")
    assert samples.classes == {0: "cat", 1: "dog"}
    assert samples.class_labels.tolist() == [1, 0, -1]
    again = tmp_path / "again.parquet"
    samples.write_parquet(again)
    assert open_source(f"parquet:{again}").digest == samples.digest


@pytest.mark.parametrize(
    ("name", "values", "expected", "said"),
    [
        ("label", [0.5, 1, 2], [-1, -1, -1], "column label of .* holds '0.5', no whole number; it is not used"),
        ("label", [3.0, None, 1.0], [3, -1, 1], ""),
        ("label", [True, False, True], [1, 0, 1], ""),
        ("label", [-1, -1, 4], [-1, -1, 4], ""),
        ("label", [decimal.Decimal(3), None, decimal.Decimal(1)], [3, -1, 1], ""),
        ("label", pa.array([7, 2, 7]).dictionary_encode(), [7, 2, 7], ""),
        ("label", pa.array(["b", "a", "b"]).dictionary_encode(), [1, 0, 1], ""),
        ("label", pa.array(["b", "a", None], pa.large_string()), [1, 0, -1], ""),
        ("label", pa.array(["b", "a", None], pa.string_view()), [1, 0, -1], ""),
        ("label", [[0, 1], [1], []], [-1, -1, -1], "holds lists and not one class a row"),
        ("seed", pa.array([5, 2**64 - 1, 6], pa.uint64()), [None] * 3, "column seed of .* holds '1844"),
        ("seed", ["a", "b", "c"], [None] * 3, "column seed of .* holds 'a', no whole number; it is not used"),
        ("evaluation_seed", [5, 6, None], [5, 6, None], ""),
        ("caption", [{"raw": "a dog", "sentid": 3}] * 3, ["a dog"] * 3, ""),
        ("sentences", [[{"raw": "a dog", "sentid": 3}]] * 3, ["a dog"] * 3, ""),
        ("caption", [{"en": "a dog", "de": "ein Hund"}] * 3, [None] * 3, "holds objects and not one text a row"),
        ("id", ["a", None, "c"], ["x-0000000", "x-0000001", "x-0000002"], "column id of .* cannot name its rows"),
        ("id", [" a", "b", "c"], ["x-0000000", "x-0000001", "x-0000002"], "padded with spaces"),
        ("uid", ["a" * 201, "b", "c"], ["x-0000000", "x-0000001", "x-0000002"], "longer than 200"),
        ("imageId", [4, 5, 6], ["4", "5", "6"], ""),
    ],
)
def test_columns_of_any_type_are_read_or_set_aside_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, values: Any, expected: list[Any], said: str
) -> None:
    pq.write_table(pa.table({"image": [{"bytes": png(p)} for p in PIXELS[:3]], name: values}), tmp_path / "x.parquet")
    with caplog.at_level(logging.INFO, "diffviews"):
        samples = open_source(f"parquet:{tmp_path / 'x.parquet'}")
    seeds = [None if seed is pd.NA else seed for seed in samples.table["seed"]]
    found = {
        "label": samples.class_labels.tolist(), "seed": seeds, "evaluation_seed": seeds,
        "caption": list(samples.prompts), "sentences": list(samples.prompts),
    }  # fmt: skip
    assert found.get(name, list(samples.sample_ids)) == expected
    assert re.search(said, caplog.text) if said else not caplog.messages


def test_unlabelled_numbers_are_no_uniform_label(tmp_path: Path) -> None:
    images = [{"bytes": png(pixels)} for pixels in PIXELS[:2]]
    pq.write_table(pa.table({"image": images, "label": [-1, 1]}), tmp_path / "x.parquet")
    assert open_source(f"parquet:{tmp_path / 'x.parquet'}").table["class_label"].isna().tolist() == [True, False]


def test_the_column_of_images_is_said_where_there_are_several(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = ([{"bytes": png(pixels)}] for pixels in PIXELS[:2])
    for names, chosen in ((("original", "edited"), 0), (("conditioning", "image"), 1)):
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table(dict(zip(names, (first, second), strict=True))), path)
        with caplog.at_level(logging.INFO, "diffviews"):
            assert np.array_equal(open_source(f"parquet:{path}").images[0], PIXELS[chosen])
        assert caplog.messages == [
            f"the images of {path} are its column {names[chosen]}",
            f"columns of {path} that are not used: {names[1 - chosen]}",
        ]
        caplog.clear()


def test_many_unused_columns_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = {f"pixel{n}": [0] for n in range(784)}
    pq.write_table(pa.table({"image": [{"bytes": png(PIXELS[0])}], **pixels}), tmp_path / "x.parquet")
    with caplog.at_level(logging.INFO, "diffviews"):
        open_source(f"parquet:{tmp_path / 'x.parquet'}")
    assert caplog.messages[0].endswith("pixel48, pixel49, … and 734 more")


def test_impossible_files_are_refused(tmp_path: Path) -> None:
    image = [{"bytes": png(PIXELS[0]), "path": None}]
    for name, columns, said in (
        ("text", {"text": ["a"]}, "lacks a column of images; its columns are text"),
        ("laion", {"URL": ["a"], "TEXT": ["b"]}, r"lacks a column of images.* URL, TEXT\. .*img2dataset"),
        ("lists", {"image": [image]}, r"lacks a column of images.* cast it to datasets\.Image\(\)"),
        ("paths", {"image": ["a.png"]}, r"lacks a column of images.* cast it to datasets\.Image\(\)"),
        ("lost", {"image": [{"bytes": None, "path": "a.png"}]}, "row 0 of .* has no image"),
    ):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        with pytest.raises((SampleSetError, CorruptDataError), match=said):
            open_source(f"parquet:{tmp_path / name}.parquet")
    outside = made(label=named())
    table = pq.read_table(parquet_file(outside, tmp_path / "x.parquet"))
    pq.write_table(table.set_column(1, table.schema.field("label"), [[9] * 12]), tmp_path / "x.parquet")
    with pytest.raises(SampleSetError, match="has the class 9, but names 3"):
        open_source(f"parquet:{tmp_path / 'x.parquet'}")
    (tmp_path / "none").mkdir()
    with pytest.raises(SampleSetError, match=r"holds no \.parquet"):
        open_source(f"parquet:{tmp_path / 'none'}")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train", "test"], r"holds the splits test, train; choose one"),
        (["mnist_train_0", "mnist_train_1", "mnist_test_0"], r"splits mnist_test, mnist_train"),
        (["a/train-00000-of-00001", "b/train-00000-of-00001"], r"several sets, in .*/a, .*/b; choose one"),
        (["a/train/0000", "b/train/0000"], r"several sets, in .*/a/train, .*/b/train"),
    ],
)
def test_files_of_several_sets_are_never_one(tmp_path: Path, names: list[str], said: str) -> None:
    for name in names:
        parquet_file(made(label=named()), tmp_path / f"{name}.parquet")
    with pytest.raises(SampleSetError, match=said):
        open_source(f"parquet:{tmp_path}")
    split = "test" if len(names[0]) == 5 else "mnist_test"
    if "/" not in names[0]:
        assert len(open_source(f"parquet:{tmp_path}:{split}")) == 12


def test_shards_that_number_other_classes_are_refused(tmp_path: Path) -> None:
    for number, names in enumerate((NAMES, NAMES[::-1])):
        parquet_file(made(label=named(names)), tmp_path / f"train-{number:05d}-of-00002.parquet")
    with pytest.raises(SampleSetError, match="numbers other classes than"):
        open_source(f"parquet:{tmp_path}")


def test_images_are_bytes_of_any_type_under_any_name_and_never_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    files = [png(pixels) for pixels in PIXELS[:3]]
    for name, kind in (("content", pa.binary()), ("photo", pa.large_binary()), ("image", pa.binary_view())):
        table = pa.table({name: pa.array(files, kind), "label": [1, 2, 3]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        for source in ("parquet", "hf") if name != "image" else ("parquet",):
            samples = open_source(f"{source}:{tmp_path / name}.parquet")
            assert np.array_equal(samples.images, PIXELS[:3])
            assert samples.class_labels.tolist() == [1, 2, 3]
    sound = pa.array([{"bytes": b"RIFF", "path": None}] * 3)
    said = {b"huggingface": json.dumps({"info": {"features": {"audio": {"_type": "Audio"}}}}).encode()}
    pq.write_table(pa.table({"audio": sound, "jpg": files}).replace_schema_metadata(said), tmp_path / "film.parquet")
    assert np.array_equal(open_source(f"parquet:{tmp_path / 'film.parquet'}").images, PIXELS[:3])


def test_single_files_of_a_data_set_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    made(label=named()).save_to_disk(str(tmp_path / "set"))
    arrow = next((tmp_path / "set").glob("*.arrow"))
    parquet_file(made(label=named()), tmp_path / "mnist.parquet")
    for path in (arrow, tmp_path / "mnist.parquet"):
        samples = open_source(f"hf:{path}")
        assert samples.classes == dict(enumerate(NAMES))
        assert samples.sample_ids[3] == f"{path.stem}-0000003"
    (tmp_path / "a.pkl").write_bytes(b"x")
    with pytest.raises(SampleSetError, match="a kind that datasets does not open"):
        open_source(f"hf:{tmp_path / 'a.pkl'}")
    with pytest.raises(SampleSetError, match=r"holds no \.parquet file; write hf:"):
        open_source(f"parquet:{tmp_path / 'set'}")
    with pytest.raises(SampleSetError, match="write parquet:<file>"):
        open_source(f"folder:{tmp_path / 'mnist.parquet'}")


# WebDataset


def tar_of(path: Path, files: dict[str, bytes | str], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_webdataset_has_class_prompt_and_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files: dict[str, bytes | str] = {}
    for number in range(4):
        files |= {f"s/{number:04d}.png": png(PIXELS[number]), f"s/{number:04d}.cls": str(number % 2 * 7)}
        files |= {f"s/{number:04d}.txt": f"picture {number}\n", f"s/{number:04d}.seg.png": b"x"}
    path = tar_of(tmp_path / "a.tar", files)
    with caplog.at_level(logging.INFO, "diffviews"):
        samples = open_source(f"tar:{path}")
    assert samples.sample_ids == ("s/0000", "s/0001", "s/0002", "s/0003")
    assert samples.class_labels.tolist() == [0, 7, 0, 7]
    assert samples.prompts[3] == "picture 3"
    assert np.array_equal(samples.images, PIXELS[:4])
    assert caplog.messages == [f"columns of tar:{path} that are not used: seg.png"]
    assert np.array_equal(open_source(f"tar:{path}", max_samples=2).images, PIXELS[:2])


def test_webdataset_fields_of_json_and_names_of_classes(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {}
    for number in range(3):
        files |= {f"{number}.jpg.png": b"not this", f"{number}.png": png(PIXELS[number])}
        files[f"{number}.json"] = json.dumps({"label": NAMES[number], "caption": f"c{number}", "seed": number})
    samples = open_source(f"tar:{tar_of(tmp_path / 'a.tar', files)}")
    assert samples.classes == {0: "bird", 1: "cat", 2: "dog"}
    assert samples.class_labels.tolist() == [1, 2, 0]
    assert samples.prompts == ("c0", "c1", "c2")
    assert samples.table["seed"].tolist() == [0, 1, 2]


def test_webdataset_of_several_archives_or_folders_of_classes(tmp_path: Path) -> None:
    for shard in range(2):
        files = {f"{shard}{n}.png": png(PIXELS[3 * shard + n]) for n in range(3)}
        tar_of(tmp_path / "set" / f"t-{shard:03d}.tar", files)
    for spec in (f"tar:{tmp_path / 'set'}", f"tar:{tmp_path / 'set'}/t-{{000..001}}.tar"):
        samples = open_source(spec)
        assert samples.sample_ids == ("00", "01", "02", "10", "11", "12")
        assert np.array_equal(samples.images, PIXELS[:6])
    classes = {f"./{name}/{n}.png": png(PIXELS[n]) for n, name in enumerate(("n01443537", "n02099601"))}
    samples = open_source(f"tar:{tar_of(tmp_path / 'c.tar', classes)}")
    assert samples.classes == {1: "goldfish", 207: "golden_retriever"}


def test_archives_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    good = {"a.png": png(PIXELS[0])}
    zstd, cut = tmp_path / "a.tar.zst", tmp_path / "cut.tar.gz"
    zstd.write_bytes(b"\x28\xb5\x2f\xfd" + b"x" * 600)
    cut.write_bytes(tar_of(tmp_path / "gz.tar.gz", good, "w:gz").read_bytes()[:-20])
    with pytest.raises(CorruptDataError, match=r"cut\.tar\.gz cannot be unpacked"):
        open_source(f"tar:{cut}")
    for path, said in (
        (zstd, "is compressed with zstd; unpack it"),
        (tar_of(tmp_path / "t.tar", {"a.txt": "x"}), "holds no image"),
        (tmp_path / "no.tar", "no tar archive at"),
        (tmp_path / "t-{00..01}.tar", r"no tar archive at '.*t-00\.tar'"),
    ):
        with pytest.raises(SampleSetError, match=said):
            open_source(f"tar:{path}")
    (tmp_path / "text.tar").write_text("no archive " * 100)
    whole = tar_of(tmp_path / "whole.tar", good).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:600])
    for name in ("text", "cut"):
        with pytest.raises(CorruptDataError, match=f"{name}.tar"):
            open_source(f"tar:{tmp_path / name}.tar")
    tar_of(tmp_path / "twice.tar", good).write_bytes(whole[:1024] + whole)
    with pytest.raises(SampleSetError, match=r"a\.png occurs more than once in .*twice\.tar"):
        open_source(f"tar:{tmp_path / 'twice.tar'}")


@pytest.mark.parametrize(("mode", "ending"), [("gz", "tar.gz"), ("gz", "tgz"), ("bz2", "tar.bz2"), ("xz", "tar.xz")])
def test_compressed_archives_are_unpacked_and_bombs_refused(
    tmp_path: Path, mode: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"flowers/{name}.png": png(p) for name, p in zip(("rose/a", "rose/b", "tulip/a"), PIXELS, strict=False)}
    path = tar_of(tmp_path / "set" / f"flowers.{ending}", files | {"flowers/LICENSE.txt": "x"}, f"w:{mode}")
    plain = open_source(f"tar:{tar_of(tmp_path / 'flowers.tar', files)}")
    for spec in (path, path.parent, path / "flowers"):
        samples = open_source(f"tar:{spec}")
        assert samples.classes == plain.classes == {0: "rose", 1: "tulip"}
        assert np.array_equal(samples.images, PIXELS[:3])
    monkeypatch.setattr("diffviews.data.tar_source._MOST_TIMES", 0)
    monkeypatch.setattr("diffviews.data.tar_source._MOST_SMALL", 100)
    with pytest.raises(SampleSetError, match="unpacks to more than"):
        open_source(f"tar:{tar_of(tmp_path / f'bomb.{ending}', files, f'w:{mode}')}")


def test_sidecars_that_say_nothing_are_named_and_unreadable_ones_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tar_of(tmp_path / "list.tar", {"0.png": png(PIXELS[0]), "0.json": "[1, 2]"})
    with caplog.at_level(logging.INFO, "diffviews"):
        open_source(f"tar:{path}")
    assert caplog.messages == [f"columns of tar:{path} that are not used: json"]
    path = tar_of(tmp_path / "latin.tar", {"0.png": png(PIXELS[0]), "0.txt": "café".encode("latin-1")})
    with pytest.raises(CorruptDataError, match=r"0\.txt in .*latin\.tar is not UTF-8 text"):
        open_source(f"tar:{path}")


def test_shards_may_use_the_same_keys(tmp_path: Path) -> None:
    for number in range(2):
        tar_of(tmp_path / f"{number:02d}.tar", {"0000.png": png(PIXELS[number]), "0000.cls": str(number - 1)})
    samples = open_source(f"tar:{tmp_path}")
    assert samples.sample_ids == ("00/0000", "01/0000")
    assert samples.class_labels.tolist() == [-1, 0]
    assert samples.table["class_label"].isna().tolist() == [True, False]
    assert np.array_equal(samples.images, PIXELS[:2])


def test_samples_without_an_image_and_splits_of_an_archive_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tar_of(tmp_path / "a.tar", {"0.png": png(PIXELS[0]), "1.json": '{"status": "failed"}', "1.txt": "x"})
    with caplog.at_level(logging.INFO, "diffviews"):
        open_source(f"tar:{path}")
    assert caplog.messages == [f"1 samples of tar:{path} have no image: 1, …"]
    files: dict[str, bytes | str] = {f"set/{name}/cat/a.png": png(PIXELS[0]) for name in ("train", "test")}
    path = tar_of(tmp_path / "b.tar", {**files, "set/test/dog/a.png": png(PIXELS[1])})
    with pytest.raises(SampleSetError, match=r"set holds the splits test, train; choose one: tar:.*/b\.tar/set/test"):
        open_source(f"tar:{path}")
    assert open_source(f"tar:{path}/set/test").classes == {0: "cat", 1: "dog"}


# Prompts of a data set


def test_prompts_of_a_data_set_are_its_text_column(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = {"Prompt": ["a heron", "a fox"], "Category": ["Birds", "Animals"], "Note": ["", "x"]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "parti"))
    with caplog.at_level(logging.INFO, "diffviews"):
        prompts = read_prompts(f"hf:{tmp_path / 'parti'}")
    assert [prompt.prompt for prompt in prompts] == ["a heron", "a fox"]
    assert prompts.categories == ("Animals", "Birds")
    assert caplog.messages == [f"columns of hf:{tmp_path / 'parti'} that are not used: Note"]
    made(beschreibung=([f"b{n}" for n in range(12)], datasets.Value("string"))).save_to_disk(str(tmp_path / "own"))
    assert [p.prompt for p in read_prompts(f"hf:{tmp_path / 'own'}", 2)] == ["b0", "b1"]
    made(text=(["t"] * 12, datasets.Value("string")), label=named()).save_to_disk(str(tmp_path / "classes"))
    assert read_prompts(f"hf:{tmp_path / 'classes'}").categories == ("bird", "cat", "dog")
    made(label=named()).save_to_disk(str(tmp_path / "none"))
    with pytest.raises(SampleSetError, match="no column of prompts"):
        read_prompts(f"hf:{tmp_path / 'none'}")
