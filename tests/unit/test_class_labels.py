"""ImageNet's two class orders."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from diffviews.data.class_labels import (
    get_class_name,
    load_class_labels,
    load_class_labels_map,
    load_imagenet64_to_standard_mapping,
    load_synsets,
    remap_imagenet64_labels_to_standard,
)
from diffviews.errors import SampleSetError

DOWNSAMPLED = Path(__file__).parents[2] / "diffviews" / "data" / "imagenet64_downsampled_classes.json"


def test_names_are_of_the_standard_order_by_default() -> None:
    assert get_class_name(207) == "golden_retriever"
    assert get_class_name(np.int64(0)) == "tench"
    assert get_class_name(1000) == "unknown_1000"
    assert get_class_name(-1) == "unknown_-1"
    assert len(load_class_labels()) == 1000


def test_names_of_another_order_come_from_its_file_and_do_not_stick() -> None:
    assert get_class_name(0, DOWNSAMPLED) == "kit_fox"
    assert get_class_name(0) == "tench"


def test_labels_map_holds_synset_and_name_and_is_a_copy() -> None:
    entries = load_class_labels_map()
    assert entries["1"] == ["n01443537", "goldfish"]
    entries["1"][1] = "changed"
    assert load_class_labels_map()["1"][1] == "goldfish"


def test_standard_order_is_that_of_the_sorted_synsets() -> None:
    synsets = load_synsets()
    assert [synsets[synset][0] for synset in sorted(synsets)] == list(range(1000))


def test_mapping_leads_every_downsampled_class_to_the_same_synset() -> None:
    mapping = load_imagenet64_to_standard_mapping()
    standard, downsampled = load_class_labels_map(), load_class_labels_map(DOWNSAMPLED)
    assert sorted(mapping) == sorted(mapping.values()) == list(range(1000))
    assert all(downsampled[str(index)] == standard[str(target)] for index, target in mapping.items())
    assert mapping != {index: index for index in mapping}


def test_remap_keeps_the_shape_and_refuses_what_is_no_class() -> None:
    mapping = load_imagenet64_to_standard_mapping()
    labels = np.array([[0, 999], [448, 0]], dtype=np.int32)
    remapped = remap_imagenet64_labels_to_standard(labels)
    assert remapped.tolist() == [[mapping[0], mapping[999]], [mapping[448], mapping[0]]]
    assert remap_imagenet64_labels_to_standard([0]).tolist() == [mapping[0]]
    for bad in ([1000], [-1], [0.5]):
        with pytest.raises(SampleSetError):
            remap_imagenet64_labels_to_standard(bad)


def test_missing_or_malformed_lists_are_named(tmp_path: Path) -> None:
    with pytest.raises(SampleSetError, match=r"none\.json cannot be read"):
        load_class_labels(tmp_path / "none.json")
    for content in ("[1]", '{"0": "tench"}', '{"x": ["n1", "a"]}', "{"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(SampleSetError, match=r"bad\.json"):
            load_class_labels(tmp_path / "bad.json")
    (tmp_path / "own.json").write_text(json.dumps({"0": ["n00000000", "nothing"]}))
    with pytest.raises(SampleSetError, match="n00000000"):
        load_imagenet64_to_standard_mapping(tmp_path / "own.json")


def test_edited_list_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    for second, name in enumerate(("first", "second"), start=1):
        path.write_text(json.dumps({"0": ["n01440764", name]}))
        os.utime(path, (second, second))
        assert get_class_name(0, path) == name
