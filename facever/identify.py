"""Is it the same person? Who of a gallery is it? One's own photographs, with their threshold.

Letters: N images of I identities in the gallery, P probes, D embedding dimension.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from facever.align import Detector
from facever.embed import Embedder, images_below, load_encoder
from facever.errors import DataError
from facever.threshold import Threshold, choose_threshold
from facever.tracking import progress

By = Literal["best", "mean"]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Scores that are held at once: 160 probes in a gallery of 100,000 images.
SCORES_AT_ONCE = 2**24

# What counts the images of a person in `Anna_Smith_0002.jpg` and `Anna (2).jpg`.
_COUNTER = re.compile(r"(?<=[^ _-])[ _-]+\(?\d+\)?$")


@dataclass(frozen=True)
class Candidate:
    """An identity of the gallery, its score, and the image of it that is closest."""

    identity: str
    score: float
    image: str


@dataclass(frozen=True, eq=False)
class Gallery:
    """Images of known identities.

    Attributes:
        identities: sorted; length I.
        starts: row of each identity's first image, and N; shape (I + 1,).
        paths: relative to the gallery, by identity; length N.
        embeddings: of unit length; shape (N, D).
    """

    identities: Sequence[str]
    starts: Ints
    paths: Sequence[str]
    embeddings: Floats

    def search(self, probes: Floats, *, top: int = 5, by: By = "best") -> list[list[Candidate]]:
        """Find the closest identities for each probe, the closest first.

        Args:
            probes: of unit length; shape (P, D).
            top: how many, or all where there are fewer.
            by: whether the score of an identity is that of its best image, which is what a
                threshold measured on pairs of images holds for, or the mean over its images.
        """
        found = []
        block = max(1, SCORES_AT_ONCE // len(self.paths))
        for start in range(0, len(probes), block):
            scores = np.clip(probes[start : start + block] @ self.embeddings.T, -1, 1)
            found += [self._closest(row, top, by) for row in scores]
        return found

    def _closest(self, scores: Floats, top: int, by: By) -> list[Candidate]:
        """Choose among the scores (N,) of one probe."""
        if by == "best":
            of_identity = np.maximum.reduceat(scores, self.starts[:-1])
        else:
            of_identity = np.add.reduceat(scores, self.starts[:-1]) / np.diff(self.starts)
        count = min(top, len(of_identity))
        chosen = np.argpartition(-of_identity, count - 1)[:count]
        chosen = chosen[np.lexsort((chosen, -of_identity[chosen]))]
        return [
            Candidate(self.identities[i], float(of_identity[i]), self._closest_image(scores, i))
            for i in chosen
        ]

    def _closest_image(self, scores: Floats, identity: int) -> str:
        start, end = self.starts[identity : identity + 2].tolist()
        nearest: int = start + int(np.argmax(scores[start:end]))
        return self.paths[nearest]


def make_gallery(paths: Sequence[str], embeddings: Floats) -> Gallery:
    """Arrange embedded images by the identities that their names tell.

    Args:
        paths: relative to the gallery, with slashes; length N >= 1.
        embeddings: of unit length; shape (N, D).
    """
    names = np.array([identity_of(path) for path in paths])
    order = np.argsort(names, kind="stable")
    identities, firsts = np.unique(names[order], return_index=True)
    starts = np.append(firsts, len(names))
    if (order[1:] > order[:-1]).all():
        # Copying a large gallery would double its memory.
        return Gallery(identities.tolist(), starts, paths, embeddings)
    return Gallery(identities.tolist(), starts, [paths[i] for i in order], embeddings[order])


def identity_of(path: str) -> str:
    """Tell the person from a path in a gallery: the first folder, or the file's name.

    Of a file in no folder, a number at the end that blanks, `_` or `-` set apart counts the
    person's images: `Anna_2.jpg` and `Anna (3).png` are Anna, `anna2.jpg` is somebody else.
    """
    parts = PurePosixPath(path).parts
    return parts[0] if len(parts) > 1 else _COUNTER.sub("", PurePosixPath(path).stem)


def load_gallery(source: Path, embedder: Embedder, detector: Detector | None = None) -> Gallery:
    """Embed a folder of images, or read what `facever embed` wrote about one.

    Raises:
        DataError: it is neither, holds no image or a damaged one, or another checkpoint's
            embeddings.
    """
    if not source.is_dir():
        return make_gallery(*_read_npz(source, embedder))
    paths = images_below(source)
    names = [path.relative_to(source).as_posix() for path in paths]
    return make_gallery(names, _embed(embedder, paths, detector))


def _embed(embedder: Embedder, paths: Sequence[Path], detector: Detector | None) -> Floats:
    """Embed images as the run did for which the checkpoint's threshold holds; unit (N, D)."""
    with progress("embedding") as report:
        return embedder.embed_with_norms(
            paths, flip=embedder.flip, detector=detector, report=report
        )[0]


def _read_npz(file: Path, embedder: Embedder) -> tuple[list[str], Floats]:
    try:
        with np.load(file, allow_pickle=False) as found:
            paths, table = found["paths"], found["embeddings"]
            digest = str(found["checkpoint"]) if "checkpoint" in found else embedder.digest
    # On what is no .npz, or a damaged one, zipfile and NumPy raise nearly anything.
    except Exception as error:
        raise DataError(
            f"{file}: no gallery: {getattr(error, 'strerror', None) or error}\n"
            "  expected a folder of images, or the .npz that `facever embed DIR -o FILE` wrote"
        ) from error
    if digest != embedder.digest:
        raise DataError(
            f"{file}: embeddings by the checkpoint {digest[:12]}; expected {embedder.digest[:12]}, "
            "which the probe is embedded with\n  embed the folder again, or give that one as --from"
        )
    return paths.tolist(), _unit(file, paths, table, embedder.encoder.embedding_dim)


def _unit(file: Path, paths: NDArray[Any], table: NDArray[Any], dim: int) -> Floats:
    """Check the table (N, D) against its paths (N,), and give its rows unit length."""
    if (
        paths.ndim != 1
        or paths.dtype.kind != "U"
        or table.dtype.kind != "f"
        or not table.size
        or table.shape != (*paths.shape, dim)
    ):
        raise DataError(
            f"{file}: embeddings of shape {table.shape} and {table.dtype}, paths of shape "
            f"{paths.shape} and {paths.dtype}\n  expected (N, {dim}) numbers and (N,) names"
        )
    norms = np.linalg.norm(table, axis=1, keepdims=True)
    wrong = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if wrong.size:
        raise DataError(
            f"{file}: the embedding of {paths[wrong[0]]} is zero or not finite\n"
            "  embed the folder again; is the checkpoint of a run that failed?"
        )
    unit: Floats = (table / norms).astype(np.float32, copy=False)
    return unit


@dataclass(frozen=True)
class Verified:
    """Whether two images show the same person; `match` is None without a threshold."""

    score: float
    threshold: Threshold | None
    checkpoint: Path

    @property
    def match(self) -> bool | None:
        """The decision."""
        return _decide(self.score, self.threshold)

    def to_json(self) -> dict[str, Any]:
        """Give everything as primitives."""
        return {
            "score": self.score,
            "match": self.match,
            **_basis(self.threshold),
            "checkpoint": str(self.checkpoint),
        }

    def to_text(self) -> str:
        """Say it in two lines."""
        decision = {True: "match", False: "no match", None: "no decision"}[self.match]
        return f"{decision}: score {self.score:.4f}, {_rests(self.threshold)}"


def verify(
    left: Path,
    right: Path,
    checkpoint: Path,
    *,
    fmr: float | None = None,
    detector: Detector | None = None,
) -> Verified:
    """Tell whether two face images show the same person.

    Args:
        left, right: image files, aligned unless there is a detector.
        checkpoint: whose encoder and threshold are used.
        fmr: as `choose_threshold` has it.
        detector: finds the faces, which are then aligned.

    Raises:
        FaceverError: as `load_encoder`, `choose_threshold` and `Embedder.embed_with_norms`.
    """
    embedder = load_encoder(checkpoint)
    threshold = choose_threshold(checkpoint, embedder.metrics, fmr)
    a, b = _embed(embedder, [left, right], detector).astype(np.float64)
    return Verified(float(np.clip(a @ b, -1, 1)), threshold, checkpoint)


@dataclass(frozen=True)
class Identified:
    """Who of a gallery the probes show.

    Attributes:
        found: each probe's image and its closest identities, the closest first.
        by: as `Gallery.search` has it.
        identities: of the gallery; I.
        images: of the gallery; N.
    """

    found: Sequence[tuple[Path, Sequence[Candidate]]]
    threshold: Threshold | None
    checkpoint: Path
    gallery: Path
    by: By
    identities: int
    images: int

    @property
    def expected_false_matches(self) -> float | None:
        """With how many images of the gallery a stranger would match, on average.

        None where it is not known: the FMR of pairs of images says nothing about means.
        """
        if self.threshold is None or self.threshold.fmr is None or self.by == "mean":
            return None
        return self.threshold.fmr * self.images

    def to_json(self) -> dict[str, Any]:
        """Give everything as primitives; `identity` is null for nobody."""
        return {
            "probes": [self._probe(image, candidates) for image, candidates in self.found],
            "gallery": {
                "path": str(self.gallery),
                "identities": self.identities,
                "images": self.images,
                "by": self.by,
                "expected_false_matches": self.expected_false_matches,
            },
            **_basis(self.threshold),
            "checkpoint": str(self.checkpoint),
        }

    def to_text(self) -> str:
        """Say it in lines for people."""
        lines = [self._told(image, candidates) for image, candidates in self.found]
        lines.append(
            f"gallery: {self.images:,} images of {self.identities:,} identities; "
            f"{_rests(self.threshold)}"
        )
        if (chance := self.expected_false_matches) is not None:
            lines.append(f"  a stranger matches {chance:.3g} of {self.images:,} images on average")
        return "\n".join(lines)

    def _probe(self, image: Path, candidates: Sequence[Candidate]) -> dict[str, Any]:
        match = _decide(candidates[0].score, self.threshold)
        return {
            "path": str(image),
            "match": match,
            "identity": candidates[0].identity if match else None,
            "candidates": [asdict(candidate) for candidate in candidates],
        }

    def _told(self, image: Path, candidates: Sequence[Candidate]) -> str:
        match = _decide(candidates[0].score, self.threshold)
        who = {True: candidates[0].identity, False: "nobody", None: "no decision"}[match]
        width = max(len(candidate.identity) for candidate in candidates)
        rows = [f"  {c.score:7.4f}  {c.identity:<{width}}  {c.image}" for c in candidates]
        return "\n".join([f"{image}: {who}", *rows])


def identify(
    probe: Path,
    gallery: Path,
    checkpoint: Path,
    *,
    fmr: float | None = None,
    top: int = 5,
    by: By = "best",
    detector: Detector | None = None,
) -> Identified:
    """Find who of a gallery is on an image, or on each image of a folder.

    Args:
        probe: an image file, or a folder of them; aligned unless there is a detector.
        gallery: as `load_gallery` has it.
        checkpoint: whose encoder and threshold are used.
        fmr: as `choose_threshold` has it.
        top, by: as `Gallery.search` has it.
        detector: finds the faces, of the probes and of a gallery of images.

    Raises:
        FaceverError: as `load_encoder`, `choose_threshold` and `load_gallery`.
    """
    embedder = load_encoder(checkpoint)
    threshold = choose_threshold(checkpoint, embedder.metrics, fmr)
    images = images_below(probe) if probe.is_dir() else [probe]
    # Before the gallery, which may take long to embed.
    probes = _embed(embedder, images, detector)
    known = load_gallery(gallery, embedder, detector)
    found = list(zip(images, known.search(probes, top=top, by=by), strict=True))
    counts = len(known.identities), len(known.paths)
    return Identified(found, threshold, checkpoint, gallery, by, *counts)


def _decide(score: float, threshold: Threshold | None) -> bool | None:
    return None if threshold is None else score >= threshold.value


def _basis(threshold: Threshold | None) -> dict[str, Any]:
    if threshold is None:
        return {"threshold": None, "basis": None}
    return {"threshold": threshold.value, "basis": threshold.to_json()}


def _rests(threshold: Threshold | None) -> str:
    if threshold is None:
        return "no threshold: the checkpoint is from before its first validation"
    return f"threshold {threshold.value:.4f} at {threshold.name}\n  {threshold.to_text()}"
