"""Recognizing Faces in the Wild: families, their members, and who is related to whom.

An identity is a family, for related people are what shall look alike.
"""

import posixpath
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from facever.data.files import Finder, Source
from facever.data.lists import PairList
from facever.data.pairfiles import load_pairs
from facever.data.readers import Found, Labelled
from facever.data.tables import read_table
from facever.errors import DataError

RELATIONS_FILE = "train_relationships.csv"
_SAMPLE_FILE = "sample_submission.csv"
# By which families public solutions are validated, so that figures can be compared.
_HELD_OUT = "F09"


def is_kinship(folder: Path) -> bool:
    """Whether a folder holds families and their relations."""
    return (folder / RELATIONS_FILE).is_file() and (folder / "train").is_dir()


def read_kinship(source: Source) -> Found:
    """Read `train/<family>/<member>/*`, relations, and the pairs of the sample submission.

    The families F09.. are left out of training, and pairs are made of their relations.
    """
    found = Found("rfiw")
    members = _members(source)
    held_out = {m: paths for m, paths in members.items() if m.startswith(_HELD_OUT)}
    found.splits["train"] = [
        (member.partition("/")[0], path)
        for member, paths in members.items()
        if member not in held_out
        for path in paths
    ]
    found.val_pairs = _made_pairs(source, _relations(source, members), held_out)
    if found.val_pairs is not None:
        source.notes.append(
            f"val pairs: {len(found.val_pairs):,} made from relations in the families "
            f"{_HELD_OUT}.., which are left out of training"
        )
    else:
        found.splits["train"] += _of_families(held_out)
    if source.has_file(_SAMPLE_FILE):
        pairs = load_pairs(source.root / _SAMPLE_FILE, Finder(source, "test"), _SAMPLE_FILE)
        # Its second column holds nothing but an example.
        found.test_pairs = replace(pairs, mated=np.full(len(pairs), -1, dtype=np.int8))
        found.sample = source.root / _SAMPLE_FILE
    return found


def _of_families(members: dict[str, list[str]]) -> Labelled:
    return [(member.partition("/")[0], path) for member, paths in members.items() for path in paths]


def _members(source: Source) -> dict[str, list[str]]:
    """Images of each `family/member`, by name."""
    return {
        f"{family}/{member}": sorted(source.images(f"train/{family}/{member}"))
        for family in source.listing("train").folders
        for member in source.listing(f"train/{family}").folders
    }


def _relations(source: Source, members: dict[str, list[str]]) -> list[tuple[str, str]]:
    expected = "p1,p2: two members, such as F0002/MID1"
    table = read_table(source.root / RELATIONS_FILE, RELATIONS_FILE).split_header(("p1", "p2"))
    table.check_width(expected)
    relations = []
    for i, row in enumerate(table.rows):
        if len(row) != 2:
            raise table.error(i, f"{len(row)} columns", expected)
        pair = tuple(posixpath.normpath(name.strip()) for name in row)
        if not all("/" in name for name in pair):
            raise table.error(i, f"{','.join(row)!r}", expected)
        # The competition's file names members of whom there is no image.
        if all(members.get(name) for name in pair):
            relations.append((pair[0], pair[1]))
    if not relations:
        raise DataError(f"{RELATIONS_FILE}: names nobody of train/\n  expected {expected}")
    return relations


def _made_pairs(
    source: Source, relations: list[tuple[str, str]], members: dict[str, list[str]]
) -> PairList | None:
    """Pair images of relatives, and as many of different families; None where there are none."""
    related = [
        pair
        for one, other in relations
        if one in members and other in members
        for pair in zip(members[one], members[other], strict=False)
    ]
    families: dict[str, list[str]] = defaultdict(list)
    for family, path in _of_families(members):
        families[family].append(path)
    if not related or len(families) < 2:
        return None
    rng = np.random.default_rng(0)
    names = sorted(families)
    strangers = []
    for _ in related:
        one, other = rng.choice(len(names), 2, replace=False).tolist()
        left, right = families[names[one]], families[names[other]]
        strangers.append((left[rng.integers(len(left))], right[rng.integers(len(right))]))
    return PairList.build(
        source.root, related + strangers, np.repeat([1, 0], [len(related), len(strangers)])
    )
