"""Known people told from each other and from strangers, with a threshold chosen on labelled images.

Letters: N images, D dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facever.competition import NOBODY, PROFILES
from facever.data.datasets import ImageDataset
from facever.data.lists import ImageList, Manifest, OpenSet
from facever.errors import DataError
from facever.fusion import joined, member_weights, unit_rows
from facever.identify import Candidate, Gallery, make_gallery
from facever.naming import Named
from facever.ranking import Figure, accuracy_figure, nobody_threshold
from facever.scoring import Opened
from facever.tracking import progress
from facever.validate import scorer

Values = dict[str, Any]


@dataclass(frozen=True, eq=False)
class People:
    """Known people, and how well they are told from each other and from strangers.

    Attributes:
        opened: the checkpoints, with their data.
        gallery: the known people's images.
        figure: accuracy on the labelled images.
        basis: which those are.
        threshold: score of the closest known person below which it is nobody.
    """

    opened: Opened
    gallery: Gallery
    figure: Figure
    basis: str
    threshold: float

    def name_test(self) -> Named:
        """Tell who is on the images to submit.

        Raises:
            DataError: there are none.
        """
        open_set = open_set_of(self.opened.manifest)
        if open_set.test is None:
            raise DataError(f"{open_set.known.root}: no images in unknown_test/ to tell")
        names = _decided(_closest(self.gallery, self.opened, open_set.test), self.threshold)
        return Named(open_set.test.paths, names, possible_people(open_set))

    def to_json(self) -> Values:
        """Give what a side-car says of them."""
        return {
            "identification": self.figure.to_json(),
            "basis": self.basis,
            "threshold": self.threshold,
        }


def tell_people(opened: Opened) -> People:
    """Tell known people from strangers, by a threshold chosen on the labelled images.

    The score of a person is that of their closest image; of several checkpoints the mean.

    Raises:
        DataError: there are no known people, or no labelled images of them.
    """
    open_set = open_set_of(opened.manifest)
    known, dev = open_set.known, open_set.dev
    assert dev is not None
    below = PurePosixPath(known.paths[0]).parents[1]
    gallery = make_gallery(
        [PurePosixPath(path).relative_to(below).as_posix() for path in known.paths],
        _directions(opened, known),
    )
    closest = _closest(gallery, opened, dev)
    truth = [open_set.identities[label] if label >= 0 else NOBODY for label in dev.labels.tolist()]
    threshold = nobody_threshold(
        [candidate.score for candidate in closest],
        [candidate.identity == who for candidate, who in zip(closest, truth, strict=True)],
        [who == NOBODY for who in truth],
    )
    answers = _decided(closest, threshold)
    figure = accuracy_figure(
        np.array([answer == who for answer, who in zip(answers, truth, strict=True)]),
        dev.labels,
        repeats=opened.config.eval.bootstrap,
        seed=opened.config.engine.seed,
    )
    basis = f"on {len(dev):,} labelled images, by which its threshold was chosen too"
    return People(opened, gallery, figure, basis, threshold)


def open_set_of(manifest: Manifest | None) -> OpenSet:
    """Known people, and labelled images of them and of strangers."""
    if manifest is None or manifest.open_set is None:
        where = "--pairs" if manifest is None else str(manifest.root)
        raise DataError(
            f"{where}: nobody is known: no folders known/<identity>/\n"
            f"  expected the data of {PROFILES['F22'].title}"
        )
    if manifest.open_set.dev is None:
        raise DataError(
            f"{manifest.root}: no labels of unknown_dev/ to choose a threshold by\n"
            "  expected verification_dev.csv"
        )
    return manifest.open_set


def possible_people(open_set: OpenSet) -> frozenset[str]:
    """Names that may be submitted."""
    return frozenset((*open_set.identities, NOBODY))


def _decided(closest: Sequence[Candidate], threshold: float) -> list[str]:
    return [c.identity if c.score >= threshold else NOBODY for c in closest]


def _closest(gallery: Gallery, opened: Opened, images: ImageList) -> list[Candidate]:
    return [found[0] for found in gallery.search(_directions(opened, images), top=1)]


def _directions(opened: Opened, images: ImageList) -> NDArray[np.float32]:
    """Embeddings of all members joined, whose products are mean cosines; unit rows, (N, D)."""
    tables = []
    for path, payload in zip(opened.checkpoints, opened.payloads, strict=True):
        encoder, embed = scorer(opened.config, path, payload)
        shown = open_once(opened.manifest, images, encoder.transform.image_size)
        with progress("embedding") as report:
            table = embed(encoder, shown, len(images), names=images.paths, report=report)
        tables.append(unit_rows(table, images.paths))
    weights = member_weights(len(tables), opened.config.eval.weights)
    return joined(tables, weights.tolist()).astype(np.float32)


def open_once(manifest: Manifest | None, images: ImageList, size: int) -> ImageDataset:
    """Open images that are looked at once, and therefore are not packed."""
    assert manifest is not None
    return ImageDataset(replace(manifest, test=images), split="test", image_size=size)
