"""What competitions rank by besides the EER, against brute force and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facever.metrics import equal_error_rate, roc_auc
from facever.ranking import (
    accuracy_figure,
    auc_figure,
    combined_figure,
    combined_score,
    nobody_threshold,
)
from facever.resample import Bootstrap, auc_replicates

SCORES = st.integers(-4, 4).map(lambda n: n / 4)
PROBES = st.lists(st.tuples(SCORES, st.sampled_from(["right", "wrong", "nobody"])), min_size=1)


def pairs(count=200, seed=0):
    rng = np.random.default_rng(seed)
    mated = np.arange(count) % 2
    return mated, rng.normal(mated, 1.0), np.arange(count), np.arange(count) + count


def share(probes, threshold):
    """Share of right answers when the closest person is named from a threshold on."""
    answers = [kind == ("right" if score >= threshold else "nobody") for score, kind in probes]
    return sum(answers) / len(answers)


@given(PROBES)
def test_no_threshold_tells_people_from_strangers_better(probes):
    scores, kinds = zip(*probes, strict=True)
    chosen = nobody_threshold(scores, [k == "right" for k in kinds], [k == "nobody" for k in kinds])
    tried = [*np.arange(-1.125, 1.2, 0.125), np.inf]
    assert share(probes, chosen) == max(share(probes, threshold) for threshold in tried)


def test_a_threshold_lies_half_way_between_scores():
    assert nobody_threshold([0.2, 0.4, 0.8], [False, True, True], [True, False, False]) == (
        pytest.approx(0.3)
    )


def test_where_all_are_strangers_nobody_is_named():
    assert nobody_threshold([0.5, 0.9], [False, False], [True, True]) > 0.9


def test_the_combined_score_rises_with_accuracy_and_falls_with_the_eer():
    assert combined_score(0.0, 1.0) == 1
    assert combined_score(1.0, 0.0) == 0
    assert combined_score(0.025, 0.9) == pytest.approx(0.9375)


def test_weighted_auc_without_resampling_is_the_auc():
    """Every replicate of pairs is a data set of its own, whose AUC is known."""
    mated, scores, *_ = pairs(30)
    scores = np.round(scores, 1)
    rng = np.random.default_rng(5)
    drawn = rng.integers(30, size=(4, 30))
    expected = [roc_auc(scores[rows], mated[rows]) for rows in drawn]
    found = auc_replicates(scores, 0.5, Bootstrap(mated == 1, None, None, repeats=4, seed=5))
    assert found == pytest.approx(expected)


def test_intervals_hold_their_estimate_and_narrow_with_data():
    widths = []
    for count in (100, 1600):
        mated, scores, left, right = pairs(count)
        correct, people = np.arange(count) % 5 > 0, np.arange(count) // 4
        figures = [
            auc_figure(scores, mated, left=left, right=right, repeats=200),
            accuracy_figure(correct, people, repeats=200),
            combined_figure(scores, mated, correct, people, left=left, right=right, repeats=200),
        ]
        for figure in figures:
            assert figure.low < figure.value < figure.high
        widths.append([figure.high - figure.low for figure in figures])
    assert np.all(np.array(widths[0]) > 2.5 * np.array(widths[1]))


def test_figures_are_what_they_say():
    mated, scores, left, right = pairs()
    correct, people = np.arange(50) < 40, np.arange(50)
    found = combined_figure(scores, mated, correct, people, left=left, right=right, repeats=20)
    assert found.value == combined_score(equal_error_rate(scores, mated), 0.8)
    assert "higher is better" in found.to_text()
    assert found.to_json()["higher_is_better"] is True


def test_the_interval_of_an_accuracy_counts_people_not_images():
    """All images of a person right or all wrong: twenty times the images say nothing more."""
    hits = np.arange(40) % 4 > 0
    once = accuracy_figure(hits, np.arange(40), repeats=400)
    often = accuracy_figure(np.repeat(hits, 20), np.repeat(np.arange(40), 20), repeats=400)
    assert often.high - often.low == pytest.approx(once.high - once.low, abs=0.02)
    strangers = accuracy_figure(np.repeat(hits, 20), np.full(800, -1), repeats=400)
    assert strangers.high - strangers.low < (often.high - often.low) / 2
