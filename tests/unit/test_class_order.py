"""Labels condition, name or compare only as the classes that they are."""

import json
import logging
import os
import shlex
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffviews.adapters.edm import EDMAdapter
from diffviews.adapters.edm_imagenet import EDMImageNetAdapter
from diffviews.data.class_labels import load_class_labels, load_class_labels_map, load_imagenet64_to_standard_mapping
from diffviews.data.class_order import NamedClasses, map_classes, same_classes
from diffviews.data.folder_classes import split_of
from diffviews.data.samples import SampleSet
from diffviews.data.sources import open_source
from diffviews.errors import ConfigError, CorruptDataError, SampleSetError
from diffviews.models.adm_unet import ADMUNet
from diffviews.models.preconditioning import EDMPrecond
from diffviews.pipelines.conditioning import mapped, resolve_conditioning
from diffviews.pipelines.models import ModelFolder, describe
from diffviews.recipes import ExtractionRecipe
from tests.fakes import GaussianAdapter, TextAdapter

IMAGENET = load_class_labels()


def save(path: Path, grey: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), grey).save(path)


def folder_of(root: Path, *names: str) -> SampleSet:
    for number, name in enumerate(names):
        save(root / name / "a.png", number)
    return open_source(f"folder:{root}")


def small_edm(classes: int, cls: type[EDMAdapter] = EDMImageNetAdapter, **config: object) -> EDMAdapter:
    options = {
        "img_resolution": 8, "img_channels": 3, "label_dim": classes, "model_channels": 8, "channel_mult": [1],
        "channel_mult_emb": 1, "num_blocks": 1, "attn_resolutions": [],
    }  # fmt: skip
    with torch.device("meta"):
        network = ADMUNet(**options)  # type: ignore[arg-type]
    return cls(EDMPrecond(network), {**options, **config})


class Undropped(GaussianAdapter):
    """Four classes, no unconditional pass."""

    names: tuple[str, ...] = ("ant", "bee", "cat", "dog")

    @property
    def class_names(self):
        return self.names or super().class_names


# Folders


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["3", "7"], [3, 7]),
        ([str(n) for n in range(11)], [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]),
        (["003", "010", "2"], [3, 10, 2]),
        (["0", "999"], [0, 999]),
    ],
)
def test_folders_named_by_whole_numbers_are_the_labels(tmp_path: Path, names: list[str], labels: list[int]) -> None:
    samples = folder_of(tmp_path, *names)
    assert samples.class_labels.tolist() == labels
    assert samples.class_order == "own"
    assert [samples.class_text(row).partition(":")[0] for row in range(len(samples))] == [str(n) for n in labels]


@pytest.mark.parametrize("names", [["3", "03"], ["1", "two"], ["-1", "1"], ["1.5", "2"]])
def test_folders_that_are_not_all_different_numbers_count_as_names(tmp_path: Path, names: list[str]) -> None:
    samples = folder_of(tmp_path, *names)
    assert sorted(samples.class_labels.tolist()) == [0, 1]
    assert samples.class_order == "folders"


def test_classes_beyond_nine_are_numbered_in_order_by_their_text(tmp_path: Path) -> None:
    samples = folder_of(tmp_path, *[f"c{n}" for n in range(12)])
    assert samples.classes == dict(enumerate(sorted(f"c{n}" for n in range(12))))


# Names


def test_imagenet_names_in_either_order_get_standard_labels() -> None:
    entries = load_class_labels_map()
    standard = [entries[str(n)][1].replace("_", " ") + ", some synonym" for n in range(1000)]
    assert NamedClasses.of(standard) == NamedClasses(
        tuple(range(1000)), tuple(IMAGENET[n] for n in range(1000)), "standard"
    )
    mapping = load_imagenet64_to_standard_mapping()
    downsampled = NamedClasses.of([IMAGENET[mapping[n]] for n in range(1000)])
    assert downsampled.labels == tuple(mapping[n] for n in range(1000))
    assert NamedClasses.of([entries["5"][0], entries["1"][0]]).labels == (5, 1)
    assert NamedClasses.of([entries["5"][0] + "_electric_ray", entries["1"][0] + " goldfish"]).labels == (5, 1)
    assert NamedClasses.of(["n00000001_x", entries["1"][0]]).order == "own"
    assert NamedClasses.of(list(reversed(standard))).order == "own"
    assert NamedClasses.of(["tench", "goldfish"]) == NamedClasses((0, 1), ("tench", "goldfish"), "own")


def labelled(labels: list[int | None], names: list[str | None] | None = None, order: str = "own") -> SampleSet:
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    ids = [str(n) for n in range(len(labels))]
    return SampleSet.from_images(images, ids, class_labels=labels, class_names=names, class_order=order)


GENERIC = tuple(f"class {n}" for n in range(10))
DIGITS = tuple(map(str, range(10)))


@pytest.mark.parametrize(
    ("labels", "names", "model", "same"),
    [
        ([0, 1], ["cat", "dog"], ("cat", "dog"), True),
        ([0, 1], ["Great White-Shark", "dog"], ("great_white_shark", "Dog, hound"), True),
        ([1], ["dog"], ("cat", "dog"), True),
        ([0, 1], ["cat", "dog"], ("dog", "cat"), False),
        ([0, 1], ["cats", "dogs"], ("tench", "goldfish"), False),
        ([0, 2], ["cat", "dog"], ("cat", "dog"), False),
        ([0, 1], None, ("cat", "dog"), False),
        ([0, 1], ["cat", "dog"], GENERIC, False),
        ([3, 7], ["3", "7"], DIGITS, True),
        ([0, 1], ["3", "7"], DIGITS, False),
        ([3, 7], ["3", "7"], GENERIC, True),
        ([3, 9], None, GENERIC, True),
        ([3, 10], None, GENERIC, False),
        ([0, 9], ["zero", "nine"], DIGITS, True),
        ([0], ["nine"], DIGITS, False),
        ([0, 1], ["T - shirt / top", "Ankle boot"], ("T-shirt/top", "ankle_boot"), True),
        ([0, 1], ["shirt, blue", "shirt, red"], ("shirt, red", "shirt, blue"), False),
        ([0, 1], ["tench, Tinca tinca", "goldfish"], ("tench", "goldfish, Carassius auratus"), True),
        ([0, 1], ["+", "-"], ("-", "+"), False),
        ([0], ["C++"], ("C#",), False),
    ],
)
def test_classes_are_the_same_by_number_and_name(labels, names, model, same) -> None:
    assert same_classes(labelled(labels, names), model) is same


def test_labels_of_the_standard_order_are_imagenets_without_names() -> None:
    names = tuple(IMAGENET[n] for n in range(1000))
    assert same_classes(labelled([0, 207, 999], order="standard"), names)
    assert not same_classes(labelled([0, 207, 999]), names)


# Conditioning


def test_cats_and_dogs_are_not_tench_and_goldfish(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter, samples = small_edm(1000), folder_of(tmp_path, "cats", "dogs")
    with caplog.at_level(logging.INFO):
        assert resolve_conditioning(adapter, samples, "auto") == "uniform"
    assert len(caplog.messages) == 1
    assert "0 cats, 1 dogs" in caplog.text
    assert "0 tench, 1 goldfish" in caplog.text
    with pytest.raises(ConfigError, match=r"0 cats, 1 dogs.*0 tench, 1 goldfish.*999 toilet_tissue.*class_map"):
        resolve_conditioning(adapter, samples, "label")


def test_synset_folders_condition_an_imagenet_model(tmp_path: Path) -> None:
    samples = folder_of(tmp_path, "n02099601", "n01440764")
    assert resolve_conditioning(small_edm(1000), samples, "auto") == "label"
    assert resolve_conditioning(small_edm(10), samples, "auto") == "uniform"


def test_auto_is_the_label_only_for_the_models_own_classes(caplog: pytest.LogCaptureFixture) -> None:
    own, other = labelled([0, 3], ["ant", "dog"]), labelled([0, 1], ["ant", "dog"])
    with caplog.at_level(logging.INFO):
        assert resolve_conditioning(Undropped(), own, "auto") == "label"
        assert not caplog.messages
        assert resolve_conditioning(Undropped(), other, "auto") == "uniform"
        assert resolve_conditioning(Undropped(), labelled([0, None]), "auto") == "uniform"
    assert "1 of 2 samples have no class" in caplog.messages[1]
    assert resolve_conditioning(TextAdapter(), own, "auto") == "none"


def test_numbers_without_names_condition_only_when_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = folder_of(tmp_path, "1", "3")
    assert resolve_conditioning(Undropped(), samples, "auto") == "uniform"
    with caplog.at_level(logging.INFO):
        assert resolve_conditioning(Undropped(), samples, "label") == "label"
    assert "1 bee, 3 dog" in caplog.messages[-1]
    with pytest.raises(ConfigError, match="refused"):
        resolve_conditioning(Undropped(), labelled([1, 4]), "label")


def test_label_and_uniform_are_refused_where_they_cannot_be() -> None:
    with pytest.raises(ConfigError, match="1 have none"):
        resolve_conditioning(Undropped(), labelled([0, None]), "label")
    with pytest.raises(ConfigError, match="needs a prompt for each sample, but 2"):
        resolve_conditioning(TextAdapter(), labelled([0, 1]), "prompt")


# class_map


def test_class_map_gives_the_models_labels_by_name_or_number(tmp_path: Path) -> None:
    samples = folder_of(tmp_path, "cats", "dogs", "fish")
    recipe = ExtractionRecipe(class_map={"cats": "tabby", "dogs": 207, "Fish": "Great White Shark"})
    found = mapped(samples, recipe.class_map, small_edm(1000))
    assert found.class_labels.tolist() == [281, 207, 2]
    assert found.classes == {2: "great_white_shark", 207: "golden_retriever", 281: "tabby"}
    assert resolve_conditioning(small_edm(1000), found, "auto") == "label"
    assert found.sample_ids == samples.sample_ids
    assert np.array_equal(found.images, samples.images)
    assert found.digest != samples.digest
    assert mapped(samples, None, small_edm(1000)) is samples


def test_class_map_takes_numbers_and_keeps_samples_without_a_class() -> None:
    samples = labelled([3, None, -1, 7])
    found = map_classes(samples, {"3": "b", "7": "a"}, ("a", "b"))
    assert found.table["class_label"].tolist()[0] == 1
    assert found.table["class_label"].isna().tolist() == [False, True, False, False]
    assert found.class_labels.tolist() == [1, -1, -1, 0]


@pytest.mark.parametrize(
    ("own", "class_map", "model", "expected"),
    [
        (["a", "A"], {"a": "A", "A": "a"}, ("a", "A"), [1, 0]),
        (["Shirt, Blue", "Shirt, Red"], {"shirt, red": 0, "shirt, blue": 1}, ("x", "y"), [1, 0]),
        (["tench, Tinca tinca", "goldfish"], {"tench": 1, "goldfish, Carassius auratus": 0}, ("x", "y"), [1, 0]),
        (["a", "b"], {"a": 1, "b": "1"}, ("1", "2"), [1, 0]),
        (["a", "b"], {"a": "class 1", "b": "0"}, ("class 0", "class 1"), [1, 0]),
    ],
)
def test_class_map_means_a_class_by_its_whole_name_and_a_number_by_its_place(own, class_map, model, expected) -> None:
    assert map_classes(labelled([0, 1], own), class_map, model).class_labels.tolist() == expected


def test_class_map_says_which_of_its_names_no_sample_has(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        map_classes(labelled([0], ["cat"]), {"cat": 0, "catz": 1}, ("a", "b"))
    assert caplog.messages == ["class_map names catz, which no sample is: the classes are 0 cat"]


@pytest.mark.parametrize(
    ("class_map", "said"),
    [
        ({"cats": 1}, "leaves out 'dogs'; .*0 cats, 1 dogs"),
        ({"cats": "tabbi", "dogs": 1}, "did you mean 'tabby'"),
        ({"cats": 1000, "dogs": 1}, r"class 1000, but the model's classes are 0 … 999"),
        ({"cats": "crane", "dogs": 1}, r"'crane', which is class 134 and 517; give the number"),
    ],
)
def test_class_map_that_cannot_be_followed_is_refused(tmp_path: Path, class_map: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        mapped(folder_of(tmp_path, "cats", "dogs"), class_map, small_edm(1000))


def test_class_map_needs_classes_on_both_sides() -> None:
    with pytest.raises(ConfigError, match="needs samples with classes"):
        mapped(labelled([None]), {"a": 1}, Undropped())
    with pytest.raises(ConfigError, match="needs a model with classes"):
        mapped(labelled([0]), {"a": 1}, small_edm(0))


def test_class_map_travels_as_json_yaml_and_command(tmp_path: Path) -> None:
    from diffviews.cli import call, parse_arguments

    def asked(recipe: ExtractionRecipe) -> ExtractionRecipe:
        return recipe

    recipe = ExtractionRecipe(class_map={3: "seven", "cats": 281})  # type: ignore[dict-item]
    assert recipe.class_map == {"3": "seven", "cats": 281}
    assert ExtractionRecipe.from_json(recipe.to_json(), strict=True) == recipe
    assert "class_map" not in recipe.determining()  # the digest of the samples tells it
    (tmp_path / "map.yaml").write_text("3: seven\ncats: 281\n")
    (tmp_path / "job.yaml").write_text("class_map:\n  '3': seven\n  cats: 281\n")
    for words in (
        ["--class_map", "{3: seven, cats: 281}"],
        ["--class_map", str(tmp_path / "map.yaml")],
        ["--config", str(tmp_path / "job.yaml")],
        shlex.split(recipe.command())[2:],
    ):
        assert parse_arguments("extract", words)["class_map"] == recipe.class_map
        assert call(asked, parse_arguments("extract", words)).class_map == recipe.class_map
    assert parse_arguments("extract", [])["class_map"] is None
    for text, expected in (
        ("{yes: cat, no: off, 01: 3}", {"yes": "cat", "no": "off", "01": 3}),
        ("{a: , b: 1.5}", {"a": "", "b": "1.5"}),
    ):
        assert parse_arguments("extract", ["--class_map", text])["class_map"] == expected
    with pytest.raises(ConfigError, match="no mapping such as"):
        parse_arguments("extract", ["--class_map", "cats"])


# Names of a model


def test_only_a_model_of_a_thousand_classes_has_imagenets_names() -> None:
    assert small_edm(1000).class_names[:2] == ("tench", "goldfish")  # type: ignore[index]
    ten = small_edm(10)
    assert ten.class_names == GENERIC
    assert small_edm(0).class_names is None
    assert small_edm(1100).class_names[1099] == "class 1099"  # type: ignore[index]
    assert describe(ten)["class_names"] == GENERIC
    ten.name_classes([f"c{n}" for n in range(10)])
    assert ten.class_names[9] == "c9"  # type: ignore[index]
    assert small_edm(2, class_names=["left", "right"]).class_names == ("left", "right")
    thousand = small_edm(1000)
    thousand.name_classes([f"c{n}" for n in range(1000)])
    assert thousand.class_names[0] == "c0"  # type: ignore[index]


@pytest.mark.parametrize("names", ["ab", ["a"], ["a", 3], ["a", ""]])
def test_names_that_do_not_fit_a_model_are_refused(names) -> None:
    with pytest.raises(ConfigError, match="class_names"):
        small_edm(2).name_classes(names)


def test_a_model_folder_names_its_classes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"adapter": "edm-digits", "class_names": ["a", "b"]}))
    said = ModelFolder.read(tmp_path)
    assert said is not None
    assert said.class_names == ["a", "b"]


# EDM data sets


def edm_files(labels: object) -> dict[str, bytes]:
    import io

    png = io.BytesIO()
    Image.new("RGB", (4, 4)).save(png, "PNG")
    names = ["00000/img00000000.png", "00000/img00000001.png", "00001/img00001000.png"]
    return {"dataset.json": json.dumps({"labels": labels}).encode(), **dict.fromkeys(names, png.getvalue())}


def written(root: Path, files: dict[str, bytes], kind: str) -> str:
    if kind == "folder":
        for name, data in files.items():
            (root / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "set" / name).write_bytes(data)
        return f"folder:{root / 'set'}"
    top = "cifar/" if kind == "zip in a folder" else ""
    with zipfile.ZipFile(root / "set.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(top + name, data)
    return f"folder:{root / 'set.zip'}"


@pytest.mark.parametrize("kind", ["folder", "zip", "zip in a folder"])
def test_edm_data_set_has_the_labels_of_its_json(tmp_path: Path, kind: str) -> None:
    names = [name for name in edm_files(None) if name != "dataset.json"]
    labels = [[names[0], 6], [names[2], 9], [names[1], 6]]
    samples = open_source(written(tmp_path, edm_files(labels), kind))
    assert samples.sample_ids == tuple(names)
    assert samples.class_labels.tolist() == [6, 6, 9]
    assert samples.classes == {6: "", 9: ""}
    assert samples.class_order == "own"
    assert same_classes(samples, GENERIC)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_edm_data_set_without_labels_has_no_classes(tmp_path: Path, kind: str) -> None:
    assert open_source(written(tmp_path, edm_files(None), kind)).classes == {}


def test_edm_labels_may_be_one_hot_and_must_be_whole(tmp_path: Path) -> None:
    names = [name for name in edm_files(None) if name != "dataset.json"]
    one_hot = [[name, [0, 0, 1]] for name in names]
    assert open_source(written(tmp_path, edm_files(one_hot), "folder")).class_labels.tolist() == [2, 2, 2]
    whole = [[name, 2.0] for name in names]
    assert open_source(written(tmp_path, edm_files(whole), "folder")).class_labels.tolist() == [2, 2, 2]
    for vector in ([0.1] * 25, [1, 1, 0]):
        assert open_source(written(tmp_path, edm_files([[n, vector] for n in names]), "folder")).classes == {}
    for wrong in ([[names[0], 1]], [[name, 0.5] for name in names], [[name, -3] for name in names], "abc", {"a": 1}):
        with pytest.raises(CorruptDataError, match=r"dataset\.json"):
            open_source(written(tmp_path, edm_files(wrong), "folder"))


# Splits


def test_splits_are_a_choice_and_no_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            save(tmp_path / "set" / split / name / "a.png")
    with pytest.raises(SampleSetError, match=r"holds the splits train, val; choose one: folder:.*/set/train"):
        open_source(f"folder:{tmp_path / 'set'}")
    assert open_source(f"folder:{tmp_path / 'set' / 'val'}").classes == {0: "cat", 1: "dog"}
    for split in ("train", "val"):
        save(tmp_path / "flat" / split / "a.png")
    with pytest.raises(SampleSetError, match="splits"):
        open_source(f"folder:{tmp_path / 'flat'}")


def test_one_split_alone_is_taken_and_its_folders_are_classes(tmp_path: Path) -> None:
    for name in ("3", "7"):
        save(tmp_path / "train" / name / "a.png")
    samples = open_source(f"folder:{tmp_path}")
    assert samples.class_labels.tolist() == [3, 7]
    assert samples.sample_ids[0] == "train/3/a.png"
    save(tmp_path / "mine" / "a.png")
    assert set(open_source(f"folder:{tmp_path}").classes.values()) == {"mine", "train"}


@pytest.mark.parametrize(
    "names",
    [
        ["imagenet/train/a/1.png", "imagenet/val/a/1.png"],
        ["train/a/1.png", "val/a/1.png", "grid.png"],
        ["training_set/a/1.png", "test_set/a/1.png"],
        ["seg_train/seg_train/a/1.png", "seg_test/seg_test/a/1.png", "seg_pred/1.png"],
        ["train2017/1.png", "val2017/1.png"],
        ["train/1.png", "test/1.png", "unlabeled/1.png"],
    ],
)
def test_splits_are_found_at_any_depth_and_by_their_usual_names(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        save(tmp_path / name)
    with pytest.raises(SampleSetError, match=r"holds the splits .*; choose one: folder:") as caught:
        open_source(f"folder:{tmp_path}")
    assert open_source(str(caught.value).partition("choose one: ")[2])


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["PetImages/Cat/0.png", "PetImages/Dog/0.png", "PetImages/Dog/1.png"], {0: "Cat", 1: "Dog"}),
        (["CUB/images/001.Black/a.png", "CUB/images/002.Laysan/a.png"], {0: "001.Black", 1: "002.Laysan"}),
        (["train/3/a.png", "train/7/a.png", "grid.png"], {3: "3", 7: "7"}),
        (["train/n01443537/images/a.png", "train/n01440764/images/a.png"], {0: "tench", 1: "goldfish"}),
        (["bus/a.png", "train/a.png", "truck/a.png"], {0: "bus", 1: "train", 2: "truck"}),
        (["cat/a.png", "cat/more/b.png"], {0: "cat"}),
        (["cat/a.png", "dog/more/b.png"], {0: "cat", 1: "dog"}),
        (["cat/young/a.png"], {0: "cat"}),
        (["00000/00000_00000.png", "00001/00000_00000.png"], {0: "00000", 1: "00001"}),
        (["00000/00000.png", "00000/00999.png", "01000/01000.png"], {}),
        (["000000/000007.png", "001000/001999.png"], {}),
        (["00000/img00000000.png", "00001/img00001000.png"], {}),
    ],
)
def test_classes_are_the_folders_that_divide_the_images(
    tmp_path: Path, names: list[str], classes: dict[int, str]
) -> None:
    for name in names:
        save(tmp_path / "set" / name)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in [*names, "readme.txt"]:
            archive.writestr(name, (tmp_path / "set" / name).read_bytes() if name.endswith("png") else b"x")
    assert open_source(f"folder:{tmp_path / 'set'}").classes == classes
    assert open_source(f"folder:{tmp_path / 'set.zip'}").classes == classes


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Training_Set", "Training"), ("val2017", "val"), ("mnist-test-00001", "mnist-test"),
        ("test.images", "test"), ("trainer", None), ("contest", None), ("cat", None), ("train" + "0" * 60 + "x", None),
    ],
)  # fmt: skip
def test_splits_are_known_by_whole_words(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_zips_of_other_spellings_and_names_that_are_no_text(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    for before, between in (("", "\\"), ("./", "/")):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for name in ("cat", "dog"):
                archive.write(tmp_path / "a.png", f"{before}{name}{between}1.png")
        samples = open_source(f"folder:{tmp_path / 'x.zip'}")
        assert (samples.sample_ids, samples.classes) == (("cat/1.png", "dog/1.png"), {0: "cat", 1: "dog"})
        (tmp_path / "x.zip").unlink()
    (tmp_path / "set").mkdir()
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path / "set") + b"/caf\xe9.png")
    with pytest.raises(SampleSetError, match="cannot be printed; rename it"):
        open_source(f"folder:{tmp_path / 'set'}")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "pets" / "a.png")
    assert len(open_source("folder:~/pets")) == 1


def test_replaced_recipe_keeps_its_map() -> None:
    assert replace(ExtractionRecipe(class_map={"a": 1}), batch_size=3).class_map == {"a": 1}
