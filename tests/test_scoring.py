"""`evaluate` and `submit` with every switch; score files; averages of checkpoints."""

import csv
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, draw

from facever import checkpoint
from facever.ask import Ask
from facever.config import SWITCHES, Eval
from facever.data import ImageDataset, read_manifest, read_pairs
from facever.embed import load_encoder
from facever.metrics import equal_error_rate
from facever.score import read_scores, write_scores
from facever.scoring import Scorer, first_images, open_checkpoints, switches
from facever.soup import greedy_choice, re_estimate

ALL_SWITCHES = (
    "eval.crops=true", "eval.norm_power=0.5", "eval.centre=true", "eval.as_norm=5",
    "eval.calibrate=true", "eval.ensemble=embedding", "eval.weights=[2,1]",
)  # fmt: skip


PAIRS = 56  # of each kind


@pytest.fixture(scope="module")
def easy(tmp_path_factory, faces):
    """Labelled pairs of training images, so that no way to score them is at chance."""
    root = tmp_path_factory.mktemp("easy") / "S25"
    shutil.copytree(faces, root)
    people = {}
    for line in (root / "cls_data/train/labels.txt").read_text().splitlines():
        name, identity = line.split()
        shutil.copyfile(root / "cls_data/train/images" / name, root / "ver_data" / name)
        people.setdefault(identity, []).append(name)
    columns = list(people.values())
    mated = [f"{a} {b} 1" for names in columns for a, b in pairwise(names)]
    apart = [
        f"{a} {b} 0" for one, other in pairwise(columns) for a, b in zip(one, other, strict=True)
    ]
    assert len(mated) == len(apart) == PAIRS
    (root / "val_pairs.txt").write_text("\n".join(mated + apart) + "\n")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory, easy):
    """A run `a`, its best checkpoint `a.pt`, and `b.pt`, the same with some noise on it."""
    from facever.pipeline import train

    folder = tmp_path_factory.mktemp("trained")
    given = [f"data.root={easy}", *TINY, "optim.epochs=8", "eval.every=8"]
    run = train(Ask(assignments=given, run="a", root=folder)).run
    shutil.copyfile(run / "best.pt", folder / "a.pt")
    payload = checkpoint.load(folder / "a.pt")
    torch.manual_seed(0)
    for name, weights in payload["encoder"].items():
        if name.endswith("weight") and weights.ndim > 1:
            weights += 0.1 * weights.std() * torch.randn_like(weights)
    checkpoint.save(folder / "b.pt", payload)
    return folder


def answered(answer):
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def opened(trained, *assignments, names="a"):
    paths = [trained / f"{name}.pt" for name in names]
    return open_checkpoints(paths, Ask(assignments=assignments), None, None, "val_pairs")


def test_every_switch_works_in_evaluate_and_submit_alike_and_is_in_the_side_car(
    facever, trained, tmp_path
):
    paths = [trained / "a.pt", trained / "b.pt"]
    measured = answered(facever("evaluate", *paths, *ALL_SWITCHES, "--json", "-"))
    answer = facever("submit", *paths, *ALL_SWITCHES, "-o", "s.csv")
    assert answer.code == 0, answer.err
    side_car = json.loads((tmp_path / "s.json").read_text())
    assert side_car["validation"]["eer"] == pytest.approx(measured["eer"])
    assert side_car["switches"] == measured["switches"] | {"weights": [2.0, 1.0]}
    assert set(side_car["switches"]) <= set(SWITCHES) <= Eval.model_fields.keys()
    assert side_car["calibration"]["bias"] != 0
    assert (side_car["transductive"], measured["transductive"]) == (False, False)


def test_transductive_scores_say_so_everywhere(facever, trained, tmp_path):
    given = [trained / "a.pt", "--transductive", "eval.as_norm=5"]
    answer = facever("evaluate", *given)
    assert "transductive: centre and cohort are those of the images" in answer.err
    assert "these very images were the cohort" in answer.out
    assert answered(facever("evaluate", *given, "--json", "-"))["transductive"]
    assert facever("submit", *given, "-o", "s.csv").code == 0
    assert json.loads((tmp_path / "s.json").read_text())["transductive"]
    assert "no effect without" in facever("evaluate", trained / "a.pt", "--transductive").err


def test_without_switches_a_submission_has_the_cosines(facever, trained, easy, tmp_path):
    assert facever("submit", trained / "a.pt", "-o", "s.csv").code == 0
    pairs = read_manifest(easy).test_pairs
    scorer = Scorer(opened(trained))
    _, together = scorer.score(pairs)
    with (tmp_path / "s.csv").open() as file:
        written = [float(row["Label"]) for row in csv.DictReader(file)]
    assert written == pytest.approx(together.scores)
    assert np.abs(together.scores).max() <= 1


def test_crops_and_mirror_images_are_the_mean_of_embeddings_of_pictures_made_by_hand(trained):
    """The crops of an image that is one colour are the image."""
    found = opened(trained)
    encoder, embed = Scorer(found).members[0]

    class Flat:
        def gather(self, indices):
            return np.stack([np.full((32, 32, 3), 40 * (i + 1), np.uint8) for i in indices])

    plain = embed(encoder, Flat(), 3, flip=False)
    np.testing.assert_allclose(embed(encoder, Flat(), 3, crop_scale=0.8), plain, rtol=1e-4)
    apart = embed(encoder, Flat(), 3, crop_scale=0.8, norm_power=None)
    assert apart.shape == (3, 12 * 16)
    np.testing.assert_allclose(apart, np.tile(plain, 12), rtol=1e-4)


def test_the_views_that_are_kept_apart_are_those_that_are_fused(trained):
    found = opened(trained)
    encoder, embed = Scorer(found).members[0]
    images = Scorer(found).open(found.pairs, encoder)
    apart = embed(encoder, images, 5, crop_scale=0.8, norm_power=None).reshape(5, 12, 16)
    mirrored = embed(encoder, images, 5)
    np.testing.assert_allclose(apart[:, [0, 6]].mean(1), mirrored, rtol=1e-4, atol=1e-5)
    fused = embed(encoder, images, 5, crop_scale=0.8)
    np.testing.assert_allclose(apart.mean(1), fused, rtol=1e-4, atol=1e-5)


def test_an_ensemble_of_embeddings_is_one_of_scores_until_they_are_normalised(trained):
    def together(*given):
        found = opened(trained, "eval.weights=[1,3]", *given, names="ab")
        return Scorer(found).score(found.pairs)[1].scores

    plain = together()
    assert together("eval.ensemble=embedding") == pytest.approx(plain)
    normed = together("eval.as_norm=4"), together("eval.as_norm=4", "eval.ensemble=embedding")
    assert np.abs(normed[0] - normed[1]).max() > 0.01


def test_the_cohort_is_made_of_the_first_images_of_each_identity():
    labels = np.array([1, 0, 1, 1, 0, 2])
    assert first_images(labels, 2).tolist() == [0, 1, 2, 4, 5]
    assert first_images(labels, 9).tolist() == [0, 1, 2, 3, 4, 5]


def test_weights_that_fit_no_ensemble_are_refused(facever, trained):
    answer = facever("evaluate", trained / "a.pt", "eval.weights=[1,2]")
    assert answer.code == 2
    assert "eval.weights: 2 given for 1 checkpoints" in answer.err


def test_switches_are_told_where_they_are_not_at_their_defaults():
    assert switches(Eval()) == {}
    assert switches(Eval(crops=True, bootstrap=50)) == {"crops": True}
    assert switches(Eval(crops=True), Eval(crops=True, flip=False)) == {"flip": True}


def test_the_table_of_tricks_has_each_switch_against_the_plain_score(facever, trained):
    paths = [trained / "a.pt", trained / "b.pt"]
    given = ["evaluate", *paths, "--tricks", "--transductive", "eval.as_norm=4"]
    rows = answered(facever(*given, "--json", "-"))["tricks"]
    by_name = {row["trick"]: row for row in rows}
    assert rows[0]["trick"] == "plain"
    assert rows[0]["difference"] is None
    plain = answered(facever("evaluate", paths[0], "eval.flip=false", "--json", "-"))
    assert by_name["plain"]["eer"] == pytest.approx(plain["eer"])
    centred = answered(
        facever("evaluate", paths[0], "eval.flip=false", "eval.centre=true", "--json", "-")
    )
    assert by_name["centre"]["eer"] == pytest.approx(centred["eer"])
    assert by_name["centre"]["difference"]["difference"] == pytest.approx(
        centred["eer"] - plain["eer"]
    )
    assert by_name["centre"]["settings"] == "eval.flip=false eval.centre=true"
    assert rows[-1]["eer"] == min(row["eer"] for row in rows)
    assert "chosen on these very pairs" in facever(*given).out


def test_evaluate_tells_where_the_errors_are(facever, trained, easy, tmp_path):
    given = ["--slices", "--hardest", "3", "--fmr", "0.1", "--det", "det.csv"]
    paths = [trained / "a.pt", trained / "b.pt"]
    values = answered(facever("evaluate", *paths, *given, "--json", "-"))
    assert {row["by"] for row in values["slices"]} == {"sharpness", "norm"}
    assert sum(row["n_mated"] for row in values["slices"] if row["by"] == "norm") == PAIRS
    at_fmr = values["at_fmr"]
    assert at_fmr["fmr"] <= 0.1
    assert at_fmr["low"] <= at_fmr["value"] <= at_fmr["high"]
    hardest = values["hardest"]
    assert [each["mated"] for each in hardest] == [True] * 3 + [False] * 3
    assert Path(hardest[0]["left"]).is_file()
    lines = (easy / "val_pairs.txt").read_text().splitlines()
    assert lines[hardest[0]["pair"] - 1].split()[0] == Path(hardest[0]["left"]).name
    with (tmp_path / "det.csv").open() as file:
        curve = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert (curve[0]["fmr"], curve[-1]["fnmr"], curve[-1]["threshold"]) == (1, 1, float("inf"))
    assert "no TAR at a FAR below 0.018" in facever("evaluate", paths[0], *given).out
    refused = facever("evaluate", paths[0], "--fmr", "0.001")
    assert (refused.code, f"cannot show an FMR below 1/{PAIRS}" in refused.err) == (2, True)


def write_file(path, scores, mated, extra=""):
    header = "left,right,score,mated" + (",pose" if extra else "")
    rows = [
        f"{i}.jpg,{i + 1}.jpg,{score},{int(truth)}" + (f",{extra[i]}" if extra else "")
        for i, (score, truth) in enumerate(zip(scores, mated, strict=True))
    ]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_score_files_of_any_tool_are_compared_and_searched_alike(facever, tmp_path):
    rng = np.random.default_rng(0)
    mated = np.arange(60) % 2 == 0
    files, scorings = [], []
    for spread in (0.4, 1.5):
        scorings.append(mated + spread * rng.standard_normal(60))
        extra = ["frontal", "profile"] * 30
        files.append(write_file(tmp_path / f"{spread}.csv", scorings[-1], mated, extra))
    given = ["evaluate", "--scores", files[0], "--scores", files[1], "--compare"]
    values = answered(facever(*given, "--slices", "--hardest", "2", "--json", "-"))
    assert values["comparison"]["difference"] == pytest.approx(
        equal_error_rate(scorings[0], mated) - equal_error_rate(scorings[1], mated)
    )
    assert {row["by"] for row in values["slices"]} == {"pose"}
    assert values["hardest"][0]["left"].endswith(".jpg")
    assert len(values["results"]) == 2
    assert "suspects" in values

    other = write_file(tmp_path / "other.csv", scorings[0], ~mated)
    refused = facever("evaluate", "--scores", files[0], "--scores", other, "--compare")
    assert (refused.code, "pair 1 differs" in refused.err) == (2, True)
    assert "2" in facever("evaluate", "--scores", files[0], "--compare").err
    assert facever("evaluate", "--scores", files[0], "--tricks").code == 2
    bare = write_file(tmp_path / "bare.csv", scorings[0], mated)
    assert "nothing to slice by" in facever("evaluate", "--scores", bare, "--slices").err


def test_people_are_known_from_folders_or_columns_and_else_from_neither(tmp_path):
    for name in ("Ann/1.png", "Ann/2.png", "Bob/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    file = tmp_path / "pairs.csv"
    file.write_text("left,right,mated\nAnn/1.png,Ann/2.png,1\nAnn/2.png,Bob/1.png,0\n")
    pairs = read_pairs(file, tmp_path)
    assert pairs.people == (["Ann", "Ann"], ["Ann", "Bob"])
    assert pairs.units == pairs.people

    contradicted = replace(pairs, mated=1 - pairs.mated)
    assert contradicted.people is None
    assert contradicted.units[0] is pairs.left

    file.write_text(
        "left,right,mated,left_identity,right_identity,age_gap\n"
        "Ann/1.png,Bob/1.png,1,x,x,30\nAnn/1.png,Ann/2.png,0,x,y,2\n"
    )
    pairs = read_pairs(file, tmp_path)
    assert pairs.people == (("x", "x"), ("x", "y"))
    assert read_pairs(file, tmp_path).columns.keys() == {
        "left_identity", "right_identity", "age_gap"
    }  # fmt: skip
    assert pairs.columns["age_gap"] == ("30", "2")
    assert pairs.without([1]).columns["age_gap"] == ("2",)


def test_identities_with_the_most_errors_are_named_where_they_are_known(facever, tmp_path):
    root = draw(tmp_path / "LFW", "LFW")
    answer = facever("train", f"data.root={root}", *TINY, "optim.epochs=1", "--run", "r")
    assert answer.code == 0, answer.err
    values = answered(facever("evaluate", "--slices", "--json", "-"))
    worst = values["identities"][0]
    assert (root / worst["identity"]).is_dir() or list(root.rglob(worst["identity"]))
    assert worst["false_matches"] + worst["false_non_matches"] > 0


def test_an_average_is_a_checkpoint_that_everything_reads(facever, trained, tmp_path):
    paths = [trained / "a.pt", trained / "b.pt"]
    answer = facever("average", *paths, "-o", "mean.pt")
    assert answer.code == 0, answer.err
    payloads = [checkpoint.load(path) for path in (*paths, tmp_path / "mean.pt")]
    for key, value in payloads[2]["encoder"].items():
        if "running" in key or "num_batches" in key:
            continue
        expected = (payloads[0]["encoder"][key] + payloads[1]["encoder"][key]) / 2
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    assert payloads[2]["lineage"]["parents"] == [checkpoint.file_digest(path) for path in paths]
    measured = answered(facever("evaluate", "mean.pt", "--json", "-"))
    assert 100 * measured["eer"] == pytest.approx(payloads[2]["metrics"]["EER"])
    small = ["optim.epochs=1", "optim.batch_size=16"]
    tuned = facever("finetune", "--loss", "cosface", "--from", "mean.pt", *small)
    assert tuned.code == 0, tuned.err
    assert facever("average", *paths, "-o", "mean.pt").code == 2


def test_batch_norms_of_an_average_have_the_statistics_of_the_training_images(trained, easy):
    encoder = load_encoder(trained / "a.pt").encoder
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    images = ImageDataset(easy, image_size=32)
    first = next(each for each in encoder.modules() if isinstance(each, torch.nn.BatchNorm2d))
    seen = []
    hook = first.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    re_estimate(encoder, images, np.arange(48))
    hook.remove()
    torch.testing.assert_close(first.running_mean, torch.cat(seen).mean((0, 2, 3)))
    after = encoder.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(key.rpartition(".")[2].startswith(("running_", "num_batches")) for key in changed)
    assert not any(module.training for module in encoder.modules())


def test_a_run_s_folder_stands_for_its_checkpoints_each_once(facever, trained):
    answer = facever("average", trained / "a", trained / "a.pt", "-o", "m.pt", "--json", "-")
    files = [trained / "a" / name for name in ("best.pt", "last.pt", "previous.pt")]
    digests = {checkpoint.file_digest(path) for path in files if path.exists()}
    assert len(answered(answer)["candidates"]) == len(digests) > 1
    answer = facever("average", trained / "a.pt", trained / "a.pt", "-o", "mean.pt")
    assert (answer.code, "1 different checkpoints" in answer.err) == (2, True)


def test_networks_that_differ_cannot_be_averaged(facever, trained, tmp_path):
    payload = checkpoint.load(trained / "a.pt")
    payload["identities"] = [f"{name}x" for name in payload["identities"]]
    checkpoint.save(tmp_path / "other.pt", payload)
    answer = facever("average", trained / "b.pt", "other.pt", "-o", "mean.pt")
    assert (answer.code, "identities: 8 -> 8, or other ones" in answer.err) == (2, True)


def test_a_greedy_soup_takes_from_the_best_on_what_does_no_harm():
    """Of numbers whose mean is to be 10, as by recipe 1 of the paper."""
    values = [4.0, 9.0, 11.5, 30.0]
    chosen = greedy_choice(range(4), lambda rows: abs(np.mean([values[i] for i in rows]) - 10))
    assert chosen == [1, 2]


def test_scores_that_were_written_come_back_with_their_people(tmp_path):
    rows = [("Ann/1.jpg", "Ann/2.jpg"), ("Ann/1.jpg", "Bob/1.jpg")]
    path = write_scores(tmp_path / "s.csv", rows, [0.9, 0.1], mated=[1, 0])
    assert read_scores(path).people == (["Ann", "Ann"], ["Ann", "Bob"])
    assert read_scores(path).names == rows


def test_a_cohort_of_data_that_is_not_there_is_an_error_with_its_place(facever, trained, easy):
    given = ["--pairs", easy / "val_pairs.txt", "--images", easy / "ver_data"]
    assert facever("evaluate", trained / "a.pt", *given).code == 0
    answer = facever("evaluate", trained / "a.pt", *given, "eval.as_norm=5", "data.root=nowhere")
    assert (answer.code, "nowhere" in answer.err) == (2, True)


def test_scores_of_pairs_do_not_depend_on_which_other_images_are_scored(trained):
    """Nothing is transductive unless it is asked for."""
    found = opened(trained, "eval.centre=true", "eval.as_norm=5")
    scorer = Scorer(found)
    _, whole = scorer.score(found.pairs)
    few = found.pairs.without(range(20, len(found.pairs.images)))
    kept = [found.pairs.rows.index(row) for row in few.rows]
    assert 0 < len(kept) < len(found.pairs)
    assert scorer.score(few)[1].scores == pytest.approx(whole.scores[kept], abs=1e-4)
