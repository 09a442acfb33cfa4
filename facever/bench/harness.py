"""The one way to measure: two sides take turns in one run, and the figure is their ratio.

A machine whose speed drifts drifts for both sides, so that their ratio holds where seconds do
not. Each repeat gives a ratio; their median is the figure and the distance of their quartiles
its spread. A difference smaller than the spread is not called one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

from facever.errors import ConfigError

# Fewer repeats have no quartiles worth the name.
FEWEST = 3

# As many as the competition has, and the order of the large public sets.
IDENTITIES = (8631, 100_000)


@dataclass(frozen=True)
class Options:
    """What the benches are asked for.

    Args:
        repeats: times that each side is measured after the warm-up.
        identities: sizes C of the classifiers that `heads` measures.
        losses: those that `heads` measures; empty: all.
        assignments: `key=value` settings, for the data and the device.

    Raises:
        ConfigError: too few repeats or identities.
    """

    repeats: int = 5
    identities: tuple[int, ...] = IDENTITIES
    losses: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.repeats < FEWEST:
            raise ConfigError(
                f"--repeats: {self.repeats}; expected at least {FEWEST}, for a spread"
            )
        if wrong := [str(count) for count in self.identities if count < 2]:
            raise ConfigError(f"--identities: {', '.join(wrong)}; expected at least 2")


@dataclass(frozen=True)
class Timing:
    """How long a call takes, by the floor's time in the same run."""

    ratio: float
    """median over the repeats of subject / floor"""
    low: float
    """first quartile of the ratios"""
    high: float
    """third quartile"""
    seconds: float
    """median time of the subject"""
    floor_seconds: float

    @property
    def spread(self) -> float:
        """The distance of the quartiles."""
        return self.high - self.low

    def verdict(self, aim: float | None = None) -> str:
        """Say whether the ratio keeps below `aim`; without one, which side is faster.

        A ratio that lies within its own spread of the aim, or of 1, decides nothing.
        """
        gap = self.ratio - (1 if aim is None else aim)
        if abs(gap) <= self.spread:
            return "no difference" if aim is None else "too close to call"
        if aim is None:
            return "slower" if gap > 0 else "faster"
        return "missed" if gap > 0 else "met"


def _nothing() -> None:
    """Wait for nothing."""


def compare(
    subject: Callable[[], object],
    floor: Callable[[], object],
    *,
    repeats: int,
    before: Callable[[], object] = _nothing,
    after: Callable[[], object] = _nothing,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time two sides in turn, `repeats` times after a first time that warms up.

    The first repeat pays for fresh memory, lazy imports and the choice of kernels.

    Args:
        subject: what is measured.
        floor: what it is measured by.
        repeats: pairs of measurements.
        before: called before each side, outside its time.
        after: called after each side, within its time: waits for an asynchronous device.
        clock: gives seconds.
    """

    def seconds(side: Callable[[], object]) -> float:
        before()
        start = clock()
        side()
        after()
        return clock() - start

    pairs = [(seconds(floor), seconds(subject)) for _ in range(repeats + 1)][1:]
    ratios = [subject_time / floor_time for floor_time, subject_time in pairs]
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    floors, subjects = zip(*pairs, strict=True)
    return Timing(middle, low, high, median(subjects), median(floors))
