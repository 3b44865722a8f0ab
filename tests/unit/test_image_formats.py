"""Whatever Pillow opens comes out as eight-bit RGB with the brightness it had."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from diffviews.data.pictures import decode_image
from diffviews.data.sources import open_source
from diffviews.errors import CorruptDataError, SampleSetError

RAMP = np.linspace(0, 65535, 64).reshape(8, 8)
SCALED = np.rint(RAMP * 255 / 65535)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    image = Image.fromarray(RAMP.astype(np.uint16))
    options = {"irreversible": False} if kind == "JPEG2000" else {}
    pixels = decode_image(encoded(image, kind, **options), "x")
    assert np.abs(pixels[..., 0] - SCALED).max() <= 1
    assert (pixels[..., 0] == pixels[..., 2]).all()
    assert len(np.unique(pixels)) == 64


def test_sixteen_bit_grey_is_turned_and_fitted_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    png = encoded(Image.fromarray(RAMP.astype(np.uint16)), "PNG", exif=exif)
    assert np.abs(decode_image(png, "x")[..., 0] - SCALED[::-1, ::-1]).max() <= 1
    assert decode_image(png, "x", 4).shape == (4, 4, 3)


def test_deep_grey_of_unknown_range_is_refused_with_its_levels() -> None:
    for levels in (np.array([[0, 70_000]], np.int32), np.array([[-5, 3]], np.int32)):
        with pytest.raises(CorruptDataError, match=r"x cannot be decoded: its 32-bit grey levels are .*8 or 16 bits"):
            decode_image(encoded(Image.fromarray(levels), "TIFF"), "x")
    for kind, small in (("PNG", np.uint16), ("TIFF", np.int32)):
        with pytest.raises(CorruptDataError, match=r"grey levels go up to 252 of 65535.*save it in 8 bits"):
            decode_image(encoded(Image.fromarray(np.array([[0, 252]], small)), kind), "x")
        assert decode_image(encoded(Image.fromarray(np.zeros((2, 2), small)), kind), "x").max() == 0
    half = np.array([[0.0, 0.5, 1.0]], np.float32)
    assert decode_image(encoded(Image.fromarray(half), "TIFF"), "x")[0, :, 0].tolist() == [0, 128, 255]
    for levels in (half * 2, half * np.nan):
        with pytest.raises(CorruptDataError, match="floating-point"):
            decode_image(encoded(Image.fromarray(levels), "TIFF"), "x")


def test_palette_cmyk_and_bilevel_have_their_colours() -> None:
    red = Image.new("RGB", (4, 4), (200, 30, 30))
    for kind, image in (("PNG", red.quantize(4)), ("GIF", red.quantize(4)), ("TIFF", red.convert("CMYK"))):
        assert np.abs(decode_image(encoded(image, kind), kind)[0, 0].astype(int) - (200, 30, 30)).max() <= 3
    jpeg = decode_image(encoded(red.convert("CMYK"), "JPEG", quality=95), "x")
    assert np.abs(jpeg[0, 0].astype(int) - (200, 30, 30)).max() <= 8
    assert decode_image(encoded(Image.new("1", (4, 4), 1), "PNG"), "x").min() == 255


def test_transparency_of_every_kind_lies_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    palette = Image.new("P", (4, 4), 0)
    images = [encoded(clear, "PNG"), encoded(clear, "WEBP", lossless=True), encoded(Image.new("LA", (4, 4)), "PNG")]
    images += [encoded(palette, "PNG", transparency=0), encoded(palette, "GIF", transparency=0), encoded(clear, "TIFF")]
    assert all((decode_image(image, "x") == 255).all() for image in images)


def test_of_an_animation_it_is_the_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert decode_image(data, kind)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.skipif(not features.check("avif"), reason="this build of Pillow reads no AVIF")
def test_avif_is_read() -> None:
    data = encoded(Image.new("RGB", (16, 16), (200, 30, 30)), "AVIF", quality=95)
    assert np.abs(decode_image(data, "x")[8, 8].astype(int) - (200, 30, 30)).max() <= 8


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_truncated_files_are_named_and_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    data = encoded(noise, kind)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(CorruptDataError, match=r"image c/a\.img"):
            decode_image(data[: int(len(data) * share)], "c/a.img")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_of_any_kind_are_refused_in_a_sentence() -> None:
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "PCX", "SGI", "ICO", "JPEG2000"):
        whole = np.frombuffer(encoded(noise, kind), np.uint8)
        for _ in range(12):
            data = whole.copy()
            data[random.integers(0, len(data), 6)] = random.integers(0, 256, 6)
            try:
                assert decode_image(data.tobytes(), "x").dtype == np.uint8
            except CorruptDataError as error:
                assert "image x" in str(error)  # noqa: PT017


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\0" * 500, b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_refused_in_a_sentence(content: bytes) -> None:
    with pytest.raises(CorruptDataError, match=r"^image a\.png cannot be decoded: its content is no image of a known"):
        decode_image(content, "a.png")


def save(path: Path, colour: object = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path)
    return path


def test_folder_takes_every_format_and_passes_over_what_is_hidden(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["a/1.gif", "a/2.TIFF", "a/3.tif", "b/4.avif" if features.check("avif") else "b/4.ppm", "b/5.webp"]
    for name in [*names, "b/.6.png", ".cache/7.png", "__MACOSX/8.png", "a/._1.gif.png"]:
        save(tmp_path / name)
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    samples = open_source(f"folder:{tmp_path}")
    assert samples.sample_ids == tuple(names)
    assert samples.classes == {0: "a", 1: "b"}
    assert not caplog.messages


def test_other_files_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "a" / "1.png")
    for name in ("readme.txt", "labels.csv"):
        (tmp_path / name).write_text("x")
    open_source(f"folder:{tmp_path}")
    assert len(caplog.messages) == 1
    assert "labels.csv, readme.txt" in caplog.messages[0]
    assert "hf:" not in caplog.messages[0]
    (tmp_path / "metadata.jsonl").write_text("{}")
    open_source(f"folder:{tmp_path}")
    assert caplog.messages[1].endswith(f"; hf:{tmp_path} reads the labels and captions of metadata")


def test_links_inside_a_folder_are_followed(tmp_path: Path) -> None:
    save(tmp_path / "set" / "store" / "1.png")
    (tmp_path / "set" / "picked").symlink_to(tmp_path / "set" / "store")
    (tmp_path / "set" / "store" / "2.png").symlink_to("1.png")
    samples = open_source(f"folder:{tmp_path / 'set'}")
    assert samples.sample_ids == ("picked/1.png", "picked/2.png", "store/1.png", "store/2.png")
    (tmp_path / "set" / "lost.png").symlink_to("nowhere.png")
    with pytest.raises(SampleSetError, match=r"lost\.png is a link to nothing"):
        open_source(f"folder:{tmp_path / 'set'}")


def zipped(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, name in enumerate(names):
            archive.writestr(name, encoded(Image.new("L", (4, 4), number), "PNG"))
    return path


@pytest.mark.parametrize("top", ["", "pets/"])
def test_zip_is_read_as_its_folder_would_be(tmp_path: Path, top: str) -> None:
    names = [f"{top}cat/b.png", f"{top}cat/a.png", f"{top}dog/a.png", "__MACOSX/cat/._a.png", f"{top}dog/.hidden.png"]
    path = zipped(tmp_path / "pets.zip", names)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    for resolution in (None, 2):
        one = open_source(f"folder:{path}", resolution=resolution)
        other = open_source(f"folder:{tmp_path / 'unpacked' / top}", resolution=resolution)
        assert one.digest == other.digest
        assert one.classes == other.classes == {0: "cat", 1: "dog"}
    assert open_source(f"folder:{path}/{top}cat").sample_ids == ("a.png", "b.png")


def test_damaged_and_hostile_zips_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "a.zip", ["x/a.png", "y/b.png"])
    whole = path.read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-30])
    with pytest.raises(SampleSetError, match="no zip archive"):
        open_source(f"folder:{tmp_path / 'cut.zip'}")
    wrong = bytearray(whole)
    wrong[60] ^= 255
    (tmp_path / "wrong.zip").write_bytes(wrong)
    with pytest.raises(CorruptDataError, match=r"x/a\.png in .*wrong\.zip"):
        open_source(f"folder:{tmp_path / 'wrong.zip'}")
    monkeypatch.setattr("diffviews.data.file_tree.MAX_FILE_BYTES", 10)
    with pytest.raises(CorruptDataError, match="unpacks to"):
        open_source(f"folder:{path}")
    with pytest.raises(SampleSetError, match="holds no image"):
        open_source(f"folder:{zipped(tmp_path / 'none.zip', ['a.txt'])}")
    with pytest.raises(SampleSetError, match=r"holds no image.*; unpack inner\.zip or name it"):
        open_source(f"folder:{zipped(tmp_path / 'outer.zip', ['inner.zip', 'a.txt'])}")
