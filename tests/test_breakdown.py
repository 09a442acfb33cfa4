"""Slices, identities and suspect labels against counts by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facever.breakdown import MOST_SLICES, slice_pairs, suspect_labels, worst_identities
from facever.errors import DataError
from facever.metrics import equal_error_rate


def pairs(count=300, seed=0):
    rng = np.random.default_rng(seed)
    mated = np.arange(count) % 2 == 0
    return rng.standard_normal(count) + mated, mated, rng


def test_each_slice_has_the_errors_of_its_own_pairs():
    scores, mated, rng = pairs()
    pose = rng.choice(["frontal", "profile"], 300)
    for found in slice_pairs(scores, mated, {"pose": pose}, threshold=0.5, repeats=50):
        rows = pose == found.name
        assert found.by == "pose"
        assert found.eer == pytest.approx(equal_error_rate(scores[rows], mated[rows]))
        assert found.eer_low <= found.eer <= found.eer_high
        assert found.fmr == pytest.approx(np.mean(scores[rows & ~mated] >= 0.5))
        assert found.fnmr == pytest.approx(np.mean(scores[rows & mated] < 0.5))
        assert found.n_mated == (rows & mated).sum()


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=20, deadline=None)
def test_terciles_hold_every_pair_once_and_about_as_many_each(seed, as_text):
    scores, mated, rng = pairs(90, seed)
    gap = rng.random(90)
    column = gap.astype(str) if as_text else gap
    found = slice_pairs(scores, mated, {"age_gap": column}, threshold=0, repeats=10)
    assert [each.name.split()[0] for each in found] == ["low", "middle", "high"]
    assert [each.n_mated + each.n_non_mated for each in found] == [30, 30, 30]


def test_few_numbers_and_frequent_words_are_slices_of_their_own():
    scores, mated, rng = pairs()
    few = slice_pairs(scores, mated, {"k": np.arange(300) % 3}, threshold=0, repeats=10)
    assert [each.name for each in few] == ["0", "1", "2"]
    words = rng.choice([f"w{i:02d}" for i in range(30)], 300)
    assert len(slice_pairs(scores, mated, {"w": words}, threshold=0, repeats=10)) == MOST_SLICES


def test_a_slice_with_one_kind_of_pair_has_one_kind_of_error_and_no_eer():
    scores, mated, _ = pairs()
    found = slice_pairs(scores, mated, {"kind": mated.astype(int)}, threshold=0, repeats=10)
    assert [(each.eer, each.fmr is None, each.fnmr is None) for each in found] == [
        (None, False, True),
        (None, True, False),
    ]
    assert "EER" not in found[0].to_text()


def test_a_property_of_other_pairs_is_refused():
    scores, mated, _ = pairs()
    with pytest.raises(DataError, match="slices by pose"):
        slice_pairs(scores, mated, {"pose": ["a"]}, threshold=0)


def test_identities_are_ranked_by_their_wrong_pairs():
    left = ["ann", "ann", "bob", "cid", "ann"]
    right = ["ann", "bob", "bob", "dan", "cid"]
    mated = [1, 0, 1, 0, 0]
    scores = [0.1, 0.9, 0.8, 0.2, 0.9]  # wrong: ann twice as a stranger, and once as herself
    found = worst_identities(scores, mated, left, right, threshold=0.5, count=9)
    assert [(e.identity, e.pairs, e.false_matches, e.false_non_matches) for e in found] == [
        ("ann", 3, 2, 1),
        ("bob", 2, 1, 0),
        ("cid", 2, 1, 0),
    ]
    assert len(worst_identities(scores, mated, left, right, threshold=0.5, count=1)) == 1


def test_a_label_is_suspect_where_all_checkpoints_contradict_it():
    mated = np.array([1, 1, 1, 0, 0, 0])
    first = [0.1, 0.2, 0.9, 0.8, 0.7, 0.1]
    second = [0.3, 0.9, 0.9, 0.9, 0.6, 0.6]
    rejected, accepted = suspect_labels([first, second], mated, [0.5, 0.55])
    assert rejected.tolist() == [0]
    assert accepted.tolist() == [3, 4]  # the furthest beyond both thresholds first
