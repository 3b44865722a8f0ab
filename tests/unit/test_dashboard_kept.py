"""What the dashboard keeps of maps: the most recently used, fewer of large ones, and small row numbers."""

import sys

import numpy as np

from diffviews.data.sample_index import SampleIndex
from panel_app.data import SampleRows
from panel_app.recent import Recent


def kept(recent, keys):
    return [key for key in keys if recent.known(key) is not None]


def test_heavy_values_leave_room_for_fewer():
    recent = Recent[str](4, len)
    for value in ("a", "bb", "c", "dd"):
        recent.get(value, lambda value=value: value)
    assert kept(recent, ["a", "bb", "c", "dd"]) == ["c", "dd"]


def test_value_heavier_than_all_room_is_kept_alone():
    recent = Recent[str](4, len)
    recent.get("a", lambda: "a")
    recent.get("heavy", lambda: "heavy")
    assert kept(recent, ["a", "heavy"]) == ["heavy"]


def test_rows_equal_a_dictionary_at_random_tables():
    random = np.random.default_rng(7)
    for count in (1, 2, 17, 300):
        ids = tuple(f"s{i}" for i in range(count))
        table = [ids[i] for i in random.permutation(count)[: count - count // 3]] + ["elsewhere"]
        expected = {s: row for row, s in enumerate(table) if s in ids}
        rows = SampleRows(SampleIndex(ids), table)
        assert list(rows.items()) == list(expected.items())
        assert len(rows) == len(expected)
        assert [s in rows for s in (*ids, "elsewhere")] == [s in expected for s in (*ids, "elsewhere")]
        assert rows.get("elsewhere", -1) == -1
        assert all(rows.get(s) == expected.get(s) for s in ids)


def test_rows_of_a_joint_map_are_those_of_its_own_level():
    ids = ("a", "b", "c")
    chosen = np.array([False] * 3 + [True] * 3)
    assert dict(SampleRows(SampleIndex(ids), [*ids, *reversed(ids)], chosen)) == {"c": 3, "b": 4, "a": 5}


def test_rows_of_a_map_take_four_bytes_a_sample():
    ids = tuple(f"s{i}" for i in range(10_000))
    rows = SampleRows(SampleIndex(ids), ids)
    assert rows._rows.nbytes == 40_000
    assert sys.getsizeof({s: i for i, s in enumerate(ids)}) > 5 * rows._rows.nbytes
