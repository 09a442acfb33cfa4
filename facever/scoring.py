"""Checkpoints x pairs -> scores, with every switch of the section `eval`: one way for all.

`evaluate`, `submit` and the table of tricks score here, so that a switch does the same in each. A
run's own validation goes without them, but for the mirror images: see `validate`.

Letters: M distinct images, D dimensions, C identities of the cohort, P pairs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facever import checkpoint
from facever.ask import Ask, Values, inherited
from facever.config import SWITCHES, Config, Eval, resolve
from facever.data.datasets import ImageDataset, ImagePairDataset
from facever.data.lists import Manifest, PairList
from facever.data_setup import open_pairs, read_data
from facever.embed import BATCH
from facever.encoder import Encoder
from facever.errors import DataError
from facever.fusion import (
    Calibration,
    as_norm,
    calibrate,
    centred,
    cohort_statistics,
    cross_calibrated,
    identity_means,
    joined,
    member_weights,
    pair_features,
    unit_rows,
)
from facever.losses.quality import sharpness
from facever.metrics import verification
from facever.score import cosine_scores, fuse, row_norms
from facever.tracking import note, progress
from facever.validate import Embed, choose_pairs, scorer

Floats = NDArray[np.float64]

# Of an identity, for its mean in the cohort: a mean of five has most of what a mean of fifty has.
COHORT_IMAGES = 5


def switches(settings: Eval, below: Eval | None = None) -> Values:
    """Give the switches that are not as in `below`, by default not at their defaults."""
    old, new = (below or Eval()).model_dump(mode="json"), settings.model_dump(mode="json")
    return {name: new[name] for name in SWITCHES if new[name] != old[name]}


def assignments(given: Mapping[str, Any]) -> str:
    """Write switches as a command line has them."""
    return " ".join(
        f"eval.{name}={value if isinstance(value, str) else json.dumps(value).replace(' ', '')}"
        for name, value in given.items()
    )


@dataclass(frozen=True)
class Opened:
    """Checkpoints and the pairs that they are to score."""

    checkpoints: Sequence[Path]
    payloads: Sequence[Values]
    config: Config
    manifest: Manifest | None
    pairs: PairList


def open_checkpoints(
    checkpoints: Sequence[Path], ask: Ask, pairs: Path | None, images: Path | None, split: str
) -> Opened:
    """Read checkpoints, resolve the configuration over the first one's, and choose the pairs.

    Raises:
        DataError: there are no such pairs.
    """
    payloads, config, manifest = read_checkpoints(checkpoints, ask, data=pairs is None)
    return Opened(
        checkpoints, payloads, config, manifest, choose_pairs(manifest, pairs, images, split)
    )


def read_checkpoints(
    checkpoints: Sequence[Path], ask: Ask, *, data: bool
) -> tuple[list[Values], Config, Manifest | None]:
    """Read checkpoints, the configuration over the first one's, and its `data` if asked to."""
    payloads = [checkpoint.load(path) for path in checkpoints]
    config = resolve([inherited(payloads[0]), *ask.layers], ask.assignments)
    return payloads, config, read_data(config.data) if data else None


def check_labelled(pairs: PairList) -> None:
    """Refuse pairs of which some have no label.

    Raises:
        DataError: there is one.
    """
    if not pairs.labelled:
        raise DataError(
            f"{pairs.source or pairs.root}: not every pair has a label\n"
            "  expected lines `left right 0|1`; `facever submit` scores pairs without labels"
        )


@dataclass(frozen=True, eq=False)
class Look:
    """What a checkpoint makes of images: raw embeddings (M, D), and its cohort (C, D), unit rows.

    The cohort is None where no switch needs it, or the images themselves are it.
    """

    table: NDArray[Any]
    cohort: Floats | None


@dataclass(frozen=True, eq=False)
class Scored:
    """Pairs as a checkpoint, or an ensemble, scores them, before they are calibrated.

    Attributes:
        scores: of the pairs; shape (P,).
        log_norms: of the images' embeddings, of an ensemble the mean; shape (M,).
    """

    scores: Floats
    log_norms: Floats

    def features(self, pairs: PairList, sharp: Floats) -> Floats:
        """Give what a calibration reads, (P, F), of images as sharp as `sharp` (M,)."""
        return pair_features(self.scores, pairs.left, pairs.right, self.log_norms, sharp)


def score_looks(
    settings: Eval, looks: Sequence[Look], pairs: PairList
) -> tuple[list[Scored], Scored]:
    """Score pairs with each checkpoint and with all together.

    Raises:
        ConfigError: there are weights, and not one for each checkpoint.
        DataError: an embedding has no direction, or the cohort no spread.
    """
    members = [_score(settings, look, pairs) for look in looks]
    weights = member_weights(len(members), settings.weights)
    if len(members) == 1:
        return members, members[0]
    if settings.ensemble == "embedding":
        cohorts = [look.cohort for look in looks if look.cohort is not None]
        shares = weights.tolist()
        cohort = joined(cohorts, shares) if cohorts else None
        scores = _score(
            settings, Look(joined([look.table for look in looks], shares), cohort), pairs
        ).scores
    else:
        scores = fuse([member.scores for member in members], weights)
    norms = np.mean([member.log_norms for member in members], axis=0)
    return members, Scored(scores, norms)


def _score(settings: Eval, look: Look, pairs: PairList) -> Scored:
    table, cohort, own = look.table, look.cohort, settings.transductive
    log_norms = np.log(row_norms(table, pairs.images))
    if own:
        cohort = unit_rows(table)
    if settings.centre:
        assert cohort is not None
        table, cohort = centred(table, cohort), unit_rows(centred(cohort, cohort))
    scores = cosine_scores(table, pairs.left, pairs.right, pairs.images)
    if settings.as_norm:
        assert cohort is not None
        mean, deviation = cohort_statistics(table, cohort, settings.as_norm, own=own)
        scores = as_norm(scores, pairs.left, pairs.right, mean, deviation)
    return Scored(scores, log_norms)


class Scorer:
    """Checkpoints that score pairs, alone and together, as the section `eval` says.

    Attributes:
        config: whose section `eval` holds the switches.
        members: each checkpoint's encoder, and how images are embedded with it.
    """

    def __init__(self, opened: Opened) -> None:
        self.config = opened.config
        self._manifest = opened.manifest
        self.members: list[tuple[Encoder, Embed]] = [
            scorer(opened.config, path, payload)
            for path, payload in zip(opened.checkpoints, opened.payloads, strict=True)
        ]
        member_weights(len(self.members), opened.config.eval.weights)

    def score(self, pairs: PairList) -> tuple[list[Scored], Scored]:
        """Embed each distinct image once; score with each checkpoint and with all together.

        Raises:
            DataError: as `score_looks`; a cohort is needed, and there are no training images.
        """
        settings = self.config.eval
        looks = []
        for (encoder, embed), cohort in zip(self.members, self.cohorts, strict=True):
            with progress("embedding") as report:
                table = embed(
                    encoder,
                    self.open(pairs, encoder),
                    len(pairs.images),
                    crop_scale=settings.crop_scale if settings.crops else None,
                    norm_power=settings.norm_power,
                    names=pairs.images,
                    report=report,
                )
            looks.append(Look(table, cohort))
        return score_looks(settings, looks, pairs)

    @cached_property
    def cohorts(self) -> list[Floats | None]:
        """Means of the training identities as each checkpoint sees them, (C, D), where needed."""
        settings = self.config.eval
        needed = settings.centre or settings.as_norm
        if settings.transductive:
            note(
                "transductive: centre and cohort are those of the images that are scored"
                if needed
                else "eval.transductive: no effect without eval.centre or eval.as_norm"
            )
        if settings.transductive or not needed:
            return [None for _ in self.members]
        return [self.cohort(encoder, embed) for encoder, embed in self.members]

    def cohort(self, encoder: Encoder, embed: Embed) -> Floats:
        """Embed some images of each training identity; their means (C, D) of unit length.

        Raises:
            DataError: there are no training images at `data.root`.
        """
        data = self.config.data
        manifest = self._manifest or read_data(data)
        train = manifest.train
        chosen = first_images(train.labels, COHORT_IMAGES)
        few = train.without(np.setdiff1d(np.arange(len(train)), chosen))
        # From files: a pack would be one of all training images, where there is none yet.
        images = ImageDataset(replace(manifest, train=few), image_size=encoder.transform.image_size)
        with progress("embedding training identities") as report:
            table = embed(
                encoder, images, len(images), flip=False, names=images.paths, report=report
            )
        return identity_means(table, images.labels)

    def sharpness(self, pairs: PairList) -> Floats:
        """Give the sharpness of each image, (M,), as the first checkpoint is shown it."""
        images, count = self.open(pairs, self.members[0][0]), len(pairs.images)
        blocks = np.array_split(np.arange(count), -(-count // BATCH))
        found = [sharpness(torch.from_numpy(images.gather(block))) for block in blocks]
        return torch.cat(found).numpy().astype(np.float64)

    def labelled(
        self, scored: Scored, pairs: PairList, sharp: Floats | None, settings: Eval | None = None
    ) -> Floats:
        """Give the scores by which labelled pairs are measured, (P,).

        Where they are calibrated, each is by a calibration that was fitted to other pairs.

        Args:
            scored: the pairs.
            pairs: their images and labels.
            sharp: sharpness of the images, which a calibration needs; shape (M,).
            settings: other than those of the configuration.
        """
        if sharp is None or not (settings or self.config.eval).calibrate:
            return scored.scores
        features = scored.features(pairs, sharp)
        return cross_calibrated(features, pairs.mated == 1, seed=self.config.engine.seed)

    def open(self, pairs: PairList, encoder: Encoder) -> ImagePairDataset:
        """Open the distinct images of pairs at the size that an encoder sees."""
        size = {"image_size": encoder.transform.image_size}
        return open_pairs(pairs, self.config.data.model_copy(update=size))


def validated(opened: Opened, scorer: Scorer) -> tuple[Values | None, Calibration | None]:
    """Give the validation figures that a submission's side-car states, and the calibration.

    A checkpoint that was saved after a validation knows its figures; others, ensembles, and what
    the run's validation goes without are measured now.

    Raises:
        DataError: the scores are to be calibrated, and there are no labelled pairs.
    """
    config, payload = opened.config, opened.payloads[0]
    metrics, flip = payload["metrics"], resolve([inherited(payload)]).eval.flip
    plain = config.eval.flip == flip and not switches(config.eval).keys() - {"flip"}
    if plain and len(opened.payloads) == 1 and metrics.get("epoch") == payload["epoch"]:
        figures = {key.lower(): metrics[key] / 100 for key in ("EER", "EER_low", "EER_high")}
        return figures, None
    pairs = (opened.manifest or read_data(config.data)).val_pairs
    if pairs is None or not pairs.labelled:
        if config.eval.calibrate:
            raise DataError(
                f"eval.calibrate: no labelled pairs at {config.data.root} to fit it to\n"
                "  expected val_pairs.txt there, or eval.calibrate=false"
            )
        return None, None
    _, together = scorer.score(pairs)
    sharp = scorer.sharpness(pairs) if config.eval.calibrate else None
    result = verification(
        scorer.labelled(together, pairs, sharp),
        pairs.mated,
        left=pairs.units[0],
        right=pairs.units[1],
        repeats=config.eval.bootstrap,
        seed=config.engine.seed,
    )
    figures = {"eer": result.eer, "eer_low": result.eer_low, "eer_high": result.eer_high}
    if sharp is None:
        return figures, None
    return figures, calibrate(together.features(pairs, sharp), pairs.mated == 1)


def first_images(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Positions of the first `count` images of each identity, rising; labels (N,)."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    rank = np.arange(labels.size) - np.searchsorted(ordered, ordered, "left")
    return np.sort(order[rank < count])
