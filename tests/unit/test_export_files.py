"""Tables and images as files: nothing lost, nothing that runs, nothing that leaves its folder."""

import csv
import io
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffviews.data.samples import SampleSet
from diffviews.errors import SelectionError
from diffviews.pipelines import export
from diffviews.pipelines.export import file_names, file_stem, pictures_zip, safe_name, samples_csv, samples_json

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\tx", "\r=1"]


def read_csv(data):
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "sample_id": ["a", "b"],
            "prompt": pd.array(['say "hi", then\nleave', pd.NA], dtype="string"),
            "x": np.array([0.1, -2.5], np.float32),
            "count": [-3, 4],
            "far": [np.nan, np.inf],
            "kind": pd.Categorical(["odd", "even"]),
        }
    )


@pytest.fixture
def samples():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
    return SampleSet.from_images(images, ["../../etc/passwd", "a/b", "a:b"])


def test_csv_holds_every_value_as_it_is(table):
    head, first, second = read_csv(samples_csv(table))
    assert head == list(table.columns)
    assert first == ["a", 'say "hi", then\nleave', "0.1", "-3", "", "odd"]
    assert second == ["b", "", "-2.5", "4", "", "even"]


@pytest.mark.parametrize("text", FORMULAS)
def test_csv_never_begins_a_text_as_a_formula(text):
    rows = read_csv(samples_csv(pd.DataFrame({text: [text]})))
    assert [row[0][0] for row in rows] == ["'", "'"]
    assert rows[1][0][1:] == text


def test_json_holds_exact_texts_and_null_for_what_is_missing(table):
    hostile = table.assign(prompt=["=1+1", None])
    read = json.loads(samples_json(hostile, {"layer": "midblock"}))
    assert read["layer"] == "midblock"
    assert read["samples"][0] == {"sample_id": "a", "prompt": "=1+1", "x": 0.1, "count": -3, "far": None, "kind": "odd"}
    assert read["samples"][1]["prompt"] is None


def test_zip_holds_each_image_exactly_and_no_path(samples):
    archive = zipfile.ZipFile(io.BytesIO(pictures_zip(samples, samples.sample_ids)))
    head, *rows = read_csv(archive.read("samples.csv"))
    assert head == ["sample_id", "file"]
    assert [row[0] for row in rows] == list(samples.sample_ids)
    assert sorted(archive.namelist()) == sorted(["samples.csv", *(row[1] for row in rows)])
    assert not [name for name in archive.namelist() if "/" in name or "\\" in name or name.startswith(".")]
    for sample_id, name in rows:
        pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))))
        assert (pixels == samples.images_of([sample_id])[0]).all()


def test_zip_of_nothing_or_of_too_much_is_refused(samples, monkeypatch):
    with pytest.raises(SelectionError, match="no sample to export"):
        pictures_zip(samples, [])
    monkeypatch.setattr(export, "LARGEST_ZIP", 2 * 4 * 6 * 3)
    with pytest.raises(SelectionError, match="choose up to 2"):
        pictures_zip(samples, samples.sample_ids)


def test_file_names_are_safe_and_each_different():
    names = file_names(["a/b", "a:b", "A_b", "..", "", "CON", "nul.txt", "ü 猫", "x" * 500, ".hidden", "-rf"])
    assert names[:3] == ["a_b.png", "a_b-2.png", "A_b-3.png"]
    assert len({name.casefold() for name in names}) == len(names)
    assert names[5:8] == ["_CON.png", "_nul.txt.png", "ü_猫.png"]
    assert not [n for n in names if n.startswith((".", "-")) or set(n) & set('/\\:*?"<>|\0') or len(n) > 120]
    assert safe_name("digits-0001") == "digits-0001"


def test_file_stem_says_model_layer_and_sigma():
    assert file_stem("edm-digits", "mid/block", 0.5) == "edm-digits_mid_block_sigma0.5"
    assert file_stem(None, "midblock", None) == "model_midblock"
