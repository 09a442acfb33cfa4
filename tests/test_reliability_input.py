"""Bad input through the whole program: one clear message, exit 2 or 3, before time is spent.

What one room alone decides is tested with that room; docs/reliability.md says where.
"""

import csv
import json
import shutil
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from training_helpers import tiny_checkpoint, tiny_payload, tiny_state

from facever.data.images import read_rgb
from facever.device import resolve_precision
from facever.errors import DataError
from facever.score import read_scores

SMALL = (*TINY, "optim.epochs=1")


@pytest.fixture
def data(faces, tmp_path) -> Path:
    """A copy of the faces that a test may change."""
    return Path(shutil.copytree(faces, tmp_path / "data"))


def refused(answer, *said: str, code: int = 2) -> None:
    """One message that says all of this, and no answer."""
    assert answer.code == code, answer.err
    assert answer.err.count("error: ") == 1
    assert "Traceback" not in answer.err
    for text in said:
        assert text in answer.err
    assert answer.out == ""


# --- A1, A3: images ---------------------------------------------------------------------------


def test_skipping_damage_has_a_limit(facever, data, tmp_path):
    """Five of 64 are more than 5 %: a folder that is half HTML is no data set."""
    images = sorted((data / "cls_data/train/images").iterdir())
    for path in images[:5]:
        path.write_text("<html>not found</html>")
    answer = facever("train", f"data.root={data}", *SMALL, "data.on_error=skip")
    refused(answer, "5 of 64 images are damaged", images[0].name, "text, beginning '<html>")
    assert not (tmp_path / "checkpoints").exists()


def bomb(path: Path, pixels: int) -> None:
    """Write a PNG of a few hundred bytes whose header promises so many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 10_000, pixels // 10_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100_000)))
        + chunk(b"IEND", b"")
    )  # fmt: skip


@pytest.mark.parametrize("times", [1.2, 3.0])
def test_a_bomb_beyond_the_real_limit_is_refused_in_no_time(facever, data, times):
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None
    first = min((data / "cls_data/train/images").iterdir())
    bomb(first, int(times * limit))
    began = time.perf_counter()
    with pytest.raises(DataError, match=r"limit|too large"):
        read_rgb(first)
    assert time.perf_counter() - began < 0.5
    refused(facever("train", f"data.root={data}", *SMALL), "1 of 64 images are damaged", first.name)


# --- A4: names --------------------------------------------------------------------------------

ODD = ("a b.png", "two\nlines.png", "😀.png", "-rf.png", "Case.png", "case.png", "=1+1.png",
       "é" * 125 + "x.png")  # fmt: skip


def test_odd_names_come_back_from_every_file_that_is_written(facever, data, tmp_path):
    """Pair file to scores, submission and embeddings, each read with a reader of its own."""
    assert len(ODD[-1].encode()) == 255
    people = sorted((data / "ver_data").iterdir())
    for i, name in enumerate(ODD):
        Image.open(people[i // 2]).save(data / "ver_data" / name)
    # Neighbours are one picture under two names; others are other pictures.
    pairs = [(ODD[i], ODD[i ^ step]) for step in (1, 2) for i in range(len(ODD))]
    for split in ("val", "test"):
        (data / f"{split}_pairs.txt").unlink()
        with (data / f"{split}_pairs.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["left", "right", "mated"][: 3 if split == "val" else 2])
            for i, pair in enumerate(pairs):
                writer.writerow([*pair, int(i < 8)][: 3 if split == "val" else 2])
    trained = facever("train", f"data.root={data}", *SMALL, "--run", "r")
    assert trained.code == 0, trained.err
    scores = read_scores(tmp_path / "checkpoints/r/scores_val.csv")
    assert [*zip(scores.left, scores.right, strict=True)] == pairs

    handed_in = facever("submit", "checkpoints/r/best.pt", "--competition", "F20", "-o", "s.csv")
    assert handed_in.code == 0, handed_in.err
    with (tmp_path / "s.csv").open(newline="") as file:
        ids = [row[0] for row in csv.reader(file)]
    assert ids == ["Id", *(f"{a} {b}" for a, b in pairs)]

    assert facever("embed", data / "ver_data", "-o", "e.npz").code == 0
    with np.load(tmp_path / "e.npz") as table:
        assert set(ODD) <= set(table["paths"].tolist())


# --- A8, A9: settings, labels -----------------------------------------------------------------


def test_labels_that_miss_an_image_are_told_before_the_encoder(facever, data):
    labels = data / "cls_data/train/labels.txt"
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join(lines[1:]))
    answer = facever("train", f"data.root={data}", *SMALL)
    refused(answer, "labels.txt", lines[0].split()[0])
    assert "parameters" not in answer.err


# --- A11: sizes -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def ten_thousand(tmp_path_factory) -> Path:
    """10,000 people with one image each, and pairs of eight of them to validate on."""
    root = tmp_path_factory.mktemp("ten_thousand")
    source = root / "0.png"
    Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)).save(source)
    pixels = source.read_bytes()
    source.unlink()
    for i in range(10_000):
        folder = root / "train" / f"{i:05d}"
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(pixels)
    (root / "ver_data").mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        noise = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "ver_data" / f"{i}.png")
    (root / "val_pairs.txt").write_text(
        "0.png 1.png 1\n2.png 3.png 0\n4.png 5.png 1\n6.png 7.png 0\n"
    )
    return root


@pytest.mark.slow
def test_ten_thousand_identities_with_one_image_each_train(facever, ten_thousand, tmp_path):
    answer = facever(
        "train", f"data.root={ten_thousand}", *SMALL, "data.image_size=16",
        "optim.batch_size=2500", "augment.backend=batch", "--run", "r",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    payload = torch.load(tmp_path / "checkpoints/r/last.pt", weights_only=True)
    assert len(payload["identities"]) == 10_000
    assert payload["loss"]["prototypes"].shape == (10_000, 16)


@pytest.mark.parametrize("settings", [("--loss", "triplet"), ("data.sampler=pk",)], ids=str)
def test_a_pair_loss_without_pairs_is_refused_before_an_image_is_looked_at(
    facever, data, tmp_path, settings
):
    """Every image is damaged too, which is found later."""
    labels = data / "cls_data/train/labels.txt"
    names = [line.split()[0] for line in labels.read_text().splitlines()]
    labels.write_text("".join(f"{name} person{i}\n" for i, name in enumerate(names)))
    shutil.rmtree(data / "cls_data/dev")
    for name in names:
        (data / "cls_data/train/images" / name).write_bytes(b"")
    answer = facever("train", f"data.root={data}", *SMALL, *settings)
    refused(answer, f"{data}: 0 identities have two images or more", "loss with a classifier")
    assert not (tmp_path / "checkpoints").exists()


def test_a_few_people_with_one_image_are_counted_and_the_others_train(facever, data):
    labels = data / "cls_data/train/labels.txt"
    lines = labels.read_text().splitlines()
    lines[0], lines[1] = (f"{line.split()[0]} loner{i}" for i, line in enumerate(lines[:2]))
    labels.write_text("\n".join(lines))
    answer = facever("train", f"data.root={data}", *SMALL, "--loss", "triplet", "data.k=2")
    assert answer.code == 0, answer.err
    assert answer.err.count("2 identities with one image make no pairs and are left out") == 1


def test_dev_images_of_strangers_are_noted_and_not_classified(facever, data, tmp_path):
    labels = data / "cls_data/dev/labels.txt"
    lines = labels.read_text().splitlines()
    stranger = lines[0].split()[0]
    labels.write_text("\n".join([f"{stranger} stranger", *lines[1:]]))
    answer = facever("train", f"data.root={data}", *SMALL, "--run", "r")
    assert answer.code == 0, answer.err
    assert "dev: 1 images of 1 identities that train lacks" in answer.err
    environment = json.loads((tmp_path / "checkpoints/r/environment.json").read_text())
    assert environment["data"]["dev"] == len(lines) - 1


# --- A12: pairs and embeddings that have no EER -----------------------------------------------


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (lambda line: line.endswith(" 1"), "20 of 20 pairs are mated"),
        (lambda line: line.endswith(" 0"), "0 of 20 pairs are mated"),
        (lambda line: False, "val_pairs.txt"),
    ],
    ids=["mated alone", "non-mated alone", "empty"],
)
def test_pairs_that_give_no_eer_are_found_before_the_first_step(
    facever, data, tmp_path, keep, said
):
    file = data / "val_pairs.txt"
    file.write_text("".join(f"{line}\n" for line in file.read_text().splitlines() if keep(line)))
    answer = facever("train", f"data.root={data}", *SMALL)
    refused(answer, said)
    assert "parameters" not in answer.err
    assert not (tmp_path / "checkpoints").exists()


def test_weights_that_are_not_finite_give_an_error_with_the_image_and_no_eer(
    facever, faces, tmp_path
):
    state = tiny_state()
    with torch.no_grad():
        next(state.encoder.parameters()).fill_(float("nan"))
    config = tiny_payload()["config"]
    config["data"] |= {"root": str(faces)}
    tiny_checkpoint(tmp_path / "broken.pt", state, config=config)
    first = (faces / "val_pairs.txt").read_text().split()[0]
    for command in ("evaluate", "submit"):
        answer = facever(command, "broken.pt")
        refused(answer, "not finite")
        assert "EER" not in answer.err
    assert first in facever("evaluate", "broken.pt").err
    assert not (tmp_path / "submissions").exists()


# --- A14: submissions -------------------------------------------------------------------------


def test_a_submission_with_its_sign_swapped_is_called_that(facever, data, tmp_path):
    """Pairs labelled the wrong way round turn an encoder that works into one that is swapped."""
    file = data / "val_pairs.txt"
    assert facever("train", f"data.root={data}", *SMALL, "optim.epochs=4", "--run", "r").code == 0
    lines = [line.rsplit(" ", 1) for line in file.read_text().splitlines()]
    file.write_text("".join(f"{names} {1 - int(mated)}\n" for names, mated in lines))
    # The last checkpoint's own figures are of the pairs as they were; an ensemble is measured anew.
    answer = facever("submit", "checkpoints/r/last.pt", "checkpoints/r/best.pt")
    refused(answer, "sign swapped", code=3)
    assert not (tmp_path / "submissions").exists()


@pytest.mark.parametrize(
    ("row", "said"),
    [("{left},{right},nan", "line 2"), ("{left},{right},1e400", "line 2")],
    ids=["nan", "overflow"],
)
def test_scores_that_are_no_numbers_never_become_an_eer(facever, tmp_path, row, said):
    text = row.format(left="a.png", right="b.png")
    (tmp_path / "s.csv").write_text(f"left,right,score,mated\n{text},1\nc.png,d.png,0.1,0\n")
    refused(facever("evaluate", "--scores", "s.csv"), said)


# --- A15: precision ---------------------------------------------------------------------------


def test_bf16_on_a_gpu_without_it_is_fp16_with_one_warning(monkeypatch, capsys):
    """The one thing here that is no real device: none of that age is at hand."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    gpu = torch.device("cuda")
    assert resolve_precision("bf16", gpu, tiny_state().encoder) == "fp16"
    said = capsys.readouterr().err
    assert said.startswith("warning: engine.precision: this GPU has no bf16; using fp16")
    assert resolve_precision("auto", gpu, tiny_state().encoder) == "fp16"
    assert capsys.readouterr().err == ""


# --- A16: folders -----------------------------------------------------------------------------


def test_a_folder_of_another_layout_says_what_was_looked_for_and_what_to_run(facever, tmp_path):
    root = tmp_path / "pictures"
    (root / "holiday").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(root / "holiday" / "a.png")
    answer = facever("train", f"data.root={root}")
    refused(answer, "holiday", "cls_data/train/", "facever data inspect")
    asked = facever("train", f"data.root={root}", "data.layout=lfw")
    refused(asked, "pairs.txt")
