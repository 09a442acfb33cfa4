"""Images, checkpoints and torchvision's files as a stranger may have made them."""

import gzip
import io
import math
import os
import pickle
import shutil
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm  # noqa: F401 (imported in a case, it would write where it likes)
import torch
from fuzz_helpers import FUZZ, attempt, folder_in_memory
from fuzz_strategies import BYTES, ODD_VALUES, SIZES, TEXT, mutated
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from facever import checkpoint
from facever.data.benchmarks import BENCHMARKS, prepare_benchmark
from facever.data.images import read_rgb
from facever.data.torchvision_files import write_tree
from facever.embed import encoder_of
from facever.encoder import build_encoder
from facever.errors import DataError


@pytest.fixture(scope="module")
def ground() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder


# --- images -----------------------------------------------------------------------------------

# Pillow's limit, lowered so that what just keeps to it is soon decoded.
MOST_PIXELS = 1 << 20
FORMATS = {
    "RGB": ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000", "ICO", "PCX",
            "SGI", "DDS", "EPS", "IM", "QOI"),
    "L": ("JPEG", "PNG", "SPIDER"),
    "1": ("PNG", "TIFF", "XBM", "MSP"),
    "P": ("PNG", "GIF", "TIFF"),
    "LA": ("PNG",),
    "RGBA": ("PNG", "TIFF", "WEBP"),
    "CMYK": ("JPEG", "TIFF"),
    "I;16": ("PNG", "TIFF"),
    "I": ("TIFF",),
    "F": ("TIFF",),
}  # fmt: skip
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "JPEG": [{}, {"progressive": True}],
    "PNG": [{}, {"interlace": 1}],
    "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}],
    "TGA": [{}, {"compression": "tga_rle"}],
}  # fmt: skip


def image_files() -> list[bytes]:
    """A small file of every format and mode that Pillow writes and reads, upright and turned."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    picture, turned = Image.fromarray(pixels), Image.Exif()
    turned[0x0112] = 6
    wide = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    files = []
    for mode, formats in FORMATS.items():
        shown = wide if mode == "I;16" else picture.convert(mode)
        for name in formats:
            for options in (*OPTIONS.get(name, [{}]), {"exif": turned.tobytes()}):
                file = io.BytesIO()
                shown.save(file, name, **options)
                files.append(file.getvalue())
    file = io.BytesIO()
    picture.save(file, "GIF", save_all=True, append_images=[picture.rotate(90)])
    return [*dict.fromkeys([*files, file.getvalue()])]


IMAGES = image_files()


@FUZZ
@given(written=mutated(IMAGES, (*SIZES, *TEXT[:40]), BYTES))
def test_images(ground: Path, written: bytes) -> None:
    file = ground / "image.png"
    file.write_bytes(written)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", MOST_PIXELS)
        pixels = attempt("images", lambda: read_rgb(file), ground)
    if pixels is not None:
        height, width, channels = pixels.shape
        assert pixels.dtype == np.uint8
        assert channels == 3
        assert 0 < height * width <= MOST_PIXELS


# --- torchvision's files ----------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """The IDX format: two zero bytes, the type (8: bytes), the dimensions, big-endian sizes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


SHAPES = ((2, 28, 28), (2, 28, 28), (2, 0, 28), (0, 28, 28), (2, 1, 70_000), (2, 28), (2, 3, 3, 3))
PIXELS = [idx(np.resize(np.arange(251, dtype=np.uint8), shape)) for shape in SHAPES]
LABELS = [idx(np.array(labels, dtype=np.uint8)) for labels in ([3, 4], [0, 0], [3, 10], [], [[1]])]
IDX_WORDS = (*SIZES, b"\0\0\x08\x03", b"\0\0\x0b\x01", b"\0\0\x0e\x04", b"", b"\x1f\x8b\x08")


@pytest.fixture(scope="module")
def mnist(ground: Path) -> Path:
    """A folder whose test files are the training files."""
    images, labels, test_images, test_labels = BENCHMARKS["mnist"].files
    (ground / "mnist").mkdir()
    for end in ("", ".gz"):
        (ground / "mnist" / f"{test_images}{end}").symlink_to(f"{images}{end}")
        (ground / "mnist" / f"{test_labels}{end}").symlink_to(f"{labels}{end}")
    return ground / "mnist"


@FUZZ
@given(
    pixels=mutated(PIXELS, IDX_WORDS, BYTES),
    labels=mutated(LABELS, IDX_WORDS, BYTES),
    packed=st.sampled_from([False, False, False, True]),
)
def test_idx_files(mnist: Path, pixels: bytes, labels: bytes, packed: bool) -> None:
    for name, written in zip(BENCHMARKS["mnist"].files, (pixels, labels), strict=False):
        (mnist / f"{name}.gz").unlink(missing_ok=True)
        if packed:
            (mnist / name).unlink(missing_ok=True)
            (mnist / f"{name}.gz").write_bytes(gzip.compress(written, 1))
        else:
            (mnist / name).write_bytes(written)
    attempt("IDX files", lambda: write_images(mnist, "mnist"), mnist, writes=True)
    drawn = [*mnist.rglob("*.png")]
    assert not drawn or read_rgb(drawn[0]).shape[2] == 3
    shutil.rmtree(mnist / "tree", ignore_errors=True)


def write_images(folder: Path, name: str) -> None:
    write_tree(folder, folder / "tree", BENCHMARKS[name], workers=1, progress=None)


def test_a_packed_file_that_grows_without_end_is_refused(tmp_path: Path) -> None:
    for name in BENCHMARKS["mnist"].files:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(bytes(1 << 20)) * 300)
    with pytest.raises(DataError, match="has more than 256 MiB"):
        prepare_benchmark("mnist", tmp_path)


class Hostile:
    """Pickled, a call that whoever unpickles it makes."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


BATCHES = [
    pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1], "label_names": ["x"]}),
    pickle.dumps(Hostile(os.mkdir, "hostile")),
]


@pytest.fixture(scope="module")
def cifar(ground: Path) -> Path:
    """A folder with all files, none of which is torchvision's."""
    (ground / "cifar").mkdir()
    for name in BENCHMARKS["cifar10"].files:
        (ground / "cifar" / name).write_bytes(BATCHES[0])
    return ground / "cifar"


@FUZZ
@given(written=mutated(BATCHES, IDX_WORDS, BYTES))
def test_cifar_files(cifar: Path, written: bytes) -> None:
    """torchvision unpickles them: only those with the known hash may get there."""
    (cifar / BENCHMARKS["cifar10"].files[0]).write_bytes(written)
    attempt("CIFAR files", lambda: write_images(cifar, "cifar10"), cifar, writes=True)
    assert not (cifar / "tree").exists()


# --- checkpoints ------------------------------------------------------------------------------

MODEL: dict[str, Any] = {"backbone": "cnn2-mnist", "embedding_dim": 2, "neck": "gap-linear"}
PAYLOAD: dict[str, Any] = {
    key: checkpoint.FORMAT if key == "format" else kind() for key, kind in checkpoint.KEYS.items()
} | {
    "config": {"model": MODEL, "loss": {"name": "ce"}},
    "preprocess": {"image_size": 28, "mean": [0.5] * 3, "std": [0.5] * 3},
    "encoder": {"weight": torch.ones(2, 3), "count": torch.tensor(4)},
    "identities": ["a", "b"],
}  # fmt: skip


# The same without tensors, for what is pickled by hand.
PLAIN = {**PAYLOAD, "encoder": {}}
PICKLES = (
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nload\n", b"\x93", b"\x82\1", b"h\0", b"](" * 500, b"\x80\5",
    *(bytes([opcode]) for opcode in b"Rboi20(tdsueQ."),
    *(bytes([opcode]) + b"\xff\xff\xff\x7f" for opcode in b"jXT\x8a\x8b"),
    *(bytes([opcode]) + b"\xff" * 8 for opcode in b"\x8e\x95"),
)  # fmt: skip
FITTING = PAYLOAD | {"encoder": build_encoder(**MODEL, image_size=28).state_dict()}


def saved(payload: object) -> bytes:
    file = io.BytesIO()
    torch.save(payload, file)
    return file.getvalue()


SAVED = saved(PAYLOAD)
with zipfile.ZipFile(io.BytesIO(SAVED)) as _archive:
    MEMBERS = {name.partition("/")[2]: _archive.read(name) for name in _archive.namelist()}


def archived(changes: Mapping[str, bytes], *, packed: bool = False) -> bytes:
    """A checkpoint's archive with other members, stored as torch stores them, or deflated."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if packed else 0) as archive:
        for name, content in {**MEMBERS, **changes}.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


class _Storage:
    """Stands for six numbers of the archive, which says of them what is given here."""

    def __init__(self, key: str, kind: type, count: int) -> None:
        self.said = ("storage", kind, key, "cpu", count)


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> Any:
        return obj.said if isinstance(obj, _Storage) else None


def pickled(payload: object) -> bytes:
    file = io.BytesIO()
    _Pickler(file, 2).dump(payload)
    return file.getvalue()


extents = st.sampled_from([0, 1, 2, 3, 6, -1, 10**9, 2**31, 2**62])
shapes = st.lists(extents, max_size=3).map(tuple)
odd_tensors = st.builds(
    lambda storage, offset, size, stride: Hostile(
        torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict()
    ),
    st.builds(
        _Storage,
        st.sampled_from(["0", "1", "9", "../version", ""]),
        st.sampled_from([torch.FloatStorage, torch.DoubleStorage, torch.ByteStorage]),
        extents,
    ),
    extents,
    shapes,
    shapes,
)
calls = st.sampled_from(
    [
        Hostile(os.system, "touch hostile"),
        Hostile(eval, "__import__('os').mkdir('hostile')"),
        Hostile(getattr, "x", "__class__"),
        Hostile(bytearray, 10**10),
        Hostile(torch.Size, [10**9]),
        Hostile(OrderedDict, [("a", 1)]),
        Hostile(torch.load, "/etc/passwd"),
        Hostile(torch._utils._rebuild_parameter, torch.ones(1), True, OrderedDict()),
        torch.float16, torch.device("cuda:7"), {1, 2}, b"bytes", 1j, (1, (2,)), Path("x"),
    ]
)  # fmt: skip
odd = st.sampled_from(ODD_VALUES)
names = st.sampled_from([*PAYLOAD, "unknown", 7, "\ud800"])
# Inside the sections that an encoder is made of: which key of which holds something else.
PLACES = [
    *(("config", "model", key) for key in (*MODEL, "stem", "drop_rate", "checkpointing", "x")),
    *(("preprocess", key) for key in ("image_size", "mean", "std", "x")),
    *(("encoder", key) for key in (*FITTING["encoder"], "x", 3)),
    ("config", "model"), ("config", "x"), ("ema", "encoder"), ("loss", "weight"),
]  # fmt: skip


def replaced(values: Any, place: Sequence[object], value: object) -> dict[object, Any]:
    """Nested values, of which one is another."""
    inside = values if isinstance(values, dict) else {}
    key, *rest = place
    return {**inside, key: replaced(inside.get(key), rest, value) if rest else value}


payloads = st.builds(
    lambda changes, absent: {k: v for k, v in {**PAYLOAD, **changes}.items() if k != absent},
    st.dictionaries(names, odd, max_size=2),
    st.none() | names,
) | st.builds(
    lambda place, value: replaced(FITTING, place, value),
    st.sampled_from(PLACES),
    odd
    | st.sampled_from([1, 28, 1024, "airbench-mnist", "vgg0", "gdc", "face", {3: torch.ones(1)}])
    | st.sampled_from([torch.ones(2, 3), torch.tensor(1), torch.empty(0), torch.ones(2).bool()]),
)
hostile = (
    mutated([SAVED], (*SIZES, b"PK\5\6", b"PK\1\2", b"\x80\2"), BYTES)
    | mutated([MEMBERS["data.pkl"]], (*SIZES, *PICKLES), BYTES).map(
        lambda written: archived({"data.pkl": written})
    )
    | payloads.map(saved)
    | st.builds(
        lambda odd, key: archived({"data.pkl": pickled({**PLAIN, key: odd})}),
        odd_tensors | calls,
        st.sampled_from(["encoder", "config", "facever", "metrics"]),
    )
    | st.builds(
        lambda content, name, packed: archived({name: content}, packed=packed),
        st.sampled_from([b"", b"\0" * 10**5, b"x", pickle.dumps(PLAIN)]),
        st.sampled_from([*MEMBERS, "../../x", "/etc/x", "code/__torch__.py", "constants.pkl"]),
        st.booleans(),
    )
)


def check_plain(value: Any, limit: int) -> None:
    """Only tensors over what the file holds, and primitives."""
    if isinstance(value, torch.Tensor):
        assert value.device.type == "cpu"
        assert value.layout == torch.strided
        assert value.untyped_storage().nbytes() <= limit
    elif isinstance(value, dict):
        for key, item in value.items():
            check_plain(key, limit)
            check_plain(item, limit)
    elif isinstance(value, list | tuple):
        for item in value:
            check_plain(item, limit)
    else:
        assert value is None or type(value) in (bool, int, float, str)


@FUZZ
@given(written=hostile)
@example(written=archived({"data.pkl": pickled({**PLAIN, "facever": Hostile(bytearray, 10**10)})}))
@example(written=archived({"data/0": b"\0" * 10**6}, packed=True))
@example(written=b"PK\6\7" + struct.pack("<LQL", 0, 0, 2) + b"PK\5\6" + bytes(18))
@example(written=saved(replaced(PAYLOAD, [7], 0) | {"unknown": 0}))
@example(written=saved(replaced(FITTING, ("encoder", "backbone.0.weight"), None)))
@example(written=saved(replaced(FITTING, ("preprocess", "image_size"), math.inf)))
@example(written=saved(replaced(FITTING, ("config", "model", "embedding_dim"), 10**9)))
@example(written=saved(replaced(FITTING, ("ema", "encoder"), 3)))
def test_checkpoints(ground: Path, written: bytes) -> None:
    run = ground / "run"
    run.mkdir(exist_ok=True)
    (run / "last.pt").write_bytes(written)
    payload = attempt("checkpoints", lambda: checkpoint.load(run / "last.pt"), run)
    if payload is not None:
        assert payload.keys() == PAYLOAD.keys()
        check_plain(payload, len(written))
        attempt("encoders", lambda: encoder_of(payload, "last.pt"), run)
    assert [path.name for path in run.iterdir()] == ["last.pt"]
