"""From finished runs to the pictures of a comparison."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from facever import checkpoint
from facever.compare.gradient import gradient_plane, margin_head
from facever.compare.grid import PARAMS, number
from facever.compare.probe import correlation, held_out
from facever.compare.results import Run
from facever.data_setup import OpenData
from facever.loss_setup import saved_loss
from facever.report import laboratory as draw
from facever.report.laboratory import Picture

Section = tuple[str, list[Picture]]
Mark = Literal["min", "max"]
Series = tuple[NDArray[np.float64], NDArray[np.float64]]

# Pictures shown, wrong guesses first.
SHOWN = 24


def make_sections(runs: Sequence[Run], data: OpenData) -> list[Section]:
    """Draw everything there is something to draw of, section by section."""
    first = [run for run in runs if run.seed == runs[0].seed]
    sections = [
        ("Curves", _curves(runs)),
        ("Sweeps", _sweeps(runs)),
        ("Embeddings", _embeddings(first, data)),
        ("Margins", _gradients(first)),
        ("Image quality", _quality(runs, first)),
        ("Predictions", _samples(first, data)),
    ]
    return [(title, pictures) for title, pictures in sections if pictures]


def _curves(runs: Sequence[Run]) -> list[Picture]:
    wanted: tuple[tuple[str, str, str, Mark], ...] = (
        ("loss", "Training loss, margin included.", "", "min"),
        ("test_loss", "Loss of held-out images, margin included.", "", "min"),
        ("train_accuracy", "Accuracy on training images without augmentation.", "%", "max"),
        ("test_accuracy", "Accuracy on held-out images.", "%", "max"),
        ("EER", "EER on pairs of held-out images.", "%", "min"),
        ("norm_quality_correlation", "Correlation of the norm with the image quality.", "r", "max"),
        (
            "probability_quality_correlation",
            "Correlation of the true identity's probability with the image quality.",
            "r",
            "max",
        ),
    )
    pictures = []
    for key, caption, unit, mark in wanted:
        series = _by_cell(runs, key)
        if series:
            name = f"curves-{key.replace('_', '-').lower()}"
            text = f"{caption} Lines are means over seeds, bands their range."
            words = key.replace("_", " ")
            label = f"{words}, {unit}" if unit else words
            pictures.append(draw.curves(name, text, series, label, mark))
    return pictures


def _by_cell(runs: Sequence[Run], key: str) -> dict[str, list[Series]]:
    """One figure of every run by cell; a cell with none keeps its place, and so its colour."""
    found: dict[str, list[Series]] = {run.cell.label: [] for run in runs}
    for run in runs:
        if len((drawn := _per_epoch(run, key))[0]):
            found[run.cell.label].append(drawn)
    return found if any(found.values()) else {}


def _per_epoch(run: Run, key: str) -> Series:
    """Means over the lines of each epoch; a validation's epoch counts completed ones."""
    values: dict[int, list[float]] = {}
    for line in run.lines:
        if isinstance(line.get(key), int | float):
            # A training line stands in the epoch that it belongs to, a validation after it.
            epoch = line["epoch"] + (1 if "lr" in line else 0)
            values.setdefault(epoch, []).append(line[key])
    scale = 100.0 if key.endswith("accuracy") else 1.0
    epochs = sorted(values)
    return (
        np.array(epochs, dtype=np.float64),
        np.array([scale * np.mean(values[epoch]) for epoch in epochs]),
    )


def _sweeps(runs: Sequence[Run]) -> list[Picture]:
    """Pictures for each set of one or two swept numbers, the losses that have them together."""
    groups: dict[tuple[str, ...], dict[str, dict[tuple[float, ...], list[Run]]]] = {}
    for run in runs:
        values = [number(value) for value in run.cell.swept.values()]
        if 1 <= len(values) <= 2 and all(value is not None for value in values):
            point = tuple(value for value in values if value is not None)
            by_loss = groups.setdefault(tuple(run.cell.swept), {})
            by_loss.setdefault(run.cell.loss, {}).setdefault(point, []).append(run)
    return [
        _sweep(keys, by_loss, *measure)
        for keys, by_loss in groups.items()
        for measure in (("EER", "EER, %", "min"), ("test_accuracy", "test accuracy, %", "max"))
    ]


def _sweep(
    keys: tuple[str, ...],
    by_loss: Mapping[str, Mapping[tuple[float, ...], Sequence[Run]]],
    measure: str,
    label: str,
    mark: Mark,
) -> Picture:
    names = [key.removeprefix(PARAMS) for key in keys]
    stem = "-".join(["sweep", *names, measure]).lower().replace("_", "-").replace(".", "-")
    return draw.sweep(
        stem,
        f"{label} by {' and '.join(names)}: means over seeds.",
        {
            loss: [(point, [run.figures[measure] for run in own]) for point, own in points.items()]
            for loss, points in by_loss.items()
        },
        names,
        label,
        mark,
    )


def _embeddings(first: Sequence[Run], data: OpenData) -> list[Picture]:
    return [
        draw.embedding_maps(
            {
                run.cell.label: (run.after.embeddings, run.after.labels, run.after.prototypes)
                for run in first
            },
            data.manifest.identities,
        ),
        draw.angle_histograms(
            {
                run.cell.label: (
                    (run.before.theta_y, run.before.theta_j.ravel()),
                    (run.after.theta_y, run.after.theta_j.ravel()),
                )
                for run in first
            }
        ),
    ]


def _gradients(first: Sequence[Run]) -> list[Picture]:
    planes = {}
    for run in first:
        path = run.folder / "last.pt"
        head = margin_head(saved_loss(checkpoint.load(path), str(path)))
        if head is not None and head.margin.reads_norms:
            planes[run.cell.label] = gradient_plane(head, run.after.norm)
    if not planes:
        return []
    panels = {label: (plane.angle, plane.norm, plane.scale) for label, plane in planes.items()}
    return [draw.gradient_planes(panels, next(iter(planes.values())).boundary)]


def _quality(runs: Sequence[Run], first: Sequence[Run]) -> list[Picture]:
    pictures = []
    known = {
        run.cell.label: (
            run.after.quality,
            run.after.norm,
            run.after.probability,
            correlation(run.after.norm, run.after.quality),
            correlation(run.after.probability, run.after.quality),
        )
        for run in first
        if np.isfinite(run.after.quality).any()
    }
    if known:
        pictures.append(draw.quality_scatter(known))
    changed = {
        run.cell.label: (run.after.augmented_norm, run.after.augmented)
        for run in first
        if 0 < run.after.augmented.mean() < 1
    }
    if changed:
        pictures.append(draw.augmented_share(changed))
    return pictures


def _samples(first: Sequence[Run], data: OpenData) -> list[Picture]:
    images, names = held_out(data), data.manifest.identities
    pictures = []
    for run in first:
        probe = run.after
        wrong = np.flatnonzero(probe.labels != probe.predicted)[: SHOWN // 2]
        right = np.flatnonzero(probe.labels == probe.predicted)[: SHOWN - len(wrong)]
        chosen = np.concatenate([wrong, right])
        pictures.append(
            draw.samples(
                images.gather(probe.indices[chosen]),
                [names[i] for i in probe.labels[chosen]],
                [names[i] for i in probe.predicted[chosen]],
                name=re.sub(r"[^\w.-]+", "-", f"samples-{run.cell.folder}"),
                caption=f"{run.cell.label}: images with their true identity and what they were "
                "taken for, wrong ones first, framed.",
            )
        )
    return pictures
