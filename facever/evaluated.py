"""What labelled pairs tell about checkpoints or score files, for people and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from facever.breakdown import IdentityErrors, Slice
from facever.data.tables import visible
from facever.metrics import PairedDifference, Verification
from facever.ranking import Ranking
from facever.scoring import assignments
from facever.threshold import Threshold


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

    def to_json(self) -> dict[str, Any]:
        """Give the final result's fields, and each checkpoint's where there are several."""
        several = len(self.results) > 1
        more: dict[str, Any] = {
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
