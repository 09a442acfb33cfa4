import itertools
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score, roc_curve

from facever.errors import DataError
from facever.metrics import (
    accuracy,
    bootstrap_eer,
    bootstrap_fmr_threshold,
    det_curve,
    eer_threshold,
    equal_error_rate,
    fmr_threshold,
    fold_accuracy,
    paired_bootstrap,
    roc_auc,
    tar_at_far,
    verification,
)
from facever.resample import _weighted_barred, _weighted_eer


def brute_force_eer(scores, mated):
    """Every threshold in turn, then a straight line between the two around the crossing."""
    scores, mated = np.asarray(scores), np.asarray(mated, bool)
    points = []
    for threshold in [*sorted(set(scores.tolist())), np.inf]:
        fmr = np.mean(scores[~mated] >= threshold)
        fnmr = np.mean(scores[mated] < threshold)
        points.append((fmr, fnmr))
    for (fmr, fnmr), (next_fmr, next_fnmr) in itertools.pairwise(points):
        if fmr >= fnmr and next_fmr < next_fnmr:
            share = (fmr - fnmr) / ((fmr - fnmr) - (next_fmr - next_fnmr))
            return fmr + share * (next_fmr - fmr)
    raise AssertionError("the errors run from (1, 0) to (0, 1) and must cross")


def sklearn_eer(scores, mated):
    fpr, tpr, _ = roc_curve(mated, scores)
    # Vertical steps have several rates for one fpr: the parameter is the place along the curve.
    along = np.arange(len(fpr))
    gap = interp1d(along, 1 - tpr - fpr)
    place = brentq(gap, 0, along[-1], xtol=1e-15, rtol=1e-15)
    return float(interp1d(along, fpr)(place))


def random_pairs(seed, count=200, ties=True):
    rng = np.random.default_rng(seed)
    mated = rng.random(count) < 0.4
    mated[:2] = True, False
    scores = rng.standard_normal(count) + mated
    return (np.round(scores, 1) if ties else scores), mated


@st.composite
def pair_sets(draw):
    count = draw(st.integers(2, 30))
    values = st.sampled_from([-1.0, -0.5, -0.0, 0.0, 0.25, 1.0]) | st.floats(-1, 1)
    scores = draw(st.lists(values, min_size=count, max_size=count))
    mated = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    mated[0], mated[1] = True, False
    return np.array(scores), np.array(mated)


@given(pair_sets())
@settings(max_examples=300, deadline=None)
def test_eer_equals_brute_force_over_every_threshold(pairs):
    scores, mated = pairs
    assert equal_error_rate(scores, mated) == pytest.approx(
        brute_force_eer(scores, mated), abs=1e-14
    )


@given(pair_sets())
@settings(max_examples=200, deadline=None)
def test_eer_is_the_same_seen_from_the_other_side(pairs):
    scores, mated = pairs
    assert equal_error_rate(scores, mated) == equal_error_rate(-scores, ~mated)


@given(pair_sets(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_rates_ignore_row_order_and_monotone_maps(pairs, random):
    scores, mated = pairs
    order = list(range(len(scores)))
    random.shuffle(order)
    ranks = np.unique(scores, return_inverse=True)[1].astype(float) ** 3
    for measure in (equal_error_rate, roc_auc, accuracy):
        assert measure(scores, mated) == measure(scores[order], mated[order])
        assert measure(scores, mated) == measure(ranks, mated)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ties", [True, False])
def test_eer_and_auc_equal_scikit_learn(seed, ties):
    scores, mated = random_pairs(seed, ties=ties)
    assert equal_error_rate(scores, mated) == pytest.approx(sklearn_eer(scores, mated), abs=1e-12)
    assert roc_auc(scores, mated) == pytest.approx(roc_auc_score(mated, scores), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "mated", "eer"),
    [
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 0.0),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 1.0),
        ([0.5] * 6, [1, 0, 0, 1, 0, 0], 0.5),
        ([0.9, 0.1], [1, 0], 0.0),
        ([0.1, 0.9], [1, 0], 1.0),
        ([0.0, -0.0], [1, 0], 0.5),
        ([-0.0, 0.0], [1, 0], 0.5),
        ([3, 2, 2, 1], [1, 1, 0, 0], 0.25),
    ],
)
def test_eer_of_small_cases_is_exact(scores, mated, eer):
    assert equal_error_rate(scores, mated) == eer


@pytest.mark.parametrize("mated_first", [True, False])
def test_eer_ignores_row_order_when_all_scores_tie(mated_first):
    """A collapsed encoder scores every pair alike; cumulative sums without tie handling
    then report 0 % or 100 %, depending on how the pair file is sorted."""
    mated = np.sort(np.arange(10) < 5)
    assert equal_error_rate(np.zeros(10), mated[:: -1 if mated_first else 1]) == 0.5


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint16", "int64"])
def test_scores_of_any_real_type_are_taken(dtype):
    scores = np.array([40, 30, 30, 10, 20, 10]).astype(dtype)
    mated = [1, 1, 0, 1, 0, 0]
    assert equal_error_rate(scores, mated) == equal_error_rate(scores.tolist(), np.bool_(mated))
    assert type(equal_error_rate(scores, mated)) is float
    assert type(eer_threshold(scores, mated)) is float


@given(pair_sets())
@settings(max_examples=200, deadline=None)
def test_no_threshold_brings_the_two_errors_closer_than_the_one_at_eer(pairs):
    scores, mated = pairs
    fmr, fnmr, _ = det_curve(scores, mated)
    threshold = eer_threshold(scores, mated)
    gap = abs(np.mean(scores[~mated] >= threshold) - np.mean(scores[mated] < threshold))
    assert np.isfinite(threshold)
    assert gap == pytest.approx(np.abs(fmr - fnmr).min(), abs=1e-12)


def test_threshold_lies_in_the_gap_between_separated_kinds():
    assert eer_threshold([0.9, 0.7, 0.3, 0.1], [1, 1, 0, 0]) == pytest.approx(0.5)


@given(pair_sets())
@settings(max_examples=100, deadline=None)
def test_det_curve_is_the_two_errors_at_each_distinct_score(pairs):
    scores, mated = pairs
    fmr, fnmr, thresholds = det_curve(scores, mated)
    assert thresholds[-1] == np.inf
    assert (np.diff(thresholds) > 0).all()
    assert (fmr[0], fnmr[0], fmr[-1], fnmr[-1]) == (1, 0, 0, 1)
    for i, threshold in enumerate(thresholds):
        assert fmr[i] == np.mean(scores[~mated] >= threshold)
        assert fnmr[i] == np.mean(scores[mated] < threshold)


@given(pair_sets(), st.floats(0.001, 1))
@settings(max_examples=200, deadline=None)
def test_tar_is_the_largest_whose_far_does_not_exceed_the_one_asked_for(pairs, far):
    scores, mated = pairs
    if far < 1 / np.sum(~mated):
        with pytest.raises(DataError, match="resolve"):
            tar_at_far(scores, mated, far)
        return
    fmr, fnmr, _ = det_curve(scores, mated)
    assert tar_at_far(scores, mated, far) == pytest.approx((1 - fnmr)[fmr <= far].max(), abs=1e-12)


@given(pair_sets(), st.floats(0.001, 1))
@settings(max_examples=200, deadline=None)
def test_the_threshold_for_an_fmr_is_the_lowest_that_keeps_to_it(pairs, wanted):
    scores, mated = pairs
    if wanted < 1 / np.sum(~mated):
        with pytest.raises(DataError, match=r"fmr_threshold: fmr is .* resolve"):
            fmr_threshold(scores, mated, wanted)
        return
    threshold = fmr_threshold(scores, mated, wanted)
    fmr, _, thresholds = det_curve(scores, mated)
    assert np.mean(scores[~mated] >= threshold) == fmr[fmr <= wanted][0]
    assert np.mean(scores[mated] >= threshold) == pytest.approx(tar_at_far(scores, mated, wanted))
    assert threshold <= thresholds[fmr <= wanted][0]


def test_far_that_is_a_whole_number_of_pairs_survives_rounding():
    """0.00029 * 100000 is 28.999999999999996; 29 false matches are allowed all the same."""
    scores = np.append(np.arange(100_000), 100_000 - 28.5)
    assert tar_at_far(scores, np.arange(100_001) == 100_000, 0.00029) == 1.0


@given(pair_sets())
@settings(max_examples=100, deadline=None)
def test_accuracy_is_the_best_over_all_thresholds(pairs):
    scores, mated = pairs
    best = max(np.mean((scores >= t) == mated) for t in [*scores, np.inf])
    assert accuracy(scores, mated) == pytest.approx(best, abs=1e-12)


def test_fold_accuracy_takes_its_threshold_from_the_other_folds():
    scores = np.array([0.9, 0.1, 0.8, 0.2, 0.3, 0.25])
    mated = np.array([1, 0, 1, 0, 1, 0])
    folds = np.array([0, 0, 1, 1, 2, 2])
    mean, standard_error = fold_accuracy(scores, mated, folds)
    # Fold 2's pairs lie both below the threshold 0.5 of the others: one of two is right. Folds
    # 0 and 1 are decided by thresholds from the others, which their own pairs straddle.
    assert mean == pytest.approx((1 + 1 + 0.5) / 3)
    assert standard_error == pytest.approx(np.std([1, 1, 0.5], ddof=1) / np.sqrt(3))


@pytest.mark.parametrize("folds", [[0, 0, 0, 0], [0, 1], [0, 1, -1, 1]])
def test_folds_that_are_missing_or_single_are_refused(folds):
    with pytest.raises(DataError, match="folds"):
        fold_accuracy([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], folds)


@pytest.mark.parametrize(
    ("scores", "mated", "message"),
    [
        ([0.1, 0.2, 0.3], [1, 0], r"\(3,\).*\(2,\)"),
        ([[0.1], [0.2]], [[1], [0]], r"expected both \(N,\)"),
        ([], [], "at least one pair"),
        ([0.1, np.nan, np.inf], [1, 0, 1], "2 of 3 .* index 1 with nan"),
        ([0.1, 0.2], [0, 0], "is mated"),
        ([0.1, 0.2], [True, True], "is non-mated"),
        ([0.1, 0.2, 0.3], [1, 0, -1], "-1.* at index 2"),
        ([0.1, 0.2], [1, np.nan], "nan.* at index 1"),
        (["a", "b"], [1, 0], "real numbers"),
        ([1j, 2j], [1, 0], "real numbers"),
    ],
)
@pytest.mark.parametrize(
    "measure",
    [equal_error_rate, eer_threshold, det_curve, roc_auc, accuracy, bootstrap_eer, verification],
)
def test_bad_input_is_an_error_that_says_what_is_wrong(measure, scores, mated, message):
    with pytest.raises(DataError, match=message) as caught:
        measure(scores, mated)
    assert isinstance(caught.value, ValueError)


@given(pair_sets(), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_weighted_eer_equals_the_eer_of_repeated_pairs(pairs, seed):
    scores, mated = pairs
    weights = np.random.default_rng(seed).integers(0, 4, size=len(scores))
    weights[:2] = np.maximum(weights[:2], 1)
    order = np.argsort(scores)
    _, last = np.unique(scores[order][::-1], return_index=True)
    ends = np.sort(len(scores) - 1 - last)
    weighted = _weighted_eer(weights[order][None].astype(float), mated[order], ends)
    repeated = equal_error_rate(np.repeat(scores, weights), np.repeat(mated, weights))
    assert weighted[0] == pytest.approx(repeated, abs=1e-12)


def clustered_pairs(identities=40, per_identity=25, seed=0):
    """Pairs whose score depends far more on the identity than on the pair."""
    rng = np.random.default_rng(seed)
    left = np.repeat(np.arange(identities), per_identity)
    mated = rng.random(left.size) < 0.5
    right = np.where(mated, left, rng.integers(identities, 2 * identities, left.size))
    hard = rng.standard_normal(identities)
    return (
        0.3 * hard[left] + 0.4 * mated + 0.05 * rng.standard_normal(left.size),
        mated,
        left,
        right,
    )


def test_resampling_identities_gives_wider_intervals_on_clustered_pairs():
    scores, mated, left, right = clustered_pairs()
    low, high = bootstrap_eer(scores, mated, left=left, right=right)
    pair_low, pair_high = bootstrap_eer(scores, mated)
    assert high - low > 1.5 * (pair_high - pair_low)


def test_images_that_appear_once_are_resampled_as_pairs():
    """The plain vertex bootstrap would widen the interval by the root of three."""
    scores, mated = random_pairs(0, count=400)
    left, right = np.arange(400), np.arange(400, 800)
    assert bootstrap_eer(scores, mated, left=left, right=right) == bootstrap_eer(scores, mated)


def test_images_may_be_named_and_sides_swapped():
    scores, mated, left, right = clustered_pairs()
    names = np.array([f"identity {i}" for i in range(left.max() + right.max())])
    low, high = bootstrap_eer(scores, mated, left=left, right=right)
    swapped = bootstrap_eer(scores, mated, left=names[right], right=names[left])
    assert swapped == pytest.approx((low, high), abs=0.02)


def test_interval_covers_the_true_eer_as_often_as_it_claims():
    from math import erf

    truth = 0.5 * (1 - erf(1.0 / np.sqrt(2)))  # N(0, 1) against N(2, 1), threshold 1
    hits = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        mated = rng.random(300) < 0.5
        low, high = bootstrap_eer(rng.standard_normal(300) + 2 * mated, mated, repeats=300)
        hits += low <= truth <= high
    assert 0.90 <= hits / 150 <= 0.99


def test_interval_of_a_few_pairs_without_error_stays_wide():
    low, high = bootstrap_eer([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0])
    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / 2))


def test_intervals_are_reproducible_and_hold_the_estimate():
    for seed in range(10):
        scores, mated = random_pairs(seed, count=30)
        interval = bootstrap_eer(scores, mated, seed=3)
        assert interval == bootstrap_eer(scores, mated, seed=3)
        assert interval[0] <= equal_error_rate(scores, mated) <= interval[1]


def test_one_side_of_the_pairs_alone_is_refused():
    with pytest.raises(DataError, match="left, right"):
        bootstrap_eer([0.9, 0.1], [1, 0], left=[0, 1])


def test_paired_bootstrap_tells_better_from_equal():
    rng = np.random.default_rng(0)
    mated = rng.random(1000) < 0.5
    good = rng.standard_normal(1000) + 3.5 * mated
    worse = good + 1.5 * rng.standard_normal(1000)
    found = paired_bootstrap(worse, good, mated)
    assert found.difference == equal_error_rate(worse, mated) - equal_error_rate(good, mated)
    assert 0 < found.low <= found.difference <= found.high
    assert found.p_value < 0.01
    same = paired_bootstrap(good, good, mated)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_paired_p_value_is_uniform_enough_under_no_difference():
    values = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        mated = rng.random(200) < 0.5
        common = rng.standard_normal(200) + 2 * mated
        a, b = (common + 0.5 * rng.standard_normal(200) for _ in range(2))
        values.append(paired_bootstrap(a, b, mated, repeats=200).p_value)
    assert 0 <= np.mean(np.array(values) < 0.05) <= 0.12
    assert 0.3 < np.mean(values) < 0.75


def test_a_thousand_replicates_of_a_thousand_pairs_take_less_than_two_seconds():
    scores, mated = random_pairs(0, count=1000)
    left, right = np.random.default_rng(1).integers(0, 1300, (2, 1000))
    start = time.perf_counter()
    bootstrap_eer(scores, mated, left=left, right=right)
    assert time.perf_counter() - start < 2


def test_verification_gathers_what_the_other_functions_say():
    scores, mated = random_pairs(5, count=150)
    found = verification(scores, mated, folds=np.arange(150) % 10)
    assert found.eer == equal_error_rate(scores, mated)
    assert (found.eer_low, found.eer_high) == bootstrap_eer(scores, mated)
    assert found.n_mated + found.n_non_mated == 150
    assert set(found.tar_at_far) == {0.1}  # some 90 non-mated pairs cannot tell 1 %
    assert found.folds is not None
    assert found.folds["accuracy"] == fold_accuracy(scores, mated, np.arange(150) % 10)[0]
    answer = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert answer["tar_at_far"] == {"0.1": found.tar_at_far[0.1]}
    assert {"eer", "eer_low", "eer_high", "auc", "accuracy", "threshold", "definition"} <= set(
        answer
    )


def test_metrics_import_neither_torch_nor_pandas():
    import subprocess
    import sys

    code = "import sys, facever.metrics; print({'torch', 'pandas', 'sklearn'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.07, 0.1, 0.25, 1.0]))
@settings(max_examples=30, deadline=None)
def test_the_weighted_threshold_bars_what_that_of_repeated_pairs_bars(seed, fmr):
    scores, mated = random_pairs(seed, count=120)
    weights = np.random.default_rng(seed).integers(0, 3, scores.size)
    weights[np.argmin(mated)] = 2
    non_mated = -np.sort(-scores[~mated])
    ordered = weights[~mated][np.argsort(-scores[~mated], kind="stable")]
    fmr = max(fmr, 1 / ordered.sum())
    barred = _weighted_barred(ordered[None].astype(float), non_mated, fmr)[0]
    repeated = np.repeat(scores, weights), np.repeat(mated, weights)
    if fmr == 1:
        assert barred == non_mated[-1]
    else:
        assert barred < fmr_threshold(*repeated, fmr)
        # One more may not match.
        assert np.mean(np.repeat(non_mated, ordered) >= barred) > fmr


def test_the_interval_of_a_threshold_covers_the_threshold_of_all_pairs():
    """Of normal scores the threshold for an FMR of 10 % is known: 1.2816."""
    held = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        mated = np.arange(400) % 2 == 0
        scores = rng.standard_normal(400) + 2 * mated
        low, high = bootstrap_fmr_threshold(scores, mated, 0.1, repeats=200, seed=seed)
        assert low <= fmr_threshold(scores, mated, 0.1) <= high
        held += low <= 1.2816 <= high
    assert held >= 33
