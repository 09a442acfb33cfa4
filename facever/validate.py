"""Looking at labelled images: embeddings to figures, while a run trains and after it.

`make_embed` fixes how a run turns images into embeddings, so that the validation that chose a
checkpoint, `evaluate` and `submit` all see the same numbers.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from facever.config import Config
from facever.data.datasets import ImageDataset, ImagePairDataset
from facever.data.lists import PairList
from facever.data.pairfiles import read_pairs
from facever.device import resolve_device, resolve_precision
from facever.embed import embed_images, embedder_of
from facever.encoder import Encoder
from facever.errors import DataError
from facever.losses import Loss
from facever.metrics import verification
from facever.prepare import Embed, open_dev, open_pairs, read_data, saved_loss
from facever.score import cosine_scores
from facever.tracking import progress

Scores = NDArray[np.float64]
Values = dict[str, Any]


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
) -> Callable[[nn.Module], dict[str, float]]:
    """Make the function network to figures by which `engine.fit` chooses the best epoch."""

    def validate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, Encoder)
        figures = pair_figures(config, embed, network, pairs)
        if dev is not None and loss.classifies:
            figures[f"dev_accuracy_{config.loss.name}"] = dev_accuracy(embed, network, loss, dev)
        return figures

    return validate


def pair_figures(
    config: Config, embed: Embed, encoder: Encoder, pairs: ImagePairDataset
) -> dict[str, float]:
    """Measure labelled pairs, as the lines of metrics.jsonl have it: EER in percent."""
    scores = score_pairs(embed, encoder, pairs)
    result = verification(
        scores,
        pairs.mated,
        left=pairs.left,
        right=pairs.right,
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
    table = torch.from_numpy(embed(encoder, dev, len(dev)))
    was_training = loss.training
    loss.eval()
    guesses = [loss.logits(z.to(device)).argmax(1).cpu() for z in torch.split(table, 1024)]
    loss.train(was_training)
    return float((torch.cat(guesses).numpy() == dev.labels).mean())


def choose_pairs(config: Config, pairs: Path | None, images: Path | None, split: str) -> PairList:
    """Read a pair file, or take the data's own pairs.

    Raises:
        DataError: the data has none.
    """
    if pairs is not None:
        return read_pairs(pairs, images if images is not None else pairs.parent)
    manifest = read_data(config.data, config.engine.seed)
    chosen: PairList | None = getattr(manifest, split)
    if chosen is None:
        raise DataError(
            f"{manifest.root}: has no {split.replace('_', ' ')}\n"
            f"  expected {split}.txt there, or `--pairs FILE --images DIR`"
        )
    return chosen


def score_checkpoints(
    config: Config, paths: Sequence[Path], payloads: Sequence[Values], pairs: PairList
) -> list[Scores]:
    """Score pairs with each checkpoint, (N,) each."""
    scores = []
    for path, payload in zip(paths, payloads, strict=True):
        encoder, embed = scorer(config, path, payload)
        size = {"image_size": encoder.transform.image_size}
        images = open_pairs(pairs, config.data.model_copy(update=size))
        scores.append(score_pairs(embed, encoder, images))
    return scores


def scorer(config: Config, path: Path, payload: Values) -> tuple[Encoder, Embed]:
    """Rebuild a checkpoint's encoder on its device, and how images are embedded with it."""
    device = resolve_device(config.engine.device)
    encoder = embedder_of(path, payload, device).encoder
    if config.engine.channels_last:
        encoder.to(memory_format=torch.channels_last)
    precision = resolve_precision(config.engine.precision, device, encoder)
    return encoder, make_embed(config, device, precision)


def checkpoint_dev_accuracy(config: Config, path: Path, payload: Values) -> dict[str, float]:
    """Measure a checkpoint's accuracy on dev images, named after the head that gave it."""
    loss = saved_loss(payload, str(path))
    dev = open_dev(read_data(config.data, config.engine.seed), config.data)
    if not loss.classifies or dev is None or dev.identities != tuple(payload["identities"]):
        return {}
    encoder, embed = scorer(config, path, payload)
    loss.to(next(encoder.parameters()).device)
    name = payload["config"]["loss"]["name"]
    return {f"dev_accuracy_{name}": dev_accuracy(embed, encoder, loss, dev)}
