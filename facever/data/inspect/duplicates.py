"""Which images are there more than once: the same bytes, or nearly the same picture."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from facever.data.inspect.looks import HASH_BYTES, Look

UInt8 = NDArray[np.uint8]
Int64 = NDArray[np.int64]

# Of 256 bits, in how many one photograph may differ: saved again as JPEG of quality 50, or made
# smaller and larger again, 99 of 100 faces stay within. Of 40 million pairs of real aligned faces
# all that were as close were one photograph: see docs/data.md.
NEAR = 12


def same_bytes(looks: Mapping[str, Look]) -> list[list[str]]:
    """Group the paths of files with the same bytes, in the order of `looks`."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path, look in looks.items():
        if not look.reason:
            groups[look.sha256].append(path)
    return [paths for paths in groups.values() if len(paths) > 1]


def is_blank(look: Look) -> bool:
    """Whether an image has one colour only, and so no face."""
    pixels = look.width * look.height
    return not look.reason and all(
        total * total == pixels * squares
        for total, squares in zip(look.sums[:3], look.sums[3:], strict=True)
    )


def near_duplicates(looks: Mapping[str, Look]) -> list[list[str]]:
    """Group the paths of files that show nearly the same picture in different bytes.

    Of files with the same bytes the first stands for all; a blank image is like every other.
    """
    of_bytes: dict[str, str] = {}
    for path, look in looks.items():
        if not look.reason and not is_blank(look):
            of_bytes.setdefault(look.sha256, path)
    paths = list(of_bytes.values())
    data = bytes.fromhex("".join(looks[path].dhash for path in paths))
    hashes = np.frombuffer(data, np.uint8).reshape(-1, HASH_BYTES)
    # Equal ones are joined beforehand: a thousand of them would be half a million pairs.
    distinct, first_at, which = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    equal = np.stack([first_at[which.reshape(-1)], np.arange(len(paths))], axis=1)
    pairs = np.concatenate([equal, first_at[close_pairs(distinct, NEAR)]])
    return [[paths[i] for i in group] for group in _groups(pairs) if len(group) > 1]


def close_pairs(hashes: UInt8, within: int) -> Int64:
    """Find all pairs of hashes (N, bytes) that differ in at most `within` bits; shape (M, 2).

    Two such hashes agree in at least one of `within + 1` bands of bits, so only those that do are
    compared. Which bits make a band is drawn by a fixed seed: neighbours in a picture are alike,
    and bands of neighbours would be the same for thousands of faces.
    """
    bits = np.unpackbits(hashes, axis=1)
    shuffled = np.random.default_rng(0).permutation(bits.shape[1])
    words = np.ascontiguousarray(hashes).view(np.uint64)
    found = [np.empty((0, 2), np.int64)]
    for band in np.array_split(shuffled, within + 1):
        keys = _numbers(bits[:, band])
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        rest, step = np.arange(len(keys)), 1
        # In order, equal keys are neighbours: compare each with the next, the one after it, ...
        while rest.size:
            rest = rest[rest + step < len(keys)]
            rest = rest[keys[rest] == keys[rest + step]]
            left, right = order[rest], order[rest + step]
            near = _differing(words[left], words[right]) <= within
            found.append(np.stack([left[near], right[near]], axis=1))
            step += 1
    pairs: Int64 = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    return pairs


def _numbers(bits: UInt8) -> Int64:
    """Read each row of bits (N, at most 63) as a number."""
    powers = 1 << np.arange(bits.shape[1], dtype=np.int64)
    numbers: Int64 = bits.astype(np.int64) @ powers
    return numbers


_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


def _differing(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> Int64:
    """Count the differing bits of each two rows of words."""
    different = np.ascontiguousarray(left ^ right).view(np.uint8)
    counts: Int64 = _ONES[different].sum(axis=1, dtype=np.int64)
    return counts


def _groups(pairs: Int64) -> list[list[int]]:
    """Join pairs that share a member, whatever links them, into sorted groups."""
    leader: dict[int, int] = {}

    def find(i: int) -> int:
        while (above := leader.setdefault(i, i)) != i:
            leader[i] = leader[above]
            i = above
        return i

    for left, right in pairs.tolist():
        a, b = sorted((find(left), find(right)))
        leader[b] = a
    groups: dict[int, list[int]] = defaultdict(list)
    for i in sorted(leader):
        groups[find(i)].append(i)
    return list(groups.values())
