"""Labelled pairs where the data has none: made from held-out images, by seed."""

from pathlib import Path

import numpy as np

from facever.data.lists import ImageList, PairList

# LFW's 3,000 of each kind would be more than most folders can give; 1,000 of each put the
# standard error of an EER of 5 % at half a point.
_MOST_OF_A_KIND = 1000
_HELD_OUT_SHARE = 0.1


def choose_identities(counts: dict[str, int], seed: int) -> set[str]:
    """Choose identities to hold out of training: a tenth, at least two.

    Args:
        counts: images of each identity.
        seed: of the choice.

    Returns:
        Identities with at least two images each (others make no mated pair); empty where two
        would not remain to train on.
    """
    able = sorted(identity for identity, count in counts.items() if count > 1)
    wanted = min(max(2, round(_HELD_OUT_SHARE * len(counts))), len(able))
    if wanted < 2 or len(counts) - wanted < 2:
        return set()
    order = np.random.default_rng(seed).permutation(len(able))
    return {able[i] for i in order[:wanted]}


def make_pairs(root: Path, images: ImageList, seed: int) -> PairList | None:
    """Draw as many mated as non-mated pairs, none twice; None where one kind is impossible."""
    rng = np.random.default_rng(seed)
    known = np.flatnonzero(images.labels >= 0)
    known = known[np.argsort(images.labels[known], kind="stable")]
    groups = np.split(known, np.flatnonzero(np.diff(images.labels[known])) + 1)
    several = [group for group in groups if len(group) > 1]
    if not several or len(groups) < 2:
        return None
    mated = _draw(rng, several, same=True)
    non_mated = _draw(rng, groups, same=False)
    count = min(len(mated), len(non_mated))
    pairs = [*mated[:count], *non_mated[:count]]
    truth = np.repeat([1, 0], count)
    order = rng.permutation(2 * count)
    paths = [(images.paths[pairs[i][0]], images.paths[pairs[i][1]]) for i in order]
    return PairList.build(root, paths, truth[order])


def _draw(
    rng: np.random.Generator, groups: list[np.ndarray], *, same: bool
) -> list[tuple[int, int]]:
    """Draw distinct pairs from one group, or from two; people are equally likely."""
    drawn: dict[tuple[int, int], None] = {}
    # Draws repeat where there is little to draw from; ten times as many exhaust it nearly.
    for _ in range(10 * _MOST_OF_A_KIND):
        a = int(rng.integers(len(groups)))
        if same:
            left, right = rng.choice(groups[a], 2, replace=False).tolist()
        else:
            b = (a + int(rng.integers(1, len(groups)))) % len(groups)
            left, right = int(rng.choice(groups[a])), int(rng.choice(groups[b]))
        drawn[min(left, right), max(left, right)] = None
        if len(drawn) == _MOST_OF_A_KIND:
            break
    return list(drawn)
