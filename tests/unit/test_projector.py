import hashlib
import json
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize

from diffviews.errors import ConfigError, CorruptDataError, SchemaVersionError, SelectionError, ShapeError
from diffviews.processing import fitting, projector_file
from diffviews.processing.fitting import fit_map
from diffviews.processing.neighbors import membership_strengths
from diffviews.processing.projector import MapParameters, Projector

SHAPE = (6, 4, 4)
RNG = np.random.default_rng(11)
CENTRES = RNG.standard_normal((4, *SHAPE)) * 3
ROWS = np.concatenate([centre + RNG.standard_normal((20, *SHAPE)) for centre in CENTRES]).astype(np.float32)
IDS = [f"s{row}" for row in range(len(ROWS))]


def fitted(monkeypatch, **options):
    # UMAP itself is not what is tested here: any coordinates will do.
    monkeypatch.setattr(
        fitting, "embed_neighbors",
        lambda points, *_, initial, **__: np.random.default_rng(1).standard_normal(initial.shape).astype(np.float32),
    )
    return fit_map(ROWS, IDS, MapParameters(**{"n_neighbors": 8, "pca_components": 10, **options})).projector


@pytest.fixture
def projector(monkeypatch):
    return fitted(monkeypatch)


VARIANTS = [
    {}, {"n_components": 3}, {"pca_components": None}, {"normalize": False}, {"metric": "cosine"},
    {"pca_components": 1}, {"metric": "manhattan"},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_sample_keeps_its_own_coordinates_exactly(monkeypatch, options):
    projector = fitted(monkeypatch, **options)
    placed = projector.transform(ROWS)
    np.testing.assert_array_equal(placed.coordinates, projector.embedding)
    np.testing.assert_array_equal(placed.match, np.arange(len(ROWS)))
    assert not (placed.neighbors == np.arange(len(ROWS))[:, None]).any()


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("offset", [0.0, 3.0, -60.0])
def test_sample_captured_again_is_recognised_although_it_was_stored_in_float16(monkeypatch, options, offset):
    again = ROWS + np.float32(offset)
    monkeypatch.setattr(sys.modules[__name__], "ROWS", again.astype(np.float16).astype(np.float32))
    projector = fitted(monkeypatch, **options)
    placed = projector.transform(again)
    if options.get("pca_components") == 1 and offset:  # on one axis rounding is as large as the gaps between samples
        assert set(placed.match) <= {-1, *range(len(ROWS))}
        assert (placed.match[placed.match >= 0] == np.flatnonzero(placed.match >= 0)).mean() > 0.9
        return
    recognised = placed.match == np.arange(len(ROWS))
    assert recognised.mean() >= (0.7 if options.get("pca_components") == 1 else 1.0)
    np.testing.assert_array_equal(placed.coordinates[recognised], projector.embedding[recognised])


def test_new_point_is_no_sample_however_large_its_values_are(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROWS", (ROWS + np.float32(60)).astype(np.float16).astype(np.float32))
    projector = fitted(monkeypatch)
    new = ROWS + RNG.standard_normal(ROWS.shape).astype(np.float32) * 0.6
    assert (projector.transform(new).match == -1).all()
    between = (ROWS[:20] + ROWS[20:40]) / 2
    assert (projector.transform(between).match == -1).all()


@pytest.mark.parametrize("options", [{}, {"n_components": 3}])
def test_new_point_lies_at_the_weighted_geometric_median_of_its_neighbours(monkeypatch, options):
    projector = fitted(monkeypatch, **options)
    new = ROWS[5:6] * 0.6 + ROWS[9:10] * 0.4
    placed = projector.transform(new)
    gaps = np.linalg.norm(projector.pca_points.astype(np.float64) - projector.project(new), axis=1)
    nearest = np.argsort(gaps)[:8]
    weights = membership_strengths(gaps[nearest][None])[0]
    spots = projector.embedding[nearest].astype(np.float64)
    expected = minimize(lambda place: weights @ np.linalg.norm(spots - place, axis=1), spots.mean(axis=0), tol=1e-10)
    np.testing.assert_allclose(placed.coordinates[0], expected.x, atol=1e-4)
    np.testing.assert_array_equal(placed.neighbors[0], nearest)
    assert placed.distance[0] == pytest.approx(gaps[nearest].mean(), rel=1e-5)
    assert placed.match[0] == -1


@pytest.mark.parametrize("options", VARIANTS[:5], ids=str)
def test_percentiles_say_how_usual_a_place_is(monkeypatch, options):
    projector = fitted(monkeypatch, **options)
    random = np.random.default_rng(5)
    usual = (np.repeat(CENTRES, 50, axis=0) + random.standard_normal((200, *SHAPE))).astype(np.float32)
    placed = projector.transform(usual)
    assert 20 < np.median(placed.distance_percentile) < 80
    assert placed.is_unusual.mean() < 0.25
    off = projector.transform(usual + random.standard_normal(usual.shape).astype(np.float32) * 8)
    assert off.is_unusual.mean() > 0.9
    if options.get("pca_components", 10) is None:
        assert (placed.residual == 0).all()
        assert np.isnan(placed.residual_percentile).all()
        return
    flat = (usual.reshape(200, -1) - projector.scaler_mean) / projector.scaler_scale
    kept = flat @ projector.pca_components.T @ projector.pca_components
    np.testing.assert_allclose(placed.residual, np.linalg.norm(flat - kept, axis=1), rtol=1e-4)
    assert 20 < np.median(placed.residual_percentile) < 80
    assert (off.residual_percentile > 95).mean() > 0.9


def test_projector_of_an_earlier_version_places_without_percentiles(projector, tmp_path):
    earlier = replace(projector, held_out_distances=None, held_out_residuals=None)
    earlier.save(tmp_path / "map.safetensors")
    assert not any(name.startswith("held_out") for name in load_file(tmp_path / "map.safetensors"))
    placed = Projector.load(tmp_path / "map.safetensors").transform(ROWS + np.float32(0.2))
    np.testing.assert_array_equal(placed.coordinates, projector.transform(ROWS + np.float32(0.2)).coordinates)
    assert np.isnan([placed.distance_percentile, placed.residual_percentile]).all()
    assert not placed.is_unusual.any()


def test_distance_grows_away_from_the_data(projector):
    near, far = projector.transform(np.stack([ROWS[0], ROWS[0] * 50])).distance
    assert far > 10 * near


def test_point_is_placed_alike_alone_and_in_a_batch(projector):
    new = ROWS + 0.1 * RNG.standard_normal(ROWS.shape).astype(np.float32)
    together = projector.transform(new)
    alone = [projector.transform(new[row : row + 1]) for row in range(len(new))]
    np.testing.assert_array_equal(together.coordinates, np.concatenate([one.coordinates for one in alone]))
    np.testing.assert_array_equal(together.distance, np.concatenate([one.distance for one in alone]))


def test_flat_and_shaped_activations_are_the_same(projector):
    np.testing.assert_array_equal(projector.project(ROWS), projector.project(ROWS.reshape(len(ROWS), -1)))


def test_projection_is_scaler_then_pca(projector):
    flat = ROWS.reshape(len(ROWS), -1).astype(np.float64)
    scaled = (flat - flat.mean(axis=0)) / flat.std(axis=0)
    np.testing.assert_allclose(projector.project(ROWS), scaled @ projector.pca_components.T, atol=1e-4)


@pytest.mark.parametrize("wrong", [ROWS[0], ROWS[:, :5], np.zeros((2, 95)), np.zeros(96)], ids=lambda a: str(a.shape))
def test_activations_of_another_layer_are_refused(projector, wrong):
    with pytest.raises(ShapeError, match="96 values"):
        projector.transform(wrong)


def test_nan_and_infinity_are_not_placed(projector):
    rows = ROWS[:3].copy()
    rows[1, 0, 0, 0] = np.nan
    with pytest.raises(CorruptDataError, match="1 NaN and 0 infinite values, in 1 of 3 samples: 'row 1'"):
        projector.transform(rows)


def test_neighbors_are_those_in_activation_space_not_on_the_map(projector):
    by_activation = projector.neighbors(7, 5)
    gaps = np.linalg.norm(projector.pca_points.astype(np.float64) - projector.pca_points[7], axis=1)
    np.testing.assert_array_equal(by_activation[0], np.argsort(gaps)[1:6])
    np.testing.assert_allclose(by_activation[1], np.sort(gaps)[1:6], rtol=1e-6)
    assert (by_activation[0] < 20).all(), "samples of the same cluster"
    on_map = projector.neighbors(7, 5, space="map")
    gaps = np.linalg.norm(projector.embedding.astype(np.float64) - projector.embedding[7], axis=1)
    np.testing.assert_array_equal(on_map[0], np.argsort(gaps)[1:6])
    assert set(on_map[0]) != set(by_activation[0])


def test_neighbors_of_an_activation_or_place_may_be_the_sample_there(projector):
    assert projector.neighbors(ROWS[7], 3)[0][0] == 7
    assert projector.neighbors(projector.embedding[7], 3, space="map")[0][0] == 7
    with pytest.raises(ShapeError, match="2 coordinates"):
        projector.neighbors(np.zeros(3), 3, space="map")
    with pytest.raises(ConfigError, match="activation, map"):
        projector.neighbors(0, 3, space="pixels")


@pytest.mark.parametrize("k", [1, 79])
def test_neighbors_of_a_row_leave_it_out(projector, k):
    found, distances = projector.neighbors(3, k)
    assert len(found) == len(distances) == k
    assert 3 not in found


def test_neighbors_of_a_copy_leave_out_only_itself(monkeypatch):
    copies = Projector(
        scaler_mean=np.zeros(2), scaler_scale=np.ones(2), pca_components=None, pca_points=np.zeros((5, 2)),
        embedding=np.zeros((5, 2)), parameters=MapParameters(n_neighbors=2), sample_ids=tuple("abcde"),
    )
    for row in range(5):
        found = copies.neighbors(row, 2)[0]
        assert len(found) == 2
        assert row not in found


@pytest.mark.parametrize(
    ("row", "k", "sentence"),
    [(3, 80, "only 79 other"), (3, 0, "at least 1"), (80, 2, "row 80"), (-1, 2, "row -1")],
)
def test_impossible_neighbors_are_refused(projector, row, k, sentence):
    with pytest.raises(SelectionError, match=sentence):
        projector.neighbors(row, k)


def test_map_cannot_be_changed(projector):
    with pytest.raises(ValueError, match="read-only"):
        projector.embedding[0] = 0
    with pytest.raises(AttributeError):
        projector.embedding = np.zeros((80, 2))


def test_parts_that_do_not_fit_are_refused(projector):
    parts = {name: getattr(projector, name) for name in projector.__slots__}
    for name, wrong in (("embedding", np.zeros((79, 2))), ("sample_ids", ("s0",) * 80), ("scaler_scale", np.ones(95))):
        with pytest.raises(ShapeError, match="do not fit"):
            Projector(**{**parts, name: wrong})


FRESH_PROCESS = """
import sys
import numpy as np
from diffviews.processing.projector import Projector
placed = Projector.load(sys.argv[1]).transform(np.load(sys.argv[2], allow_pickle=False))
np.savez(sys.argv[3], coordinates=placed.coordinates, distance=placed.distance, neighbors=placed.neighbors)
heavy = {"umap", "numba", "sklearn", "torch", "pandas", "scipy.linalg"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_fresh_process_gives_bit_identical_answers(projector, tmp_path, threads):
    path = [18 / 20 * ROWS[3] + step * ROWS[30] for step in np.linspace(-1, 1, 18)]
    np.save(tmp_path / "path.npy", np.stack(path))
    projector.save(tmp_path / "map.safetensors")
    names = [str(tmp_path / name) for name in ("map.safetensors", "path.npy", "answers.npz")]
    limited = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    subprocess.run([sys.executable, "-c", FRESH_PROCESS, *names], check=True, env=limited)
    here = projector.transform(np.stack(path))
    with np.load(tmp_path / "answers.npz", allow_pickle=False) as there:
        for name in there.files:
            np.testing.assert_array_equal(there[name], getattr(here, name))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_loaded_projector_is_the_saved_one(monkeypatch, tmp_path, options):
    projector = fitted(monkeypatch, **options)
    projector.save(tmp_path / "map.safetensors")
    loaded = Projector.load(str(tmp_path / "map.safetensors"))
    for name in projector.__slots__:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(projector, name))
    assert loaded.parameters == projector.parameters
    assert loaded.sample_ids == projector.sample_ids
    assert [entry.name for entry in tmp_path.iterdir()] == ["map.safetensors"]


@pytest.fixture
def halved(projector):
    return replace(projector, pca_points=projector.pca_points.astype(np.float16).astype(np.float32))


def test_points_that_fit_half_precision_take_less_than_half_the_space_and_come_back_exactly(
    projector, halved, tmp_path
):
    sizes = []
    for name, one in (("whole", projector), ("half", halved)):
        one.save(tmp_path / name)
        loaded = Projector.load(tmp_path / name)
        assert loaded.pca_points.dtype == np.float32
        np.testing.assert_array_equal(loaded.pca_points, one.pca_points)
        sizes.append((tmp_path / name).stat().st_size)
    assert sizes[0] - sizes[1] > projector.pca_points.size * 2


def test_ids_take_a_few_bytes_each(projector, tmp_path):
    ids = tuple(f"class-7/picture-{row:06}" for row in range(80))
    replace(projector, sample_ids=ids).save(tmp_path / "m.safetensors")
    assert Projector.load(tmp_path / "m.safetensors").sample_ids == ids
    assert load_file(tmp_path / "m.safetensors")["sample_ids"].size < 8 * 80


def test_rows_of_a_joint_map_keep_their_sigmas(projector, tmp_path):
    parts = {name: getattr(projector, name) for name in projector.__slots__}
    joint = Projector(**{**parts, "sample_ids": ("a",) * 80, "row_sigmas": np.arange(80.0)})
    joint.save(tmp_path / "map.safetensors")
    loaded = Projector.load(tmp_path / "map.safetensors")
    np.testing.assert_array_equal(loaded.row_sigmas, np.arange(80.0))


@pytest.mark.parametrize("failing", ["os.fsync", "os.replace"])
def test_failed_save_leaves_the_older_file_whole(projector, tmp_path, monkeypatch, failing):
    path = tmp_path / "map.safetensors"
    projector.save(path)
    before = path.read_bytes()

    def disk_full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(failing, disk_full)
    with pytest.raises(OSError, match="disk full"):
        projector.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_equal_projectors_are_equal_files_in_every_process(projector, tmp_path):
    path = tmp_path / "map.safetensors"
    projector.save(path)
    again = (
        "import hashlib, sys; from diffviews.processing.projector import Projector\n"
        "for _ in range(6):\n"
        "    Projector.load(sys.argv[1]).save(sys.argv[2])\n"
        "    print(hashlib.sha256(open(sys.argv[2], 'rb').read()).hexdigest())"
    )
    digests = {hashlib.sha256(path.read_bytes()).hexdigest()}
    for seed in ("1", "2"):
        command = [sys.executable, "-c", again, str(path), str(tmp_path / "again")]
        printed = subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        digests.update(printed.split())
    assert len(digests) == 1


def saved(projector, path, change=None, metadata=None):
    """Write a projector's file with something in it changed."""
    projector.save(path)
    arrays = load_file(path)
    with path.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    described = {**header["__metadata__"], **(metadata or {})}
    save_file((change or (lambda a: a))(arrays), path, {k: v for k, v in described.items() if v is not None})
    return path


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_truncated_file_is_named(projector, tmp_path, size):
    path = tmp_path / "map.safetensors"
    projector.save(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptDataError, match=r"map\.safetensors"):
        Projector.load(path)


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 8,
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 76) + b'{"embedding":{"dtype":"F32","shape":[99999999999,99999],"data_offsets":[0,8]}}'[:76],
    ],
    ids=["length", "header", "shape"],
)
def test_hostile_sizes_are_refused(tmp_path, header):
    path = tmp_path / "map.safetensors"
    path.write_bytes(header + b"\0" * 64)
    with pytest.raises(CorruptDataError, match="truncated or no safetensors"):
        Projector.load(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(CorruptDataError, match="nothing-here"):
        Projector.load(tmp_path / "nothing-here.safetensors")


@pytest.mark.parametrize("schema", ["3", "0", None])
def test_another_schema_version_is_refused(projector, tmp_path, schema):
    with pytest.raises(SchemaVersionError, match="reads 1 and 2"):
        Projector.load(saved(projector, tmp_path / "m.safetensors", metadata={"schema": schema}))


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "other"}, {"format": None}, {"parameters": None}, {"parameters": '{"n_neighbors": 0}'},
        {"parameters": '{"colour": 1}'}, {"parameters": "[" * 100_000},
    ],
    ids=lambda metadata: str(metadata)[:40],
)
def test_damaged_description_is_refused(projector, tmp_path, metadata):
    with pytest.raises(CorruptDataError, match=r"m\.safetensors"):
        Projector.load(saved(projector, tmp_path / "m.safetensors", metadata=metadata))


DAMAGED_IDS = [
    None, "{", "[1, 2]", '["s0"]', json.dumps(["s0"] * 80), "[" * 60_000,
    " " * (80 * projector_file.ID_BYTES) + json.dumps(IDS),
]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED_IDS, ids=lambda text: str(text)[:10])
def test_damaged_ids_are_refused(projector, tmp_path, text):
    packed = None if text is None else np.frombuffer(zlib.compress(text.encode()), np.uint8)

    def change(arrays):
        others = {name: array for name, array in arrays.items() if name != "sample_ids"}
        return others if packed is None else {**others, "sample_ids": packed}

    with pytest.raises(CorruptDataError, match=r"m\.safetensors"):
        Projector.load(saved(projector, tmp_path / "m.safetensors", change))


@pytest.mark.parametrize("schema", ["1", "2"])
def test_ids_in_the_metadata_are_read_as_version_1_wrote_them(projector, tmp_path, schema):
    path = saved(
        projector, tmp_path / "m.safetensors", lambda a: {k: v for k, v in a.items() if k != "sample_ids"},
        {"schema": schema, "sample_ids": json.dumps(projector.sample_ids)},
    )  # fmt: skip
    assert Projector.load(path).sample_ids == projector.sample_ids


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-3],
        lambda packed: packed[:5],
        lambda packed: np.append(packed[: 80 * 10], np.frombuffer(zlib.compress(bytes(799)), np.uint8)),
        lambda packed: np.append(packed[: 80 * 10], np.frombuffer(zlib.compress(bytes(10**7)), np.uint8)),
        lambda packed: np.append(packed[: 80 * 10], packed[:50]),
        lambda packed: packed.astype(np.float32),
    ],
    ids=["cut", "short", "too few", "too many", "no stream", "dtype"],
)
def test_damaged_packed_points_are_refused(halved, tmp_path, damage):
    path = saved(halved, tmp_path / "m.safetensors", lambda a: {**a, "packed_points": damage(a["packed_points"])})
    with pytest.raises(CorruptDataError, match=r"m\.safetensors is damaged"):
        Projector.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: {k: v for k, v in a.items() if k != "embedding"},
        lambda a: {**a, "embedding": a["embedding"][:79]},
        lambda a: {**a, "embedding": a["embedding"].astype(np.float64)},
        lambda a: {**a, "pca_points": a["pca_points"][:, :9]},
        lambda a: {**a, "scaler_mean": a["scaler_mean"][:, None]},
        lambda a: {**a, "scaler_scale": a["scaler_scale"] * 0},
        lambda a: {**a, "embedding": a["embedding"] * np.nan},
    ],
)
def test_damaged_arrays_are_refused(projector, tmp_path, change):
    with pytest.raises(CorruptDataError, match=r"m\.safetensors is damaged"):
        Projector.load(saved(projector, tmp_path / "m.safetensors", change))


def test_shapes_are_checked_before_anything_is_read(projector, tmp_path, monkeypatch):
    path = saved(projector, tmp_path / "m.safetensors", lambda a: {**a, "embedding": a["embedding"][:3]})
    monkeypatch.setattr(projector_file.np, "isfinite", lambda _: pytest.fail("arrays were read"))
    with pytest.raises(CorruptDataError, match="damaged"):
        Projector.load(path)
