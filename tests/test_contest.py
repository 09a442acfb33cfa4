"""Before a competition: each profile's data is told, measured by its metric, and answered."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from data_helpers import save_image
from training_helpers import tiny_checkpoint, tiny_config, tiny_encoder, tiny_state

from facever.ask import Ask
from facever.competition import NOBODY
from facever.contest import choose
from facever.data.manifest import read_manifest
from facever.data.synth import synthesise
from facever.errors import CheckFailed, ConfigError, DataError
from facever.pipeline import evaluate, submit
from facever.ranking import combined_score

PEOPLE = 4  # as many as the tiny checkpoint's classifier has


def drawn(out: Path, layout: str) -> Path:
    synthesise(
        out, layout=layout, identities=PEOPLE, images=4, size=32, val_pairs=40, test_pairs=40,
        ver_identities=24, workers=1,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Data of two competitions, and a checkpoint for each that knows its people."""
    folder = tmp_path_factory.mktemp("contest")
    for layout in ("F22", "F26"):
        root = drawn(folder / layout, layout)
        identities = read_manifest(root).identities
        config = tiny_config(data={"root": layout, "image_size": 32, "workers": 0})
        tiny_checkpoint(
            folder / "checkpoints" / layout / "best.pt",
            config=config.to_dict(),
            identities=list(identities),
        )
    return folder


@pytest.fixture
def here(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return Path()


def best(layout):
    return Path("checkpoints") / layout / "best.pt"


def asked(*settings):
    return Ask(assignments=["eval.bootstrap=20", *settings])


# --- identification --------------------------------------------------------------------------


def test_the_threshold_for_nobody_is_chosen_on_dev_and_its_accuracy_told(here):
    answer = evaluate([best("F22")], asked())
    ranking = answer.ranking
    assert ranking.competition.rules.name == "F22"
    assert ranking.figure.metric == "accuracy"
    assert ranking.figure.low <= ranking.figure.value <= ranking.figure.high
    told = answer.to_json()["ranking"]
    assert told["threshold"] == ranking.threshold
    assert told["higher_is_better"] is True
    assert "ranked by         accuracy:" in answer.to_text()


def test_the_accuracy_is_that_of_the_answers_at_the_threshold(here):
    """Counted anew, from scores that are not the gallery's search."""
    from facever.embed import load_encoder

    found = evaluate([best("F22")], asked()).ranking
    open_set = read_manifest("F22").open_set
    encoder = load_encoder(best("F22"))
    known = encoder.embed_paths([open_set.known.root / p for p in open_set.known.paths])
    probes = encoder.embed_paths([open_set.dev.root / p for p in open_set.dev.paths])
    scores = probes @ known.T
    guess = open_set.known.labels[scores.argmax(1)]
    answers = np.where(scores.max(1) >= found.threshold, guess, -1)
    # Scores of an encoder that was not trained are so close that rounding may move an image.
    right = np.mean(answers == open_set.dev.labels)
    assert found.figure.value == pytest.approx(right, abs=1.5 / len(answers))
    # Nobody does better by naming everybody, or nobody.
    assert found.figure.value >= max(
        np.mean(guess == open_set.dev.labels), np.mean(open_set.dev.labels == -1)
    )


def test_names_are_submitted_with_nobody_among_them(facever, here):
    answer = facever("submit", best("F22"), "eval.bootstrap=20", "--json", "-")
    assert answer.code == 0, answer.err
    assert "competition F22/S23/F23/S24, detected from the layout f22" in answer.err
    facts = json.loads(answer.out)
    assert (facts["competition"], facts["images"], facts["pairs"]) == ("F22", 40, 0)
    header, *rows = Path("submissions/F22.csv").read_text().splitlines()
    assert header == "id,label"
    assert [row.split(",")[0] for row in rows] == [str(i) for i in range(40)]
    known = {folder.name for folder in Path("F22/known").iterdir()}
    assert {row.split(",")[1] for row in rows} <= known | {NOBODY}
    about = json.loads(Path("submissions/F22.json").read_text())
    assert about["metric"] == {"name": "accuracy", "higher_is_better": True}
    assert 0 <= about["identification"]["value"] <= 1
    assert facever("check", "submissions/F22.csv", "--competition", "S24").code == 0


def test_an_ensemble_names_by_the_mean_of_its_scores(here):
    """Of twice the same checkpoint the mean is that checkpoint's."""
    alone = evaluate([best("F22")], asked()).ranking
    twice = evaluate([best("F22"), best("F22")], asked()).ranking
    assert twice.figure.value == alone.figure.value
    assert twice.threshold == pytest.approx(alone.threshold, abs=1e-6)


def test_without_labels_of_dev_nobody_can_be_told(here):
    Path("F22/verification_dev.csv").unlink()
    with pytest.raises(DataError, match=r"no labels of unknown_dev/.*\n.*verification_dev\.csv"):
        submit([best("F22")], asked())


# --- both tasks ------------------------------------------------------------------------------


def test_the_combined_metric_joins_accuracy_and_eer(here):
    answer = evaluate([best("F26")], asked())
    (share,) = answer.dev.values()
    assert answer.ranking.figure.value == combined_score(answer.final.eer, share)
    assert answer.to_json()["ranking"]["measured"]["metric"] == "combined"
    assert "(accuracy + 1 - EER) / 2: " in answer.to_text()


def test_both_tasks_are_answered_in_the_columns_of_the_sample(facever, here):
    answer = facever("submit", best("F26"), "eval.bootstrap=20")
    assert answer.code == 0, answer.err
    assert "40 pairs and 4 images, linted for F26" in answer.out
    header, *rows = Path("submissions/F26.csv").read_text().splitlines()
    assert header == "ID,Class,Score"
    cells = [row.split(",") for row in rows]
    people = set(read_manifest("F26").identities)
    assert {cell[1] for cell in cells[:4]} <= people
    assert {cell[2] for cell in cells[:4]} == {cell[1] for cell in cells[4:]} == {"0"}
    assert len({cell[2] for cell in cells[4:]}) > 30
    assert facever("check", "submissions/F26.csv", "--competition", "F26").out.count("44 rows") == 1
    text = Path("submissions/F26.csv").read_text()
    Path("submissions/F26.csv").write_text(text.replace("\n0,", "\n0,x", 1))
    broken = facever("check", "submissions/F26.csv", "--competition", "F26")
    assert "1 are nobody's" in broken.out


def test_classes_are_those_of_the_classifier(here):
    """The images in the order of their names, each by the largest logit of its embedding."""
    from facever.embed import load_encoder

    submit([best("F26")], asked())
    manifest = read_manifest("F26")
    paths = sorted(manifest.test.paths)
    table = load_encoder(best("F26")).embed_paths([manifest.root / p for p in paths], flip=False)
    loss = tiny_state().loss.eval()
    with torch.no_grad():
        raw = tiny_encoder().eval()
        assert raw.embedding_dim == table.shape[1]
        from facever.data.datasets import ImageDataset

        images = ImageDataset(manifest, split="test", image_size=32)
        order = [manifest.test.paths.index(path) for path in paths]
        batch = raw.transform.batch(torch.from_numpy(images.gather(np.array(order))))
        guesses = loss.logits(raw(batch)).argmax(1).tolist()
    rows = Path("submissions/F26.csv").read_text().splitlines()[1:5]
    assert [row.split(",")[1] for row in rows] == [manifest.identities[g] for g in guesses]


def test_both_tasks_need_a_sample_and_images(here):
    Path("F26/sample_submission.csv").unlink()
    with pytest.raises(ConfigError, match="or --sample FILE"):
        submit([best("F26")], asked("data.competition=F26"))
    with pytest.raises(ConfigError, match="need the data's images"):
        submit(
            [best("F26")], asked(), pairs=Path("F26/test_pairs.txt"), images=Path("F26/ver_data"),
            competition="F22",
        )  # fmt: skip
    assert evaluate([best("F26")], asked("data.competition=S25")).ranking.figure.metric == "EER"


def test_checkpoints_of_other_people_do_not_classify(here):
    tiny_checkpoint(Path("other.pt"), identities=["a", "b", "c", "d"])
    ranking = evaluate([Path("other.pt")], asked("data.root=F26")).ranking
    assert (ranking.figure, ranking.basis) == (None, "other.pt was trained on other identities")
    with pytest.raises(ConfigError, match="trained on other identities"):
        submit([Path("other.pt")], asked("data.root=F26"))


# --- AUC, names, the choice of an epoch ------------------------------------------------------


def test_a_competition_that_ranks_by_auc_says_so(facever, here):
    answer = evaluate([best("F26")], asked(), competition="S22")
    assert answer.ranking.figure.value == answer.final.auc
    assert answer.ranking.figure.low < answer.final.auc < answer.ranking.figure.high
    assert "S22, as named" in answer.to_text()
    submit([best("F26")], asked(), competition="S22")
    about = json.loads(Path("submissions/F26.json").read_text())
    assert about["metric"] == {"name": "AUC", "higher_is_better": True}
    assert Path("submissions/F26.csv").read_text().startswith("id,match\n0,")


def test_a_name_goes_before_the_setting_and_that_before_what_the_data_shows(here):
    manifest = read_manifest("F26")
    data = tiny_config(data={"root": "F26"}).data
    named = data.model_copy(update={"competition": "f25"})
    assert choose(data, manifest).rules.name == "F26"
    assert choose(named, manifest).rules.name == "F25"
    assert choose(named, manifest, "S22").rules.name == "S22"
    assert choose(data, None) is None
    with pytest.raises(ConfigError, match="no profile 'S27'"):
        choose(data, manifest, "S27")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"id,class,score,more\n1,2,3,4\n"])
def test_a_damaged_sample_is_no_reason_not_to_train(here, content):
    """It is one only for what is handed in."""
    Path("F26/sample_submission.csv").write_bytes(content)
    data, manifest = tiny_config(data={"root": "F26"}).data, read_manifest("F26")
    assert choose(data, manifest).rules.name == "F26"
    with pytest.raises((ConfigError, DataError), match="sample"):
        submit([best("F26")], asked())


def test_a_manifest_of_images_beside_it_belongs_to_no_competition(tmp_path):
    for i in range(4):
        save_image(tmp_path / f"{i}.png", i)
    rows = [f"{i}.png,p{i % 2}\n" for i in range(4)]
    (tmp_path / "manifest.csv").write_text("".join(["path,identity\n", *rows]))
    found = choose(tiny_config().data, read_manifest(tmp_path))
    assert (found.rules.name, found.why[:10]) == ("S25", "by default")


def test_an_epoch_may_be_chosen_by_the_combined_metric(facever, here):
    """And the competition is named before the first step."""
    settings = ["data.root=F26", *TINY, "eval.metric=combined", "optim.lr=0.02"]
    answer = facever("train", *settings, "--run", "r")
    assert answer.code == 0, answer.err
    assert "competition F26, detected from" in answer.err
    lines = map(json.loads, Path("checkpoints/r/metrics.jsonl").read_text().splitlines())
    seen = [line for line in lines if "combined" in line]
    for line in seen:
        expected = combined_score(line["EER"] / 100, line["dev_accuracy_ce"])
        assert line["combined"] == pytest.approx(expected)
    best_of_all = max(seen, key=lambda line: line["combined"])
    from facever import checkpoint

    assert checkpoint.load(best("r"))["metrics"]["combined"] == best_of_all["combined"]
    environment = json.loads(Path("checkpoints/r/environment.json").read_text())
    assert environment["competition"]["name"] == "F26"


def test_a_metric_that_cannot_be_measured_is_refused_before_the_first_step(facever, here):
    shutil.rmtree("F26/cls_data/dev")
    answer = facever("train", "data.root=F26", *TINY, "eval.metric=combined", "--run", "r")
    assert answer.code == 2
    assert "without dev images" in answer.err
    assert not Path("checkpoints/r").exists()


def test_a_collapsed_encoder_names_nobody_and_is_refused(here):
    state = tiny_state()
    with torch.no_grad():
        for parameter in state.encoder.parameters():
            parameter.zero_()
        [*state.encoder.parameters()][-1].fill_(1.0)
    tiny_checkpoint(Path("flat.pt"), state, identities=[f"n{i:06d}" for i in range(1, 5)])
    with pytest.raises((CheckFailed, DataError)):
        submit([Path("flat.pt")], asked("data.root=F22"))
    assert not Path("submissions").exists()
