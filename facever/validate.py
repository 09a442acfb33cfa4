"""Looking at labelled images: embeddings to figures, while a run trains and after it.

`make_embed` fixes how a run turns images into embeddings, so that the validation that chose a
checkpoint, `evaluate` and `submit` all see the same numbers.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from facever.config import Config
from facever.data.datasets import ImageDataset, ImagePairDataset
from facever.data.lists import Manifest, PairList
from facever.data.pairfiles import read_pairs
from facever.data_setup import open_dev
from facever.device import resolve_device, resolve_precision
from facever.embed import embed_images, embedder_of
from facever.encoder import Encoder
from facever.errors import ConfigError, DataError
from facever.loss_setup import saved_loss
from facever.losses import Loss, SumLoss
from facever.metrics import verification
from facever.ranking import combined_score
from facever.score import cosine_scores
from facever.tracking import progress

Values = dict[str, Any]
Embed = Callable[..., NDArray[np.float32]]


def make_embed(config: Config, device: torch.device, precision: str) -> Embed:
    """Bind `embed_images` to how this run evaluates; everything that scores goes through it."""
    return partial(
        embed_images,
        flip=config.eval.flip,
        batch_size=config.eval.batch_size,
        device=device,
        precision=precision,
    )


def make_validate(
    config: Config,
    embed: Embed,
    pairs: ImagePairDataset,
    dev: ImageDataset | None,
    loss: Loss,
    more: Callable[[], Mapping[str, float]] | None = None,
) -> Callable[[nn.Module], dict[str, float]]:
    """Make the function network to figures by which `engine.fit` chooses the best epoch.

    `more` adds figures of somebody else's to them.
    """

    def validate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, Encoder)
        figures = pair_figures(config, embed, network, pairs)
        if dev is not None and loss.classifies:
            share = dev_accuracy(embed, network, loss, dev)
            figures[dev_key(loss, config.loss.name)] = share
            if config.eval.metric == "combined":
                figures["combined"] = combined_score(figures["EER"] / 100, share)
        return figures | dict(more() if more else {})

    return validate


def check_metric(metric: str, dev: ImageDataset | None, loss: Loss) -> None:
    """Refuse an `eval.metric` that a run could not measure, before its first step.

    Raises:
        ConfigError: `combined` without dev images or without a classifier.
    """
    if metric == "combined" and (dev is None or not loss.classifies):
        lacking = "dev images of the training identities" if dev is None else "a classifier"
        raise ConfigError(
            f"eval.metric: combined, without {lacking}\n  expected eer or auc, or data with dev "
            "images and a loss that classifies, such as ce+triplet"
        )


def pair_figures(
    config: Config, embed: Embed, encoder: Encoder, pairs: ImagePairDataset
) -> dict[str, float]:
    """Measure labelled pairs, as the lines of metrics.jsonl have it: EER in percent."""
    scores = score_pairs(embed, encoder, pairs)
    result = verification(
        scores,
        pairs.mated,
        left=pairs.units[0],
        right=pairs.units[1],
        repeats=config.eval.bootstrap,
        seed=config.engine.seed,
    )
    return {
        "EER": 100 * result.eer,
        "EER_low": 100 * result.eer_low,
        "EER_high": 100 * result.eer_high,
        "AUC": result.auc,
        "accuracy": result.accuracy,
        "threshold": result.threshold,
        "n_mated": result.n_mated,
        "n_non_mated": result.n_non_mated,
    }


def score_pairs(embed: Embed, encoder: Encoder, pairs: ImagePairDataset) -> NDArray[np.float64]:
    """Embed each distinct image once and score every pair by cosine, (N,)."""
    names = [str(name) for name in pairs.images]
    with progress("embedding") as report:
        table = embed(encoder, pairs, len(names), names=names, report=report)
    return cosine_scores(table, pairs.left, pairs.right, names)


@torch.inference_mode()
def dev_accuracy(embed: Embed, encoder: Encoder, loss: Loss, dev: ImageDataset) -> float:
    """Share of dev images whose largest logit, without a margin, is their identity's."""
    device = next(loss.parameters()).device
    # Classified as in training, without the mirror image: dev may be twenty times the pairs.
    table = torch.from_numpy(embed(encoder, dev, len(dev), flip=False))
    was_training = loss.training
    loss.eval()
    guesses = [loss.classify(z.to(device)).cpu() for z in torch.split(table, 1024)]
    loss.train(was_training)
    return float((torch.cat(guesses).numpy() == dev.labels).mean())


def choose_pairs(
    manifest: Manifest | None, pairs: Path | None, images: Path | None, split: str
) -> PairList:
    """Read a pair file, or take the data's own pairs.

    Raises:
        DataError: the data has none.
    """
    if pairs is not None or manifest is None:
        assert pairs is not None
        return read_pairs(pairs, images if images is not None else pairs.parent)
    chosen: PairList | None = getattr(manifest, split)
    if chosen is None:
        raise DataError(
            f"{manifest.root}: has no {split.replace('_', ' ')}\n"
            f"  expected {split}.txt there, or `--pairs FILE --images DIR`"
        )
    return chosen


def scorer(config: Config, path: Path, payload: Values) -> tuple[Encoder, Embed]:
    """Rebuild a checkpoint's encoder on its device, and how images are embedded with it."""
    device = resolve_device(config.engine.device)
    encoder = embedder_of(path, payload, device).encoder
    if config.engine.channels_last:
        encoder.to(memory_format=torch.channels_last)
    # What was trained and validated in float32 is measured in it.
    exact = config.engine.precision == "auto" and payload["lineage"]["precision"] == "fp32"
    wanted = "fp32" if exact else config.engine.precision
    return encoder, make_embed(config, device, resolve_precision(wanted, device, encoder))


def checkpoint_dev_accuracy(
    config: Config, manifest: Manifest | None, path: Path, payload: Values
) -> dict[str, float]:
    """Measure a checkpoint's accuracy on dev images, named after the head that gave it.

    Empty where there is no dev set of the identities that it was trained on, or no classifier.
    """
    loss = saved_loss(payload, str(path))
    if manifest is None or manifest.identities != tuple(payload["identities"]):
        return {}
    dev = open_dev(manifest, config.data)
    if dev is None or not loss.classifies:
        return {}
    encoder, embed = scorer(config, path, payload)
    loss.to(next(encoder.parameters()).device)
    name = payload["config"]["loss"]["name"]
    return {dev_key(loss, name): dev_accuracy(embed, encoder, loss, dev)}


def dev_key(loss: Loss, name: str) -> str:
    """Name the accuracy after the head that gives it; of a sum, its first classifier."""
    if isinstance(loss, SumLoss):
        name = next(name for name, term in loss.losses().items() if term.classifies)
    return f"dev_accuracy_{name}"
