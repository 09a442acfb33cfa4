"""Pictures of several losses side by side, a panel for each; at least one loss is given."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facever.report.canvas import INK, LINE, MATED, NON_MATED, Picture, cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
Floats = NDArray[np.float64]

# Ten colours that colour-blind readers tell apart: Petroff 2021 (arXiv:2107.02270), table 1.
CLASS_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
POINTS = 3000  # of one scatter: more hide each other
PAGE_POINTS = 24_000  # of all scatters of a picture: more make the page heavy
PANEL = (2.6, 2.4)  # inches
WIDEST = 4  # panels in a row
SAMPLES = 24


def embedding_maps(
    panels: Mapping[str, tuple[Array, Array, Array | None]],
    names: Sequence[str],
    *,
    name: str = "embedding-maps",
    caption: str = "Embeddings of held-out images by class. In two dimensions they are shown as "
    "they are, with a ray from the origin to each prototype; in more, unit rows are projected "
    "onto their two principal components, with a cross for each prototype.",
) -> Picture:
    """Embeddings as points coloured by class, a panel for each loss.

    The ten classes with the most images over all panels are shown.

    Args:
        panels: of each loss raw embeddings (N, D), labels (N,) as indices into `names`, those
            below 0 unknown, and prototypes (C, D), or (C, K, D) where a class has several, or
            None; D >= 2.
        names: the classes'.
        name: stem of the picture's file.
        caption: the picture's.
    """
    shown = _largest_classes((y for _, y, _ in panels.values()), len(names))
    colours = dict(zip(shown, CLASS_COLOURS, strict=False))
    most = _most_points(len(panels))
    maps = {label: _flat(*panel, shown, most) for label, panel in panels.items()}

    def draw(figure: "Figure") -> None:
        for axes, (label, (points, y, prototypes, share)) in zip(
            _grid(figure, len(maps)), maps.items(), strict=True
        ):
            hues = [colours[k] for k in y.tolist()]
            axes.scatter(points[:, 0], points[:, 1], s=5, c=hues, linewidths=0, rasterized=True)
            _title(axes, label if share is None else f"{label}\n{share:.0%} of variance")
            axes.set_aspect("equal", adjustable="datalim" if share is not None else "box")
            if share is None:
                _rays(axes, points, prototypes, names)
            else:
                for k, places in prototypes.items():
                    x, y = places.T
                    axes.scatter(x, y, s=36, c=colours[k], marker="X", edgecolors=INK)
        dots = [_dot(colour) for colour in colours.values()]
        _shared_legend(figure, dots, [cut(names[k], 24) for k in colours])

    return Picture(name, caption, draw, _size(len(panels), panel=(2.6, 2.7), extra=0.5))


def angle_histograms(
    panels: Mapping[str, tuple[tuple[Array, Array], tuple[Array, Array]]],
    *,
    name: str = "angles",
    caption: str = "Angles of embeddings to their own prototype and to the others', before "
    "training (dashed) and after it (filled). The further apart the two filled shapes, the better "
    "the classes are told apart; the narrower the own one, the more compact they are.",
) -> Picture:
    """Densities of theta_y and theta_j in degrees, before and after, a panel for each loss.

    Args:
        panels: of each loss (theta_y (N,), theta_j (M,)) before and after, in radians.
        name: stem of the picture's file.
        caption: the picture's.
    """
    degrees = {
        label: [[np.rad2deg(angles) for angles in pair] for pair in panel]
        for label, panel in panels.items()
    }
    every = [angles for panel in degrees.values() for pair in panel for angles in pair]
    low, high = min(a.min() for a in every), max(a.max() for a in every)
    bins = np.linspace(low, max(high, low + 1), 61).tolist()

    def draw(figure: "Figure") -> None:
        grid = _grid(figure, len(degrees))
        for axes, (label, (before, after)) in zip(grid, degrees.items(), strict=True):
            for old, new, what, colour in zip(
                before, after, ("own", "others'"), (MATED, NON_MATED), strict=True
            ):
                for angles, when, style in (
                    (new, "after", {"histtype": "stepfilled", "alpha": 0.6}),
                    (old, "before", {"histtype": "step", "linestyle": "--"}),
                ):
                    line = f"{what}, {when}"
                    axes.hist(angles, bins, density=True, color=colour, label=line, **style)
            _title(axes, label)
            axes.set(xlim=(bins[0], bins[-1]), yticks=[])
        figure.supxlabel("angle to a prototype, degrees", fontsize=9)
        figure.supylabel("density", fontsize=9)
        _shared_legend(figure, *grid[0].get_legend_handles_labels())

    return Picture(name, caption, draw, _size(len(panels), extra=0.6))


def gradient_planes(
    panels: Mapping[str, tuple[Array, Array, Array]],
    boundary: float,
    *,
    name: str = "gradient-planes",
    caption: str = "How strongly a sample pulls on its prototype, by its angle to it and by its "
    "norm, as in figure 3 of the AdaFace paper. The dashed line is the decision boundary, where "
    "cos theta_y = cos theta_j: to its right an image is taken for someone else.",
) -> Picture:
    """Gradient scaling over the (angle, norm) plane, a panel for each loss, one colour scale.

    Args:
        panels: of each loss angles (A,) to the own prototype in radians, norms (R,), both
            ascending and evenly spaced, and the scaling |g| (R, A), not negative.
        boundary: the angle in radians at which cos theta_y = cos theta_j.
        name: stem of the picture's file.
        caption: the picture's.
    """
    highest = max(float(scale.max()) for _, _, scale in panels.values())

    def draw(figure: "Figure") -> None:
        grid = _grid(figure, len(panels))
        for axes, (label, (angle, norm, scale)) in zip(grid, panels.items(), strict=True):
            colours = axes.pcolormesh(
                np.rad2deg(angle), norm, scale, vmin=0, vmax=highest, rasterized=True
            )
            axes.axvline(math.degrees(boundary), color="white", linestyle="--", linewidth=1)
            _title(axes, label)
        figure.supxlabel("angle to the own prototype, degrees", fontsize=9)
        figure.supylabel("norm of the embedding", fontsize=9)
        figure.colorbar(colours, ax=grid, label="gradient scaling |g|", fraction=0.05)

    return Picture(name, caption, draw, _size(len(panels), extra=0.5))


def quality_scatter(
    panels: Mapping[str, tuple[Array, Array, Array, float, float]],
    *,
    name: str = "quality",
    caption: str = "Norm of the embedding and probability of the true class against the quality "
    "of the image, with their correlation r. AdaFace takes the norm for the quality: the higher "
    "the r of the norm, the better it may.",
) -> Picture:
    """Norm and probability against the quality of the image, two panels for each loss.

    Args:
        panels: of each loss quality (N,), norm (N,), probability (N,), and the correlation of
            the norm and of the probability with the quality.
        name: stem of the picture's file.
        caption: the picture's.
    """
    most = _most_points(2 * len(panels))
    halves = [
        (f"{label}: r = {r:.2f}", _thinned(quality, most), _thinned(values, most), what)
        for label, (quality, norm, probability, *rs) in panels.items()
        for values, r, what in zip((norm, probability), rs, ("norm", "probability"), strict=True)
    ]
    columns = min(WIDEST, len(halves))

    def draw(figure: "Figure") -> None:
        grid = _grid(figure, len(halves), columns)
        for axes, (title, quality, values, what) in zip(grid, halves, strict=True):
            axes.scatter(quality, values, s=5, c=LINE, alpha=0.4, linewidths=0, rasterized=True)
            _title(axes, title)
            axes.set_ylabel(what)
        figure.supxlabel("quality of the image", fontsize=9)

    return Picture(name, caption, draw, _size(len(halves), columns, extra=0.2))


def augmented_share(
    panels: Mapping[str, tuple[Array, Array]],
    *,
    name: str = "augmented-share",
    caption: str = "Share of images that augmentation had damaged, by decile of the norm, and "
    "over all images (dashed). Where the norm tells quality, damaged images gather on the left.",
) -> Picture:
    """Share of augmented images in each tenth of the norms, a panel for each loss.

    Args:
        panels: of each loss norms (N,) and whether the image was augmented (N,), as bool; N > 0.
        name: stem of the picture's file.
        caption: the picture's.
    """
    shares = {label: _decile_shares(*panel) for label, panel in panels.items()}
    top = 1.05 * max(100 * share.max() for share, _ in shares.values())

    def draw(figure: "Figure") -> None:
        grid = _grid(figure, len(shares))
        for axes, (label, (share, overall)) in zip(grid, shares.items(), strict=True):
            places = np.arange(1, share.size + 1)
            axes.bar(places, 100 * share, color=LINE)
            axes.axhline(100 * overall, color=INK, linestyle="--", linewidth=1)
            _title(axes, f"{label}\noverall {overall:.0%}")
            axes.set(ylim=(0, max(top, 1)), xticks=places)
        figure.supxlabel("decile of the norm, smallest first", fontsize=9)
        figure.supylabel("augmented images, %", fontsize=9)

    return Picture(name, caption, draw, _size(len(panels), extra=0.3))


def samples(
    images: Array,
    true: Sequence[str],
    predicted: Sequence[str],
    *,
    name: str = "samples",
    caption: str = "Images with their true class and what they were taken for: wrong ones first, "
    "framed.",
) -> Picture:
    """At most 24 images under "true -> predicted", wrong ones first.

    Args:
        images: (N, H, W, 3), uint8; N > 0.
        true: the images' classes.
        predicted: what they were taken for.
        name: stem of the picture's file.
        caption: the picture's.
    """
    right = [truth == guess for truth, guess in zip(true, predicted, strict=True)]
    chosen = sorted(range(len(right)), key=right.__getitem__)[:SAMPLES]
    columns = min(6, len(chosen))

    def draw(figure: "Figure") -> None:
        for axes, i in zip(_grid(figure, len(chosen), columns), chosen, strict=True):
            colour, frame = (MATED, 0) if right[i] else (NON_MATED, 3)
            axes.imshow(images[i])
            axes.set(xticks=[], yticks=[])
            for side in axes.spines.values():
                side.set(visible=True, color=colour, linewidth=frame)
            title = f"{cut(true[i], 11)} → {cut(predicted[i], 11)}"
            axes.set_title(title, fontsize=7)

    size = _size(len(chosen), columns, panel=(1.3, 1.5))
    return Picture(name, caption, draw, size)


def _largest_classes(labels: Iterable[Array], classes: int) -> list[int]:
    """The classes with the most images, as many as there are colours, in their own order."""
    counts = sum(
        (np.bincount(y[y >= 0], minlength=classes) for y in labels), np.zeros(classes, dtype=int)
    )
    largest = np.argsort(-counts, kind="stable")[: len(CLASS_COLOURS)]
    return sorted(k for k in largest.tolist() if counts[k])


def _flat(
    z: Array, y: Array, prototypes: Array | None, shown: Sequence[int], most: int
) -> tuple[Floats, Array, dict[int, Floats], float | None]:
    """Points (N, 2), their labels, prototypes of each class (K, 2), explained share of variance.

    Two dimensions stay as they are, and their share is None.
    """
    kept = np.isin(y, shown)
    points, labels = z[kept].astype(np.float64), y[kept]
    rows = {} if prototypes is None else {k: _unit(np.atleast_2d(prototypes[k])) for k in shown}
    if z.shape[1] == 2:
        return _thinned(points, most), _thinned(labels, most), rows, None
    from sklearn.decomposition import PCA

    points = _unit(points)
    with np.errstate(invalid="ignore"):  # a collapsed encoder has no variance to explain
        pca = PCA(2, svd_solver="full").fit(points)
    share = float(np.nan_to_num(pca.explained_variance_ratio_).sum())
    places = {k: pca.transform(row) for k, row in rows.items()}
    return _thinned(pca.transform(points), most), _thinned(labels, most), places, share


def _unit(rows: Array) -> Floats:
    rows = rows.astype(np.float64)
    floor = np.finfo(np.float64).tiny
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), floor))


def _rays(
    axes: "Axes", points: Floats, directions: Mapping[int, Floats], names: Sequence[str]
) -> None:
    """A ray from the origin to beyond the furthest point for each prototype, with its name."""
    reach = float(np.linalg.norm(points, axis=1).max(initial=0)) or 1.0
    for k, units in directions.items():
        for x, y in (units * reach).tolist():
            axes.plot([0, x], [0, y], color=INK, linewidth=0.7)
            axes.text(1.1 * x, 1.1 * y, cut(names[k], 10), ha="center", va="center", fontsize=7)
    axes.set(xlim=(-1.2 * reach, 1.2 * reach), ylim=(-1.2 * reach, 1.2 * reach))


def _decile_shares(norm: Array, augmented: Array) -> tuple[Floats, float]:
    """Share of augmented images in each tenth by norm, ascending, and over all."""
    parts = np.array_split(augmented[np.argsort(norm, kind="stable")], min(10, norm.size))
    return np.array([part.mean() for part in parts]), float(augmented.mean())


def _most_points(scatters: int) -> int:
    """Points of each of so many scatters in one picture."""
    return min(POINTS, PAGE_POINTS // scatters)


def _thinned(values: Array, most: int) -> Array:
    """Evenly spaced rows, at most so many; the same rows of arrays of one length."""
    if len(values) <= most:
        return values
    kept = np.linspace(0, len(values) - 1, most).astype(int)
    return np.asarray(values[kept])


def _columns(count: int) -> int:
    """Panels in a row, so that the rows are as even as they can be."""
    return math.ceil(count / math.ceil(count / WIDEST))


def _size(
    count: int,
    columns: int | None = None,
    *,
    panel: tuple[float, float] = PANEL,
    extra: float = 0.0,
) -> tuple[float, float]:
    """Inches of so many panels; `extra` is for what stands around them."""
    columns = columns or _columns(count)
    rows = math.ceil(count / columns)
    return max(5.2, columns * panel[0]), rows * panel[1] + extra


def _grid(figure: "Figure", count: int, columns: int | None = None) -> "list[Axes]":
    columns = columns or _columns(count)
    rows = math.ceil(count / columns)
    return [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def _title(axes: "Axes", text: str) -> None:
    lines = (textwrap.fill(line, 34) for line in text.splitlines())
    axes.set_title("\n".join(lines), fontsize=9)


def _dot(colour: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="", marker="o", color=colour)


def _shared_legend(figure: "Figure", handles: Sequence[Any], labels: Sequence[str]) -> None:
    """One legend for all panels, above them, in as many columns as its labels leave room for."""
    points = 30 + 4.3 * max(map(len, labels), default=0)
    columns = max(1, min(5, int(72 * figure.get_figwidth() / points)))
    figure.legend(
        handles, labels, loc="outside upper center", ncols=columns, fontsize=7, frameon=False
    )
