"""Batches are functions of (seed, epoch), and never hold one image."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facever.data.sampler import balanced_batches, pk_batches, shuffled_batches, single_images
from facever.errors import ConfigError, DataError

LABELS = np.repeat(np.arange(7), [1, 2, 3, 5, 8, 13, 30])
PLANS: dict[str, Callable[[int, int], list[np.ndarray]]] = {
    "shuffled": lambda seed, epoch: shuffled_batches(62, 8, seed=seed, epoch=epoch),
    "balanced": lambda seed, epoch: balanced_batches(LABELS, 8, seed=seed, epoch=epoch),
    "pk": lambda seed, epoch: pk_batches(LABELS, 3, 4, seed=seed, epoch=epoch),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_a_pure_function_of_seed_and_epoch(name: str) -> None:
    plan = PLANS[name]
    first = np.concatenate(plan(1, 5))
    plan(9, 9)
    np.random.default_rng().random(10)
    np.testing.assert_array_equal(np.concatenate(plan(1, 5)), first)
    assert first.dtype == np.int64
    assert not np.array_equal(np.concatenate(plan(1, 6)), first)
    assert not np.array_equal(np.concatenate(plan(2, 5)), first)


@given(n=st.integers(2, 300), batch_size=st.integers(2, 64), epoch=st.integers(0, 3))
def test_shuffled_batches_hold_every_index_once_and_never_one_alone(
    n: int, batch_size: int, epoch: int
) -> None:
    batches = shuffled_batches(n, batch_size, seed=0, epoch=epoch)
    assert sorted(np.concatenate(batches)) == list(range(n))
    assert min(map(len, batches)) >= 2
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert len(batches[-1]) <= batch_size + 1


def test_a_batch_larger_than_the_data_holds_all_of_it() -> None:
    (batch,) = shuffled_batches(5, 64, seed=0, epoch=0)
    assert sorted(batch) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_images_are_an_error(n: int) -> None:
    with pytest.raises(DataError, match=f"{n} training images; expected at least 2"):
        shuffled_batches(n, 8, seed=0, epoch=0)


def test_a_batch_of_one_cannot_be_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"optim.batch_size: 1"):
        shuffled_batches(10, 1, seed=0, epoch=0)
    with pytest.raises(ConfigError, match=r"optim.batch_size: 1"):
        balanced_batches(LABELS, 1, seed=0, epoch=0)
    for p, k in ((1, 4), (4, 1)):
        with pytest.raises(ConfigError, match=f"{p} identities x {k} images"):
            pk_batches(LABELS, p, k, seed=0, epoch=0)


@pytest.mark.parametrize("epoch", range(5))
def test_balanced_batches_show_every_identity_equally_often(epoch: int) -> None:
    indices = np.concatenate(balanced_batches(LABELS, 8, seed=0, epoch=epoch))
    assert len(indices) == len(LABELS)
    counts = np.bincount(LABELS[indices])
    assert counts.max() - counts.min() <= 1


def test_balanced_batches_repeat_an_image_only_when_all_of_its_identity_were_shown() -> None:
    indices = np.concatenate(balanced_batches(LABELS, 8, seed=0, epoch=0))
    for identity in range(7):
        shown = Counter(indices[LABELS[indices] == identity].tolist())
        if len(shown) < (identity == LABELS).sum():
            assert max(shown.values()) == 1
        else:
            assert max(shown.values()) - min(shown.values()) <= 1


def test_balanced_batches_reach_all_images_of_a_large_identity_over_epochs() -> None:
    seen = {
        int(i)
        for epoch in range(60)
        for batch in balanced_batches(LABELS, 8, seed=0, epoch=epoch)
        for i in batch
    }
    assert seen == set(range(len(LABELS)))


@given(
    counts=st.lists(st.integers(0, 9), min_size=2, max_size=30).filter(
        lambda c: sum(n > 1 for n in c) >= 2
    ),
    p=st.integers(2, 6),
    k=st.integers(2, 5),
    seed=st.integers(0, 5),
)
def test_pk_batches_hold_p_identities_with_k_images_each(
    counts: list[int], p: int, k: int, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(seed).shuffle(labels)
    able = {identity for identity, count in enumerate(counts) if count > 1}
    for batch in pk_batches(labels, p, k, seed=seed, epoch=0):
        of = Counter(labels[batch].tolist())
        assert len(of) == min(p, len(able))
        assert set(of) <= able
        assert set(of.values()) == {k}
        for identity in of:
            distinct = len(set(batch[labels[batch] == identity].tolist()))
            assert distinct == min(k, counts[identity])


def test_pk_batches_make_an_epoch_of_about_as_many_images_as_there_are() -> None:
    labels = np.repeat(np.arange(100), 10)
    batches = pk_batches(labels, 16, 4, seed=0, epoch=0)
    assert abs(sum(map(len, batches)) - len(labels)) <= 64
    assert {int(i) for i in labels[np.concatenate(batches)]} == set(range(100))


def test_identities_with_one_image_are_counted_and_left_out_of_pk_batches() -> None:
    assert single_images(LABELS) == 1
    assert 0 not in np.concatenate(pk_batches(LABELS, 3, 4, seed=0, epoch=0))


def test_pairs_within_a_batch_need_two_identities_with_two_images() -> None:
    with pytest.raises(DataError, match="0 identities have two images or more"):
        pk_batches(np.arange(1000), 4, 4, seed=0, epoch=0)
    with pytest.raises(DataError, match="1 identities have two images or more"):
        pk_batches(np.zeros(1000, np.int64), 4, 4, seed=0, epoch=0)


def test_ten_thousand_identities_with_one_image_each_are_shuffled_and_balanced() -> None:
    labels = np.arange(10_000)
    for batches in (
        shuffled_batches(10_000, 256, seed=0, epoch=0),
        balanced_batches(labels, 256, seed=0, epoch=0),
    ):
        assert sorted(np.concatenate(batches)) == labels.tolist()
