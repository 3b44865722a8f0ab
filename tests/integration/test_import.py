"""Importing the legacy layout end to end: runs as of an extraction, maps as recorded, masks that work."""

import json
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from diffviews.adapters.edm_digits import EDMDigitsAdapter
from diffviews.data.legacy.datasets import UNKNOWN_MODEL_DIGEST
from diffviews.errors import ConfigError, CorruptDataError, LayerNotFoundError, SampleSetError, ShapeError
from diffviews.pipelines.generate import generate
from diffviews.pipelines.legacy import import_legacy as legacy_module
from diffviews.pipelines.legacy.import_legacy import import_legacy
from diffviews.pipelines.workspace import open_workspace
from diffviews.processing.map_parameters import MapParameters
from diffviews.recipes import GenerationRecipe, Sampling
from diffviews.tracking.schema import Kind, MapKind, Tag
from tests.jobs import embed
from tests.legacy_layout import LAYERS, LegacyFolder, activations_of, digits_folder, pixels_of

SMALL = MapParameters(n_neighbors=5, pca_components=10)
SIGMAS = (0.5, 2.0)


class DigitsFolder(LegacyFolder):
    """A folder with the real activations of an extraction of edm-digits."""

    def __init__(self, folder, workspace, extraction, count):
        super().__init__(folder, {"adapter": "edm-digits", "checkpoint": "checkpoints/digits.safetensors"}, "real")
        (folder / "checkpoints").mkdir()
        shutil.copy(EDMDigitsAdapter.shipped_weights(), folder / "checkpoints" / "digits.safetensors")
        records = workspace.catalog.layers(extraction.run_id)
        samples = workspace.samples_of(records[0])
        chosen = list(samples.sample_ids[:count][::-1])
        for sample_id in chosen:
            Image.fromarray(samples.images_of([sample_id])[0]).save(self.path("images", f"{sample_id}.png"))
        layers = sorted({record.layer for record in records})
        rows = []
        for sample_id in chosen:  # interleaved, as the older tool wrote noise levels
            for sigma in (2.0, 0.5):
                at = {r.layer: workspace.activations(r).rows([sample_id])[0] for r in records if r.sigma == sigma}
                rows.append(np.concatenate([at[layer].astype(np.float32).ravel() for layer in layers]))
                self.records.append({
                    "sample_id": f"{sample_id}_n{int(sigma * 10)}",
                    "class_label": int(samples.class_labels[samples.index_of([sample_id])[0]]),
                    "image_path": f"images/real/{sample_id}.png",
                    "conditioning_sigma": sigma,
                    "activation_path": "activations/real/batch_000000",
                    "batch_index": len(rows) - 1,
                    "number": len(rows) - 1,
                })  # fmt: skip
        self.shapes = {record.layer: workspace.activations(record).shape[1:] for record in records}
        np.save(self.path("activations", "batch_000000.npy"), np.stack(rows))
        info = {"layers": layers, "shapes": {layer: [len(rows), int(np.prod(self.shapes[layer]))] for layer in layers}}
        self.path("activations", "batch_000000.npy.json").write_text(json.dumps(info))
        self.write_metadata()


@pytest.fixture(scope="module")
def folder(store, workspace, extraction):
    made = DigitsFolder(store / "data" / "digits", workspace, extraction, 40)
    at_two = LegacyFolder(made.folder, None, "real")
    at_two.records = [record for record in made.records if record["conditioning_sigma"] == 2.0]
    made.places = at_two.write_map("at_two", {"n_neighbors": 7, "min_dist": 0.3, "layers": ["decoder_block_4"]})
    made.places_of = [record["sample_id"].rpartition("_")[0] for record in at_two.records]
    made.write_map("both", {"layers": ["decoder_block_4"]})
    return made


@pytest.fixture(scope="module")
def imported(folder):
    return import_legacy("data", maps=SMALL, experiment="imported")


@pytest.fixture(scope="module")
def layers(workspace, imported):
    return {(r.layer, r.sigma): r for r in workspace.catalog.layers(imported.run_id)}


def test_every_layer_and_sigma_is_a_measured_layer_run_of_an_import(workspace, imported, layers):
    assert list(layers) == [
        ("encoder_bottleneck", 0.5), ("encoder_bottleneck", 2.0), ("decoder_block_4", 0.5), ("decoder_block_4", 2.0),
    ]  # fmt: skip
    parent = workspace.catalog.extraction(imported.run_id)
    assert (parent.kind, parent.model, parent.dataset) == (Kind.IMPORT, "edm-digits", "real")
    assert imported.run_id in [record.run_id for record in workspace.catalog.extractions("imported")]
    for record in layers.values():
        assert record.is_finished
        assert {"trustworthiness", "continuity", "nonfinite"} <= record.metrics.keys()
        assert (record.params["conditioning"], "silhouette" in record.metrics) == ("label", False)
        workspace.folder(record.run_id).verify()
    workspace.folder(imported.run_id).verify()


def test_imported_activations_are_those_of_the_extraction_by_sample(workspace, extraction, layers):
    for record in workspace.catalog.layers(extraction.run_id):
        reader = workspace.activations(layers[record.layer, record.sigma])
        expected = workspace.activations(record).rows(reader.sample_ids)
        np.testing.assert_array_equal(reader.array(), expected.astype(np.float32))
        assert reader.attrs["model_digest"] == workspace.activations(record).attrs["model_digest"]
        reader.verify()


def test_sample_set_holds_each_image_once_with_its_class(workspace, layers, layer_run):
    samples, source = workspace.samples_of(next(iter(layers.values()))), workspace.samples_of(layer_run)
    assert len(samples) == 40
    np.testing.assert_array_equal(samples.images, source.images_of(samples.sample_ids))
    rows = source.index_of(samples.sample_ids)
    np.testing.assert_array_equal(samples.class_labels, source.class_labels[rows])
    for record in layers.values():
        assert workspace.activations(record).sample_ids == samples.sample_ids


def test_parent_keeps_what_the_folder_said(workspace, imported):
    folder = workspace.folder(imported.run_id)
    assert json.loads(folder.path("imported/config.json").read_text())["checkpoint"] == "checkpoints/digits.safetensors"
    ids = pd.read_csv(folder.path("imported/ids.csv"))
    assert len(ids) == 80
    assert (ids["sample_id"] + "_n" + (ids["sigma"] * 10).astype(int).astype(str) == ids["recorded_id"]).all()
    assert len(pd.read_csv(folder.path("layers.csv"))) == 4
    assert {"cka/0.5.csv", "cka/2.csv", "similarity/2.csv", "montage.png"} <= set(folder.names())


def test_recorded_coordinates_are_a_map_of_their_layer_unchanged(workspace, folder, layers):
    record = layers["decoder_block_4", 2.0]
    (found,) = workspace.catalog.maps(record.run_id)
    assert (found.map, found.sigma, found.source_run) == (MapKind.SINGLE, 2.0, record.run_id)
    points = pd.read_parquet(workspace.folder(found.run_id).path("map/points.parquet")).set_index("sample_id")
    np.testing.assert_array_equal(points.loc[folder.places_of, ["x", "y"]].to_numpy(np.float32), folder.places)
    assert not workspace.catalog.maps(layers["encoder_bottleneck", 2.0].run_id)
    assert "imported/at_two.csv" in workspace.folder(found.run_id).names()


def test_projector_of_recorded_coordinates_places_activations_among_their_neighbours(workspace, folder, layers):
    record = layers["decoder_block_4", 2.0]
    (found,) = workspace.catalog.maps(record.run_id)
    (projector,) = workspace.projectors(found.run_id).values()
    assert (projector.parameters.n_neighbors, projector.parameters.min_dist) == (7, 0.3)
    values = workspace.activations(record).rows(folder.places_of)
    np.testing.assert_allclose(projector.transform(values).coordinates, folder.places, atol=1e-6)
    between = projector.transform((values[:1] + values[1:2]) / 2)
    assert between.match[0] == -1
    near = projector.embedding[between.neighbors[0]]
    assert (near.min(axis=0) <= between.coordinates[0]).all()
    assert (between.coordinates[0] <= near.max(axis=0)).all()


def test_coordinates_of_several_noise_levels_are_a_joint_map(workspace, layers):
    (found,) = workspace.catalog.maps(layers["decoder_block_4", 0.5].run_id)
    (projector,) = workspace.projectors(found.run_id).values()
    assert (found.map, found.sigma, len(projector)) == (MapKind.JOINT, None, 80)
    assert sorted(set(projector.row_sigmas)) == [0.5, 2.0]


def test_imported_layer_masks_a_generation_as_the_extracted_one_does(workspace, adapter, layers, layer_run):
    record = layers["decoder_block_4", 2.0]
    ids = workspace.activations(record).sample_ids[:4]
    recipe = {"sample_ids": ids, "num_samples": 2, "sampling": Sampling(num_steps=4), "seed": 3}
    masked = generate(GenerationRecipe(layer_run=record.run_id, **recipe), workspace, adapter=adapter)
    expected = generate(GenerationRecipe(layer_run=layer_run.run_id, **recipe), workspace, adapter=adapter)
    assert np.abs(masked.result.images.astype(int) - expected.result.images).max() <= 1
    assert np.abs(masked.result.images.astype(int) - masked.result.baseline_images).max() > 50


def test_imported_layer_takes_further_maps(workspace, layers):
    outcome = embed(layers["encoder_bottleneck", 2.0].run_id, SMALL, workspace, kind=MapKind.JOINT)
    (projector,) = workspace.projectors(outcome.run_id).values()
    assert len(projector) == 80


def test_same_folder_is_answered_by_the_finished_run_until_it_changes(own_store, workspace):
    made = digits_folder(own_store / "digits")
    first = import_legacy("digits", maps=SMALL)
    again = import_legacy("digits", maps=SMALL)
    assert (again.run_id, again.runs[0].reused) == (first.run_id, True)
    assert "re-used" in str(again)
    assert import_legacy("digits", maps=SMALL, force=True).run_id != first.run_id
    values = np.load(made.path("activations", "batch_000000.npy"))
    values[0, 0] += 1
    np.save(made.path("activations", "batch_000000.npy"), values)
    changed = import_legacy("digits", maps=SMALL)
    assert changed.run_id != first.run_id
    assert not changed.runs[0].reused


def test_weights_that_are_not_there_leave_the_model_unknown(own_store, caplog):
    made = digits_folder(own_store / "digits", checkpoint="checkpoints/none.safetensors")
    made.write_metadata(layer_shapes={"midblock": LAYERS["midblock"]})
    outcome = import_legacy("digits", layers=("midblock",), maps=SMALL)
    workspace = open_workspace()
    (record,) = workspace.catalog.layers(outcome.run_id)
    reader = workspace.activations(record)
    assert reader.attrs["model_digest"] == UNKNOWN_MODEL_DIGEST == "unknown"
    assert reader.shape == (24, *LAYERS["midblock"])
    network = EDMDigitsAdapter.from_checkpoint(None, device="cpu").hookable_layers
    assert record.layer_index == network.index("midblock")
    assert "none.safetensors is not there" in caplog.text
    ids = reader.sample_ids
    np.testing.assert_array_equal(reader.rows([ids[3]])[0], activations_of(3, 2.0, "midblock"))
    caplog.clear()
    recipe = GenerationRecipe(layer_run=record.run_id, sample_ids=ids[:2], sampling=Sampling(num_steps=1))
    with pytest.raises(ShapeError):  # the network that ships has another width
        generate(recipe, workspace, device="cpu")
    assert "imported without its weights" in caplog.text


def test_samples_of_different_noise_levels_have_layer_runs_of_their_own(own_store):
    made = LegacyFolder(own_store / "m", {"adapter": "edm-digits"}, "d")
    made.add_many(8, 0.5)
    for number in range(8, 20):
        made.add(number, 2.0)
    made.write_batch()
    made.write_metadata()
    outcome = import_legacy("m", layers=("midblock",), maps=SMALL)
    workspace = open_workspace()
    low, high = workspace.catalog.layers(outcome.run_id)
    assert [workspace.activations(r).shape[0] for r in (low, high)] == [8, 12]
    for record, numbers in ((low, range(8)), (high, range(8, 20))):
        rows = workspace.activations(record).rows([f"sample_{number:06d}" for number in numbers])
        expected = [activations_of(number, record.sigma, "midblock").ravel() for number in numbers]
        np.testing.assert_array_equal(rows.reshape(len(rows), -1), expected)
    assert len(workspace.samples_of(low)) == 20
    alone = embed(high.run_id, SMALL, workspace)
    assert len(pd.read_parquet(workspace.folder(alone.run_id).path("map/points.parquet"))) == 12
    with pytest.raises(ConfigError, match="different samples at sigmas"):
        embed(high.run_id, SMALL, workspace, kind=MapKind.JOINT)
    assert len(pd.read_csv(workspace.folder(outcome.run_id).path("layers.csv"))) == 2


def test_pictures_of_other_sizes_are_fitted_to_the_model(own_store):
    made = digits_folder(own_store / "digits", 8)
    Image.fromarray(pixels_of(3, 32)).save(made.path("images", "sample_000003.png"))
    outcome = import_legacy("digits", layers=("midblock",), maps=SMALL)
    workspace = open_workspace()
    (record,) = workspace.catalog.layers(outcome.run_id)
    samples = workspace.samples_of(record)
    assert samples.images.shape == (8, 16, 16, 3)
    np.testing.assert_array_equal(samples.images_of(["sample_000002"])[0], pixels_of(2))


def test_left_out_samples_are_listed_with_the_reason(own_store):
    made = digits_folder(own_store / "digits", 10)
    made.path("images", "sample_000004.png").unlink()
    outcome = import_legacy("digits", layers=("midblock",), maps=SMALL)
    workspace = open_workspace()
    table = pd.read_csv(workspace.folder(outcome.run_id).path("imported/left_out.csv"))
    assert table.to_dict("records") == [
        {"recorded_id": "sample_000004", "reason": "has no picture images/digits_real/sample_000004.png"}
    ]
    assert "1 samples left out" in str(outcome)
    (record,) = workspace.catalog.layers(outcome.run_id)
    assert len(workspace.catalog.maps(record.run_id)) == 1


def test_root_of_several_models_is_imported_whole_or_in_part(own_store):
    digits_folder(own_store / "data" / "one", 8)
    other = LegacyFolder(own_store / "data" / "two", {"adapter": "mscoco-t2i-128"}, "train2017")
    for number in range(8):
        other.add(number, class_label=None, class_name=None, caption=f"picture {number}")
    other.write_batch()
    other.write_metadata()
    outcome = import_legacy("data", layers=("midblock",), maps=SMALL)
    assert [(run.model, run.dataset) for run in outcome.runs] == [
        ("edm-digits", "digits_real"), ("mscoco-t2i-128", "train2017"),
    ]  # fmt: skip
    workspace = open_workspace()
    (record,) = workspace.catalog.layers(outcome.runs[1].run_id)
    assert record.params["conditioning"] == "prompt"
    assert workspace.samples_of(record).class_text(3) == "picture 3"
    assert [run.reused for run in import_legacy("data", "two", ("midblock",), maps=SMALL).runs] == [True]
    with pytest.raises(ConfigError, match="model 'thre' is not one of: one, two, edm-digits, mscoco-t2i-128"):
        import_legacy("data", "thre", maps=SMALL)


def test_folder_without_configuration_needs_the_adapter(own_store):
    made = digits_folder(own_store / "demo_data", 8)
    (made.folder / "config.json").unlink()
    with pytest.raises(ConfigError, match="give it by --adapter"):
        import_legacy("demo_data", maps=SMALL)
    named = import_legacy("demo_data", "edm-digits", ("midblock",), maps=SMALL)
    assert named.runs[0].model == "edm-digits"
    assert import_legacy("demo_data", None, ("midblock",), adapter="edm-digits", maps=SMALL).run_id == named.run_id


def test_named_table_of_coordinates_is_imported_and_opened_first(own_store, monkeypatch):
    monkeypatch.setattr(legacy_module, "import_legacy", partial(import_legacy, maps=SMALL))
    made = digits_folder(own_store / "data" / "digits", 12)
    made.write_map("second")
    folders = made.folder / "embeddings"
    first = legacy_module.import_for_viz(None, str(folders / "second.csv"), model="edm-digits")
    catalog = open_workspace().catalog
    assert catalog.map(first).params["imported"] == "second.csv"
    again = legacy_module.import_for_viz("data", str(folders))
    assert catalog.map(again).params["imported"] == "demo_embeddings.csv"
    assert len(catalog.runs(Kind.IMPORT)) == 1  # tables of the folder's own change nothing of the import
    outside = own_store / "elsewhere.csv"
    outside.write_text((folders / "second.csv").read_text())
    elsewhere = legacy_module.import_for_viz("data", str(outside))
    assert catalog.map(elsewhere).params["imported"] == "elsewhere.csv"
    outside.write_text("sample_id,umap_x,umap_y\nnobody,0,1\n")
    with pytest.raises(SampleSetError, match="gives no coordinates of the imported samples"):
        legacy_module.import_for_viz("data", str(outside))
    assert legacy_module.import_for_viz("data", None) is None


def runs_of(store):
    client = open_workspace().catalog.connection
    return client.call(lambda c: c.search_runs([e.experiment_id for e in c.search_experiments()]))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"layers": ("midblok",)}, LayerNotFoundError, "did you mean 'midblock'"),
        ({"maps": MapParameters(n_neighbors=15)}, ConfigError, "needs more than 15 samples, but digits_real has 8"),
        ({"path": "nowhere"}, SampleSetError, "does not exist"),
    ],
)
def test_impossible_imports_are_refused_before_anything_is_logged(own_store, options, error, said):
    digits_folder(own_store / "digits", 8)
    with pytest.raises(error, match=said):
        import_legacy(**{"path": "digits", "maps": SMALL, **options})
    assert not runs_of(own_store)


def test_truncated_file_is_named_and_nothing_is_logged(own_store):
    made = digits_folder(own_store / "digits", 8)
    path = made.path("activations", "batch_000000.npy")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CorruptDataError, match=r"batch_000000\.npy"):
        import_legacy("digits", maps=SMALL)
    assert not runs_of(own_store)


def test_import_that_fails_half_way_is_never_listed_and_says_why(own_store):
    made = digits_folder(own_store / "digits", 8)
    path = made.path("activations", "batch_000000.npy")
    values = np.load(path)
    values[5, -1] = np.nan  # in midblock, the second layer
    np.save(path, values)
    with pytest.raises(CorruptDataError, match=r"1 NaN .*sample_000005"):
        import_legacy("digits", maps=SMALL)
    assert len(open_workspace().catalog.extractions()) == 0
    by_kind = {}
    for run in runs_of(own_store):
        by_kind.setdefault(run.data.tags[Tag.KIND], []).append(run)
    (parent,) = by_kind["import"]
    assert (parent.info.status, "sample_000005" in parent.data.tags[Tag.ERROR]) == ("FAILED", True)
    assert [run.info.status for run in by_kind["layer"]] == ["FINISHED"]
    assert "embedding" not in by_kind


def test_damaged_archive_is_named_and_nothing_is_logged(own_store):
    made = LegacyFolder(own_store / "digits", {"adapter": "edm-digits"}, "d")
    made.add_many(8)
    made.write_each()
    made.write_metadata()
    path = made.path("activations", "sample_000005.npz")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CorruptDataError, match=r"sample_000005\.npz"):
        import_legacy("digits", maps=SMALL)
    assert not runs_of(own_store)


def test_layer_names_of_a_file_never_become_paths(own_store):
    made = LegacyFolder(own_store / "digits", {"adapter": "edm-digits"}, "d")
    made.add_many(8)
    made.write_each()
    for record in made.records:
        values = activations_of(record["number"], 2.0, "midblock").reshape(1, -1)
        np.savez(made.path("activations", f"{record['sample_id']}.npz"), **{"../../../../x": values})
    made.write_metadata()
    before = set(own_store.rglob("x*"))
    outcome = import_legacy("digits", maps=SMALL)
    assert {path for path in own_store.rglob("x*") if path.name == "x"} == before
    (record,) = open_workspace().catalog.layers(outcome.run_id)
    assert record.layer == "../../../../x"
