"""Rows A1 to A3: every kind of image, and everything that is not one."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facever.data.images import is_image_name, read_rgb
from facever.errors import DataError

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
GREY = COLOURS[:, :, 0]


def jpeg_bytes(size: int = 64) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (size, size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A small file whose header announces a large image."""
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"\0" * 5000, "zero bytes"),
        (b"<!DOCTYPE html><html></html>", "text, beginning '<!DOCTYPE html>'"),
        (b"RIFF but nothing else", "no image format"),
        (jpeg_bytes()[:900], "truncated"),
        (png_of_size(300, 300)[:-40], "truncated|broken|not a readable"),
    ],
)
def test_what_is_no_whole_image_is_refused_with_path_and_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    file = tmp_path / "face.jpg"
    file.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_rgb(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_jpeg_cut_anywhere_is_refused_although_verify_accepts_it(
    tmp_path: Path, share: float
) -> None:
    file = tmp_path / "face.jpg"
    whole = jpeg_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with Image.open(file) as image:
        image.verify()
    with pytest.raises(DataError, match="truncated"):
        read_rgb(file)


def test_an_absent_file_and_a_folder_are_refused_as_such(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_rgb(tmp_path / "absent.jpg")
    with pytest.raises(DataError, match="directory"):
        read_rgb(tmp_path)


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), COLOURS)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    expected = np.stack([GREY] * 3, axis=2)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), expected)


def test_two_levels_become_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(GREY > 127).save(tmp_path / "a.png")
    expected = np.stack([(GREY > 127) * np.uint8(255)] * 3, axis=2)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), expected)


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    table = np.random.default_rng(2).integers(0, 256, (16, 3), dtype=np.uint8)
    image = Image.fromarray(GREY % 16, mode="P")
    image.putpalette(table.tobytes())
    image.save(tmp_path / "a.png", transparency=3)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), table[GREY % 16])


def test_alpha_is_dropped_and_the_stored_colour_kept(tmp_path: Path) -> None:
    alpha = np.arange(24, dtype=np.uint8).reshape(6, 4) * 10
    Image.fromarray(np.dstack([COLOURS, alpha])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), COLOURS)


def test_cmyk_is_converted_by_the_plain_formula(tmp_path: Path) -> None:
    inks = np.random.default_rng(3).integers(0, 256, (6, 4, 4), dtype=np.uint8)
    Image.fromarray(inks, mode="CMYK").save(tmp_path / "a.tif")
    c, k = inks[:, :, :3].astype(float), inks[:, :, 3:].astype(float)
    expected = (255 - c) * (255 - k) / 255
    difference = np.abs(read_rgb(tmp_path / "a.tif") - expected)
    assert difference.max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path, suffix: str) -> None:
    """Pillow's own conversion clips: every value above 255 would turn white."""
    wide = np.array([[0, 255, 256], [32768, 65279, 65535]], dtype=np.uint16)
    Image.fromarray(wide).save(tmp_path / f"a{suffix}")
    expected = np.array([[0, 0, 1], [128, 254, 255]], dtype=np.uint8)
    read = read_rgb(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read, np.stack([expected] * 3, axis=2))


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="floating-point"):
        read_rgb(tmp_path / "a.tif")


# How the stored image must be turned, by EXIF orientation, written with NumPy alone.
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOURS).save(tmp_path / f"a{suffix}", exif=exif)
    expected = TURNS[orientation](COLOURS)
    np.testing.assert_array_equal(read_rgb(tmp_path / f"a{suffix}"), expected)


def test_broken_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg", exif=b"Exif\0\0nonsense")
    assert read_rgb(tmp_path / "a.jpg").shape == COLOURS.shape


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_rgb(tmp_path / "a.gif") == 10).all()


@pytest.mark.parametrize("times", [1.2, 3.0])
def test_decompression_bombs_are_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float
) -> None:
    """Pillow itself only warns up to twice its limit, and the warning is easily lost."""
    limit = 100_000
    file = tmp_path / "bomb.png"
    file.write_bytes(png_of_size(1000, int(times * limit) // 1000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(
        "PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("pixels were decoded")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=r"limit of 100,000|too large"):
            read_rgb(file)


def test_what_counts_as_an_image_by_its_name() -> None:
    assert is_image_name("a.JPG")
    assert is_image_name("-a b.webp")
    assert not is_image_name("._a.jpg")
    assert not is_image_name(".jpg")
    assert not is_image_name("labels.txt")
