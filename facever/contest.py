"""Checkpoints before a competition: which one it is, what it ranks by, whom they name.

Letters: N images, D dimensions, C identities.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from facever.ask import Ask
from facever.competition import DEFAULT, profile, read_csv_rows
from facever.config import Data
from facever.data.datasets import ImageDataset
from facever.data.lists import ImageList, Manifest
from facever.data_setup import open_dev
from facever.detect import Competition, Facts, detect
from facever.errors import ConfigError, DataError
from facever.fusion import member_weights
from facever.kaggle.fetch import recorded_slug
from facever.loss_setup import saved_loss
from facever.losses import Loss
from facever.metrics import Verification
from facever.naming import Named
from facever.people import open_once, open_set_of, tell_people
from facever.ranking import (
    CHOSEN_BY,
    Figure,
    Ranking,
    auc_figure,
    combined_figure,
)
from facever.scoring import Opened, read_checkpoints
from facever.tracking import progress
from facever.validate import choose_pairs, scorer

Values = dict[str, Any]

IMAGES_AT_ONCE = 1024


def choose(
    data: Data, manifest: Manifest | None, name: str | None = None, sample: Path | None = None
) -> Competition | None:
    """Tell the competition: the one that was named, else what the data looks like.

    Args:
        data: the section of the configuration.
        manifest: of the data; None where pairs were given instead.
        name: of a profile, over `data.competition`.
        sample: its sample submission; only what is handed in needs it.

    Returns:
        None where nothing is named and there is no data to tell by.

    Raises:
        ConfigError: no competition has that name.
        DataError: the sample submission cannot be read.
    """
    given = name or (None if data.competition == "auto" else data.competition)
    if given is not None:
        own = manifest.sample if manifest else None
        return Competition(profile(given, sample or own), "as named")
    if manifest is None:
        return None
    found = detect(_facts(manifest))
    return replace(found, rules=profile(found.rules.name, sample)) if sample else found


def open_contest(
    checkpoints: Sequence[Path],
    ask: Ask,
    pairs: Path | None,
    images: Path | None,
    name: str | None,
    sample: Path | None,
) -> tuple[Opened, Competition]:
    """Read checkpoints and what they are to answer: the pairs to submit, or for people the data.

    Raises:
        ConfigError: no such competition, or its columns are not known without a sample.
        DataError: the data has nothing to submit.
    """
    if name and sample:
        # Refused before anything else is read.
        profile(name, sample)
    payloads, config, manifest = read_checkpoints(checkpoints, ask, data=pairs is None)
    own = manifest.sample if manifest else None
    competition = choose(config.data, manifest, name, sample or own)
    competition = competition or Competition(profile(DEFAULT), "by default: pairs were given")
    rules = competition.rules
    if not rules.header:
        raise ConfigError(
            f"competition: {rules.name} has the columns of its sample submission\n"
            "  expected sample_submission.csv in the data, or --sample FILE"
        )
    if manifest is None and rules.task != "verification":
        raise ConfigError(f"--pairs: {rules.name} asks for names too, which need the data's images")
    split = "test_pairs"
    if rules.task == "identification":
        open_set_of(manifest)
        split = "val_pairs"
    chosen = choose_pairs(manifest, pairs, images, split)
    return Opened(checkpoints, payloads, config, manifest, chosen), competition


def _facts(manifest: Manifest) -> Facts:
    """Gather what a data set shows of its competition."""
    pairs = [p for p in (manifest.val_pairs, manifest.test_pairs) if p is not None]
    slug = recorded_slug(manifest.root)
    return Facts(
        layout=manifest.layout,
        folders=any(PurePosixPath(p).parent.name != "images" for p in manifest.train.paths[:1]),
        test_pairs=len(manifest.test_pairs) if manifest.test_pairs is not None else 0,
        pair_files=[p.source.name for p in pairs if p.source],
        sample=_header(manifest.sample) if manifest.sample else (),
        names=[*([slug] if slug else []), *manifest.root.parts[-1:-3:-1]],
    )


def _header(sample: Path) -> tuple[str, ...]:
    """Columns of a sample submission; none where it cannot be read: only `submit` needs it."""
    try:
        return tuple(read_csv_rows(sample)[0])
    except DataError:
        return ()


def rank(
    competition: Competition,
    opened: Opened,
    scores: ArrayLike,
    result: Verification,
) -> Ranking:
    """Measure what a competition ranks by, or what `eval.metric` names instead.

    Args:
        competition: which one.
        opened: the checkpoints, with their data and the labelled pairs.
        scores: of the pairs, by all checkpoints together; shape (N,).
        result: what was measured on them.
    """
    config, pairs = opened.config, opened.pairs
    wanted = CHOSEN_BY[config.eval.metric]
    metric = competition.rules.metric if wanted == "EER" else wanted
    drawn: dict[str, Any] = {"repeats": config.eval.bootstrap, "seed": config.engine.seed}
    left, right = pairs.units
    on_pairs = f"on {len(pairs):,} labelled pairs"
    if metric == "AUC":
        figure = auc_figure(scores, pairs.mated, left=left, right=right, **drawn)
        return Ranking(competition, figure, on_pairs)
    if metric == "EER":
        figure = Figure("EER", result.eer, result.eer_low, result.eer_high)
        return Ranking(competition, figure, on_pairs)
    if metric == "accuracy":
        try:
            found = tell_people(opened)
        except DataError as error:
            return Ranking(competition, None, str(error).splitlines()[0])
        return Ranking(competition, found.figure, found.basis, found.threshold)
    reason = _no_classes(opened)
    dev = open_dev(opened.manifest, config.data) if opened.manifest else None
    if dev is None or reason:
        return Ranking(competition, None, reason or "there are no dev images to classify")
    correct = classify(opened, dev) == dev.labels
    figure = combined_figure(
        scores, pairs.mated, correct, dev.labels, left=left, right=right, **drawn
    )
    return Ranking(competition, figure, f"{on_pairs} and {len(dev):,} dev images")


def _no_classes(opened: Opened) -> str:
    """Say why these checkpoints classify no images of the data; empty where they do."""
    if opened.manifest is None:
        return "pairs were given in place of the data"
    for path, payload in zip(opened.checkpoints, opened.payloads, strict=True):
        if tuple(payload["identities"]) != opened.manifest.identities:
            return f"{path} was trained on other identities"
        if not saved_loss(payload, str(path)).classifies:
            return f"loss {payload['config']['loss']['name']} of {path} has no classifier"
    return ""


@torch.inference_mode()
def classify(opened: Opened, images: ImageDataset) -> NDArray[np.int64]:
    """Label of each image, (N,), by the mean of the members' probabilities.

    As in training, without mirror images: see `validate.dev_accuracy`.
    """
    tables, losses = [], []
    for path, payload in zip(opened.checkpoints, opened.payloads, strict=True):
        encoder, embed = scorer(opened.config, path, payload)
        device = next(encoder.parameters()).device
        with progress("classifying") as report:
            table = embed(encoder, images, len(images), flip=False, report=report)
        tables.append(torch.split(torch.from_numpy(table).to(device), IMAGES_AT_ONCE))
        losses.append(saved_loss(payload, str(path)).eval().to(device))
    weights = member_weights(len(losses), opened.config.eval.weights).tolist()
    guesses = [_guess(losses, blocks, weights).cpu() for blocks in zip(*tables, strict=True)]
    return torch.cat(guesses).numpy()


def _guess(losses: Sequence[Loss], blocks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Label (B,) of each image by its embeddings (B, D) of each member."""
    if len(losses) == 1:
        return losses[0].classify(blocks[0])
    members = zip(losses, blocks, weights, strict=True)
    shares = [weight * loss.logits(z).softmax(1) for loss, z, weight in members]
    return torch.stack(shares).sum(0).argmax(1)


def name_classes(opened: Opened) -> Named:
    """Classify the test images, in the order of their file names.

    Raises:
        ConfigError: a checkpoint has no classifier, or one of other identities.
        DataError: there are no test images.
    """
    if reason := _no_classes(opened):
        raise ConfigError(f"{reason}\n  expected checkpoints that classify, such as of loss ce")
    manifest = opened.manifest
    assert manifest is not None
    images = test_images(manifest)
    guesses = classify(opened, open_once(manifest, images, opened.config.data.image_size))
    names = [manifest.identities[guess] for guess in guesses.tolist()]
    return Named(images.paths, names, frozenset(manifest.identities))


def test_images(manifest: Manifest) -> ImageList:
    """Images to classify, by file name, which is the order that ids count.

    Raises:
        DataError: there are none.
    """
    test = manifest.test
    if test is None or not len(test):
        raise DataError(f"{manifest.root}: no test images to classify")
    order = sorted(range(len(test)), key=lambda i: PurePosixPath(test.paths[i]).name)
    return ImageList(test.root, tuple(test.paths[i] for i in order), test.labels[order])
