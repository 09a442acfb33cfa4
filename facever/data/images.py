"""An image file -> its pixels as 8-bit RGB, or an error that says why not.

Pixels are never invented: a file that ends too early is refused, although Pillow's `verify`
accepts it and its `LOAD_TRUNCATED_IMAGES` would fill the rest with grey.
"""

import contextlib
import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from facever.data.bundles import open_file
from facever.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

UInt8 = NDArray[np.uint8]

# What a file is called that counts as an image in a folder; content decides the rest.
_COMMON = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_RARE = (".avif", ".jfif", ".jp2", ".jpe", ".pbm", ".pgm", ".pnm", ".ppm", ".tga")
SUFFIXES = frozenset((*_COMMON, *_RARE))

_ORIENTATION_TAG = 0x0112
_HEAD_BYTES = 512


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image; dot files never are."""
    dot = name.rfind(".")
    return dot > 0 and name[0] != "." and name[dot:].lower() in SUFFIXES


def read_rgb(path: str | os.PathLike[str]) -> UInt8:
    """Decode the image file into (H, W, 3) uint8; see `decode_rgb`.

    Raises:
        DataError: the file is absent, is no image, ends too early, or is larger than
            `PIL.Image.MAX_IMAGE_PIXELS`; the message names the path and the reason.
    """
    try:
        with open_file(Path(path)) as stream:
            return decode_rgb(stream, os.fspath(path))
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror or error}") from error


def read_bytes(path: Path) -> bytes:
    """Read an image file as it is.

    Raises:
        DataError: it is absent or unreadable.
    """
    try:
        with open_file(path) as stream:
            return stream.read()
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror or error}") from error


def decode_rgb(stream: BinaryIO, name: str) -> UInt8:
    """Decode an open image file into (H, W, 3) uint8; `name` is what errors call it.

    Grey becomes three equal channels; palettes and CMYK become the colours they stand for;
    alpha is dropped, so that the stored colour remains where a pixel is transparent (as
    torchvision's loader does); 16 bits keep their upper 8; EXIF rotation is applied; of an
    animation the first frame is taken.
    """
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    # A limit is worth an error, not a warning on the user's screen; other warnings concern
    # metadata that is not used here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decode(stream)
        # On damaged or hostile bytes decoders raise nearly anything: struct.error,
        # SyntaxError, IndexError, OverflowError, ...
        except Exception as error:
            raise DataError(f"{name}: not a readable image: {_reason(head, error)}") from error


def _decode(stream: BinaryIO) -> UInt8:
    from PIL import Image

    # The header is read here, the pixels in load().
    with Image.open(stream) as image:
        _check_header(image, Image.MAX_IMAGE_PIXELS)
        image.load()
        return _to_rgb(_upright(image))


def _check_header(image: "Image.Image", limit: int | None) -> None:
    """Refuse before decoding. Pillow itself only warns up to twice its limit."""
    width, height = image.size
    if limit is not None and width * height > limit:
        raise ValueError(f"{width}x{height} pixels exceed the limit of {limit:,}")
    if image.format == "EPS":
        raise ValueError("EPS is a program that Ghostscript would run; convert it first")


def _upright(image: "Image.Image") -> "Image.Image":
    """Apply the rotation that EXIF asks for; broken EXIF asks for none."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = None
    with contextlib.suppress(Exception):
        turn = turns.get(image.getexif().get(_ORIENTATION_TAG, 1))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: "Image.Image") -> UInt8:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(np.asarray(image))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range; expected 8 or 16 bit")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _from_16_bit(grey: NDArray[np.generic]) -> UInt8:
    """Keep the upper 8 of 16 bits; Pillow's own conversion clips at 255 instead."""
    wide = grey.astype(np.int64)
    if wide.min() < 0 or wide.max() > 0xFFFF:
        raise ValueError(f"pixels from {wide.min()} to {wide.max()}; expected 8 or 16 bit")
    return np.repeat((wide >> 8).astype(np.uint8)[:, :, None], 3, axis=2)


def _reason(head: bytes, error: Exception) -> str:
    if not head:
        return "empty file"
    if not head.strip(b"\0"):
        return "zero bytes"
    if head.lstrip()[:1] == b"<":
        return f"text, beginning {head.lstrip()[:15].decode('ascii', 'replace')!r}"
    kind = type(error).__name__
    if kind == "UnidentifiedImageError":
        return "no image format that Pillow knows"
    if kind == "DecompressionBombError":
        return f"too large: {error}"
    return f"{error}" or kind


def decode_bytes(data: bytes, name: str) -> UInt8:
    """Decode an image file's bytes; see `decode_rgb`."""
    return decode_rgb(io.BytesIO(data), name)
