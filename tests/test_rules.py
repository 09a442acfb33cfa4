"""`facever check`: each rule of a competition, kept and broken."""

import json
import shutil

import pytest
from conftest import TINY

from facever import checkpoint
from facever.rules import check

OWN = ("model.backbone=baseline5", "model.embedding_dim=8", "data.image_size=64")


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """Runs of an own backbone and of timm's, in a folder with their data and a submission."""
    import contextlib

    from facever.ask import Ask
    from facever.pipeline import submit, train

    folder = tmp_path_factory.mktemp("checked")
    shutil.copytree(faces, folder / "data")
    with contextlib.chdir(folder):
        common = ["data.root=data", *TINY, "optim.epochs=1"]
        own = train(Ask(assignments=[*common, *OWN], run="own")).run
        train(Ask(assignments=[*common, "loss.name=arcface"], run="timm"))
        submit([own / "best.pt"], Ask())
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy of it to work in."""
    shutil.copytree(trained, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def verdicts(*paths, competition="S26"):
    return {line.rule: line.verdict for line in check(paths, competition).lines}


def change(path, **changes):
    """Write a checkpoint again with other values, by dotted key."""
    payload = checkpoint.load(path)
    for key, value in changes.items():
        *sections, name = key.split("__")
        place = payload
        for section in sections:
            place = place[section]
        place[name] = value
    checkpoint.save(path, payload)


def test_each_rule_is_a_line(here):
    run = here / "checkpoints/own"
    assert verdicts(run) == {
        "parameters": "pass", "architecture": "pass", "convolutions only": "pass",
        "pretrained weights": "pass", "training data": "pass", "smoothing with a margin": "pass",
        "model of the best submission": "ask the staff", "no secrets": "pass",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "code"), [("own", 0), ("timm", 3)])
def test_what_is_forbidden_leaves_with_3(here, monkeypatch, capsys, name, code):
    from facever.cli import main

    given = ["facever", "check", f"checkpoints/{name}", "--competition", "S26", "--json", "-"]
    monkeypatch.setattr("sys.argv", given)
    with pytest.raises(SystemExit) as leaving:
        main()
    assert (leaving.value.code or 0) == code
    assert json.loads(capsys.readouterr().out)["kept"] is (code == 0)


def test_whose_rules_is_told_by_the_data_unless_it_is_named(here):
    run = here / "checkpoints/own"
    told = check([run])
    assert told.to_json()["competition"] == "S25"
    assert "rules of S25, detected from the layout hw2p2" in told.to_text()
    (here / "data").rename(here / "11785-f26-data")
    change(run / "best.pt", config__data__root="11785-f26-data")
    assert check([run]).competition.rules.name == "F26"
    assert check([run], "S26").to_text().partition("\n")[0].endswith("rules of S26, as named")
    shutil.rmtree(here / "11785-f26-data")
    assert check([run]).competition.why == "by default: the data is not at hand"


def test_timm_s_backbones_are_forbidden_in_some_terms(here):
    run = here / "checkpoints/timm"
    assert verdicts(run)["architecture"] == "fail"
    assert verdicts(run, competition="S25")["architecture"] == "ask the staff"


def test_parameters_are_counted_with_the_classifier_and_over_an_ensemble(here):
    own, timm = (here / "checkpoints" / name / "best.pt" for name in ("own", "timm"))
    counts = []
    for paths in ((own,), (timm,), (own, timm)):
        line = check(paths, "S25").lines[0]
        counts.append(int(line.why.split()[0].replace(",", "")))
    assert counts[0] + counts[1] == counts[2]
    payload = checkpoint.load(timm)
    parts = [v for k, v in payload["encoder"].items() if "running" not in k and "num_b" not in k]
    assert counts[1] == sum(v.numel() for v in parts) + payload["loss"]["prototypes"].numel()


def test_too_many_parameters_fail(here, monkeypatch):
    import facever.competition as competition

    small = competition.PROFILES["S26"].__class__(
        **{**vars(competition.PROFILES["S26"]), "parameter_cap": 1000}
    )
    monkeypatch.setitem(competition.PROFILES, "S26", small)
    assert verdicts(here / "checkpoints/own")["parameters"] == "fail"


def test_pretrained_weights_are_found_in_the_checkpoint_and_its_parents(here):
    parent, child = here / "checkpoints/timm/best.pt", here / "checkpoints/own/best.pt"
    change(parent, config__model__pretrained=True)
    assert verdicts(parent)["pretrained weights"] == "fail"
    change(child, lineage__parents=[checkpoint.file_digest(parent)])
    assert verdicts(child)["pretrained weights"] == "fail"
    change(child, lineage__parents=["0" * 64])
    assert verdicts(child)["pretrained weights"] == "ask the staff"


def test_data_that_changed_or_is_gone_is_for_the_staff(here):
    run = here / "checkpoints/own"
    (here / "data/cls_data/train/labels.txt").write_text(
        (here / "data/cls_data/train/labels.txt").read_text().replace("0", "1", 1)
    )
    assert verdicts(run)["training data"] == "ask the staff"
    shutil.rmtree(here / "data")
    assert verdicts(run)["training data"] == "ask the staff"


def test_a_submission_is_linted_and_its_models_are_checked(here):
    csv = here / "submissions/own.csv"
    found = verdicts(csv)
    assert found["submission"] == "pass"
    assert found["architecture"] == "pass"
    text = csv.read_text()
    csv.write_text(text.replace("ID,Label", "id,label"))
    assert verdicts(csv)["submission"] == "fail"


def test_a_submission_of_a_checkpoint_that_changed_is_refused(facever, here):
    change(here / "checkpoints/own/best.pt", step=99)
    with pytest.raises(ValueError, match="is no longer the checkpoint"):
        check([here / "submissions/own.csv"], "S26")


def test_the_model_must_be_that_of_the_best_upload(here):
    entry = {
        "time": "2026-01-01T00:00:00+00:00", "csv": "submissions/own.csv", "sha256": "0" * 64,
        "slug": "x", "validation_eer": 0.1, "status": "complete", "score": 0.05,
    }  # fmt: skip
    (here / "submissions/log.jsonl").write_text(json.dumps(entry) + "\n")
    rule = "model of the best submission"
    assert verdicts(here / "checkpoints/own")[rule] == "pass"
    assert verdicts(here / "checkpoints/timm")[rule] == "fail"


@pytest.mark.parametrize(
    "text",
    [
        "hf_" + "a1B2" * 9,
        'WANDB_API_KEY="' + "0123456789" * 4 + '"',
        '{"username": "me", "key": "' + "0123456789abcdef" * 2 + '"}',
    ],
)
def test_a_key_in_the_folder_is_found(here, text):
    run = here / "checkpoints/own"
    (run / "notes.txt").write_text(f"remember\n{text}\n")
    assert verdicts(run)["no secrets"] == "fail"


def test_what_is_no_model_is_refused(facever, here, tmp_path):
    assert facever("check", tmp_path / "absent.csv").code == 2
    assert facever("check", tmp_path / "absent.pt").code == 2
    assert facever("check", tmp_path / "absent.pt", "--competition", "S27").code == 2
