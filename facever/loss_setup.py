"""From the section `loss` of a configuration to a loss that is ready to train.

It is checked before anything is read, built with fresh weights or rebuilt from a checkpoint, and
started on what a parent sees.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facever.checkpoint import load_weights
from facever.config import Loss as LossConfig
from facever.data.datasets import ImageDataset
from facever.errors import ConfigError
from facever.losses import Loss, build_loss, loss_problems
from facever.tracking import progress

# Images an identity from which its mean embedding is taken.
MEANS_OF = 16


def check_loss(section: LossConfig) -> list[str]:
    """Say what is wrong with the section `loss`, for `config.resolve`."""
    return loss_problems(
        section.name, loss_params(section), allow_smoothing=section.allow_smoothing
    )


def loss_params(section: LossConfig) -> dict[str, Any]:
    """Give the loss's parameters with the label smoothing among them, where it is set."""
    if section.label_smoothing is None:
        return dict(section.params)
    smoothing = {"label_smoothing": section.label_smoothing}
    if "+" not in section.name:
        return {**section.params, **smoothing}
    own = section.params.get("ce", {})
    # What is no mapping stays, for `check_loss` to say so.
    return {**section.params, "ce": {**own, **smoothing} if isinstance(own, Mapping) else own}


def make_loss(section: LossConfig, dim: int, identities: int) -> Loss:
    """Build the loss of a configuration, with fresh weights."""
    return build_loss(
        section.name,
        dim=dim,
        identities=identities,
        allow_smoothing=section.allow_smoothing,
        **loss_params(section),
    )


def saved_loss(payload: Mapping[str, Any], where: str) -> Loss:
    """Rebuild the loss of a checkpoint with its weights.

    Raises:
        CheckpointError: the weights do not fit the loss that the configuration names.
    """
    section = LossConfig.model_validate(payload["config"]["loss"])
    dim = payload["config"]["model"]["embedding_dim"]
    loss = make_loss(section, dim, len(payload["identities"]))
    load_weights(loss, payload["loss"], where)
    return loss


def start_loss(
    loss: Loss,
    init: str,
    *,
    parent: Mapping[str, Any],
    images: ImageDataset,
    identities: int,
    embed: Callable[..., NDArray[np.float32]],
) -> None:
    """Start a finetune's prototypes, and the states that live on norms, from the parent's view.

    Args:
        loss: with fresh weights.
        init: `means` takes the identities' mean embeddings over at most `MEANS_OF` images each,
            `classifier` the parent's prototypes, `random` leaves them as drawn.
        parent: the payload of its checkpoint.
        images: what is trained on.
        identities: how many there are.
        embed: images and their count to embeddings (N, D) of the parent's encoder.
    """
    if init == "classifier":
        _copy_classifier(loss, parent, identities)
    labels = images.labels
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    sample = np.sort(order[np.arange(len(order)) - starts < MEANS_OF])
    with progress("class means") as report:
        table = embed(_Subset(images, sample), len(sample), flip=False, report=report)
    z = torch.from_numpy(table).to(_device(loss))
    if init == "means":
        y = torch.from_numpy(labels[sample]).to(z.device)
        sums = torch.zeros(identities, z.shape[1], device=z.device)
        counts = torch.bincount(y, minlength=identities).clamp(min=1)
        loss.initialise(sums.index_add_(0, y, z) / counts[:, None])
    loss.observe(z.norm(dim=1))


def _device(loss: Loss) -> torch.device:
    """Where the loss is; one without weights is anywhere."""
    return next((p.device for p in loss.parameters()), torch.device("cpu"))


@dataclass(frozen=True)
class _Subset:
    """Some images of a data set."""

    images: ImageDataset
    indices: NDArray[np.int64]

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.images.gather(self.indices[indices])


def check_parent(init: str, parent: Mapping[str, Any], identities: Sequence[str]) -> None:
    """Refuse a parent that has no classifier to begin with, where that is asked for.

    Raises:
        ConfigError: it has none, or one of other identities.
    """
    if init != "classifier":
        return
    classifies = saved_loss(parent, "the parent").classifies
    if not classifies or parent["identities"] != list(identities):
        raise ConfigError(
            "loss.init: 'classifier' needs a parent with prototypes of the same identities; "
            f"it has {len(parent['identities'])}, the data {len(identities)}: "
            "expected 'means' or 'random'"
        )


def _copy_classifier(loss: Loss, parent: Mapping[str, Any], identities: int) -> None:
    """Start at the parent's prototypes; of sub-centres at the first."""
    rows = saved_loss(parent, "the parent").prototypes.detach()
    first = rows.view(identities, -1, rows.shape[-1])[:, 0]
    loss.initialise(first.to(_device(loss)))
