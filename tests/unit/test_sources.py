"""Digits, folders and Parquet files as sources of sample sets."""

import pickle
import struct
import sys
import time
import zlib
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from diffviews.data.class_labels import load_class_labels
from diffviews.data.sources import open_source
from diffviews.errors import CorruptDataError, SampleSetError, ShapeError


def save(path: Path, colour: object = (255, 0, 0), size: tuple[int, int] = (6, 6), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def test_digits_are_the_real_ones_with_names_and_stable_ids() -> None:
    samples = open_source("digits")
    assert samples.images.shape == (1797, 16, 16, 3)
    assert (samples.sample_ids[0], samples.sample_ids[-1]) == ("digits-0000", "digits-1796")
    np.testing.assert_array_equal(samples.class_labels, load_digits().target)
    assert samples.class_text(0) == "0: zero"
    assert (samples.classes[9], len(samples.classes), samples.class_order) == ("nine", 10, "digits")


def test_digits_are_scaled_to_full_range_and_enlarged_bilinearly() -> None:
    values = load_digits().images[:50] * 255 / 16
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)), mode="edge")
    expected = np.empty((50, 16, 16))
    for row in range(16):
        for column in range(16):
            i, j = row // 2 + 1, column // 2 + 1
            up, left = i + (1 if row % 2 else -1), j + (1 if column % 2 else -1)
            near = 0.75 * padded[:, i, j] + 0.25 * padded[:, up, j]
            far = 0.75 * padded[:, i, left] + 0.25 * padded[:, up, left]
            expected[:, row, column] = 0.75 * near + 0.25 * far
    images = open_source("digits").images[:50]
    assert np.abs(images[..., 0] - expected).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    assert images.max() > 250


def test_digits_load_in_a_fraction_of_a_second() -> None:
    open_source("digits")  # imports scikit-learn
    start = time.process_time()
    open_source("digits").digest  # noqa: B018
    assert time.process_time() - start < 1.0  # 0.1 s alone; the bound leaves room for a busy machine


def test_digits_digest_is_the_same_everywhere() -> None:
    assert open_source("digits").digest == "d3ebe56b01981c15502cde7c44538f20bf0a615ca3fc3189a411e9533aff5fed"


def test_max_samples_is_stratified_keeps_ids_and_is_deterministic() -> None:
    samples = open_source("digits", max_samples=105)
    counts = np.bincount(samples.class_labels)
    assert (len(samples), counts.min(), counts.max()) == (105, 10, 11)
    whole = open_source("digits")
    np.testing.assert_array_equal(samples.images, whole.images_of(samples.sample_ids))
    assert samples.digest == open_source("digits", max_samples=105).digest == whole.stratified(105).digest


def test_digits_in_another_resolution() -> None:
    assert open_source("digits", resolution=8, max_samples=20).images.shape == (20, 8, 8, 3)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("digit", "did you mean 'digits'"),
        ("lmbd:x", "did you mean 'lmdb'"),
        ("", "digits, shapes, folder, parquet, lmdb, hf, tar, prompts, run"),
        ("lmdb:", "no LMDB database"),
        ("lmdb:/no/such/folder", "no LMDB database"),
        ("prompts:birds.csv", "holds prompts and no images; extract and generate-dataset make"),
        ("run:", "needs an id"),
        ("run:0123", "tracking store"),
        ("digits:16", "takes no path"),
        ("folder:/no/such/folder", "does not exist"),
        ("folder:", "does not exist"),
        ("parquet:", "needs a path"),
        ("parquet:/no/such.parquet", "does not exist"),
    ],
)
def test_impossible_sources_are_refused_with_what_there_is(spec: str, said: str) -> None:
    with pytest.raises(SampleSetError, match=said):
        open_source(spec)


@pytest.mark.parametrize("options", [{"max_samples": 0}, {"resolution": 0}, {"resolution": 10**6}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(SampleSetError, match=r"at least 1|side of"):
        open_source("digits", **options)


def test_folder_gives_sorted_relative_paths_and_a_class_per_folder(tmp_path: Path) -> None:
    for name in ("dog/b.png", "dog/a.JPEG", "cat/deep/c.webp", "loose.bmp", "cat/.hidden.png", "cat/readme.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("not an image")
        else:
            save(tmp_path / name)
    samples = open_source(f"folder:{tmp_path}")
    assert samples.sample_ids == ("cat/deep/c.webp", "dog/a.JPEG", "dog/b.png", "loose.bmp")
    assert samples.table["class_label"].isna().tolist() == [False, False, False, True]
    assert samples.class_labels.tolist() == [0, 1, 1, -1]
    assert (samples.class_text(0), samples.class_text(2)) == ("0: cat", "1: dog")
    assert samples.class_order == "folders"


def test_folders_of_synsets_have_the_standard_imagenet_order(tmp_path: Path) -> None:
    save(tmp_path / "n02099601" / "x.png")
    save(tmp_path / "n01440764" / "y.png")
    samples = open_source(f"folder:{tmp_path}")
    assert samples.classes == {0: "tench", 207: "golden_retriever"}
    assert samples.class_order == "standard"


def test_folder_of_mixed_sizes_is_fitted_or_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", size=(6, 6))
    save(tmp_path / "b.png", size=(8, 6))
    with pytest.raises(ShapeError, match=r"b\.png is 6×8, but .*a\.png is 6×6; give a resolution"):
        open_source(f"folder:{tmp_path}")
    assert open_source(f"folder:{tmp_path}", resolution=4).images.shape == (2, 4, 4, 3)


def test_fitting_crops_the_centre_and_keeps_the_aspect(tmp_path: Path) -> None:
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (open_source(f"folder:{tmp_path}", resolution=4).images == 200).all()


def test_images_of_every_mode_become_upright_opaque_rgb(tmp_path: Path) -> None:
    save(tmp_path / "grey.png", 77, mode="L")
    save(tmp_path / "clear.png", (10, 20, 30, 0), mode="RGBA")
    save(tmp_path / "palette.png", 0, mode="P")
    turned = Image.new("RGB", (6, 6))
    turned.putpixel((0, 0), (255, 255, 255))
    exif = turned.getexif()
    exif[0x0112] = 3  # stored upside down
    turned.save(tmp_path / "turned.png", exif=exif)
    clear, grey, _, upright = open_source(f"folder:{tmp_path}").images
    assert (grey == 77).all()
    assert (clear == 255).all()
    assert (upright[5, 5] == 255).all()
    assert upright.sum() == 3 * 255


def test_folder_chooses_before_it_decodes(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        save(tmp_path / name)
    (tmp_path / "a" / "3.png").write_bytes(b"broken, but not chosen")
    assert open_source(f"folder:{tmp_path}", max_samples=2).sample_ids == ("a/1.png", "b/1.png")


def png_claiming(width: int, height: int) -> bytes:
    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + block(b"IDAT", zlib.compress(b"\0" * 64)) + block(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "content",
    [
        png_claiming(9_000, 9_000),
        png_claiming(60_000, 60_000),
        png_claiming(8, 8),
        b"",
        b"plain text",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        b"SIMPLE  =                    T" + b"BITPIX  =                    8".rjust(80) + b" " * 2770,
    ],
    ids=["large", "bomb", "short", "empty", "text", "postscript", "unlisted-format"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_hostile_images_are_refused_and_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "bad.png").write_bytes(content)
    with pytest.raises(CorruptDataError, match=r"c/bad\.png"):
        open_source(f"folder:{tmp_path}")


def test_image_that_claims_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png_claiming(8_001, 8_000))
    with pytest.raises(CorruptDataError, match="claims 8001×8000 pixels"):
        open_source(f"folder:{tmp_path}")


def test_truncated_image_is_refused_and_named(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    image.save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-400])
    with pytest.raises(CorruptDataError, match=r"cut\.jpg"):
        open_source(f"folder:{tmp_path}")


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    secret = save(tmp_path / "outside" / "secret.png")
    root = tmp_path / "root"
    save(root / "a.png")
    (root / "inside.png").symlink_to(root / "a.png")
    assert len(open_source(f"folder:{root}")) == 2
    (root / "link.png").symlink_to(secret)
    with pytest.raises(SampleSetError, match=r"link\.png is a link that leads out"):
        open_source(f"folder:{root}")
    (root / "link.png").unlink()
    (root / "folder").symlink_to(tmp_path / "outside")
    with pytest.raises(SampleSetError, match="folder is a link that leads out"):
        open_source(f"folder:{root}")
    (root / "folder").unlink()
    (root / "again").symlink_to(root)
    with pytest.raises(SampleSetError, match="count twice"):
        open_source(f"folder:{root}")


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SampleSetError, match="holds no image"):
        open_source(f"folder:{tmp_path}")


def test_parquet_source_takes_max_samples_and_resolution(tmp_path: Path) -> None:
    open_source("digits", max_samples=40).write_parquet(tmp_path / "d.parquet")
    samples = open_source(f"parquet:{tmp_path / 'd.parquet'}", max_samples=10, resolution=8)
    assert samples.images.shape == (10, 8, 8, 3)
    assert sorted(samples.class_labels) == list(range(10))
    assert open_source(f"parquet:{tmp_path / 'd.parquet'}").digest == open_source("digits", max_samples=40).digest


def test_run_source_is_the_sample_set_of_that_run(tmp_path: Path) -> None:
    open_source("digits", max_samples=40).write_parquet(tmp_path / "abc" / "samples.parquet")
    samples = open_source("run:abc", max_samples=10, resolution=8, runs=lambda run: tmp_path / run / "samples.parquet")
    assert samples.sample_ids == open_source("digits", max_samples=10).sample_ids
    assert samples.images.shape == (10, 8, 8, 3)


def test_large_folder_decodes_only_the_images_that_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffviews.data.encoded.EAGER_BYTES", 2 * 4 * 4 * 3 - 1)
    save(tmp_path / "a" / "1.png", (1, 2, 3))
    save(tmp_path / "b" / "2.png", (4, 5, 6))
    samples = open_source(f"folder:{tmp_path}", resolution=4)
    eager = open_source(f"folder:{tmp_path}")
    (tmp_path / "a" / "1.png").write_bytes(b"broken since")
    assert (samples.images_of(["b/2.png"]) == (4, 5, 6)).all()
    assert (samples.take([1]).images == (4, 5, 6)).all()
    assert (eager.images_of(["a/1.png"]) == (1, 2, 3)).all()
    with pytest.raises(CorruptDataError, match=r"a/1\.png"):
        samples.images_of(["a/1.png"])


def test_folder_decoded_later_is_the_same_set_and_survives_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        save(tmp_path / "set" / "a" / f"{number}.png", (number, 0, 0), size=(9, 6))
    now = open_source(f"folder:{tmp_path / 'set'}", resolution=4)
    monkeypatch.setattr("diffviews.data.encoded.EAGER_BYTES", 0)
    samples = open_source(f"folder:{tmp_path / 'set'}", resolution=4)
    assert samples.digest == now.digest
    assert type(samples.pictures) is not type(now.pictures)
    samples.write_parquet(tmp_path / "s.parquet")
    again = open_source(f"parquet:{tmp_path / 's.parquet'}")
    assert again.digest == samples.digest
    np.testing.assert_array_equal(again.images, samples.images)


PIXELS = np.random.default_rng(0).integers(0, 256, (12, 3, 6, 8), dtype=np.uint8)
LABELS = np.array([3, 3, 3, 3, 3, 3, 3, 3, 207, 207, 0, 999])


def write_lmdb(path: Path, images: np.ndarray = PIXELS, labels: np.ndarray | None = LABELS, **changed: bytes) -> Path:
    """Write a database as DMD2's script does; `changed` values replace or, when empty, remove keys."""
    values = {"images_shape": " ".join(map(str, images.shape)).encode()}
    values |= {f"images_{row}_data": image.tobytes() for row, image in enumerate(images)}
    if labels is not None:
        values["labels_shape"] = str(len(labels)).encode()
        values |= {f"labels_{row}_data": np.int64(label).tobytes() for row, label in enumerate(labels)}
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in (values | changed).items():
            if value:
                transaction.put(key.encode(), value)
    return path


def test_lmdb_gives_images_labels_and_standard_names(tmp_path: Path) -> None:
    samples = open_source(f"lmdb:{write_lmdb(tmp_path / 'db')}")
    np.testing.assert_array_equal(samples.images, PIXELS.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(samples.class_labels, LABELS)
    assert samples.class_order == "standard"
    assert samples.classes == {label: load_class_labels()[label] for label in (0, 3, 207, 999)}
    assert samples.sample_ids[7] == "lmdb-0000007"


def test_lmdb_leaves_no_file_behind_and_can_be_open_twice(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "db")
    (path / "lock.mdb").unlink()
    first, second = open_source(f"lmdb:{path}"), open_source(f"lmdb:{path / 'data.mdb'}")
    np.testing.assert_array_equal(first.images, second.images)
    assert [file.name for file in path.iterdir()] == ["data.mdb"]


def test_lmdb_set_can_be_sent_to_another_process(tmp_path: Path) -> None:
    samples = open_source(f"lmdb:{write_lmdb(tmp_path / 'db')}", max_samples=4)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(samples)).images, samples.images)  # noqa: S301


def test_lmdb_of_the_downsampled_order_gets_standard_labels(tmp_path: Path) -> None:
    samples = open_source(f"lmdb:{write_lmdb(tmp_path / 'db', labels=np.arange(12))}?order=downsampled")
    assert samples.class_text(0) == "278: kit_fox"
    assert samples.class_order == "standard"
    with pytest.raises(SampleSetError, match=r"did you mean 'downsampled'"):
        open_source(f"lmdb:{tmp_path / 'db'}?order=downsample")


def test_lmdb_with_labels_of_its_own_or_none(tmp_path: Path) -> None:
    own = write_lmdb(tmp_path / "own", labels=np.arange(1995, 2007))
    with pytest.raises(SampleSetError, match=r"label 1995 .*order=own"):
        open_source(f"lmdb:{own}?order=standard")
    assert open_source(f"lmdb:{own}").class_order == "own"
    samples = open_source(f"lmdb:{own}?order=own")
    assert (samples.class_order, samples.classes[2006]) == ("own", "")
    some = open_source(f"lmdb:{write_lmdb(tmp_path / 'some', labels=np.arange(-1, 11))}")
    assert some.table["class_label"].isna().tolist() == [True, *[False] * 11]
    without = open_source(f"lmdb:{write_lmdb(tmp_path / 'none', labels=None)}", max_samples=5)
    assert without.table["class_label"].isna().all()
    assert len(without) == 5


def test_lmdb_of_channels_last_is_read_as_it_is(tmp_path: Path) -> None:
    images = np.ascontiguousarray(PIXELS.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(open_source(f"lmdb:{write_lmdb(tmp_path / 'db', images)}").images, images)
    with pytest.raises(SampleSetError, match="3 colour channels"):
        open_source(f"lmdb:{write_lmdb(tmp_path / 'grey', PIXELS[:, :1])}")


def test_lmdb_fits_images_to_a_resolution(tmp_path: Path) -> None:
    samples = open_source(f"lmdb:{write_lmdb(tmp_path / 'db')}", resolution=4)
    assert samples.images.shape == (12, 4, 4, 3)
    samples.write_parquet(tmp_path / "s.parquet")
    assert open_source(f"parquet:{tmp_path / 's.parquet'}").digest == samples.digest


def test_lmdb_chooses_by_labels_before_it_reads_images(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "db", **{f"images_{row}_data": b"cut" for row in range(1, 8)})
    samples = open_source(f"lmdb:{path}", max_samples=4)
    assert samples.class_labels.tolist() == [3, 207, 0, 999]
    np.testing.assert_array_equal(samples.images, PIXELS[[0, 8, 10, 11]].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(samples.take([3, 1]).images, PIXELS[[11, 8]].transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"images_shape": b""}, "no key images_shape"),
        ({"images_shape": b"12 3 6"}, "not the text 'N C H W'"),
        ({"images_shape": b"12 3 6 -8"}, "not the text"),
        ({"images_shape": b"99999999 3 6 8"}, "claims 99999999 images"),
        ({"images_5_data": b"short"}, "images_5_data of .*db has 5 bytes instead of 144"),
        ({"images_5_data": b""}, "no key images_5_data"),
        ({"labels_2_data": b"1234"}, "labels_2_data of .*db has 4 bytes instead of 8"),
        ({"labels_0_data": b""}, "no key labels_0_data"),
    ],
)
def test_damaged_lmdb_values_are_named_with_their_file(tmp_path: Path, changed: dict, said: str) -> None:
    path = write_lmdb(tmp_path / "db", **changed)
    with pytest.raises(CorruptDataError, match=said):
        open_source(f"lmdb:{path}").images  # noqa: B018


@pytest.mark.parametrize("size", [0, 100, 5_000, 30_000])
def test_lmdb_cut_short_is_refused_before_it_is_read(tmp_path: Path, size: int) -> None:
    path = write_lmdb(tmp_path / "db", np.repeat(PIXELS, 30, axis=2))
    with (path / "data.mdb").open("r+b") as file:
        file.truncate(size)
    with pytest.raises(CorruptDataError, match="db"):
        open_source(f"lmdb:{path}")


def test_lmdb_without_its_package_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lmdb(tmp_path / "db")
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(SampleSetError, match=r"pip install 'diffviews\[lmdb\]'"):
        open_source(f"lmdb:{path}")
