"""Looking at labelled images: embeddings to figures, while a run trains and after it.

`make_embed` fixes how a run turns images into embeddings, so that the validation that chose a
checkpoint, `evaluate` and `submit` all see the same numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
from facever.device import resolve_device, resolve_precision
from facever.embed import embed_images, embedder_of
from facever.encoder import Encoder
from facever.errors import DataError
from facever.loss_setup import saved_loss
from facever.losses import Loss, SumLoss
from facever.metrics import PairedDifference, Verification, verification
from facever.prepare import Embed, open_dev, open_pairs
from facever.score import cosine_scores
from facever.tracking import progress

Scores = NDArray[np.float64]
Values = dict[str, Any]

# Logits that are held at once: 1,024 rows of a million identities would be 4 GB.
LOGITS = 2**26


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
            figures[dev_key(loss, config.loss.name)] = dev_accuracy(embed, network, loss, dev)
        return figures | dict(more() if more else {})

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
    block = max(1, min(1024, LOGITS // len(loss.prototypes)))
    guesses = [loss.logits(z.to(device)).argmax(1).cpu() for z in torch.split(table, block)]
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


@dataclass(frozen=True)
class Evaluated:
    """What labelled pairs tell about checkpoints.

    Attributes:
        checkpoints: what was measured.
        results: of each.
        ensemble: of the mean of their scores, where there are several.
        comparison: paired difference of the EERs of the first two, where it was asked for.
        dev: `dev_accuracy_<loss>` of the first, where the data has dev images.
    """

    checkpoints: Sequence[str]
    results: Sequence[Verification]
    ensemble: Verification | None = None
    comparison: PairedDifference | None = None
    dev: Mapping[str, float] = field(default_factory=dict)

    @property
    def final(self) -> Verification:
        """The ensemble's result, or the only one."""
        return self.ensemble or self.results[0]

    def to_json(self) -> Values:
        """Give the final result's fields, and each checkpoint's where there are several."""
        values = {**self.final.to_json(), **self.dev, "checkpoints": list(self.checkpoints)}
        if self.ensemble:
            values["results"] = [result.to_json() for result in self.results]
        if self.comparison:
            values["comparison"] = asdict(self.comparison)
        return values

    def to_text(self) -> str:
        """Say it in lines for people; rates in percent."""
        lines = [_line(name, r) for name, r in zip(self.checkpoints, self.results, strict=True)]
        if self.ensemble:
            lines.append(_line("mean of their scores", self.ensemble))
        final = self.final
        lines += [
            f"  threshold at EER  {final.threshold:.4f}",
            f"  AUC               {final.auc:.4f}",
            f"  pair accuracy     {final.accuracy:.2%} at its best threshold",
        ]
        for far, tar in final.tar_at_far.items():
            lines.append(f"  TAR at FAR {far:<6g} {tar:.2%} (FAR is FMR, TAR is 1 - FNMR)")
        if final.folds:
            folds = final.folds
            lines.append(
                f"  {folds['count']:.0f}-fold accuracy  {folds['accuracy']:.2%} "
                f"+- {folds['standard_error']:.2%}"
            )
        for name, share in self.dev.items():
            lines.append(f"  {name:<17} {share:.2%}")
        if self.comparison:
            c = self.comparison
            lines.append(
                f"  difference of EER {100 * c.difference:+.2f} points "
                f"(95 %: {100 * c.low:+.2f} to {100 * c.high:+.2f}), p = {c.p_value:.3f}"
            )
        return "\n".join(lines)


def _line(name: str, result: Verification) -> str:
    return (
        f"{name}: EER {result.eer:.2%} (95 %: {result.eer_low:.2%} to {result.eer_high:.2%}) on "
        f"{result.n_mated:,} mated and {result.n_non_mated:,} non-mated pairs"
    )
