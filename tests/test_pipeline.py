"""The story on a small data set of drawn faces: files, resumes, and the same losses everywhere."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, draw
from training_helpers import timeless

from facever import checkpoint
from facever.data.datasets import ImageDataset, ImagePairDataset
from facever.data.manifest import read_manifest
from facever.data.sampler import shuffled_batches
from facever.embed import load_encoder
from facever.metrics import hardest_pairs
from facever.report import Exhibits
from facever.score import read_scores

CHECKPOINT_KEYS = {
    "format", "facever", "config", "identities", "encoder", "loss", "optimizer", "schedule",
    "scaler", "ema", "step", "epoch", "sampler", "rng", "metrics", "lineage",
}  # fmt: skip
EVALUATION_KEYS = {
    "eer", "eer_low", "eer_high", "auc", "accuracy", "threshold", "n_mated", "n_non_mated",
    "definition",
}  # fmt: skip


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def weights_digest(path: Path) -> str:
    payload = checkpoint.load(path)
    digest = hashlib.sha256()
    for part in ("encoder", "loss"):
        for key, value in sorted(payload[part].items()):
            digest.update(key.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def test_the_whole_way_from_a_folder_to_a_csv(facever, faces, tmp_path):
    assert facever("train", f"data.root={faces}", *TINY).code == 0
    tuned = facever("finetune", "--loss", "adaface", "optim.epochs=1", "optim.batch_size=16")
    assert tuned.code == 0, tuned.err
    measured = facever("evaluate", "--json", "-")
    assert measured.code == 0, measured.err
    assert "checkpoints/finetune-1/best.pt" in measured.err
    handed_in = facever("submit")
    assert handed_in.code == 0, handed_in.err

    run = tmp_path / "checkpoints" / "finetune-1"
    names = {path.name for path in run.iterdir()}
    assert {
        "config.yaml", "last.pt", "best.pt", "metrics.jsonl", "environment.json", "report.html"
    } <= names  # fmt: skip

    payload = torch.load(run / "best.pt", weights_only=True)
    assert payload.keys() >= CHECKPOINT_KEYS
    assert payload["identities"] == sorted(payload["identities"])
    assert payload["config"]["loss"]["params"] == {"ema_init": "data"}
    assert payload["lineage"]["parents"] == [
        checkpoint.file_digest(tmp_path / "checkpoints/train-1/best.pt")
    ]

    answer = json.loads(measured.out)
    assert answer.keys() >= EVALUATION_KEYS
    assert (answer["n_mated"], answer["n_non_mated"]) == (20, 20)
    assert 100 * answer["eer"] == pytest.approx(payload["metrics"]["EER"])
    assert "dev_accuracy_adaface" in answer

    rows = (tmp_path / "submissions" / "finetune-1.csv").read_bytes().decode().split("\n")
    assert rows[0] == "ID,Label"
    assert [row.split(",")[0] for row in rows[1:-1]] == [str(i) for i in range(40)]
    side_car = json.loads((tmp_path / "submissions" / "finetune-1.json").read_text())
    assert side_car["checkpoints"][0]["sha256"] == checkpoint.file_digest(run / "best.pt")
    assert side_car["validation"]["eer"] == pytest.approx(answer["eer"])
    assert side_car["pairs"]["file"] == str(faces / "test_pairs.txt")


def test_validation_lines_hold_eer_in_percent_and_train_lines_the_rate(facever, faces, tmp_path):
    facever("train", f"data.root={faces}", *TINY)
    lines = timeless(tmp_path / "checkpoints" / "train-1")
    validations = [line for line in lines if "EER" in line]
    assert len(validations) == 2
    assert validations[0].keys() >= {"EER_low", "EER_high", "AUC", "accuracy", "dev_accuracy_ce"}
    assert 1 < validations[0]["EER"] <= 100
    first = json.loads((tmp_path / "checkpoints/train-1/metrics.jsonl").read_text().split("\n")[0])
    assert first.keys() >= {"step", "epoch", "time", "loss", "lr", "grad_norm", "images_per_s"}


def test_a_run_leaves_what_its_page_shows(facever, faces, tmp_path):
    facever("train", f"data.root={faces}", *TINY, "optim.epochs=1", "augment.flip=0",
            *(f"augment.{name}=0" for name in ("crop", "shift", "rescale", "photometric", "blur",
                                               "rotate", "erase")))  # fmt: skip
    run, data = tmp_path / "checkpoints" / "train-1", ImageDataset(faces, image_size=32)
    kept, scores = Exhibits.read(run), read_scores(run / "scores_val.csv")
    assert kept.sizes.tolist() == np.bincount(data.labels).tolist()
    first = shuffled_batches(len(data), 16, seed=0, epoch=0)[0]
    assert (kept.batch == data.gather(first)).all(), "as nothing was to be changed"
    pairs = ImagePairDataset(read_manifest(faces).val_pairs, image_size=32)
    misses, false_matches = hardest_pairs(scores.scores, scores.mated, 6)
    assert kept.pairs.tolist() == [*misses, *false_matches]
    assert (kept.pair_images[:, 1] == pairs.gather(pairs.right[kept.pairs])).all()
    encoder = load_encoder(run / "best.pt")
    assert (kept.norms > 0).all()
    assert kept.embeddings.shape == (64, encoder.encoder.embedding_dim)
    assert kept.names[kept.labels].tolist() == [data.identities[k] for k in data.labels]
    assert (run / "report.html").read_text().count("<img") == 16 + 2 * 12


def test_a_page_that_cannot_be_made_costs_notes_and_not_the_run(facever, faces, tmp_path):
    settings = [f"data.root={faces}", *TINY, "optim.epochs=1", "--run", "r"]
    assert facever("train", *settings).code == 0
    run = tmp_path / "checkpoints" / "r"
    for name in ("report.html", "exhibits.npz"):
        (run / name).unlink()
        (run / name).mkdir()  # something else lies where they belong
    (run / "finished").unlink()
    answer = facever("train", *settings)
    assert answer.code == 0, answer.err
    assert (run / "finished").exists()
    assert "report.html is not complete" in answer.err


def test_the_same_command_again_says_it_is_finished_and_another_configuration_is_another_run(
    facever, faces, tmp_path
):
    settings = [f"data.root={faces}", *TINY]
    facever("train", *settings, "--run", "a")
    digest = weights_digest(tmp_path / "checkpoints/a/last.pt")
    again = facever("train", *settings, "--run", "a")
    assert (again.code, "finished before" in again.err) == (0, True)
    assert weights_digest(tmp_path / "checkpoints/a/last.pt") == digest

    other = facever("train", *settings, "optim.lr=0.05", "--run", "a")
    assert other.code == 2
    assert "optim.lr: 0.1 -> 0.05" in other.err
    assert facever("train", *settings, "optim.lr=0.05", "--run", "a", "--fresh").code == 0
    assert (tmp_path / "checkpoints" / "a-2" / "best.pt").exists()


def test_runs_without_a_name_are_numbered(facever, faces, tmp_path):
    settings = [f"data.root={faces}", *TINY, "optim.epochs=1"]
    facever("train", *settings)
    facever("train", *settings)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "train-1",
        "train-2",
    ]


@pytest.mark.parametrize("layout", ["F24", "folders", "csv"])
def test_the_same_images_in_another_layout_give_the_same_losses(facever, faces, tmp_path, layout):
    """Labels are numbered by identities as strings, images ordered by (identity, file name)."""
    converted = convert(faces, tmp_path / layout, layout)
    for name, root in (("original", faces), ("converted", converted)):
        answer = facever("train", f"data.root={root}", *TINY, "optim.epochs=1", "--run", name)
        assert answer.code == 0, answer.err
    assert losses(tmp_path / "checkpoints/original") == losses(tmp_path / "checkpoints/converted")


def convert(source: Path, out: Path, layout: str) -> Path:
    """Lay the images of an S25 data set out in another way, by hand."""
    out.mkdir()
    shutil.copytree(source / "ver_data", out / "ver_data")
    rows = ["path,identity,split"]
    for split in ("train", "dev"):
        folder = source / "cls_data" / split
        for line in (folder / "labels.txt").read_text().splitlines():
            name, identity = line.split()
            base = {"F24": f"cls_data/{split}", "folders": split, "csv": "images"}[layout]
            target = out / base / identity / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / "images" / name, target)
            rows.append(f"{base}/{identity}/{name},{identity},{split}")
    pairs = (source / "val_pairs.txt").read_text()
    if layout == "csv":
        (out / "manifest.csv").write_text("\n".join(rows) + "\n")
        pairs = "".join(
            f"ver_data/{a},ver_data/{b},{mated}\n"
            for a, b, mated in (line.split() for line in pairs.splitlines())
        )
        (out / "val_pairs.csv").write_text("left,right,mated\n" + pairs)
    else:
        (out / "val_pairs.txt").write_text(pairs)
    return out


def test_workers_and_pack_do_not_change_the_losses(facever, faces, tmp_path):
    for name, *settings in (
        ("plain",),
        ("workers", "data.workers=2"),
        ("files", "data.pack=files"),
    ):
        answer = facever(
            "train", f"data.root={faces}", *TINY, "optim.epochs=1", "--run", name, *settings
        )
        assert answer.code == 0, answer.err
    plain = losses(tmp_path / "checkpoints/plain")
    assert losses(tmp_path / "checkpoints/workers") == plain
    assert losses(tmp_path / "checkpoints/files") == plain


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "facever", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def wait_for_steps(run: Path, steps: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a run has logged so many steps, or has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        path = run / "metrics.jsonl"
        if path.exists() and len(path.read_text().splitlines()) >= steps:
            return
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves_with_the_shell_s_code(faces, tmp_path, number, code):
    arguments = command("train", f"data.root={faces}", *TINY, "optim.epochs=500", "--run", "r")
    process = subprocess.Popen(
        arguments, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    )
    wait_for_steps(tmp_path / "checkpoints" / "r", 3, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert checkpoint.load(tmp_path / "checkpoints/r/last.pt")["step"] >= 3


def test_resume_refuses_other_data(facever, faces, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(faces, root)
    given = ["train", f"data.root={root}", *TINY, "--run", "r"]
    assert facever(*given).code == 0
    (tmp_path / "checkpoints/r/finished").unlink()
    labels = root / "cls_data/train/labels.txt"
    name = labels.read_text().split()[0]
    labels.write_text("".join(ln for ln in labels.open() if not ln.startswith(name)))
    (root / "cls_data/train/images" / name).unlink()
    answer = facever(*given)
    assert answer.code == 2
    assert "64 training images of 8 identities when it began, now 63 of 8" in answer.err


def test_finetune_keeps_the_parent_s_model_and_its_parent_at_a_resume(facever, faces, tmp_path):
    settings = [f"data.root={faces}", *TINY]
    facever("train", *settings, "--run", "train-1")
    refused = facever("finetune", "--loss", "arcface", "model.embedding_dim=32")
    assert refused.code == 2
    assert "embedding_dim: 16 -> 32" in refused.err

    small = ["optim.epochs=2", "optim.batch_size=16"]
    assert facever("finetune", "--loss", "arcface", *small).code == 0
    run = tmp_path / "checkpoints" / "finetune-1"
    (run / "finished").unlink()
    facever("train", *settings, "engine.seed=1", "--run", "train-2")
    again = facever("finetune", "--loss", "arcface", *small)
    assert again.code == 0, again.err
    assert not (tmp_path / "checkpoints" / "finetune-2").exists()
    environment = json.loads((run / "environment.json").read_text())
    assert environment["parent"] == "checkpoints/train-1/best.pt"


def test_a_named_finetune_whose_parent_is_gone_says_so(facever, faces, tmp_path):
    facever("train", f"data.root={faces}", *TINY, "optim.epochs=1", "--run", "t")
    given = ["finetune", "--loss", "arcface", "optim.epochs=1", "optim.batch_size=16", "--run", "f"]
    assert facever(*given).code == 0
    (tmp_path / "checkpoints/t/best.pt").unlink()
    answer = facever(*given)
    assert answer.code == 2
    assert "checkpoints/t/best.pt: no such checkpoint" in answer.err


@pytest.mark.parametrize("init", ["means", "classifier", "random"])
def test_finetune_starts_its_prototypes_as_asked(facever, faces, tmp_path, init):
    facever("train", f"data.root={faces}", *TINY)
    answer = facever(
        "finetune", "--loss", "cosface", f"loss.init={init}", "optim.epochs=1",
        "optim.lr=1e-9", "optim.batch_size=16",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    child = checkpoint.load(tmp_path / "checkpoints/finetune-1/last.pt")["loss"]["prototypes"]
    parent = checkpoint.load(tmp_path / "checkpoints/train-1/best.pt")["loss"]["prototypes"]
    unit = torch.nn.functional.normalize
    alike = float((unit(child) * unit(parent)).sum(1).mean())
    assert {"classifier": alike > 0.999, "means": 0.2 < alike < 0.999, "random": alike < 0.5}[init]


def test_several_checkpoints_are_an_ensemble_and_two_can_be_compared(facever, faces, tmp_path):
    for seed in (0, 1):
        facever("train", f"data.root={faces}", *TINY, f"engine.seed={seed}", "--run", f"seed{seed}")
    paths = [f"checkpoints/seed{seed}/best.pt" for seed in (0, 1)]
    answer = facever("evaluate", "--compare", *paths, "--json", "-")
    assert answer.code == 0, answer.err
    values = json.loads(answer.out)
    assert len(values["results"]) == 2
    assert values["comparison"]["difference"] == pytest.approx(
        values["results"][0]["eer"] - values["results"][1]["eer"]
    )
    assert facever("submit", *paths, "-o", "both.csv").code == 0
    assert len(json.loads((tmp_path / "both.json").read_text())["checkpoints"]) == 2


def test_a_dry_run_prints_and_writes_nothing(facever, faces, tmp_path):
    answer = facever("train", f"data.root={faces}", *TINY, "--dry-run")
    assert answer.code == 0
    assert "classifier: " in answer.out
    assert "steps: 8" in answer.out
    assert not (tmp_path / "checkpoints").exists()


def test_an_encoder_of_a_run_scores_files_alone(facever, faces, tmp_path):
    facever("train", f"data.root={faces}", *TINY)
    path = shutil.copy(tmp_path / "checkpoints/train-1/best.pt", tmp_path / "alone.pt")
    embedder = load_encoder(path)
    images = sorted((faces / "ver_data").iterdir())[:4]
    table = embedder.embed_paths(images)
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, rtol=1e-6)
    assert embedder.verify(images[0], images[0]) == pytest.approx(1)
    answer = facever("verify", images[0], images[1], "--from", path, "--json", "-")
    assert json.loads(answer.out)["score"] == pytest.approx(float(table[0] @ table[1]), abs=1e-5)


@pytest.mark.parametrize("loss", ["normface", "cosface", "arcface", "triplet", "ce+0.5*triplet"])
def test_every_kind_of_loss_trains_and_is_resumed_by_name(facever, faces, loss):
    answer = facever("train", f"data.root={faces}", *TINY, "--loss", loss, "optim.epochs=1")
    assert answer.code == 0, answer.err


def test_one_batch_larger_than_the_data_and_a_tail_of_one_train(facever, faces):
    for size in (128, 63):
        answer = facever(
            "train", f"data.root={faces}", *TINY, "optim.epochs=1", f"optim.batch_size={size}"
        )
        assert answer.code == 0, answer.err


def test_lfw_and_a_plain_tree_train_and_evaluate(facever, tmp_path):
    for layout in ("LFW", "tree"):
        root = draw(tmp_path / layout, layout)
        answer = facever("train", f"data.root={root}", *TINY, "optim.epochs=1", "--run", layout)
        assert answer.code == 0, answer.err
        values = json.loads(facever("evaluate", f"checkpoints/{layout}/best.pt", "--json", "-").out)
        assert (values["folds"] is not None) == (layout == "LFW")


def test_adaface_within_a_sum_starts_from_the_norms_of_the_data_too(facever, faces, tmp_path):
    facever("train", f"data.root={faces}", *TINY, "optim.epochs=1")
    answer = facever(
        "finetune", "--loss", "0.5*ce+adaface", "optim.epochs=1", "optim.batch_size=16"
    )
    assert answer.code == 0, answer.err
    payload = checkpoint.load(tmp_path / "checkpoints/finetune-1/last.pt")
    assert payload["config"]["loss"]["params"] == {"adaface": {"ema_init": "data"}}
    assert "dev_accuracy_ce" in payload["metrics"]
