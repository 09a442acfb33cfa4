"""From finished runs to the rows of the table, and whether a difference is more than noise."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facever.compare.grid import Cell
from facever.compare.probe import Probe
from facever.metrics import paired_bootstrap
from facever.plainyaml import load_yaml
from facever.tracking import read_metrics

# Below this many seeds a test over seeds has no power; images are resampled instead.
ENOUGH_SEEDS = 3
REPEATS = 1000

BEFORE, AFTER = "probe-before.npz", "probe-after.npz"
MEASURES = ("train_accuracy", "test_accuracy", "EER", "train_loss", "test_loss", "seconds")
HEADER = (
    "loss", "train accuracy %", "test accuracy %", "gap", "EER %", "train loss", "test loss",
    "seconds", "accuracy against first", "p", "EER against first", "p",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Run:
    """One finished training of a cell.

    Attributes:
        cell: its row.
        seed: of everything random.
        folder: with its checkpoints and logs.
        before, after: what was seen of it before the first and after the last step.
        lines: of its metrics.jsonl.
        batch_size: images a step.
    """

    cell: Cell
    seed: int
    folder: Path
    before: Probe
    after: Probe
    lines: Sequence[Mapping[str, Any]]
    batch_size: int

    @property
    def figures(self) -> dict[str, float]:
        """The measures of the last epoch; shares in percent, EER in percent."""
        after, losses = self.after, [line["loss"] for line in self.lines if "lr" in line]
        return {
            "train_accuracy": 100 * after.train_accuracy,
            "test_accuracy": 100 * after.accuracy,
            "EER": 100 * after.eer,
            "train_loss": losses[-1] if losses else math.nan,
            "test_loss": after.test_loss,
            "seconds": _seconds(self.lines, self.batch_size),
        }


def read_run(cell: Cell, folder: Path) -> Run:
    """Read what a finished run left."""
    config = load_yaml(folder / "config.yaml")
    return Run(
        cell,
        config["engine"]["seed"],
        folder,
        before=Probe.load(folder / BEFORE),
        after=Probe.load(folder / AFTER),
        lines=read_metrics(folder),
        batch_size=config["optim"]["batch_size"],
    )


def _seconds(lines: Sequence[Mapping[str, Any]], batch_size: int) -> float:
    """Time in training steps, without validation and whatever lay between two sessions."""
    training = [line for line in lines if line.get("images_per_s")]
    if not training:
        return math.nan
    steps = np.diff([0, *(line["step"] for line in training)])
    rates = np.array([line["images_per_s"] for line in training])
    logged = float((steps * batch_size / rates).sum())
    # Steps after the last line took as long as those before.
    return logged * float(lines[-1]["step"] / training[-1]["step"])


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; 0 for one seed."""

    mean: float
    sd: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise one value a seed."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


@dataclass(frozen=True)
class Difference:
    """A row's measure minus the first row's, in points, and its two-sided p-value."""

    points: float
    p_value: float
    method: str


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    cell: Cell
    seeds: int
    figures: Mapping[str, Spread]
    accuracy: Difference | None
    eer: Difference | None

    @property
    def gap(self) -> float:
        """Train accuracy minus test accuracy, points."""
        return self.figures["train_accuracy"].mean - self.figures["test_accuracy"].mean

    def cells(self) -> tuple[str, ...]:
        """The line as text, by `HEADER`."""
        decimals = {"train_loss": 3, "test_loss": 3, "seconds": 0}
        shown = {key: _shown(self.figures[key], decimals.get(key, 2)) for key in MEASURES}
        return (
            self.cell.label, shown["train_accuracy"], shown["test_accuracy"], f"{self.gap:.2f}",
            shown["EER"], shown["train_loss"], shown["test_loss"], shown["seconds"],
            *_difference_cells(self.accuracy), *_difference_cells(self.eer),
        )  # fmt: skip


def make_rows(runs: Sequence[Run]) -> list[Row]:
    """Summarise the runs by cell, in order, each against the first cell."""
    by_cell: dict[str, list[Run]] = {}
    for run in runs:
        by_cell.setdefault(run.cell.label, []).append(run)
    first = next(iter(by_cell.values()))
    return [_row(group, None if group is first else first) for group in by_cell.values()]


def _row(group: Sequence[Run], first: Sequence[Run] | None) -> Row:
    values = [run.figures for run in group]
    figures = {key: Spread.of([each[key] for each in values]) for key in MEASURES}
    accuracy = eer = None
    if first is not None:
        accuracy = _difference(first, group, lambda probe: probe.accuracy, _accuracy_by_images)
        eer = _difference(first, group, lambda probe: probe.eer, _eer_by_images)
    return Row(group[0].cell, len(group), figures, accuracy, eer)


def _difference(
    first: Sequence[Run],
    other: Sequence[Run],
    measure: Callable[[Probe], float],
    by_images: Callable[[Sequence[Run], Sequence[Run]], float],
) -> Difference:
    """Compare two cells: paired over seeds where there are enough, else over images."""
    a, b = ([100 * measure(run.after) for run in group] for group in (first, other))
    points = statistics.fmean(b) - statistics.fmean(a)
    if len(a) == len(b) >= ENOUGH_SEEDS:
        return Difference(points, _paired_t(a, b), "t-test over seeds")
    return Difference(points, by_images(first, other), "bootstrap of images")


def _accuracy_by_images(first: Sequence[Run], other: Sequence[Run]) -> float:
    """P-value over resampled images, each right or wrong by the mean of its seeds."""
    old, new = (np.mean([run.after.correct for run in group], axis=0) for group in (first, other))
    change = new - old
    rng = np.random.default_rng(0)
    means = np.array(
        [change[rng.integers(len(change), size=len(change))].mean() for _ in range(REPEATS)]
    )
    side = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    return min(1.0, 2 * (int(side) + 1) / (REPEATS + 1))


def _eer_by_images(first: Sequence[Run], other: Sequence[Run]) -> float:
    """P-value over resampled images; several seeds are one ensemble, the mean of their scores."""
    old, new = (np.mean([run.after.scores for run in group], axis=0) for group in (first, other))
    probe = first[0].after
    test = paired_bootstrap(
        old, new, probe.mated, left=probe.left, right=probe.right, repeats=REPEATS
    )
    return test.p_value


def _paired_t(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p-value of a paired t-test; 1 where all differences are 0."""
    from scipy import stats

    if np.allclose(a, b, rtol=0, atol=1e-12):
        return 1.0
    p = float(stats.ttest_rel(b, a).pvalue)
    return 0.0 if math.isnan(p) else p


def _shown(spread: Spread, decimals: int) -> str:
    if math.isnan(spread.mean):
        return "-"
    text = f"{spread.mean:.{decimals}f}"
    return f"{text} ± {spread.sd:.{decimals}f}" if spread.sd else text


def _difference_cells(difference: Difference | None) -> tuple[str, str]:
    if difference is None:
        return "", ""
    return f"{difference.points:+.2f}", f"{difference.p_value:.3f}"
