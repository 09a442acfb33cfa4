import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facever.errors import DataError, StorageError
from facever.score import PAIRS_AT_ONCE, cosine_scores, fuse, read_scores, write_scores


def embeddings(count=50, dim=16, seed=0):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_are_cosines_of_whatever_length_the_embeddings_have(dtype):
    z = embeddings().astype(dtype)
    left, right = np.random.default_rng(1).integers(0, 50, (2, PAIRS_AT_ONCE + 100))
    scores = cosine_scores(z, left, right)
    wide = z.astype(np.float64)
    for i in (0, 1, PAIRS_AT_ONCE - 1, PAIRS_AT_ONCE, len(left) - 1):
        a, b = wide[left[i]], wide[right[i]]
        assert scores[i] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-12)
    assert scores == pytest.approx(cosine_scores(wide * 7.5, left, right), abs=1e-12)
    assert np.array_equal(scores, cosine_scores(z, right, left))


def test_scores_stay_within_one_and_an_image_equals_itself():
    z = embeddings(count=200, dim=512)
    rows = np.arange(200)
    scores = cosine_scores(z, rows, rows)
    assert scores.max() <= 1.0
    assert scores == pytest.approx(np.ones(200), abs=1e-12)
    assert cosine_scores(np.float32([[1e30], [-1e30]]), [0], [1]).tolist() == [-1.0]


@pytest.mark.parametrize(("value", "kind"), [(0.0, "zero"), (np.nan, "finite"), (np.inf, "finite")])
def test_an_embedding_without_direction_is_named(value, kind):
    z = embeddings(count=3)
    z[1] = value
    with pytest.raises(DataError, match=f"b.jpg.*{kind}.*1 of 3"):
        cosine_scores(z, [0], [2], names=["a.jpg", "b.jpg", "c.jpg"])
    with pytest.raises(DataError, match="image 1"):
        cosine_scores(z, [0], [2])


def test_no_pairs_give_no_scores():
    assert cosine_scores(embeddings(), [], []).shape == (0,)


def test_an_ensemble_scores_the_mean_of_its_members():
    members = [[0.1, 0.5], [0.3, 0.7], [0.2, 0.9]]
    assert fuse(members) == pytest.approx(np.mean(members, axis=0))
    assert fuse(members[:1]).tolist() == members[0]


@pytest.mark.parametrize("members", [[], [[0.1], [0.1, 0.2]]])
def test_an_ensemble_of_nothing_or_of_different_pairs_is_refused(members):
    with pytest.raises(DataError, match="ensemble"):
        fuse(members)


def test_scores_come_back_as_they_were_written(tmp_path):
    scores = np.random.default_rng(0).uniform(-1, 1, 20)
    names = [f"{i}.jpg" for i in range(20)]
    mated, folds = np.arange(20) % 2 == 0, np.arange(20) % 10
    rows = list(zip(names, names[::-1], strict=True))
    path = write_scores(tmp_path / "new" / "s.csv", rows, scores, mated=mated, folds=folds)
    found = read_scores(path)
    assert (found.left, found.right) == (tuple(names), tuple(names[::-1]))
    assert np.array_equal(found.scores, scores)
    assert np.array_equal(found.mated, mated)
    assert found.folds is not None
    assert np.array_equal(found.folds, folds)
    assert path.read_bytes().startswith(b"left,right,score,mated,fold\n0.jpg,19.jpg,")
    assert [child.name for child in path.parent.iterdir()] == ["s.csv"]


# The reader takes what separates most lines for the separator: names full of `;` would mislead it.
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00;\t"), min_size=1, max_size=12)
ODD = st.sampled_from(
    ["=1+1", "'=x", "''", "-a.jpg", "+a", "@a", "a b", " a ", 'a"b', "a,b", "a\nb"]
)


@given(st.lists(NAMES | ODD, min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_no_name_is_a_formula_and_every_name_comes_back(tmp_path_factory, names):
    path = tmp_path_factory.getbasetemp() / "names.csv"
    write_scores(
        path, [(name, name) for name in names], np.zeros(len(names)), mated=np.ones(len(names))
    )
    with path.open(encoding="utf-8", newline="") as file:
        for row in list(csv.reader(file))[1:]:
            assert row[0][:1] not in tuple("=+-@\t\r")
    assert read_scores(path).left == tuple(names)


@pytest.mark.parametrize(
    "text",
    [
        "score,mated\n0.9,1\n0.1,0\n",
        "\ufeffscore;mated\r\n0.9;True\r\n0.1;False\r\n\r\n",
        "mated\tscore\n1\t0.9\n-1\t0.1\n",
        'other,"score",Mated\n7,"0.9",true\n8,"0.1",FALSE\n',
    ],
)
def test_score_files_of_every_dialect_are_read(tmp_path, text):
    path = tmp_path / "s.csv"
    path.write_bytes(text.encode())
    found = read_scores(path)
    assert found.scores.tolist() == [0.9, 0.1]
    assert found.mated.tolist() == [True, False]
    assert found.left is found.right is found.folds is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("score,mated\n0.9,1\nnan,0\n", "s.csv, line 3: score 'nan'"),
        ("score,mated\n0.9,1\n\n-inf,0\n", "s.csv, line 4: score '-inf'"),
        ("score,mated\nhigh,1\n", "line 2: score 'high'"),
        ("score,mated\n,1\n", "line 2: score ''"),
        ("score,mated\n0.9,2\n", "line 2: label '2'"),
        ("score,mated\n0.9,0\n0.8,-1\n", "line 3: label '-1'"),
        ("score,mated\n0.9,1\n0.8\n", "line 3: 1 columns"),
        ("score,label\n0.9,1\n", "no column mated"),
        ("left,right\na.jpg,b.jpg\n", "no column score and no column mated"),
        ("score,mated,fold\n0.9,1,x\n", "line 2: fold 'x'"),
        ("score,mated\n", "no scores"),
        ("", "empty"),
    ],
)
def test_damaged_score_files_are_refused_with_the_line(tmp_path, text, message):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_scores(path)


def test_a_score_file_that_is_absent_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.csv"):
        read_scores(tmp_path / "absent.csv")


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        write_scores(tmp_path / "file" / "s.csv", [("a", "b")], [0.1])
