"""What a data set is: images, identities, splits and pairs, as plain records.

N images or pairs, M distinct images of a pair list. Paths are posix strings relative to
`root`; names and identities stay the strings they were.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int64 = NDArray[np.int64]
Int8 = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class ImageList:
    """Images with labels: `paths` (N) below `root`, `labels` (N,) into the identities.

    A label of -1 stands for an identity that is unknown. Paths are absolute only where the
    user gave a CSV manifest of absolute paths.
    """

    root: Path
    paths: tuple[str, ...]
    labels: Int64

    def __len__(self) -> int:
        return len(self.paths)

    def without(self, indices: Iterable[int]) -> "ImageList":
        """Leave out the images at these positions."""
        keep = np.ones(len(self), dtype=bool)
        keep[list(indices)] = False
        paths = tuple(self.paths[i] for i in np.flatnonzero(keep))
        return ImageList(self.root, paths, self.labels[keep])


@dataclass(frozen=True, eq=False)
class PairList:
    """Pairs to compare: `left` and `right` (N,) index into `images` (M), the distinct paths.

    Attributes:
        root: the folder that `images` are relative to.
        images: distinct paths, in order of appearance.
        left, right: positions in `images`; shape (N,).
        mated: 1 same person, 0 two people, -1 unknown; shape (N,).
        fold: cross-validation fold of the protocol, -1 where it has none; shape (N,).
        rows: both names as written in the file.
        source: the file, or None for pairs that were made here.
        sha256: of the file, or of the rows.
    """

    root: Path
    images: tuple[str, ...]
    left: Int64
    right: Int64
    mated: Int8
    fold: Int64
    rows: tuple[tuple[str, str], ...]
    source: Path | None
    sha256: str

    @classmethod
    def build(
        cls,
        root: Path,
        paths: Sequence[tuple[str, str]],
        mated: ArrayLike,
        *,
        fold: ArrayLike | None = None,
        rows: Sequence[tuple[str, str]] | None = None,
        source: Path | None = None,
        sha256: str | None = None,
    ) -> "PairList":
        """Index pairs of paths, so that each distinct image is known once."""
        index: dict[str, int] = {}
        sides = np.array(
            [[index.setdefault(path, len(index)) for path in pair] for pair in paths],
            dtype=np.int64,
        ).reshape(-1, 2)
        written = tuple(paths if rows is None else rows)
        digest = sha256 or hashlib.sha256(repr(written).encode()).hexdigest()
        folds = np.full(len(sides), -1) if fold is None else fold
        return cls(
            root=root,
            images=tuple(index),
            left=np.ascontiguousarray(sides[:, 0]),
            right=np.ascontiguousarray(sides[:, 1]),
            mated=np.asarray(mated, dtype=np.int8).reshape(-1),
            fold=np.asarray(folds, dtype=np.int64).reshape(-1),
            rows=written,
            source=source,
            sha256=digest,
        )

    def __len__(self) -> int:
        return len(self.left)

    @property
    def labelled(self) -> bool:
        """Whether every pair says if it is mated."""
        return len(self) > 0 and bool((self.mated >= 0).all())

    def repeated(self) -> tuple[int, int]:
        """Count the pairs seen before in either order, and those that then said otherwise."""
        seen: dict[tuple[int, int], int] = {}
        again = contradicting = 0
        sides = np.sort(np.stack([self.left, self.right], axis=1), axis=1).tolist()
        for (a, b), mated in zip(sides, self.mated.tolist(), strict=True):
            first = seen.setdefault((a, b), mated)
            contradicting += first != mated
            again += 1
        return again - len(seen), contradicting

    def without(self, images: Iterable[int]) -> "PairList":
        """Leave out these images, by position, and the pairs that show them."""
        gone = np.zeros(len(self.images), dtype=bool)
        gone[list(images)] = True
        keep = np.flatnonzero(~(gone[self.left] | gone[self.right]))
        return PairList.build(
            self.root,
            [(self.images[self.left[i]], self.images[self.right[i]]) for i in keep],
            self.mated[keep],
            fold=self.fold[keep],
            rows=[self.rows[i] for i in keep],
            source=self.source,
            sha256=self.sha256,
        )


@dataclass(frozen=True, eq=False)
class Manifest:
    """A data set as it was found.

    Attributes:
        root: the folder in which the layout was found.
        layout: its name, as `data.layout` takes it.
        identities: of the training images, sorted as strings; labels index into them.
        train: training images, by (identity, file name).
        dev: held-out images of known identities.
        test: images of known identities, possibly without labels.
        val_pairs: labelled pairs, by which models are chosen.
        test_pairs: pairs to submit.
        notes: facts worth a line for the user.
    """

    root: Path
    layout: str
    identities: tuple[str, ...]
    train: ImageList
    dev: ImageList | None
    test: ImageList | None
    val_pairs: PairList | None
    test_pairs: PairList | None
    notes: tuple[str, ...]
