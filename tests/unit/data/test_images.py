from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from numpy.typing import NDArray
from PIL import Image, ImageOps

from promptmix.data.images import content_key, open_picture
from promptmix.errors import DataError

WIDTH, HEIGHT = 13, 7


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    assert image.mode == "RGB"
    return np.asarray(image)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def refused(source: object, **options: int) -> str:
    with pytest.raises(DataError) as caught:
        open_picture(source, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def tall_png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and whose pixels are missing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# ---------------------------------------------------------------------------------------------------- kinds and modes


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
def test_lossless_kinds_give_the_same_pixels_from_path_bytes_and_memory(kind: str, tmp_path: Path) -> None:
    expected = noise(HEIGHT, WIDTH, 3)
    data = encoded(Image.fromarray(expected), kind)
    path = tmp_path / "wrong_suffix.jpg"
    path.write_bytes(data)
    for source in (path, str(path), data, Image.open(io.BytesIO(data)), expected):
        np.testing.assert_array_equal(pixels(open_picture(source)), expected)


def test_jpeg_webp_and_gif_are_read() -> None:
    flat = Image.new("RGB", (WIDTH, HEIGHT), (200, 40, 40))
    for kind in ("JPEG", "WEBP", "GIF"):
        difference = np.abs(pixels(open_picture(encoded(flat, kind))).astype(int) - (200, 40, 40))
        assert difference.max() <= 6, kind


def test_grey_and_one_bit() -> None:
    grey = noise(HEIGHT, WIDTH)
    np.testing.assert_array_equal(pixels(open_picture(Image.fromarray(grey))), np.repeat(grey[..., None], 3, axis=2))
    bits = Image.fromarray(grey).convert("1")
    np.testing.assert_array_equal(pixels(open_picture(encoded(bits, "PNG")))[..., 0], np.asarray(bits) * np.uint8(255))


def test_cmyk() -> None:
    cyan = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    red, green, blue = pixels(open_picture(encoded(cyan, "JPEG")))[0, 0]
    assert red < 30 and green > 225 and blue > 225


def test_transparency_lies_over_white() -> None:
    layer = noise(HEIGHT, WIDTH, 4)
    alpha = layer[..., 3:].astype(float) / 255
    expected = layer[..., :3] * alpha + 255 * (1 - alpha)
    for source in (layer, Image.fromarray(layer), encoded(Image.fromarray(layer), "PNG")):
        assert np.abs(pixels(open_picture(source)) - expected).max() <= 1
    grey = Image.fromarray(layer[..., 2:])  # mode LA
    assert grey.mode == "LA"
    expected = layer[..., 2:3] * alpha + 255 * (1 - alpha)
    assert np.abs(pixels(open_picture(encoded(grey, "PNG"))) - expected).max() <= 1


def test_palettes_with_and_without_transparency() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    assert pixels(open_picture(encoded(palette, "PNG"))).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    for transparency in (0, b"\x00\xff"):
        data = encoded(palette, "PNG", transparency=transparency)
        assert pixels(open_picture(data)).tolist() == [[[255, 255, 255], [200, 100, 50]]]
    assert pixels(open_picture(encoded(palette, "GIF", transparency=0))).tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_a_transparent_colour() -> None:
    image = Image.new("RGB", (2, 1), (9, 8, 7))
    image.putpixel((1, 0), (1, 2, 3))
    data = encoded(image, "PNG", transparency=(1, 2, 3))
    assert pixels(open_picture(data)).tolist() == [[[9, 8, 7], [255, 255, 255]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_divided_by_257(kind: str) -> None:
    deep = np.array([[0, 257, 257 * 128, 65535, 128]], np.uint16)
    data = encoded(Image.fromarray(deep), kind)
    assert pixels(open_picture(data))[0, :, 0].tolist() == [0, 1, 128, 255, 0]


def test_sixteen_bit_pgm() -> None:
    data = b"P5 3 1 65535\n" + np.array([0, 257 * 7, 65535], ">u2").tobytes()
    assert pixels(open_picture(data))[0, :, 0].tolist() == [0, 7, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([float("nan"), 0.5, 1.0], [0, 128, 255]),
        ([7e5, 7e5, 7e5], [0, 0, 0]),
    ],
)
def test_floating_grey(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    assert image.mode == "F"
    assert pixels(open_picture(encoded(image, "TIFF")))[0, :, 0].tolist() == expected


def test_thirty_two_bit_grey() -> None:
    image = Image.fromarray(np.array([[0, 257, 65535]], np.int32))
    assert image.mode == "I"
    assert pixels(open_picture(image))[0, :, 0].tolist() == [0, 1, 255]
    stretched = Image.fromarray(np.array([[-100, 0, 100]], np.int32))
    assert pixels(open_picture(stretched))[0, :, 0].tolist() == [0, 128, 255]


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    for kind in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
        assert pixels(open_picture(data))[0, 0].tolist() == [255, 0, 0], kind


# --------------------------------------------------------------------------------------------------------------- EXIF


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_orientation_is_applied_once(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(noise(16, 24, 3)), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        expected = ImageOps.exif_transpose(opened)
    result = open_picture(data)
    np.testing.assert_array_equal(pixels(result), np.asarray(expected))
    np.testing.assert_array_equal(pixels(open_picture(result)), pixels(result))


def test_damaged_exif_does_not_matter() -> None:
    image = Image.new("RGB", (WIDTH, HEIGHT), "red")
    for damage in (
        b"Exif\x00\x00II*\x00",
        b"Exif\x00\x00MM\x00*\xff\xff\xff\xff",
        b"Exif\x00\x00" + bytes(range(200)),
        b"Exif\x00\x00",
    ):
        assert open_picture(encoded(image, "JPEG", exif=damage)).size == (WIDTH, HEIGHT)


def test_a_senseless_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert open_picture(encoded(Image.new("RGB", (WIDTH, HEIGHT)), "JPEG", exif=exif)).size == (WIDTH, HEIGHT)


# ---------------------------------------------------------------------------------------------------- what goes wrong


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    good = encoded(Image.fromarray(noise(64, 64, 3)), "JPEG")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "zero.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture at all\n" * 10)
    (tmp_path / "cut.jpg").write_bytes(good[: len(good) // 2])
    (tmp_path / "header.png").write_bytes(tall_png(4, 4)[:20])
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    for name, reason in (
        ("missing.jpg", "does not exist"),
        ("zero.jpg/inside.jpg", "does not exist"),
        ("folder.jpg", "is a folder, not a picture"),
        ("zero.jpg", "empty (0 bytes)"),
        ("text.jpg", "is not a picture"),
        ("cut.jpg", "is damaged or cut off"),
        ("header.png", "is damaged or cut off"),
        ("link.jpg", "is a link to nothing"),
    ):
        message = refused(tmp_path / name)
        assert str(tmp_path / name) in message
        assert reason in message
    assert "not the path of a file" in refused("a\0b.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "is not a file" in refused(tmp_path / "pipe.jpg")


def test_a_forbidden_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.jpg"
    path.write_bytes(b"x")

    def forbidden(self: Path, *_: object) -> object:
        raise PermissionError(13, "Permission denied", str(self))

    # Rights do not bind the superuser, who may well be running the tests.
    monkeypatch.setattr(Path, "open", forbidden)
    assert "secret.jpg cannot be read: permission denied" in refused(path)


def test_bytes_that_are_no_picture() -> None:
    assert "empty" in refused(b"")
    assert "the picture of 5 bytes is not a picture" in refused(b"hello")


def test_what_is_no_source_of_a_picture() -> None:
    # Where the tests check types, the argument is refused before it gets that far.
    with pytest.raises((DataError, TypeCheckError), match="None"):
        open_picture(None)  # type: ignore[arg-type]


def test_postscript_is_never_run() -> None:
    assert "is not a picture" in refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")


def test_size_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", decode)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    # Under Pillow's own limit, where it warns, and where it refuses.
    for width, height in ((10_001, 10_000), (13_000, 10_000), (60_000, 60_000)):
        message = refused(tall_png(width, height))
        assert "pixels" in message and "100,000,000" in message
    assert "13 x 7 pixels, more than 90" in refused(Image.new("RGB", (13, 7)), max_pixels=90)


def test_the_limit_itself_is_allowed() -> None:
    assert open_picture(Image.new("RGB", (13, 7)), max_pixels=91).size == (13, 7)


def test_pillow_warnings_never_escape_and_no_filter_stays_changed() -> None:
    palette = Image.new("P", (16, 16))
    palette.putpalette([10, 20, 30] * 8)
    palette.info["transparency"] = b"\x00\x80"
    # Between Pillow's limit for a warning and ours.
    large = tall_png(9_600, 9_600)
    before = list(warnings.filters)

    def once(_: int) -> None:
        assert open_picture(palette).mode == "RGB"
        with pytest.raises(DataError):
            open_picture(large)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(io.BytesIO(large))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(once, range(40)))
        assert warnings.filters[0][0] == "error"
    assert list(warnings.filters) == before


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_gives_a_picture_or_a_data_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "ICO", "QOI"]))
    content = bytearray(encoded(Image.fromarray(noise(20, 20, 3)), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 300) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(content)))
    try:
        assert open_picture(bytes(content[:cut]), max_pixels=1_000_000).mode == "RGB"
    except DataError as problem:
        assert "\n" not in str(problem)  # noqa: PT017 - either way may be right


# ------------------------------------------------------------------------------------------------------------- arrays


def test_arrays_of_every_allowed_shape() -> None:
    grey, colour = noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(pixels(open_picture(grey)), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(pixels(open_picture(grey[..., None])), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(pixels(open_picture(colour[::2, ::-1])), colour[::2, ::-1])
    for kind in (np.float32, np.float64):
        np.testing.assert_array_equal(pixels(open_picture(np.divide(colour, 255, dtype=kind))), colour)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (np.zeros((5, 5, 2), np.uint8), r"shape \(5, 5, 2\)"),
        (np.zeros((1, 5, 5, 3), np.uint8), "is not a picture"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((5, 5, 3), np.int64), "array of int64"),
        (np.zeros((5, 5), bool), "array of bool"),
        (np.full((5, 5), 255.0), "divide by 255"),
        (np.full((5, 5), -0.1), "within 0 and 1"),
        (np.full((5, 5), np.nan), "within 0 and 1"),
        (np.full((5, 5), "x"), "is not a picture"),
    ],
)
def test_arrays_that_are_no_pictures(array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_picture(array)


def test_a_picture_without_pixels() -> None:
    assert "no pixels" in refused(Image.new("RGB", (0, 5)))


def test_the_result_is_a_picture_of_its_own() -> None:
    source = Image.new("RGB", (4, 4), "red")
    result = open_picture(source)
    result.putpixel((0, 0), (0, 0, 0))
    assert source.getpixel((0, 0)) == (255, 0, 0)


# ---------------------------------------------------------------------------------------------------------------- keys


def test_the_key_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(noise(HEIGHT, WIDTH, 3)), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    expected = f"file:{hashlib.sha256(data).hexdigest()}"
    assert content_key(tmp_path / "a.png") == content_key(str(tmp_path / "a.png")) == content_key(data) == expected


def test_the_key_of_a_picture_in_memory_follows_size_and_pixels() -> None:
    array = noise(HEIGHT, WIDTH, 3)
    key = content_key(array)
    assert key.startswith("pixels:")
    assert content_key(Image.fromarray(array)) == content_key(array.copy()) == key
    other = array.copy()
    other[0, 0, 0] ^= 1
    assert content_key(other) != key
    assert content_key(array.reshape(WIDTH, HEIGHT, 3)) != key


def test_a_file_without_content_has_no_key(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        content_key(tmp_path / "gone.png")


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photograph_is_not_copied_and_still_its_own(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(noise(48, 64, 3)), "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        expected = pixels(ImageOps.exif_transpose(opened))
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "copy", lambda *_: pytest.fail("copied"))
        first, second = open_picture(data), open_picture(data)
    first.putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(pixels(second), expected)
    np.testing.assert_array_equal(pixels(open_picture(second)), expected)
    # Nothing of the file is left to be applied once more.
    np.testing.assert_array_equal(pixels(ImageOps.exif_transpose(second)), expected)
    assert second.info == {}
