"""The loss laboratory: its grid, its figures against independent ones, and a real comparison."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY

from facever.compare.gradient import gradient_plane, margin_head
from facever.compare.grid import Cell, is_sweep, make_cells
from facever.compare.probe import Probe, correlation, spread
from facever.compare.results import HEADER, Run, make_rows
from facever.errors import ConfigError
from facever.losses import build_loss

ONE_EPOCH = (*TINY, "optim.epochs=1")


def test_a_sweep_is_crossed_with_every_loss_that_has_the_parameter():
    cells = make_cells(["ce", "adaface"], ["loss.params.h=0.2,0.6", "optim.lr=0.1,0.2"])
    assert [cell.label for cell in cells] == [
        "ce optim.lr=0.1", "ce optim.lr=0.2",
        "adaface h=0.2 optim.lr=0.1", "adaface h=0.2 optim.lr=0.2",
        "adaface h=0.6 optim.lr=0.1", "adaface h=0.6 optim.lr=0.2",
    ]  # fmt: skip
    assert len({cell.folder for cell in cells}) == len(cells)


def test_a_given_parameter_goes_to_the_losses_that_have_it():
    ce, arcface = make_cells(["ce", "arcface"], [], ["loss.params.m=0.3", "optim.lr=0.2"])
    assert ce.assignments == ["optim.lr=0.2"]
    assert arcface.assignments == ["loss.params.m=0.3", "optim.lr=0.2"]


def test_parameters_of_a_sum_are_swept_under_the_name_of_the_term():
    cells = make_cells(["ce+0.5*triplet"], ["loss.params.triplet.m=0.1,0.2"])
    assert [cell.swept for cell in cells] == [
        {"loss.params.triplet.m": "0.1"},
        {"loss.params.triplet.m": "0.2"},
    ]
    assert all("/" not in cell.folder and "*" not in cell.folder for cell in cells)


def test_a_list_in_brackets_is_one_value():
    assert is_sweep("loss.params.m=0.3,0.4")
    assert not is_sweep("optim.milestones=[0.5, 0.9]")
    assert not is_sweep("optim.lr=0.1")


@pytest.mark.parametrize(
    ("losses", "sweeps", "said"),
    [
        (["arcfase"], [], "arcface"),
        (["arcface", "arcface"], [], "twice"),
        (["arcface"], ["loss.params.mm=0.1,0.2"], "loss.params.m"),
        (["arcface"], ["optim.lrr=0.1,0.2"], "optim.lr"),
        (["arcface"], ["optim.lr"], "expected key=v1,v2"),
        (["arcface"], ["optim.lr=0.1,,"], "expected key=v1,v2"),
        (["arcface"], ["optim.lr=0.1,0.2", "optim.lr=0.3"], "twice"),
    ],
)
def test_a_grid_that_makes_no_sense_is_one_error(losses, sweeps, said):
    with pytest.raises(ConfigError, match=said):
        make_cells(losses, sweeps)


def test_gradient_scaling_of_arcface_is_that_of_the_paper():
    """|g| = (1 - P) sin(theta + m) / sin(theta), P of two identities at a right angle."""
    head = margin_head(build_loss("arcface", dim=4, identities=5, m=0.3, s=8.0))
    plane = gradient_plane(head, np.array([1.0, 9.0]))
    theta = plane.angle[10:-10]
    p = 1 / (1 + np.exp(8.0 * (np.sin(theta) - np.cos(theta + 0.3))))
    expected = (1 - p) * np.sin(theta + 0.3) / np.sin(theta)
    assert np.allclose(plane.scale[:, 10:-10], expected, rtol=1e-6)


def test_adaface_stresses_hard_images_of_high_norm_and_easy_ones_of_low_norm():
    """AdaFace's figure 3: past the boundary the weight grows with the angle at a high norm and
    falls at a low one; ArcFace's does not know the norm."""
    loss = build_loss("adaface", dim=4, identities=5, ema_init="data")
    loss.observe(torch.tensor([10.0, 20.0]))
    norms = np.linspace(1, 40, 100)
    plane = gradient_plane(margin_head(loss), norms)
    hard = (plane.angle > plane.boundary + 0.2) & (plane.angle < 1.5)
    assert (np.diff(plane.scale[-1, hard]) > 0).all()
    assert (np.diff(plane.scale[0, hard]) < 0).all()
    arcface = gradient_plane(margin_head(build_loss("arcface", dim=4, identities=5)), norms)
    assert np.ptp(arcface.scale, axis=0).max() == 0


def test_a_loss_without_a_margin_has_no_gradient_plane():
    assert margin_head(build_loss("triplet", dim=4, identities=5)) is None
    assert margin_head(build_loss("ce+arcface", dim=4, identities=5)) is not None


def test_correlation_is_that_of_the_known_places():
    a, b = np.array([1.0, 2.0, 4.0, 9.0]), np.array([2.0, 3.0, np.nan, 8.0])
    known = [0, 1, 3]
    assert correlation(a, b) == pytest.approx(np.corrcoef(a[known], b[known])[0, 1])
    assert math.isnan(correlation(a, np.ones(4)))


def test_a_spread_sample_covers_both_ends_and_repeats_nothing():
    assert spread(5, 10).tolist() == [0, 1, 2, 3, 4]
    sample = spread(1000, 10)
    assert sample[0] == 0
    assert sample[-1] == 999
    assert len(set(sample.tolist())) == 10


def made_run(label: str, seed: int, right: np.ndarray, shift: float = 0.0) -> Run:
    """A finished run whose test images are right or wrong as given."""
    rng = np.random.default_rng(seed)
    mated = np.arange(400) % 2 == 0
    few = np.zeros(3, np.int64)
    probe = Probe(
        indices=few, labels=few, predicted=few,
        embeddings=np.ones((3, 2), np.float32), prototypes=np.ones((2, 2), np.float32),
        theta_y=np.ones(3, np.float32), theta_j=np.ones((3, 1), np.float32),
        probability=np.ones(3, np.float32), quality=np.ones(3, np.float32),
        augmented=np.zeros(3, bool), augmented_norm=np.ones(3, np.float32),
        correct=right, scores=rng.normal(size=400) + (1 + shift) * mated, mated=mated,
        left=np.arange(400), right=np.arange(400, 800), train_accuracy=1.0, test_loss=0.5,
    )  # fmt: skip
    line = {"step": 10, "epoch": 0, "loss": 1.0, "lr": 0.1, "images_per_s": 50.0}
    return Run(Cell(label), seed, Path(), probe, probe, [line, {**line, "step": 20}], 100)


def test_the_table_has_means_spreads_and_seconds():
    half, most = np.arange(100) < 50, np.arange(100) < 90
    rows = make_rows([made_run("ce", 0, half), made_run("ce", 1, most)])
    (row,) = rows
    assert row.figures["test_accuracy"].mean == pytest.approx(70)
    assert row.figures["test_accuracy"].sd == pytest.approx(np.std([50, 90], ddof=1))
    assert row.gap == pytest.approx(30)
    # 20 steps of 100 images at 50 images a second.
    assert row.figures["seconds"].mean == pytest.approx(40)
    assert len(row.cells()) == len(HEADER)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_real_difference_is_told_from_noise(seeds):
    rng = np.random.default_rng(5)

    def runs(label, accuracy, shift):
        return [made_run(label, seed, rng.random(1000) < accuracy, shift) for seed in range(seeds)]

    rows = make_rows([*runs("ce", 0.8, 0), *runs("same", 0.8, 0), *runs("better", 0.9, 2)])
    assert rows[0].accuracy is None
    assert rows[1].accuracy.p_value > 0.05
    assert rows[1].eer.p_value > 0.05
    assert rows[2].accuracy.p_value < 0.02
    assert rows[2].eer.p_value < 0.02
    assert rows[2].accuracy.points > 5
    assert rows[2].eer.points < -5


@pytest.fixture(scope="module")
def laboratory(faces, tmp_path_factory):
    """One comparison of three losses on drawn faces, and what it printed as JSON."""
    from facever.compare import Request, compare

    out = tmp_path_factory.mktemp("laboratory") / "lab"
    request = Request(str(faces), ["ce", "adaface", "triplet"], assignments=ONE_EPOCH, out=out)
    return request, compare(request)


def test_a_comparison_leaves_table_pictures_and_page(laboratory):
    request, answer = laboratory
    rows = list(csv.DictReader((request.out / "table.csv").open()))
    assert [row["loss"] for row in rows] == ["ce", "adaface", "triplet"]
    assert all(0 <= float(row["EER"]) <= 100 for row in rows)
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert (request.out / "table.md").read_text().count("\n") == 5
    pictures = {path.stem for path in (request.out / "figures").glob("*.png")}
    wanted = {"curves-loss", "curves-test-accuracy", "curves-norm-quality-correlation",
              "embedding-maps", "angles", "gradient-planes", "quality", "samples-ce"}  # fmt: skip
    assert wanted <= pictures
    assert "<svg" in (request.out / "report.html").read_text()
    assert json.loads(json.dumps(answer.to_json()))["rows"][1]["loss"] == "adaface"


def test_every_loss_saw_the_same_data_encoder_and_seed(laboratory):
    request, _ = laboratory
    first = [Probe.load(request.out / name / "seed-0" / "probe-before.npz")
             for name in ("ce", "adaface", "triplet")]  # fmt: skip
    assert all(np.array_equal(first[0].embeddings, probe.embeddings) for probe in first)
    after = [Probe.load(request.out / name / "seed-0" / "probe-after.npz")
             for name in ("ce", "adaface")]  # fmt: skip
    assert not np.array_equal(after[0].embeddings, after[1].embeddings)


def test_the_probe_agrees_with_the_checkpoint(laboratory, faces):
    """Angles, norms and guesses again, from last.pt and the image files alone."""
    from facever import load_encoder
    from facever.data import ImageDataset
    from facever.data.manifest import read_manifest

    request, _ = laboratory
    run = request.out / "adaface" / "seed-0"
    probe = Probe.load(run / "probe-after.npz")
    manifest = read_manifest(faces)
    dev = ImageDataset(manifest, split="dev", image_size=32)
    embedder = load_encoder(run / "last.pt")
    images = torch.stack([dev[i][0] for i in probe.indices])
    z = (embedder(images) + embedder(images.flip(3))) / 2
    weights = torch.load(run / "last.pt", weights_only=True)["loss"]["prototypes"]
    cosines = torch.nn.functional.normalize(z) @ torch.nn.functional.normalize(weights).t()
    own = cosines[torch.arange(len(z)), torch.from_numpy(probe.labels)]
    assert np.allclose(probe.theta_y, own.acos(), atol=1e-3)
    assert np.allclose(probe.norm, z.norm(dim=1), rtol=1e-4)
    assert np.array_equal(probe.predicted, cosines.argmax(1))
    assert np.isfinite(probe.quality).all()


def test_a_finished_comparison_is_read_and_not_repeated(laboratory):
    from facever.compare import compare

    request, answer = laboratory
    run = request.out / "ce" / "seed-0" / "last.pt"
    before = run.stat().st_mtime_ns
    assert compare(request).rows[0].figures == answer.rows[0].figures
    assert run.stat().st_mtime_ns == before


def test_other_settings_in_the_same_folder_are_refused(laboratory):
    from dataclasses import replace

    from facever.compare import compare

    request, _ = laboratory
    with pytest.raises(ConfigError, match=r"(?s)optim.lr: 0.1 -> 0.05.*--out"):
        compare(replace(request, assignments=[*ONE_EPOCH, "optim.lr=0.05"]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--losses", "arcfase"], "arcface"),
        (["--losses", "arcface", "--sweep", "loss.params.q=1,2"], "loss.params.q"),
        (["--losses", "arcface", "loss.params.m=28.6"], "radians"),
        (["--losses", "arcface", "loss.label_smoothing=0.1"], "label_smoothing"),
        (["--losses", "ce", "optim.lrr=1"], "nearest is optim.lr"),
        (["--losses", "ce", "--seeds", "0"], "expected 1 or more"),
        (["--losses", "ce"], "no such folder"),
    ],
)
def test_bad_input_is_one_message_before_anything_is_loaded(facever, arguments, said):
    answer = facever("compare", "--data", "nowhere", *arguments)
    assert answer.code == 2
    assert answer.err.count("error:") == 1
    assert said in answer.err
    assert not Path("checkpoints").exists()


def test_losses_are_compared_as_finetunings_of_one_parent(facever, laboratory, faces):
    request, _ = laboratory
    parent = request.out / "ce" / "seed-0" / "best.pt"
    answer = facever(
        "compare", "--data", faces, "--losses", "adaface", "--from", parent, "--epochs", "1",
        "--sweep", "loss.params.h=0.2,0.6", "--out", "tuned", "optim.batch_size=16",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "adaface h=0.6" in answer.out
    assert Path("tuned/figures/sweep-h-eer.png").exists()
