"""Tables of measured values: what comes back, and how little they take."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from diffviews.data.parquet import write_table

RANDOM = np.random.default_rng(3)


def points(count):
    return pd.DataFrame({
        "sample_id": [f"class-7/picture-{row:06}" for row in range(count)],
        "x": RANDOM.normal(4, 3, count).astype(np.float32),
        "y": RANDOM.normal(-2, 3, count).astype(np.float32),
        "neighborhood_preservation": (RANDOM.integers(0, 11, count) / 10).astype(np.float32),
        "distance_to_data": RANDOM.gamma(9, 1, count).astype(np.float32),
    })


def test_points_come_back_as_they_were_in_half_the_space_of_the_defaults(tmp_path):
    frame = points(20_000)
    write_table(frame, tmp_path / "ours.parquet")
    frame.to_parquet(tmp_path / "usual.parquet", index=False)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "ours.parquet"), frame)
    assert (tmp_path / "ours.parquet").stat().st_size < 13 * len(frame)
    assert (tmp_path / "usual.parquet").stat().st_size > 24 * len(frame)
    assert "DELTA_BYTE_ARRAY" in pq.ParquetFile(tmp_path / "ours.parquet").metadata.row_group(0).column(0).encodings


@pytest.mark.parametrize(
    "column",
    [[1, 2, 2**60], [1.5, float("nan"), -0.0], ["é", None, ""], [True, False, True], [[1.0], [], None],
     [b"\x00", b"", None], pd.Categorical(["b", "a", "b"]), np.array([1, 2, 3], np.float16)],
    ids=["int", "float", "text", "bool", "list", "bytes", "category", "half"],
)  # fmt: skip
def test_columns_of_any_kind_come_back(tmp_path, column):
    frame = pd.DataFrame({"column": column}, index=[5, 6, 7])
    write_table(frame, tmp_path / "t.parquet")
    read = pd.read_parquet(tmp_path / "t.parquet")
    frame.to_parquet(tmp_path / "usual.parquet", index=False)
    pd.testing.assert_frame_equal(read, pd.read_parquet(tmp_path / "usual.parquet"))
    assert len(read) == 3
    assert read.index.tolist() == [0, 1, 2]


def test_empty_table_keeps_its_columns(tmp_path):
    write_table(points(0), tmp_path / "t.parquet")
    assert list(pd.read_parquet(tmp_path / "t.parquet")) == list(points(0))
