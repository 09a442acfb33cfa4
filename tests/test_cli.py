"""The command line from outside: exit codes, one clear message, nothing written or lost.

The rows A1 to A16 of the reliability table that need the whole program are here; those of a
single room are tested with that room.
"""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from PIL import Image

from facever.cli import COMMANDS, DATA_COMMANDS

HELPED = [
    *((command.__name__,) for command in COMMANDS),
    *(("data", command.__name__) for command in DATA_COMMANDS),
]


@pytest.fixture
def data(faces, tmp_path) -> Path:
    """A copy of the faces that a test may damage."""
    return Path(shutil.copytree(faces, tmp_path / "data"))


def first_image(data: Path) -> Path:
    return min((data / "cls_data/train/images").iterdir())


@pytest.mark.parametrize("command", HELPED, ids=" ".join)
def test_every_command_s_help_has_two_examples(facever, command):
    answer = facever(*command, "--help")
    assert answer.code == 0
    assert answer.out.split("Examples:")[1].count("facever") >= 2
    assert len(answer.out.splitlines()) <= 40


def test_help_takes_less_than_half_a_second_of_a_processor():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "facever", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_help_answers_without_the_heavy_libraries():
    code = (
        "import sys; sys.argv = ['facever', '--help']\nimport facever.cli\n"
        "try:\n    facever.cli.main()\nfinally:\n"
        "    print([m for m in ('torch', 'timm', 'albumentations', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip().endswith("[]")


def test_an_unknown_command_or_option_leaves_with_2_and_one_line(facever):
    for arguments, said in ((["trian"], "Did you mean 'train'"), (["train", "--bogus"], "--bogus")):
        answer = facever(*arguments)
        assert answer.code == 2
        assert answer.err.startswith("error: ")
        assert said in answer.err


def test_commands_that_do_not_train_refuse_several_processes(facever, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    answer = facever("evaluate")
    assert answer.code == 2
    assert "only `train` and `finetune` share their work" in answer.err


def test_all_that_is_wrong_with_the_settings_is_said_at_once(facever, faces):
    answer = facever(
        "train", f"data.root={faces}", "optim.lrr=1", "optim.lr=-1", "model.neck=gap",
        "--loss", "adafaec", "engine.seed=x",
    )  # fmt: skip
    assert answer.code == 2
    assert "5 problems" in answer.err
    assert "nearest is optim.lr" in answer.err
    assert "adaface" in answer.err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--loss", "arcface", "loss.params.m=28.6"], "radian"),
        (["--loss", "arcface", "loss.params.mm=0.5"], "m"),
        (["--loss", "arcface", "loss.label_smoothing=0.1"], "allow_smoothing"),
        (["--loss", "triplet", "data.k=1"], "data.k"),
        (["--loss", "triplet", "data.sampler=shuffle"], "pk"),
        (["engine.precision=fp16", "engine.device=cpu"], "bf16"),
        (["data.pack=gpu", "engine.device=cpu"], "expected a GPU"),
        (["model.backbone=resnet19"], "resnet18"),
        (["optim.lr=1,0"], "optim.lr"),
        (["nonsense"], "key=value"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_setting_that_cannot_be_is_refused_before_anything_is_written(
    facever, faces, tmp_path, settings, said
):
    answer = facever("train", f"data.root={faces}", *TINY, *settings)
    assert answer.code == 2, answer.err
    assert answer.err.rstrip().splitlines()
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "checkpoints").exists()


def test_a_configuration_file_is_read_below_the_command_line(facever, faces, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(f"data:\n  root: {faces}\noptim:\n  lr: 1e-3\n  epochs: 7\n")
    answer = facever("train", "-c", file, *TINY, "--dry-run", "--json", "-")
    values = json.loads(answer.out)
    assert values["config"]["optim"]["lr"] == 1e-3
    assert values["config"]["optim"]["epochs"] == 2
    file.write_text("optim:\n  lr: 1\n  lr: 2\n")
    assert "line 3" in facever("train", "-c", file).err


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<html>not found</html>"),
        lambda path: path.write_bytes(bytes(5000)),
    ],
    ids=["truncated", "empty", "html", "zeros"],
)
@pytest.mark.parametrize("pack", ["auto", "off"])
def test_a_damaged_image_stops_training_before_the_first_step_or_is_left_out(
    facever, data, tmp_path, damage, pack
):
    """Row A1."""
    damage(first_image(data))
    settings = [f"data.root={data}", *TINY, "optim.epochs=1", f"data.pack={pack}"]
    answer = facever("train", *settings)
    assert answer.code == 2
    assert first_image(data).name in answer.err
    assert not (tmp_path / "checkpoints").exists()
    assert first_image(data).name in facever("data", "inspect", data, "--json", "-").out
    assert facever("data", "inspect", data, "--strict").code == 3

    skipping = facever("train", *settings, "data.on_error=skip")
    assert skipping.code == 0, skipping.err
    assert "1 damaged images of train are left out" in skipping.err


def test_images_of_every_mode_train_as_8_bit_rgb(facever, data):
    """Row A2."""
    images = sorted((data / "cls_data/train/images").iterdir())[:4]
    for path, mode in zip(images, ("L", "CMYK", "RGB", "L"), strict=True):
        Image.open(path).convert(mode).save(path)
    answer = facever("train", f"data.root={data}", *TINY, "optim.epochs=1")
    assert answer.code == 0, answer.err


def test_names_and_identities_stay_what_they_are(facever, faces, tmp_path):
    """Rows A4 and A5: through manifest, training, checkpoint and scores."""
    root = tmp_path / "odd"
    people = ["NA", "null", "0001", "1e5", "True", "-x"]
    names = ["a b.png", "-dash.png", "\N{SNOWMAN}.png", "UPPER.png", "upper.png", "=1+1.png"]
    rng = np.random.default_rng(0)
    for person in people:
        for split in ("train", "dev"):
            folder = root / split / person
            folder.mkdir(parents=True)
            for name in names:
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name)
    answer = facever("train", f"data.root={root}", *TINY, "optim.epochs=1", "--run", "r")
    assert answer.code == 0, answer.err
    from facever.checkpoint import load

    assert load(tmp_path / "checkpoints/r/best.pt")["identities"] == sorted(people)


def test_a_pair_that_names_an_absent_image_is_found_before_the_encoder(facever, data):
    """Row A9."""
    with (data / "val_pairs.txt").open("a") as file:
        file.write("nobody.jpg somebody.jpg 1\n")
    answer = facever("train", f"data.root={data}", *TINY)
    assert answer.code == 2
    assert "nobody.jpg" in answer.err
    assert "41" in answer.err
    assert "ver_data" in answer.err
    assert "parameters" not in answer.err


def test_labels_that_name_an_absent_image_or_miss_one(facever, data):
    """Row A9."""
    first_image(data).rename(data / "moved.jpg")
    answer = facever("train", f"data.root={data}", *TINY)
    assert answer.code == 2
    assert "labels.txt" in answer.err


def test_one_person_under_two_splits_is_counted_and_strict_leaves_with_3(facever, data):
    """Row A10: the same bytes in train and in the verification images."""
    twin = min((data / "ver_data").iterdir())
    twin.write_bytes(first_image(data).read_bytes())
    answer = facever("data", "inspect", data)
    assert answer.code == 0
    assert twin.name in answer.out
    assert facever("data", "inspect", data, "--strict").code == 3


@pytest.mark.parametrize("make", ["absent", "empty", "file of another kind"])
def test_no_data_is_told_with_what_was_looked_for(facever, tmp_path, make):
    """Row A16."""
    root = tmp_path / "nothing"
    if make != "absent":
        root.mkdir()
    if make == "file of another kind":
        (root / "notes.txt").write_text("hello")
    answer = facever("train", f"data.root={root}")
    assert answer.code == 2
    assert "nothing" in answer.err
    assert "facever data" in answer.err
    inspected = facever("data", "inspect", root, "--strict")
    assert inspected.code == (2 if make == "absent" else 3)
    assert "facever data synth" in inspected.out + inspected.err


def test_one_identity_is_too_few(facever, tmp_path):
    """Row A11."""
    folder = tmp_path / "one" / "train" / "alone"
    folder.mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(folder / f"{i}.png")
    answer = facever("train", f"data.root={tmp_path / 'one'}", *TINY)
    assert answer.code == 2
    assert "identities" in answer.err


def test_nothing_to_validate_on_is_told_before_anything_is_written(facever, tmp_path):
    """Row A11: one image each, so that no pair can be made."""
    for person in range(6):
        folder = tmp_path / "singles" / "train" / str(person)
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32), (person, 0, 0)).save(folder / "0.png")
    answer = facever("train", f"data.root={tmp_path / 'singles'}", *TINY)
    assert answer.code == 2
    assert "no labelled pairs" in answer.err
    assert not (tmp_path / "checkpoints").exists()


def scores_file(folder: Path, text: str) -> Path:
    path = folder / "scores.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("score,mated\n0.5,1\nnan,0\n", "line 3"),
        ("score,mated\n0.5,1\ninf,0\n", "line 3"),
        ("score,mated\n0.5,1\n0.4,1\n", "non-mated"),
        ("score,mated\n", "scores.csv"),
        ("", "scores.csv"),
        ("score,mated\n0.5,2\n0.1,0\n", "line 2"),
        ("points,mated\n0.5,1\n", "score"),
    ],
)
def test_a_score_file_that_has_no_eer_is_refused_with_its_line(facever, tmp_path, text, said):
    """Rows A6 and A12."""
    answer = facever("evaluate", "--scores", scores_file(tmp_path, text))
    assert answer.code == 2
    assert said in answer.err
    assert answer.out == ""


def test_a_score_file_of_another_tool_is_measured(facever, tmp_path):
    path = scores_file(tmp_path, "score,mated,model\n0.9,1,x\n0.8,1,x\n0.7,0,x\n0.1,0,x\n0.6,1,x\n")
    answer = facever("evaluate", "--scores", path, "--json", tmp_path / "e.json")
    assert answer.code == 0, answer.err
    values = json.loads((tmp_path / "e.json").read_text())
    assert (values["n_mated"], values["n_non_mated"]) == (3, 2)
    assert 0 < values["eer"] < 0.5
    assert "EER" in answer.out


def test_without_a_checkpoint_the_next_command_is_named(facever):
    for command in (["evaluate"], ["submit"], ["finetune", "--loss", "adaface"]):
        answer = facever(*command)
        assert answer.code == 2
        assert "facever train" in answer.err


def test_a_submission_that_would_be_rejected_is_not_written(facever, data, tmp_path):
    """Row A14: a collapsed encoder gives every pair the same score."""
    facever("train", f"data.root={data}", *TINY, "optim.epochs=1", "--run", "r")
    for path in (data / "ver_data").iterdir():
        Image.new("RGB", (32, 32), (9, 9, 9)).save(path)
    answer = facever("submit", "checkpoints/r/best.pt")
    assert answer.code == 3
    assert "not written" in answer.err
    assert not (tmp_path / "submissions").exists()


def test_config_shows_every_knob_and_writes_a_file_that_trains(facever, faces, tmp_path):
    shown = facever("config", "--show")
    assert "optim.encoder_lr_scale" in shown.out
    assert facever("config", "--init", "c.yaml").code == 0
    assert facever("config", "--init", "c.yaml").code == 2
    answer = facever("train", "-c", "c.yaml", f"data.root={faces}", *TINY, "--dry-run")
    assert answer.code == 0, answer.err


def test_synth_refuses_to_overwrite_and_names_the_next_command(facever, tmp_path):
    arguments = [
        "data",
        "synth",
        tmp_path / "s",
        "--identities",
        "4",
        "--images",
        "2",
        "--size",
        "32",
    ]
    answer = facever(*arguments)
    assert answer.code == 0, answer.err
    assert "facever train data.root=" in answer.out
    assert facever(*arguments).code == 2


def test_embed_writes_paths_embeddings_and_norms(facever, faces, tmp_path):
    facever("train", f"data.root={faces}", *TINY, "optim.epochs=1")
    assert facever("embed", faces / "ver_data", "-o", "e.npz").code == 0
    with np.load(tmp_path / "e.npz") as file:
        count = len(list((faces / "ver_data").iterdir()))
        assert file["embeddings"].shape == (count, 16)
        assert file["embeddings"].dtype == np.float32
        assert len(file["paths"]) == len(file["norms"]) == count


def test_debug_shows_the_traceback(tmp_path):
    arguments = [sys.executable, "-m", "facever", "train", "data.root=absent", "--debug"]
    out = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode != 0
    assert "Traceback" in out.stderr


def test_progress_and_colour_are_plain_when_piped(faces, tmp_path):
    arguments = [sys.executable, "-m", "facever", "train", f"data.root={faces}", *TINY]
    out = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert "\x1b" not in out.stdout + out.stderr
    assert "\r" not in out.stdout + out.stderr
    assert "next: facever finetune" in out.stdout
