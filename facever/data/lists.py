"""What a data set is: images, identities, splits and pairs, as plain records.

N images or pairs, M distinct images of a pair list. Paths are posix strings relative to
`root`; names and identities stay the strings they were.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

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
        columns: further columns of the file by name, as text; length N each.
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
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

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
        columns: Mapping[str, Sequence[str]] | None = None,
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
            columns={name: tuple(fields) for name, fields in (columns or {}).items()},
        )

    def __len__(self) -> int:
        return len(self.left)

    @property
    def labelled(self) -> bool:
        """Whether every pair says if it is mated."""
        return len(self) > 0 and bool((self.mated >= 0).all())

    @property
    def people(self) -> tuple[Sequence[str], Sequence[str]] | None:
        """Who is on the left and on the right of each pair; None where that is not known."""
        left = [self.images[i] for i in self.left]
        right = [self.images[i] for i in self.right]
        return pair_people(left, right, self.mated == 1, self.columns) if self.labelled else None

    @property
    def units(self) -> tuple[ArrayLike, ArrayLike]:
        """What a bootstrap draws, of each side: people where they are known, else images."""
        return self.people or (self.left, self.right)

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
            columns={name: [fields[i] for i in keep] for name, fields in self.columns.items()},
        )


IDENTITY_COLUMNS = ("left_identity", "right_identity")


def pair_people(
    left: Sequence[str],
    right: Sequence[str],
    mated: ArrayLike,
    columns: Mapping[str, tuple[str, ...]],
) -> tuple[Sequence[str], Sequence[str]] | None:
    """Tell who is on the left and on the right of each pair; None where that is not known.

    Known from the columns `left_identity` and `right_identity`, or from the folders of the images:
    they are people's where the images of each mated pair share one, those of no other pair do.

    Args:
        left: paths of the left images, `right` of the right ones; length N.
        mated: True where both images show the same person; shape (N,).
        columns: further columns of the pair file; length N each.
    """
    given = [columns[name] for name in IDENTITY_COLUMNS if name in columns]
    sides = given if len(given) == 2 else [_folders(left), _folders(right)]
    same = [a == b for a, b in zip(*sides, strict=True)]
    return (sides[0], sides[1]) if same == np.asarray(mated).tolist() and any(same) else None


def _folders(paths: Sequence[str]) -> list[str]:
    return [str(PurePosixPath(path).parent) for path in paths]


@dataclass(frozen=True, eq=False)
class OpenSet:
    """People who are known, and images that show one of them or nobody.

    Attributes:
        identities: of the known people, sorted as strings; labels index into them.
        known: images of them.
        dev: images that show one of them, or with label -1 nobody; None without their labels.
        test: images to tell, by file name, which is the order that ids count; labels are -1.
    """

    identities: tuple[str, ...]
    known: ImageList
    dev: ImageList | None
    test: ImageList | None


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
        open_set: known people and images of one of them or nobody, where the data has them.
        sample: the sample submission.
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
    open_set: OpenSet | None = None
    sample: Path | None = None
