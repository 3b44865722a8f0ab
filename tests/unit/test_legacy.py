"""Reading the legacy on-disk layout: what is found, what is refused, and what is never opened."""

import json
from pathlib import Path

import numpy as np
import pytest

from diffviews.core.extractor import convert_to_fast_format, load_activations
from diffviews.core.generator import save_generated_sample
from diffviews.data.legacy.arrays import NpyFile, NpzFile, PlacedActivations
from diffviews.data.legacy.datasets import LegacyDataset, find_models, read_dataset
from diffviews.data.legacy.maps import read_maps
from diffviews.errors import ConfigError, CorruptDataError, LayerNotFoundError, SampleSetError
from diffviews.pipelines.legacy.convert import convert
from tests.legacy_layout import LAYERS, LegacyFolder, activations_of, digits_folder, pixels_of


def read(made: LegacyFolder) -> LegacyDataset:
    (model,) = find_models(made.folder)
    return read_dataset(model, made.dataset)


def values_of(dataset: LegacyDataset, layer: str) -> np.ndarray:
    placed = PlacedActivations([sample.place for sample in dataset.samples])
    return placed.rows(layer, range(len(dataset.samples)))


def check_values(dataset: LegacyDataset, numbers: list[int]) -> None:
    for layer, shape in LAYERS.items():
        expected = [activations_of(n, s.sigma, layer) for n, s in zip(numbers, dataset.samples, strict=True)]
        np.testing.assert_array_equal(values_of(dataset, layer).reshape(-1, *shape), expected)


@pytest.fixture
def made(tmp_path: Path) -> LegacyFolder:
    folder = LegacyFolder(tmp_path / "dmd2", {"adapter": "dmd2-imagenet-64"})
    for number in (4, 1, 3, 2):
        folder.add(number)
    return folder


@pytest.mark.parametrize("form", ["npy", "npy with layer shapes", "npz", "each", "each without rows"])
def test_samples_have_their_own_activations_in_every_form(made: LegacyFolder, form: str) -> None:
    if form.startswith("each"):
        made.write_each(with_rows=form == "each")
    else:
        made.write_batch(npz=form == "npz", shapes="layer" if "layer" in form else "rows")
    made.records.reverse()  # the order of the metadata is not that of the rows
    made.write_metadata()
    dataset = read(made)
    check_values(dataset, [2, 3, 1, 4])
    assert [sample.recorded_id for sample in dataset.samples] == [f"sample_{n:06d}" for n in (2, 3, 1, 4)]
    assert {sample.sigma for sample in dataset.samples} == {2.0}


def test_order_of_samples_in_the_files_is_not_theirs_in_the_metadata(made: LegacyFolder) -> None:
    made.write_batch()
    made.records[0]["batch_index"], made.records[3]["batch_index"] = 3, 0
    made.write_metadata()
    first = values_of(read(made), "midblock")[0]
    np.testing.assert_array_equal(first.ravel(), activations_of(2, 2.0, "midblock").ravel())


def test_layer_that_is_not_asked_for_still_counts_in_the_offsets(made: LegacyFolder) -> None:
    stem = made.write_batch()
    file = NpyFile.open(stem.with_name(f"{stem.name}.npy"))
    assert file.offsets == {"encoder_bottleneck": 0, "midblock": 24}
    np.testing.assert_array_equal(file.read("midblock"), made.stacked("midblock").reshape(4, -1))


def test_layers_of_a_matrix_stand_in_the_order_its_description_names(made: LegacyFolder) -> None:
    stem = made.write_batch()
    flat = [made.stacked(layer).reshape(4, -1) for layer in ("midblock", "encoder_bottleneck")]
    np.save(f"{stem}.npy", np.concatenate(flat, axis=1))
    about = Path(f"{stem}.npy.json")
    about.write_text(json.dumps(json.loads(about.read_text()) | {"layers": ["midblock", "encoder_bottleneck"]}))
    made.write_metadata()
    check_values(read(made), [4, 1, 3, 2])


def test_unsorted_matrix_gives_way_to_the_npz_beside_it(made: LegacyFolder) -> None:
    stem = made.write_batch()
    about = Path(f"{stem}.npy.json")
    about.write_text(json.dumps(json.loads(about.read_text()) | {"layers": ["midblock", "encoder_bottleneck"]}))
    made.write_batch(npz=True)
    made.write_metadata()
    check_values(read(made), [4, 1, 3, 2])


def test_single_matrix_without_paths_is_in_the_order_of_the_metadata_or_of_its_own_ids(made: LegacyFolder) -> None:
    stem = made.write_batch()
    for record in made.records:
        del record["activation_path"], record["batch_index"]
    made.write_metadata()
    check_values(read(made), [4, 1, 3, 2])
    about = Path(f"{stem}.npy.json")
    ids = [record["sample_id"] for record in made.records]
    about.write_text(json.dumps(json.loads(about.read_text()) | {"sample_ids": ids}))
    made.records.reverse()
    made.write_metadata()
    check_values(read(made), [2, 3, 1, 4])


def test_folder_that_generation_wrote_is_read_without_metadata(tmp_path: Path) -> None:
    for number in (2, 1):
        arrays = {layer: activations_of(number, 0.5, layer)[None] for layer in LAYERS}
        about = {"model": "digits", "class_label": number, "conditioning_sigma": 0.5}
        save_generated_sample(pixels_of(number), arrays, about, tmp_path, f"sample_{number}")
    (model,) = find_models(tmp_path)
    dataset = read_dataset(model, "digits")
    assert [(s.recorded_id, s.class_label, s.sigma) for s in dataset.samples] == [
        ("sample_1", 1, 0.5),
        ("sample_2", 2, 0.5),
    ]
    check_values(dataset, [1, 2])


def test_matrix_that_the_extractor_wrote_is_read(made: LegacyFolder) -> None:
    made.write_batch(npz=True)
    made.write_metadata()
    path = made.path("activations", "batch_000000.npz")
    convert_to_fast_format(path)
    path.unlink()
    check_values(read(made), [4, 1, 3, 2])


def test_root_holds_models_or_is_one(tmp_path: Path) -> None:
    for name in ("dmd2", "edm"):
        digits_folder(tmp_path / name, 3)
    (tmp_path / "checkpoints").mkdir()
    assert [model.folder.name for model in find_models(tmp_path)] == ["dmd2", "edm"]
    (model,) = find_models(tmp_path / "edm")
    assert (model.adapter, model.datasets()) == ("edm-digits", ("digits_real",))
    with pytest.raises(SampleSetError, match="neither it nor a folder in it"):
        find_models(tmp_path / "checkpoints")
    with pytest.raises(SampleSetError, match="does not exist"):
        find_models(tmp_path / "no")


def test_noise_levels_of_one_image_share_its_id(tmp_path: Path) -> None:
    made = LegacyFolder(tmp_path, {})
    for number in (1, 2):
        for level, sigma in ((100, 80.0), (35, 0.5)):
            made.add(number, sigma, sample_id=f"sample_{number:06d}_n{level}")
    made.write_batch()
    made.write_metadata()
    dataset = read(made)
    assert [(s.sample_id, s.sigma) for s in dataset.samples] == [
        ("sample_000001", 80.0), ("sample_000001", 0.5), ("sample_000002", 80.0), ("sample_000002", 0.5),
    ]  # fmt: skip
    assert dataset.sigmas == (0.5, 80.0)
    assert dataset.samples[1].recorded_id == "sample_000001_n35"
    check_values(dataset, [1, 1, 2, 2])


def test_class_id_sigma_and_caption_are_read_as_they_are_called(made: LegacyFolder) -> None:
    for record in made.records:
        for old, new in (("class_label", "class_id"), ("conditioning_sigma", "sigma")):
            record[new] = record[old]
        record |= {"caption": "a fish"}
    made.write_batch()
    for record in made.records:
        del record["class_label"], record["conditioning_sigma"], record["class_name"]
    made.write_metadata()
    sample = read(made).samples[1]
    assert (sample.class_label, sample.sigma, sample.prompt, sample.class_name) == (1, 2.0, "a fish", None)


def test_labels_are_turned_only_when_the_configuration_says_their_order(tmp_path: Path) -> None:
    def first(config: dict, **more: object) -> tuple[object, ...]:
        made = LegacyFolder(tmp_path / str(len(list(tmp_path.iterdir()))), config)
        made.add(1, **more)
        made.write_batch()
        made.write_metadata()
        dataset = read(made)
        return dataset.class_order, dataset.samples[0].class_label, dataset.samples[0].class_name

    named = {"class_label": 0, "class_name": "kit_fox"}
    assert first({"class_order": "downsampled"}, **named) == ("downsampled", 278, "kit_fox")
    assert first({}, **named) == ("own", 0, "kit_fox")
    assert first({}, class_label=1, class_name="goldfish") == ("standard", 1, "goldfish")
    assert first({"class_order": "standard"}, class_label=1, class_name=None) == ("standard", 1, "goldfish")
    with pytest.raises(ConfigError, match="did you mean 'downsampled'"):
        first({"class_order": "downsample"})


def test_samples_without_picture_or_activations_are_left_out_and_named(
    made: LegacyFolder, caplog: pytest.LogCaptureFixture
) -> None:
    made.write_each()
    made.write_metadata()
    made.path("images", "sample_000001.png").unlink()
    made.path("activations", "sample_000003.npz").unlink()
    dataset = read(made)
    assert [sample.recorded_id for sample in dataset.samples] == ["sample_000004", "sample_000002"]
    assert dataset.left_out == {
        "sample_000001": "has no picture images/imagenet_real/sample_000001.png",
        "sample_000003": "has no activations",
    }
    assert "sample_000001 of imagenet_real is left out" in caplog.text
    for number in (2, 4):
        made.path("images", f"sample_{number:06d}.png").unlink()
    with pytest.raises(SampleSetError, match="no sample of dmd2/imagenet_real is whole"):
        read(made)


@pytest.mark.parametrize(
    "changed",
    [
        {"image_path": "../../secret.png"},
        {"image_path": "/etc/hostname"},
        {"activation_path": "activations/../../outside/batch_000000"},
        {"activation_path": "/outside/batch_000000"},
        {"image_path": "images/a\0.png"},
    ],
)
def test_paths_that_lead_out_of_the_folder_are_refused(made: LegacyFolder, changed: dict) -> None:
    (made.folder.parent / "outside").mkdir()
    made.write_batch()
    (made.folder.parent / "secret.png").write_bytes(made.path("images", "sample_000001.png").read_bytes())
    made.records[1] |= changed
    made.write_metadata()
    with pytest.raises(SampleSetError, match="leads out of"):
        read(made)


def test_link_that_leads_out_of_the_folder_is_refused(made: LegacyFolder) -> None:
    made.write_batch()
    made.write_metadata()
    picture = made.path("images", "sample_000001.png")
    picture.rename(made.folder.parent / "elsewhere.png")
    picture.symlink_to(made.folder.parent / "elsewhere.png")
    with pytest.raises(SampleSetError, match="leads out of"):
        read(made)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"conditioning_sigma": None}, "sample_000001 has no conditioning_sigma"),
        ({"conditioning_sigma": -1}, "impossible sigma -1"),
        ({"conditioning_sigma": "2"}, "impossible sigma '2'"),
        ({"class_label": 1.5}, "class_label of sample sample_000001 is 1.5"),
        ({"batch_index": "x"}, "batch_index of sample sample_000001"),
        ({"sample_id": "sample_000004"}, "another image or class|twice"),
    ],
)
def test_impossible_records_are_refused_and_named(made: LegacyFolder, changed: dict, said: str) -> None:
    made.write_batch()
    made.records[1] |= changed
    made.write_metadata()
    with pytest.raises(SampleSetError, match=said):
        read(made)


def test_sigma_of_all_samples_may_stand_in_the_configuration(made: LegacyFolder) -> None:
    made.write_batch()
    for record in made.records:
        del record["conditioning_sigma"]
    made.write_metadata()
    (made.folder / "config.json").write_text(json.dumps({"conditioning_sigma": 7}))
    assert read(made).sigmas == (7.0,)


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) - 200], "empty": b"", "text": b"{}", "header": data[:20]}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "text", "header"])
@pytest.mark.parametrize("form", ["npy", "npz", "each"])
def test_damaged_activations_are_named(made: LegacyFolder, form: str, how: str) -> None:
    if form == "each":
        made.write_each()
    else:
        made.write_batch(npz=form == "npz")
    made.write_metadata()
    path = made.path("activations", "sample_000003.npz" if form == "each" else f"batch_000000.{form}")
    damage(path, how)
    with pytest.raises(CorruptDataError, match=path.name):
        values_of(read(made), "midblock")


def test_npz_member_that_fails_its_checksum_is_named(made: LegacyFolder) -> None:
    made.write_each()
    made.write_metadata()
    path = made.path("activations", "sample_000003.npz")
    data = bytearray(path.read_bytes())
    where = data.find(activations_of(3, 2.0, "midblock").tobytes()[:8])
    data[where] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptDataError, match=r"sample_000003\.npz"):
        values_of(read(made), "midblock")


def test_npz_that_would_run_code_is_refused(made: LegacyFolder, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "ran").touch, ())

    made.write_each()
    made.write_metadata()
    path = made.path("activations", "sample_000003.npz")
    np.savez(path, **{layer: np.array([Bomb()], dtype=object) for layer in LAYERS})
    with pytest.raises(CorruptDataError, match=r"sample_000003\.npz"):
        read(made)
    assert not (tmp_path / "ran").exists()


def test_array_that_claims_more_than_its_file_holds_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    import io
    import zipfile

    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f4", "fortran_order": False, "shape": (1, 2**45)}
    )
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("midblock.npy", stream.getvalue())
    with pytest.raises(CorruptDataError, match=r"bomb\.npz .*not as long as it says"):
        NpzFile.open(tmp_path / "bomb.npz")


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"layers": ["midblock"]}, "do not make up the 40 columns"),
        ({"layers": []}, "names no layers"),
        ({"shapes": {}}, "does not say which layers"),
        ({"sample_ids": ["a"]}, "1 sample ids for the 4 rows"),
        ({"layers": ["midblock", "../../x"], "shapes": {"midblock": [4, 2, 2], "../../x": [25]}}, "do not make up"),
    ],
)
def test_description_that_does_not_fit_its_matrix_is_refused(made: LegacyFolder, about: dict, said: str) -> None:
    path = Path(f"{made.write_batch()}.npy.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | about))
    made.write_metadata()
    with pytest.raises(CorruptDataError, match=said):
        read(made)


def test_files_that_hold_other_layers_than_the_first_are_named(made: LegacyFolder) -> None:
    made.write_each()
    made.write_metadata()
    np.savez(made.path("activations", "sample_000003.npz"), midblock=np.zeros((1, 16), np.float32))
    with pytest.raises(CorruptDataError, match=r"sample_000003\.npz holds midblock 16"):
        values_of(read(made), "midblock")


def test_row_beyond_a_file_and_rows_without_number_are_refused(made: LegacyFolder) -> None:
    made.write_batch(npz=True)
    made.records[2]["batch_index"] = 4
    made.write_metadata()
    with pytest.raises(CorruptDataError, match="has 4 rows, but a sample is said to be row 4"):
        values_of(read(made), "midblock")
    del made.records[2]["batch_index"]
    made.write_metadata()
    with pytest.raises(CorruptDataError, match="no batch_index"):
        read(made)


def test_metadata_that_is_no_metadata_is_refused(made: LegacyFolder) -> None:
    made.write_batch()
    path = made.write_metadata()
    for content, said in (("{", "cannot be read as JSON"), ('{"samples": [{"x": 1}]}', "each with a sample_id")):
        path.write_text(content)
        with pytest.raises(CorruptDataError, match=said):
            read(made)
    path.write_text('{"samples": []}')
    with pytest.raises(SampleSetError, match="lists no samples"):
        read(made)
    (made.folder / "config.json").write_text("[1]")
    with pytest.raises(CorruptDataError, match=r"config\.json is no JSON object"):
        find_models(made.folder)


def test_map_is_matched_by_ids_whatever_its_order(made: LegacyFolder) -> None:
    made.write_batch()
    made.write_metadata()
    places = made.write_map(parameters={"n_neighbors": 9, "layers": ["midblock"]})
    dataset = read(made)
    (found,) = read_maps(dataset)
    np.testing.assert_array_equal(found.coordinates[np.argsort(found.samples)], places)
    assert (found.layers, found.parameters["n_neighbors"]) == (("midblock",), 9)
    assert [path.name for path in found.files] == ["demo_embeddings.csv", "demo_embeddings.json"]


def test_map_of_several_noise_levels_is_matched_by_id_and_sigma(tmp_path: Path) -> None:
    made = LegacyFolder(tmp_path, {})
    for number in (1, 2, 3):
        for sigma in (80.0, 0.5):
            made.add(number, sigma)
    made.write_batch()
    made.write_metadata()
    places = made.write_map()
    (found,) = read_maps(read(made))
    np.testing.assert_array_equal(found.coordinates[np.argsort(found.samples)], places)


def test_maps_of_other_samples_are_left_out(made: LegacyFolder, caplog: pytest.LogCaptureFixture) -> None:
    made.write_batch()
    made.write_metadata()
    folder = made.folder / "embeddings"
    folder.mkdir()
    (folder / "others.csv").write_text("sample_id,umap_x,umap_y\nz,1,2\n")
    (folder / "some.csv").write_text("sample_id,umap_x,umap_y\nsample_000001,1,2\nz,1,2\n")
    (folder / "none.csv").write_text("a,b\n1,2\n")
    (folder / "few.csv").write_text("sample_id,umap_x,umap_y\nsample_000001,1,2\n")
    assert read_maps(read(made)) == []
    assert "some.csv is left out: 1 of its rows" in caplog.text
    assert "few.csv is left out: 1 points are no map" in caplog.text


@pytest.mark.parametrize("content", ["sample_id,umap_x,umap_y\nsample_000001,1,\n", "", 'a,"b\n', "\xff\xfe"])
def test_damaged_map_is_named(made: LegacyFolder, content: str) -> None:
    made.write_batch()
    made.write_metadata()
    (made.folder / "embeddings").mkdir()
    (made.folder / "embeddings" / "bad.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(CorruptDataError, match=r"bad\.csv"):
        read_maps(read(made))


def test_convert_joins_a_folder_in_the_order_of_ids(made: LegacyFolder) -> None:
    made.write_each()
    outcome = convert(str(made.path("activations", "x").parent))
    assert (outcome.path.name, outcome.samples, outcome.features) == ("imagenet_real.npy", 4, 40)
    file = NpyFile.open(outcome.path)
    assert file.sample_ids == tuple(f"sample_{number:06d}" for number in (1, 2, 3, 4))
    for layer in LAYERS:
        expected = [activations_of(number, 2.0, layer).ravel() for number in (1, 2, 3, 4)]
        np.testing.assert_array_equal(file.read(layer), expected)


def test_converted_folder_is_read_in_place_of_its_files(made: LegacyFolder) -> None:
    made.write_each()
    folder = made.path("activations", "x").parent
    convert(str(folder), str(folder / "all.npy"))
    for record in made.records:
        made.path("activations", f"{record['sample_id']}.npz").unlink()
        del record["activation_path"]
    made.write_metadata()
    check_values(read(made), [4, 1, 3, 2])


def test_row_of_a_matrix_is_found_by_its_ids_before_its_number(made: LegacyFolder) -> None:
    made.write_each()
    folder = made.path("activations", "x").parent
    convert(str(folder), str(folder / "all.npy"))
    for record in made.records:
        record |= {"activation_path": "activations/imagenet_real/all"}
    made.write_metadata()
    check_values(read(made), [4, 1, 3, 2])


def test_convert_keeps_the_layers_that_are_asked_for(made: LegacyFolder) -> None:
    made.write_each()
    folder = str(made.path("activations", "x").parent)
    assert list(NpyFile.open(convert(folder, layers=("midblock",)).path).layers) == ["midblock"]
    with pytest.raises(LayerNotFoundError, match="did you mean 'midblock'"):
        convert(folder, layers=("mid_block",))


def test_convert_of_one_file_is_that_of_the_extractor(made: LegacyFolder) -> None:
    made.write_batch(npz=True)
    path = made.path("activations", "batch_000000.npz")
    outcome = convert(str(path))
    assert (outcome.path, outcome.samples, outcome.features) == (path.with_suffix(".npy"), 4, 40)
    np.testing.assert_array_equal(np.load(outcome.path)[:, 24:], load_activations(path)[0]["midblock"])


def test_convert_leaves_nothing_when_a_file_is_damaged_or_differs(made: LegacyFolder) -> None:
    made.write_each()
    folder = made.path("activations", "x").parent
    before = sorted(folder.parent.rglob("*"))
    last = folder / "sample_000004.npz"
    whole = last.read_bytes()
    np.savez(last, **{layer: np.zeros((1, 7), np.float32) for layer in LAYERS})
    with pytest.raises(CorruptDataError, match=r"sample_000004\.npz"):
        convert(str(folder))
    last.write_bytes(whole[:-100])
    with pytest.raises(CorruptDataError, match=r"sample_000004\.npz"):
        convert(str(folder))
    assert sorted(folder.parent.rglob("*")) == before


def test_convert_refuses_what_it_cannot_convert(made: LegacyFolder) -> None:
    with pytest.raises(SampleSetError, match=r"holds no \.npz"):
        convert(str(made.folder))
    with pytest.raises(SampleSetError, match="neither a folder"):
        convert(str(made.folder / "no.npz"))
    made.write_batch(npz=True)
    with pytest.raises(CorruptDataError, match="4 rows instead of one sample"):
        convert(str(made.path("activations", "x").parent))
    with pytest.raises(ConfigError, match=r"must end in \.npy"):
        convert(str(made.path("activations", "batch_000000.npz")), "out.npz")
