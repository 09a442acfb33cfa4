"""One's own photographs: who of a gallery is it, and what the threshold rests on."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from data_helpers import save_image
from hypothesis import given, settings
from hypothesis import strategies as st
from training_helpers import SIZE, tiny_checkpoint, tiny_config, tiny_state

from facever import identify as room
from facever.checkpoint import link
from facever.embed import embed_folder, load_encoder
from facever.errors import CheckpointError, ConfigError, DataError
from facever.identify import identify, identity_of, load_gallery, make_gallery, verify
from facever.score import write_scores
from facever.threshold import choose_threshold

METRICS = {
    "EER": 10.0, "EER_low": 5.0, "EER_high": 17.5, "threshold": 0.9, "n_mated": 30,
    "n_non_mated": 20,
}  # fmt: skip
PATHS = ["anna/1.png", "anna/2.png", "ben/1.png", "carl/x/1.png", "dora_1.png", "dora_2.png"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's checkpoint with its scores, of 30 mated and 20 non-mated pairs."""
    folder = tmp_path_factory.mktemp("run")
    state = tiny_state()
    state.metrics = dict(METRICS)
    best = tiny_checkpoint(folder / "best.pt", state)
    scores = np.linspace(0, 1, 50).round(3)
    mated = np.arange(50) >= 20
    mated[[15, 30]] = True, False
    write_scores(folder / "scores_val.csv", [("a", "b")] * 50, scores, mated=mated)
    return best


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i, path in enumerate(PATHS):
        save_image(folder / path, i, (SIZE, SIZE))
    (folder / "anna" / "notes.txt").write_text("no image")
    (folder / "anna" / "._1.png").write_bytes(b"what macOS leaves beside an image")
    return folder


def unit(rows: int, dim: int, seed: int) -> np.ndarray:
    table = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return table / np.linalg.norm(table, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("path", "person"),
    [
        ("Anna Smith/a.jpg", "Anna Smith"), ("0001/train/0001_02.jpg", "0001"),
        ("anna.jpg", "anna"), ("Anna_Smith_0002.jpg", "Anna_Smith"), ("Anna (3).png", "Anna"),
        ("anna-12.jpg", "anna"), ("anna2.jpg", "anna2"), ("0001.jpg", "0001"), ("_7.jpg", "_7"),
        ("n000123_0001_01.jpg", "n000123_0001"), ("é.b_2.webp", "é.b"),
    ],
)  # fmt: skip
def test_the_first_folder_or_the_file_s_name_tells_the_person(path, person):
    assert identity_of(path) == person


@given(
    people=st.lists(st.integers(0, 6), min_size=1, max_size=20),
    by=st.sampled_from(["best", "mean"]),
    top=st.integers(1, 9),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_search_gives_what_two_loops_give_in_any_order_of_the_gallery(people, by, top, seed):
    paths = [f"p{who}/{i}.png" for i, who in enumerate(people)]
    table, probes = unit(len(paths), 4, seed), unit(3, 4, seed + 100)
    order = np.random.default_rng(seed).permutation(len(paths))
    found = make_gallery([paths[i] for i in order], table[order]).search(probes, top=top, by=by)
    assert len(found) == 3
    for probe, candidates in zip(probes, found, strict=True):
        expected = {}
        for who in set(people):
            scores = {p: float(z @ probe) for p, z in zip(paths, table, strict=True)
                      if p.startswith(f"p{who}/")}  # fmt: skip
            whole = max(scores.values()) if by == "best" else np.mean(list(scores.values()))
            expected[f"p{who}"] = (whole, max(scores, key=scores.get))
        ranked = sorted(expected, key=lambda name: -expected[name][0])[:top]
        assert [candidate.identity for candidate in candidates] == ranked
        for candidate in candidates:
            whole, closest = expected[candidate.identity]
            assert candidate.score == pytest.approx(whole, abs=1e-6)
            assert candidate.image == closest


def test_probes_that_are_searched_in_blocks_get_the_same_answers(monkeypatch):
    gallery = make_gallery([f"p{i % 7}/{i}.png" for i in range(40)], unit(40, 8, 0))
    probes = unit(9, 8, 1)
    whole = gallery.search(probes)
    monkeypatch.setattr(room, "SCORES_AT_ONCE", 100)
    blocks = gallery.search(probes)
    for a, b in zip(whole, blocks, strict=True):
        assert [c.image for c in a] == [c.image for c in b]
        np.testing.assert_allclose([c.score for c in a], [c.score for c in b], atol=1e-6)


def test_a_hundred_thousand_images_answer_in_less_than_a_tenth_of_a_second():
    table = unit(100_000, 64, 0)
    gallery = make_gallery([f"{i // 4:05}/{i % 4}.jpg" for i in range(100_000)], table)
    seconds = []
    for row in range(5):
        start = time.perf_counter()
        (candidates,) = gallery.search(table[row : row + 1])
        seconds.append(time.perf_counter() - start)
        assert candidates[0].image == f"{row // 4:05}/{row % 4}.jpg"
    assert min(seconds) < 0.1


def test_an_image_of_the_gallery_is_its_person_and_a_stranger_is_nobody(run, photos, tmp_path):
    known = identify(photos / "ben" / "1.png", photos, run, top=2).to_json()
    (probe,) = known["probes"]
    assert (probe["match"], probe["identity"]) == (True, "ben")
    assert probe["candidates"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert probe["candidates"][0]["image"] == "ben/1.png"
    assert len(probe["candidates"]) == 2
    assert known["gallery"]["identities"] == 4
    assert known["gallery"]["images"] == 6
    assert known["gallery"]["expected_false_matches"] == pytest.approx(0.6)
    assert known["threshold"] == 0.9

    score = probe["candidates"][1]["score"]
    strict = tiny_state()
    strict.metrics = METRICS | {"threshold": score + 1e-3}
    shutil.rmtree(shutil.copytree(photos, tmp_path / "others") / "ben")
    path = tiny_checkpoint(tmp_path / "strict.pt", strict)
    answer = identify(photos / "ben" / "1.png", tmp_path / "others", path)
    (probe,) = answer.to_json()["probes"]
    assert (probe["match"], probe["identity"]) == (False, None)
    assert probe["candidates"][0]["score"] == pytest.approx(score, abs=1e-5)
    assert answer.to_text().splitlines()[0].endswith("1.png: nobody")
    strict.metrics["threshold"] = score - 1e-3
    path = tiny_checkpoint(tmp_path / "lax.pt", strict)
    assert identify(photos / "ben" / "1.png", tmp_path / "others", path).to_json()["probes"][0][
        "match"
    ]


def test_a_folder_of_probes_is_answered_image_by_image(run, photos):
    answer = identify(photos, photos, run, by="mean")
    values = answer.to_json()
    assert [Path(p["path"]).relative_to(photos).as_posix() for p in values["probes"]] == PATHS
    assert values["gallery"]["expected_false_matches"] is None
    single = identify(photos / PATHS[3], photos, run, by="mean").to_json()["probes"][0]
    several = values["probes"][3]
    assert [c["identity"] for c in single["candidates"]] == [
        c["identity"] for c in several["candidates"]
    ]


def test_what_embed_wrote_answers_as_its_folder_does(run, photos, tmp_path):
    embed_folder(photos, tmp_path / "photos.npz", run)
    embedder = load_encoder(run)
    folder, file = (load_gallery(p, embedder) for p in (photos, tmp_path / "photos.npz"))
    assert file.identities == folder.identities == ["anna", "ben", "carl", "dora"]
    assert list(file.paths) == list(folder.paths)
    np.testing.assert_allclose(file.embeddings, folder.embeddings, atol=1e-6)

    raw = {key: np.load(tmp_path / "photos.npz")[key] for key in ("paths", "embeddings")}
    np.savez(tmp_path / "raw.npz", paths=raw["paths"], embeddings=3.0 * raw["embeddings"])
    other = load_gallery(tmp_path / "raw.npz", embedder)
    np.testing.assert_allclose(other.embeddings, folder.embeddings, atol=1e-6)


def test_embeddings_of_another_checkpoint_are_refused(run, photos, tmp_path):
    other = tiny_checkpoint(tmp_path / "other.pt", tiny_state(1))
    embed_folder(photos, tmp_path / "photos.npz", other)
    with pytest.raises(DataError, match=r"photos\.npz: embeddings by the checkpoint"):
        identify(photos / PATHS[0], tmp_path / "photos.npz", run)


TABLE = unit(2, 8, 0)
NAMES = np.array(["a/1.png", "b/1.png"])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"paths": NAMES}, "no gallery: .*embeddings"),
        ({"paths": NAMES, "embeddings": TABLE[:, :5]}, r"shape \(2, 5\) .*\n  expected \(N, 8\)"),
        ({"paths": NAMES[:1], "embeddings": TABLE}, "expected"),
        ({"paths": NAMES, "embeddings": TABLE.astype(int)}, "int64"),
        ({"paths": np.arange(2), "embeddings": TABLE}, "int64"),
        ({"paths": NAMES[:0], "embeddings": TABLE[:0]}, "expected"),
        ({"paths": np.array("a"), "embeddings": TABLE[0]}, "expected"),
        ({"paths": NAMES, "embeddings": TABLE * [[1], [0]]}, r"b/1\.png is zero or not finite"),
        ({"paths": NAMES, "embeddings": TABLE * [[np.nan], [1]]}, r"a/1\.png is zero or not"),
        ({"paths": NAMES.astype(object), "embeddings": TABLE}, "no gallery"),
    ],
)
def test_an_npz_that_is_no_gallery_says_why(run, photos, tmp_path, arrays, said):
    np.savez(tmp_path / "g.npz", **arrays)
    with pytest.raises(DataError, match=said):
        load_gallery(tmp_path / "g.npz", load_encoder(run))


def test_a_file_that_is_no_npz_or_ends_early_or_is_absent_says_so(run, photos, tmp_path):
    embedder = load_encoder(run)
    embed_folder(photos, tmp_path / "whole.npz", run)
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-200])
    (tmp_path / "text.npz").write_text("anna, ben")
    (tmp_path / "nothing.npz").write_bytes(b"")
    np.save(tmp_path / "one.npy", TABLE)
    (tmp_path / "empty").mkdir()
    for name in ("cut.npz", "text.npz", "nothing.npz", "one.npy", "absent"):
        with pytest.raises(DataError, match=f"{name}: no gallery: .*\n  expected a folder"):
            load_gallery(tmp_path / name, embedder)
    with pytest.raises(DataError, match="empty: no images"):
        load_gallery(tmp_path / "empty", embedder)


def test_a_damaged_image_is_named_among_probes_and_in_the_gallery(run, photos, tmp_path):
    gallery = shutil.copytree(photos, tmp_path / "photos")
    (gallery / "ben" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    for probe, known in ((gallery / "ben" / "1.png", photos), (photos / PATHS[0], gallery)):
        with pytest.raises(DataError, match=r"ben/1\.png: not a readable image"):
            identify(probe, known, run)


def test_the_threshold_at_eer_says_on_how_many_pairs_it_rests(run):
    found = choose_threshold(run, METRICS)
    assert found is not None
    assert (found.value, found.fmr, found.fnmr) == (0.9, 0.1, 0.1)
    assert "30 mated and 20 non-mated" in found.to_text()
    assert "EER 10.00% (95 %: 5.00% to 17.50%)" in found.to_text()
    assert choose_threshold(run, {}) is None
    older = choose_threshold(run, {"EER": 10.0, "threshold": 0.5, "EER_low": None})
    assert older is not None
    assert older.n_mated is None
    assert older.to_text().endswith("the run's validation pairs: EER 10.00%")


def test_the_threshold_for_an_fmr_keeps_to_it_on_the_run_s_pairs(run):
    """Of the 20 non-mated pairs the highest scores 0.612, the next 0.388."""
    for fmr, matches, between in ((0.05, 1, (0.388, 0.408)), (0.1, 2, (0.367, 0.388))):
        found = choose_threshold(run, METRICS, fmr)
        assert found is not None
        assert found.fmr == matches / 20
        assert between[0] < found.value <= between[1]
        assert found.fnmr == pytest.approx(1 / 30)
        assert found.to_text().count("20 non-mated") == 1
        assert found.to_json()["at"] == f"FMR {fmr:g}"


def test_an_fmr_that_the_pairs_cannot_show_is_refused_with_what_they_can(run):
    with pytest.raises(ConfigError, match=r"the 20 non-mated .* below 1/20\n  expected .* 0\.05"):
        choose_threshold(run, METRICS, 0.001)
    for fmr in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"--fmr: .* above 0 and up to 1"):
            choose_threshold(run, METRICS, fmr)


def test_scores_of_another_checkpoint_give_no_threshold(run, tmp_path):
    """`scores_val.csv` is of best.pt; last.pt is another unless the two are one file."""
    folder = tmp_path / "run"
    shutil.copytree(run.parent, folder)
    other = tiny_checkpoint(folder / "last.pt", tiny_state(1))
    with pytest.raises(DataError, match=r"last\.pt: no scores_val\.csv of this checkpoint"):
        choose_threshold(other, METRICS, 0.1)
    link(folder / "best.pt", folder / "last.pt")
    assert choose_threshold(folder / "last.pt", METRICS, 0.1) is not None
    (folder / "scores_val.csv").unlink()
    with pytest.raises(DataError, match=r"expected the best\.pt of a finished run"):
        choose_threshold(folder / "best.pt", METRICS, 0.1)


def test_images_are_embedded_as_the_run_did_for_which_the_threshold_holds(photos, tmp_path):
    plain = tiny_checkpoint(
        tmp_path / "plain.pt", config=tiny_config(eval={"flip": False}).to_dict()
    )
    left, right = photos / PATHS[0], photos / PATHS[2]
    embedder = load_encoder(plain)
    scores = {flip: embedder.verify(left, right, flip=flip) for flip in (False, True)}
    assert scores[False] != pytest.approx(scores[True], abs=1e-6)
    assert verify(left, right, plain).score == pytest.approx(scores[False], abs=1e-6)
    embed_folder(photos, tmp_path / "e.npz", plain)
    with np.load(tmp_path / "e.npz") as found:
        table = found["embeddings"].astype(np.float64)
    assert table[0] @ table[2] == pytest.approx(scores[False], abs=1e-6)

    config = tiny_config().to_dict() | {"eval": {"flip": "perhaps"}}
    with pytest.raises(CheckpointError, match=r"describes no encoder: .*Eval\nflip"):
        load_encoder(tiny_checkpoint(tmp_path / "strange.pt", config=config))


def test_the_commands_answer_people_and_programs(facever, run, photos):
    a, b = photos / PATHS[0], photos / PATHS[2]
    same = facever("verify", a, a, "--from", run)
    assert same.code == 0, same.err
    assert same.out.startswith("match: score 1.0000, threshold 0.9000 at EER\n")
    assert "rests on 30 mated and 20 non-mated validation pairs" in same.out
    values = json.loads(facever("verify", a, b, "--from", run, "--fmr", "0.1", "--json", "-").out)
    assert values["match"] == (values["score"] >= values["threshold"])
    assert values["basis"]["at"] == "FMR 0.1"
    assert values["checkpoint"] == str(run)
    finer = facever("verify", a, b, "--from", run, "--fmr", "0.001")
    assert (finer.code, finer.out) == (2, "")
    assert "cannot show an FMR below 1/20" in finer.err

    told = facever("identify", b, "--gallery", photos, "--from", run, "--json", "who.json")
    assert told.code == 0, told.err
    lines = told.out.splitlines()
    assert lines[0] == f"{b}: ben"
    assert lines[1].split() == ["1.0000", "ben", "ben/1.png"]
    assert "gallery: 6 images of 4 identities; threshold 0.9000 at EER" in told.out
    assert "a stranger matches 0.6 of 6 images on average" in told.out
    assert json.loads(Path("who.json").read_text())["probes"][0]["identity"] == "ben"
    for options in (["--detector", "absent.onnx"], ["--top", "0"], ["--by", "luck"]):
        assert facever("identify", b, "--gallery", photos, "--from", run, *options).code == 2


def test_a_checkpoint_from_before_its_first_validation_scores_and_does_not_decide(photos, tmp_path):
    early = tiny_checkpoint(tmp_path / "early.pt")
    a = photos / PATHS[0]
    answer = verify(a, a, early)
    assert answer.to_json()["match"] is None
    assert answer.to_text().startswith("no decision: score 1.0000, no threshold")
    found = identify(a, photos, early)
    assert found.to_json()["probes"][0]["match"] is None
    assert found.to_text().splitlines()[0].endswith(": no decision")
