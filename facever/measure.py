"""Scores of labelled pairs -> what is wanted of them.

Letters: M distinct images, P pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facever.breakdown import slice_pairs, suspect_labels, worst_identities
from facever.data.lists import IDENTITY_COLUMNS, PairList
from facever.errors import DataError
from facever.evaluated import Evaluated, ListedPair
from facever.metrics import Verification, hardest_pairs, paired_bootstrap, verification
from facever.score import Scores, write_det
from facever.scoring import Scored
from facever.threshold import threshold_at_fmr
from facever.tracking import note

Floats = NDArray[np.float64]
Values = dict[str, Any]

WORST_IDENTITIES = 10


@dataclass(frozen=True)
class Wanted:
    """What `evaluate` is to tell beyond the errors of all pairs.

    Attributes:
        fmr: the threshold that keeps to this FMR.
        slices: errors by properties of the pairs, and by identity where it is known.
        hardest: how many of the hardest pairs of each kind, and of suspect labels.
        det: a CSV of FMR and FNMR at every threshold.
    """

    fmr: float | None = None
    slices: bool = False
    hardest: int = 0
    det: Path | None = None


@dataclass(frozen=True, eq=False)
class LabelledPairs:
    """What is known of pairs that were scored.

    Attributes:
        names: of both images of each pair; None where they are unknown.
        mated: True where both images show the same person; shape (P,).
        units: what a bootstrap draws, of each side; shape (P,) each, or None.
        people: who is on each side; None where it is unknown.
        folds: of the protocol; shape (P,), or None.
        properties: to slice by; shape (P,) each.
    """

    names: Sequence[tuple[str, str]] | None
    mated: NDArray[np.bool_]
    units: tuple[ArrayLike | None, ArrayLike | None]
    people: tuple[Sequence[str], Sequence[str]] | None
    folds: ArrayLike | None
    properties: Mapping[str, ArrayLike]

    @classmethod
    def of_images(cls, pairs: PairList, scored: Scored, sharp: Floats | None) -> "LabelledPairs":
        """Tell of pairs of images.

        Args:
            pairs: that were scored.
            scored: with the norms of the images.
            sharp: sharpness of the images; shape (M,); without it there is nothing to slice by.
        """
        paths = [str(pairs.root / image) for image in pairs.images]
        return cls(
            names=[(paths[i], paths[j]) for i, j in zip(pairs.left, pairs.right, strict=True)],
            mated=pairs.mated == 1,
            units=pairs.units,
            people=pairs.people,
            folds=pairs.fold if (pairs.fold >= 0).all() else None,
            properties={} if sharp is None else _properties(pairs, scored, sharp),
        )

    @classmethod
    def of_scores(cls, table: Scores) -> "LabelledPairs":
        """Tell of the pairs of a file of scores."""
        return cls(
            names=table.names,
            mated=table.mated,
            units=table.units,
            people=table.people,
            folds=table.folds,
            properties=table.columns,
        )


def _properties(pairs: PairList, scored: Scored, sharp: Floats) -> dict[str, ArrayLike]:
    """Give what pairs of images are sliced by: the lower of both sides', and further columns."""
    lower = {"sharpness": sharp, "norm": np.exp(scored.log_norms)}
    of_images = {
        name: np.minimum(values[pairs.left], values[pairs.right]) for name, values in lower.items()
    }
    return {**of_images, **pairs.columns}


def check_same_pairs(paths: Sequence[Path], tables: Sequence[Scores]) -> None:
    """Refuse score files that are not about the same pairs in the same order.

    Raises:
        DataError: with the first row that differs.
    """
    first = tables[0]
    for path, table in zip(paths[1:], tables[1:], strict=True):
        where = f"{path}: is not about the pairs of {paths[0]}: "
        if table.scores.size != first.scores.size:
            raise DataError(f"{where}{table.scores.size} of them, expected {first.scores.size}")
        differs = table.mated != first.mated
        if table.names and first.names:
            pairs = zip(table.names, first.names, strict=True)
            differs = differs | np.array([a != b for a, b in pairs])
        if differs.any():
            row = int(np.argmax(differs))
            raise DataError(f"{where}pair {row + 1} differs; expected the same ones in one order")


def measure(
    sources: Sequence[str],
    scorings: Sequence[Floats],
    joint: Floats | None,
    given: LabelledPairs,
    *,
    compare: bool = False,
    wanted: Wanted,
    repeats: int = 1000,
    seed: int = 0,
    switches: Mapping[str, Any] | None = None,
    dev: Mapping[str, float] | None = None,
) -> Evaluated:
    """Measure scores of labelled pairs.

    Args:
        sources: the checkpoints or score files.
        scorings: scores by each; shape (P,).
        joint: by all together, where that is of use; shape (P,).
        given: the pairs.
        compare: test whether the first two differ.
        wanted: what else to tell, of `joint` or else of the first.
        repeats, seed: of the bootstrap.
        switches: of the section `eval`, that are not at their defaults.
        dev: accuracies on dev images.

    Raises:
        DataError: one kind of pair is absent.
        ConfigError: the pairs cannot show the FMR that is asked for.
    """
    left, right = given.units
    drawn: Values = {"left": left, "right": right, "seed": seed}

    def judge(scores: Floats) -> Verification:
        return verification(scores, given.mated, folds=given.folds, repeats=repeats, **drawn)

    results = [judge(scores) for scores in scorings]
    answer = Evaluated(
        sources,
        results,
        ensemble=None if joint is None else judge(joint),
        comparison=paired_bootstrap(scorings[0], scorings[1], given.mated, **drawn)
        if compare
        else None,
        dev=dev or {},
        switches=switches or {},
    )
    scores = scorings[0] if joint is None else joint
    return _deeper(answer, scores, scorings, given, wanted, {**drawn, "repeats": repeats})


def _deeper(
    answer: Evaluated,
    scores: Floats,
    scorings: Sequence[Floats],
    given: LabelledPairs,
    wanted: Wanted,
    drawn: Values,
) -> Evaluated:
    """Add what else is wanted to an answer."""
    threshold, mated = answer.final.threshold, given.mated
    more: Values = {}
    if wanted.fmr is not None:
        source = " + ".join(answer.checkpoints)
        more["at_fmr"] = threshold_at_fmr(scores, mated, wanted.fmr, source=source, **drawn)
    if wanted.slices:
        by = {k: v for k, v in given.properties.items() if k not in IDENTITY_COLUMNS}
        more["slices"] = slice_pairs(scores, mated, by, threshold=threshold, **drawn)
        if not (by or given.people):
            note("--slices: nothing to slice by; expected further columns, such as age_gap")
    if wanted.slices and given.people:
        more["identities"] = worst_identities(
            scores, mated, *given.people, threshold=threshold, count=WORST_IDENTITIES
        )
    if wanted.hardest:
        more["hardest"] = _listed(hardest_pairs(scores, mated, wanted.hardest), scores, given)
    if wanted.hardest and len(scorings) > 1:
        suspects = suspect_labels(scorings, mated, [each.threshold for each in answer.results])
        more["suspect_counts"] = tuple(len(rows) for rows in suspects)
        chosen = [rows[: wanted.hardest] for rows in suspects]
        more["suspects"] = _listed(chosen, scores, given)
    if wanted.det:
        more["det"] = write_det(wanted.det, scores, mated)
    return replace(answer, **more)


def _listed(
    kinds: Sequence[NDArray[np.int64]], scores: Floats, given: LabelledPairs
) -> list[ListedPair]:
    names: Sequence[tuple[str | None, str | None]]
    names = given.names or [(None, None)] * len(scores)
    return [
        ListedPair(int(row) + 1, bool(given.mated[row]), float(scores[row]), *names[row])
        for rows in kinds
        for row in rows
    ]
