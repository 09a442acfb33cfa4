"""Centring, AS-norm, calibration and joined embeddings against loops and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from facever.embed import fuse_views
from facever.errors import ConfigError, DataError
from facever.fusion import (
    FEATURES,
    as_norm,
    calibrate,
    centred,
    cohort_statistics,
    cross_calibrated,
    identity_means,
    joined,
    pair_features,
    unit_rows,
)
from facever.metrics import equal_error_rate
from facever.score import cosine_scores, fuse

SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed, images=12, cohort=9, dim=5, pairs=20):
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((images, dim)) * rng.uniform(0.5, 3, (images, 1))
    left, right = rng.integers(0, images, (2, pairs))
    return table, unit_rows(rng.standard_normal((cohort, dim))), left, right


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@given(SEEDS, st.integers(2, 12))
@settings(max_examples=20, deadline=None)
def test_as_norm_is_what_loops_over_the_paper_s_formula_give(seed, top):
    table, cohort, left, right = drawn(seed)
    scores = cosine_scores(table, left, right)
    found = as_norm(scores, left, right, *cohort_statistics(table, cohort, top))
    for k, (i, j) in enumerate(zip(left, right, strict=True)):
        halves = []
        for image in (i, j):
            closest = sorted((cosine(table[image], c) for c in cohort), reverse=True)[:top]
            halves.append((cosine(table[i], table[j]) - np.mean(closest)) / np.std(closest))
        assert found[k] == pytest.approx(np.mean(halves))


def test_as_norm_does_not_see_sides_lengths_or_the_order_of_the_cohort():
    table, cohort, left, right = drawn(0)
    scores = cosine_scores(table, left, right)
    found = as_norm(scores, left, right, *cohort_statistics(table, cohort, 4))
    statistics = cohort_statistics(7 * table, cohort[::-1], 4)
    assert as_norm(scores, right, left, *statistics) == pytest.approx(found)


def test_an_image_is_no_member_of_its_own_cohort():
    """Its cosine with itself is 1 and would be the first of its closest."""
    table, _, _, _ = drawn(1, images=6)
    mean, deviation = cohort_statistics(table, unit_rows(table), 3, own=True)
    for image in range(6):
        others = sorted(cosine(table[image], table[k]) for k in range(6) if k != image)[-3:]
        assert (mean[image], deviation[image]) == pytest.approx((np.mean(others), np.std(others)))


@pytest.mark.parametrize(("cohort", "top"), [(1, 5), (9, 1), (0, 5)])
def test_a_cohort_without_spread_is_refused(cohort, top):
    table, others, _, _ = drawn(0)
    with pytest.raises(DataError, match="AS-norm"):
        cohort_statistics(table, others[:cohort], top)
    with pytest.raises(DataError, match="collapsed"):
        cohort_statistics(table, np.repeat(others[:1], 4, axis=0), 3)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_joined_embeddings_have_the_weighted_mean_of_the_cosines(seed):
    first, _, left, right = drawn(seed)
    second, _, _, _ = drawn(seed + 1, dim=8)
    apart = [cosine_scores(table, left, right) for table in (first, second)]
    for weights in ([], [3.0, 1.0]):
        together = cosine_scores(joined([first, second], weights), left, right)
        assert together == pytest.approx(
            fuse(apart, np.array(weights) if weights else None), abs=1e-9
        )


def test_weights_are_one_for_each_checkpoint():
    table = drawn(0)[0]
    with pytest.raises(ConfigError, match=r"eval\.weights: 3 given for 2"):
        joined([table, table], [1.0, 1.0, 1.0])


def test_identities_count_alike_however_many_images_they_have():
    rng = np.random.default_rng(0)
    labels = np.array([7, 3, 7, 7, 3, 5])
    table = rng.standard_normal((6, 4)) * rng.uniform(1, 9, (6, 1))
    means = identity_means(table, labels)
    for row, label in enumerate((3, 5, 7)):
        units = [table[i] / np.linalg.norm(table[i]) for i in range(6) if labels[i] == label]
        assert means[row] == pytest.approx(np.mean(units, 0) / np.linalg.norm(np.mean(units, 0)))


def test_what_all_share_is_gone_after_centring():
    rng = np.random.default_rng(0)
    people = rng.standard_normal((300, 8))
    cohort = unit_rows(people + 5)
    assert np.abs(centred(cohort, cohort).mean(axis=0)).max() < 1e-12
    left, right = np.arange(0, 300, 2), np.arange(1, 300, 2)
    shifted = cosine_scores(centred(people + 5, cohort), left, right)
    assert abs(shifted.mean()) < 0.1 < cosine_scores(people + 5, left, right).mean()


def views(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 6, generator=generator) * torch.tensor([1.0, 2, 3, 9])[:, None, None]


def test_views_are_fused_by_their_norms_to_a_power():
    z = views()
    assert torch.equal(fuse_views(z, 1.0), z.mean(0))
    norms = z.norm(dim=2)
    for power in (0.0, 0.5, 2.0):
        fused = fuse_views(z, power)
        for image in range(3):
            direction = sum(
                norms[v, image] ** power * z[v, image] / norms[v, image] for v in range(4)
            )
            assert cosine(fused[image].numpy(), direction.numpy()) == pytest.approx(1)


def test_one_view_and_equal_views_stay_what_they_are():
    z = views()[:1]
    for power in (0.0, 1.0, 3.0):
        torch.testing.assert_close(fuse_views(z, power), z[0])
        torch.testing.assert_close(fuse_views(z.repeat(5, 1, 1), power), z[0])
    with_none = torch.cat([z, torch.zeros_like(z)])
    assert cosine(fuse_views(with_none, 0.0)[0].numpy(), z[0, 0].numpy()) == pytest.approx(1)


def labelled(seed=0, count=300):
    """Pairs whose sharper images have higher scores, mated or not."""
    rng = np.random.default_rng(seed)
    mated = np.arange(count) % 2 == 0
    sharp, norms = rng.uniform(0, 5, 2 * count), rng.uniform(0, 1, 2 * count)
    left, right = np.arange(count), np.arange(count, 2 * count)
    scores = mated + rng.standard_normal(count) * 0.4 + np.minimum(sharp[left], sharp[right])
    return pair_features(scores, left, right, norms, sharp), mated, scores


def test_a_calibration_is_logistic_regression_on_standardised_features():
    features, mated, _ = labelled()
    scaler = StandardScaler().fit(features)
    oracle = LogisticRegression(class_weight="balanced").fit(scaler.transform(features), mated)
    expected = oracle.decision_function(scaler.transform(features))
    found = calibrate(features, mated)
    assert found.apply(features) == pytest.approx(expected)
    assert found.to_json().keys() == {*FEATURES, "bias"}


def test_pairs_have_the_same_features_whichever_image_is_left():
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 9, (2, 30))
    scores, norms, sharp = rng.random(30), rng.random(9), rng.random(9)
    features = pair_features(scores, left, right, norms, sharp)
    assert np.array_equal(features, pair_features(scores, right, left, norms, sharp))
    assert features.shape == (30, len(FEATURES))


def test_a_calibration_that_sees_the_quality_separates_what_the_score_mixes():
    features, mated, scores = labelled()
    ratios = cross_calibrated(features, mated)
    assert equal_error_rate(ratios, mated) < equal_error_rate(scores, mated) - 0.1
    assert ratios[mated].mean() > 0 > ratios[~mated].mean()


def test_no_pair_is_scored_by_a_calibration_that_saw_its_label():
    """A label that is turned round changes others' scores, but its own only by changing them."""
    features, mated, _ = labelled(count=40)
    ratios = cross_calibrated(features, mated)
    # Two labels change places, so that each kind keeps its number, and the folds their pairs.
    noise = np.random.default_rng(0).permutation(mated)
    assert equal_error_rate(cross_calibrated(features, noise), noise) > 0.2
    assert np.array_equal(ratios, cross_calibrated(features, mated))
    assert not np.array_equal(ratios, cross_calibrated(features, mated, seed=1))


def test_pairs_of_one_kind_cannot_be_calibrated():
    features, mated, _ = labelled()
    with pytest.raises(DataError, match="expected both kinds"):
        calibrate(features, np.ones_like(mated))
    few = np.zeros_like(mated)
    few[0] = True
    with pytest.raises(DataError, match="1 pairs of the rarer kind"):
        cross_calibrated(features, few)
