"""`facever handin`: the zip that a course asks for, and what is refused."""

import csv
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

from facever import checkpoint
from facever.checkpoint import file_digest
from facever.errors import DataError, StorageError
from facever.handin import hand_in
from facever.handin.checks import submission_lines
from facever.plainyaml import load_yaml
from facever.rules.models import count_parameters


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """A run, one that was finetuned from it with its submission, and their data."""
    import contextlib

    from facever.ask import Ask
    from facever.pipeline import finetune, submit, train

    folder = tmp_path_factory.mktemp("handed")
    given = [*(text for text in TINY if "optim.epochs" not in text), "optim.epochs=1"]
    # Features of random weights tell faces apart better than those of a few large steps.
    given.append("optim.lr=0.001")
    with contextlib.chdir(folder):
        train(Ask(assignments=[f"data.root={faces}", *given, "augment.blur=0"], run="first"))
        parent = Path("checkpoints/first/best.pt")
        second = finetune(
            Ask(assignments=["loss.name=adaface", *given], run="second", parent=parent)
        )
        submit([second.run / "best.pt"], Ask())
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


SECOND = Path("checkpoints/second")


def unzipped(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def verdicts(answer):
    return {line.rule: line.verdict for line in answer.checked.lines}


def test_the_zip_holds_what_the_course_asks_for(facever, here):
    (here / "own.txt").write_text("We thank our mentors.\n")
    answer = facever(
        "handin", SECOND, "-o", "out/handin.zip", "--competition", "S25",
        "--acknowledgement", "own.txt",
    )  # fmt: skip
    assert answer.code == 0, answer.out + answer.err
    files = unzipped(here / "out/handin.zip")
    (metadata,) = [name for name in files if name.startswith("model_metadata_")]
    assert {
        "README.txt", "acknowledgement.txt", "runs.csv", "code/requirements.txt",
        "code/facever/__main__.py", "code/facever/report/template.html",
        "runs/first/config.yaml", "runs/second/config.yaml", "runs/second/metrics.jsonl",
        "submission/second.csv", "submission/second.json",
    } <= files.keys()  # fmt: skip
    assert not [name for name in files if name.endswith((".pt", ".pyc"))]
    facts = json.loads(files[metadata])
    assert set(facts) == {"parameter_count", "model_architecture"}
    payload = checkpoint.load(SECOND / "best.pt")
    weights = [v for k, v in payload["encoder"].items() if "running" not in k and "num_b" not in k]
    prototypes = payload["loss"]["prototypes"]
    assert facts["parameter_count"] >= prototypes.numel() + sum(
        v.numel() for k, v in payload["encoder"].items() if k.endswith("weight") and v.dim() == 4
    )
    assert facts["parameter_count"] <= prototypes.numel() + sum(v.numel() for v in weights)
    assert "Conv2d" in facts["model_architecture"]
    assert files["acknowledgement.txt"].startswith(b"We thank our mentors.\n\nSoftware: facever ")


def test_the_readme_is_written_from_the_run_s_own_settings(here):
    hand_in([SECOND], Path("x.zip"), "S25")
    text = unzipped(Path("x.zip"))["README.txt"].decode()
    config = load_yaml(SECOND / "config.yaml")
    for said in (
        "ARCHITECTURE", "TRAINING", "AUGMENTATION", "HOW TO RUN",
        "backbone test_resnet (timm's)", "sees 32x32 RGB",
        "stage 1, run first: 64 images of 8 identities",
        "stage 2, run second: 64 images of 8 identities, 4 steps, "
        "from checkpoints/first/best.pt",
        "loss.name = adaface", f"optim.lr = {config['optim']['lr']} ",
        "augment.flip = 0.5              mirror image\n",
        f"SHA-256 {file_digest(SECOND / 'best.pt')}",
        "facever train -c runs/first/config.yaml --run first data.root=DIR",
        "facever finetune -c runs/second/config.yaml --run second "
        "--from checkpoints/first/best.pt data.root=DIR",
    ):  # fmt: skip
        assert said in text
    # What was not done is not told.
    assert "blur" not in text
    assert "optim.gamma" not in text


def test_the_commands_of_the_readme_train_the_runs_again(
    facever, here, faces, tmp_path, monkeypatch
):
    """A dry run in an empty folder: the configuration that is handed in is one."""
    hand_in([SECOND], Path("x.zip"), "S25")
    away = tmp_path / "away"
    with zipfile.ZipFile("x.zip") as archive:
        archive.extractall(away)
    monkeypatch.chdir(away)
    answer = facever(
        "train", "-c", "runs/first/config.yaml", "--run", "first", f"data.root={faces}",
        "--dry-run",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "test_resnet" in answer.out


def test_a_run_of_the_parent_s_name_that_is_not_the_parent_is_no_stage(here):
    shutil.copy(SECOND / "best.pt", "checkpoints/first/best.pt")
    answer = hand_in([SECOND], Path("x.zip"), "S25", anyway=True)
    assert not [name for name in answer.files if name.startswith("runs/first/")]


def test_the_table_has_the_best_runs_first_with_eer_in_percent(here):
    for i in range(12):
        copy = Path(shutil.copytree("checkpoints/first", f"checkpoints/copy-{i:02d}"))
        line = {"step": 4, "epoch": 1, "time": 1.0, "EER": 50.0 - i, "EER_low": 1.0}
        (copy / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    hand_in([SECOND], Path("x.zip"), "S25")
    text = unzipped(Path("x.zip"))["runs.csv"].decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 10
    found = [float(row["EER"]) for row in rows]
    assert found == sorted(found)
    assert {"39.0", "40.0", "41.0"} <= {row["EER"] for row in rows}
    assert {row["handed_in"] for row in rows if row["run"].startswith("copy")} == {"no"}


def test_the_same_run_gives_the_same_bytes(here):
    hand_in([SECOND], Path("a.zip"), "S25")
    for file in SECOND.iterdir():
        file.touch()
    hand_in([SECOND], Path("b.zip"), "S25")
    assert Path("a.zip").read_bytes() == Path("b.zip").read_bytes()


def test_the_model_must_be_that_of_the_submission(here):
    answer = hand_in([SECOND], Path("x.zip"), "S25")
    assert verdicts(answer)["model of the submission"] == "pass"
    assert verdicts(answer)["submission"] == "pass"
    other = hand_in(
        [Path("checkpoints/first")], Path("y.zip"), "S25", submission=Path("submissions/second.csv")
    )
    assert verdicts(other)["model of the submission"] == "fail"
    assert not Path("y.zip").exists()
    # Nothing was sent of it, as far as anybody knows.
    alone = hand_in([Path("checkpoints/first")], Path("z.zip"), "S25")
    assert verdicts(alone)["model of the submission"] == "ask the staff"
    assert not [name for name in alone.files if name.startswith("submission/")]
    with Path("submissions/second.csv").open("a") as file:
        file.write("\n")
    changed = hand_in([SECOND], Path("w.zip"), "S25")
    assert verdicts(changed)["model of the submission"] == "fail"


def test_what_breaks_a_rule_is_not_written_unless_wanted(facever, here, monkeypatch):
    (SECOND / "notes.txt").write_text("hf_" + "a1B2" * 9)
    Path("x.zip").write_bytes(b"before")
    answer = facever("handin", SECOND, "-o", "x.zip", "--competition", "S26")
    assert answer.code == 3
    # timm's backbone, and the key in the folder.
    assert "not written: architecture, no secrets; --anyway" in answer.err
    assert Path("x.zip").read_bytes() == b"before"
    assert facever("handin", SECOND, "-o", "x.zip", "--anyway").code == 0
    # What lies in the run's folder only comes in by name.
    assert "notes.txt" not in str(unzipped(Path("x.zip")).keys())


def test_a_key_is_found_wherever_it_comes_into_the_zip(here, monkeypatch):
    Path("words.txt").write_text("my key is correct-horse-battery-staple\n")
    assert verdicts(hand_in([SECOND], Path("x.zip"), "S25", words=Path("words.txt")))[
        "no secrets in the zip"
    ] == "pass"  # fmt: skip
    monkeypatch.setenv("KAGGLE_KEY", "correct-horse-battery-staple")
    answer = hand_in([SECOND], Path("y.zip"), "S25", words=Path("words.txt"))
    assert verdicts(answer)["no secrets in the zip"] == "fail"
    assert not Path("y.zip").exists()


def test_a_checkpoint_comes_in_where_it_is_wanted_and_the_size_has_a_limit(here, monkeypatch):
    answer = hand_in([SECOND], Path("x.zip"), "S25", with_checkpoint=True)
    assert unzipped(Path("x.zip"))["runs/second/best.pt"] == (SECOND / "best.pt").read_bytes()
    assert "runs/first/best.pt" not in answer.files
    (SECOND / "scores_val.csv").write_bytes(np.random.default_rng(0).bytes(2 << 20))
    tight = hand_in([SECOND], Path("y.zip"), "S25", largest=1)
    assert verdicts(tight)["size of the zip"] == "fail"
    assert not Path("y.zip").exists()


def test_an_ensemble_is_handed_in_whole(here):
    folders = [Path("checkpoints/first"), SECOND]
    answer = hand_in(folders, Path("x.zip"), "S25", submission=Path("submissions/second.csv"))
    assert verdicts(answer)["model of the submission"] == "fail"
    both = [file_digest(folder / "best.pt") for folder in folders]
    side = json.loads(Path("submissions/second.json").read_text())
    side["checkpoints"] = [{"path": "x", "sha256": digest} for digest in both]
    Path("submissions/second.json").write_text(json.dumps(side))
    answer = hand_in(folders, Path("x.zip"), "S25")
    assert verdicts(answer)["model of the submission"] == "pass"
    (metadata,) = [name for name in answer.files if name.startswith("model_metadata_")]
    counted = json.loads(unzipped(Path("x.zip"))[metadata])["parameter_count"]
    assert counted == count_parameters(answer.checked.models)[1]
    text = unzipped(Path("x.zip"))["README.txt"].decode()
    assert text.count("stage 1, run first") == 1
    assert "submit checkpoints/first/best.pt checkpoints/second/best.pt --competition S25" in text


def test_what_cannot_be_read_or_written_is_told(facever, here):
    assert facever("handin", "nowhere", "-o", "x.zip").code == 2
    assert facever("handin", SECOND, "-o", "x.zip", "--competition", "S99").code == 2
    with pytest.raises(DataError, match=r"own\.txt: not readable"):
        hand_in([SECOND], Path("x.zip"), "S25", words=Path("own.txt"))
    with pytest.raises(DataError, match="no side-car"):
        list(submission_lines(Path("absent.csv"), [], None))
    Path("file").touch()
    with pytest.raises(StorageError):
        hand_in([SECOND], Path("file/x.zip"), "S25")
    assert not Path("x.zip").exists()
