"""What labelled pairs tell about checkpoints or score files, for people and as JSON.

Letters: M distinct images, P pairs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facever.breakdown import (
    IdentityErrors,
    Slice,
    slice_pairs,
    suspect_labels,
    worst_identities,
)
from facever.data.lists import IDENTITY_COLUMNS, PairList
from facever.data.tables import visible
from facever.errors import DataError
from facever.metrics import (
    PairedDifference,
    Verification,
    hardest_pairs,
    paired_bootstrap,
    verification,
)
from facever.ranking import Ranking
from facever.score import Scores, write_det
from facever.scoring import Scored, assignments
from facever.threshold import Threshold, threshold_at_fmr
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


def image_paths(pairs: PairList) -> list[tuple[str, str]]:
    """Give the paths of both images of each pair."""
    paths = [str(pairs.root / image) for image in pairs.images]
    return [(paths[i], paths[j]) for i, j in zip(pairs.left, pairs.right, strict=True)]


def image_properties(pairs: PairList, scored: Scored, sharp: Floats) -> dict[str, ArrayLike]:
    """Give what pairs of images are sliced by: the lower of both sides', and further columns.

    Args:
        pairs: that were scored.
        scored: with the norms of the images.
        sharp: sharpness of the images; shape (M,).
    """
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
) -> "Evaluated":
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
    answer: "Evaluated",
    scores: Floats,
    scorings: Sequence[Floats],
    given: LabelledPairs,
    wanted: Wanted,
    drawn: Values,
) -> "Evaluated":
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


@dataclass(frozen=True)
class ListedPair:
    """A pair by its place among the pairs, from 1, with its images where they are known."""

    pair: int
    mated: bool
    score: float
    left: str | None
    right: str | None

    def to_text(self) -> str:
        """Say it in a line."""
        kind = "mated" if self.mated else "non-mated"
        known = [visible(name) for name in (self.left, self.right) if name is not None]
        names = "".join(f"  {name}" for name in known)
        return f"{kind:<9}  {self.score:8.4f}  pair {self.pair}{names}"


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


@dataclass(frozen=True)
class Evaluated:
    """What labelled pairs tell about checkpoints, or about score files.

    Attributes:
        checkpoints: what was measured.
        results: of each.
        ensemble: of all together, where there are several checkpoints.
        comparison: paired difference of the EERs of the first two, where it was asked for.
        dev: `dev_accuracy_<loss>` of the first, where the data has dev images.
        switches: of the section `eval`, that are not at their defaults.
        at_fmr: the threshold for a wanted FMR, what follows being of the final scores.
        slices: errors by properties of the pairs.
        identities: those with the most errors.
        hardest: mated pairs that score lowest, then non-mated pairs that score highest.
        suspects: mated pairs that every checkpoint rejects, non-mated ones that all accept; as
            many of each as were asked for.
        suspect_counts: how many there are of each.
        det: where FMR and FNMR were written.
        ranking: what the data's competition would rank by.
    """

    checkpoints: Sequence[str]
    results: Sequence[Verification]
    ensemble: Verification | None = None
    comparison: PairedDifference | None = None
    dev: Mapping[str, float] = field(default_factory=dict)
    switches: Mapping[str, Any] = field(default_factory=dict)
    at_fmr: Threshold | None = None
    slices: Sequence[Slice] = ()
    identities: Sequence[IdentityErrors] = ()
    hardest: Sequence[ListedPair] = ()
    suspects: Sequence[ListedPair] = ()
    suspect_counts: tuple[int, int] = (0, 0)
    det: Path | None = None
    ranking: Ranking | None = None

    @property
    def final(self) -> Verification:
        """The ensemble's result, or the first one."""
        return self.ensemble or self.results[0]

    def to_json(self) -> Values:
        """Give the final result's fields, and each checkpoint's where there are several."""
        several = len(self.results) > 1
        more: Values = {
            "results": [result.to_json() for result in self.results] if several else [],
            "ranking": self.ranking and self.ranking.to_json(),
            "comparison": self.comparison and asdict(self.comparison),
            "at_fmr": self.at_fmr and self.at_fmr.to_json(),
            "det": self.det and str(self.det),
            "suspect_counts": list(self.suspect_counts) if self.suspects else [],
        }
        for name in ("slices", "identities", "hardest", "suspects"):
            more[name] = [asdict(each) for each in getattr(self, name)]
        return {
            **self.final.to_json(),
            **self.dev,
            "checkpoints": list(self.checkpoints),
            "switches": dict(self.switches),
            "transductive": bool(self.switches.get("transductive")),
            **{name: value for name, value in more.items() if value},
        }

    def to_text(self) -> str:
        """Say it in lines for people; rates in percent."""
        lines = [_line(name, r) for name, r in zip(self.checkpoints, self.results, strict=True)]
        if self.ensemble:
            joint = "their embeddings, joined" if self._by_embedding else "mean of their scores"
            lines.append(_line(joint, self.ensemble))
        lines += [*self._about_scores(), *_figures(self.final)]
        for name, share in self.dev.items():
            lines.append(f"  {name:<17} {share:.2%}")
        if self.ranking:
            lines.append(self.ranking.to_text())
        if self.comparison:
            c = self.comparison
            lines.append(
                f"  difference of EER {100 * c.difference:+.2f} points "
                f"(95 %: {100 * c.low:+.2f} to {100 * c.high:+.2f}), p = {c.p_value:.3f}"
            )
        return "\n".join([*lines, *self._depth()])

    @property
    def _by_embedding(self) -> bool:
        return self.switches.get("ensemble") == "embedding"

    def _about_scores(self) -> Iterator[str]:
        if self.switches:
            yield f"  scored with {assignments(self.switches)}"
        if self.switches.get("transductive"):
            yield "  transductive: these very images were the cohort; ask if that is allowed"

    def _depth(self) -> Iterator[str]:
        if self.at_fmr:
            yield f"  threshold at {self.at_fmr.name}  {self.at_fmr.value:.4f}"
            yield f"    {self.at_fmr.to_text()}"
        if self.det:
            yield f"  DET and ROC: {self.det}"
        if self.slices:
            yield "by property, FMR and FNMR at the threshold of all pairs:"
            yield from (f"  {visible(each.to_text())}" for each in self.slices)
        if self.identities:
            yield "identities with the most errors:"
            for each in self.identities:
                yield (
                    f"  {visible(each.identity)}: {each.false_matches} false matches and "
                    f"{each.false_non_matches} false non-matches in {each.pairs} pairs"
                )
        for title, listed in (
            ("hardest pairs:", self.hardest),
            (
                "suspect labels, contradicted by every one: {} mated and {} non-mated pairs, "
                "such as".format(*self.suspect_counts),
                self.suspects,
            ),
        ):
            if listed:
                yield title
                yield from (f"  {each.to_text()}" for each in listed)


def _figures(result: Verification) -> Iterator[str]:
    yield f"  threshold at EER  {result.threshold:.4f}"
    yield f"  AUC               {result.auc:.4f}"
    yield f"  pair accuracy     {result.accuracy:.2%} at its best threshold"
    for far, tar in result.tar_at_far.items():
        yield f"  TAR at FAR {far:<6g} {tar:.2%} (FAR is FMR, TAR is 1 - FNMR)"
    yield (
        f"  no TAR at a FAR below {result.far_resolution:.2g}: "
        f"{result.n_non_mated:,} non-mated pairs cannot show one"
    )
    if result.folds:
        folds = result.folds
        yield (
            f"  {folds['count']:.0f}-fold accuracy  {folds['accuracy']:.2%} "
            f"+- {folds['standard_error']:.2%}"
        )


def _line(name: str, result: Verification) -> str:
    return (
        f"{name}: EER {result.eer:.2%} (95 %: {result.eer_low:.2%} to {result.eer_high:.2%}) on "
        f"{result.n_mated:,} mated and {result.n_non_mated:,} non-mated pairs"
    )
