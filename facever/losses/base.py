"""The protocol of every loss, and sums of losses.

B: batch, C: identities, D: embedding dimension, S: side of an image; `z` raw embeddings,
`y` identities.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from facever.losses.parameters import Bound
from facever.losses.similarity import working_dtype


class Loss(nn.Module):
    """`loss(z, y)`: raw embeddings (B, D) and identities (B,) to the mean loss, a scalar.

    State that moves with the batches lives in buffers, and moves in training mode only.
    """

    needs_pairs: bool = False
    """Whether batches must hold several images of an identity."""
    classifies: bool = False
    """Whether there are `prototypes` (C, D) and `logits`."""
    looks: bool = False
    """Whether `look` is to be called before every batch."""
    bounds: ClassVar[Mapping[str, Bound]] = {}
    """What the numbers among the parameters may be."""

    prototypes: nn.Parameter

    @classmethod
    def bounds_for(cls, params: Mapping[str, object]) -> Mapping[str, Bound]:
        """The bounds, where one parameter decides about another."""
        return cls.bounds

    @classmethod
    def contradictions(cls, params: Mapping[str, object]) -> list[str]:
        """What is wrong with parameters that are each fine alone."""
        return []

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """The mean loss of raw embeddings `z` (B, D) with identities `y` (B,)."""
        raise NotImplementedError

    def logits(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits (B, C) of classifier losses: plain, or with `y` as they are trained on."""
        raise TypeError(f"{type(self).__name__} compares embeddings; it has no classifier")

    def classify(self, z: Tensor) -> Tensor:
        """The identities (B,) of the largest plain logits; of all processes' where divided."""
        return self.logits(z).argmax(1)

    def look(self, pixels: Tensor) -> None:
        """Show the images (B, S, S, 3), uint8, that the next batch of embeddings comes from."""

    def expect_all(self) -> None:
        """Count on being shown the embeddings of all processes.

        Without it each shows its own, and state that follows them is added up over processes.
        """

    def shard(self) -> None:
        """Keep this process's share of the prototypes only, by identity; all are to call it."""

    def shards(self) -> dict[nn.Parameter, int]:
        """The parameters of which a share is here, and how many rows the whole of each has."""
        return {}

    def set_margin(self, fraction: float) -> None:
        """Train with this fraction of the margin; 1 is the whole of it."""

    def initialise(self, means: Tensor) -> None:
        """Start the prototypes at the identities' mean embeddings `means` (C, D)."""

    def observe(self, norms: Tensor) -> None:
        """Start state that follows the norms of embeddings from those of the data, (N,)."""

    def stats(self) -> dict[str, Tensor]:
        """Scalars of the last step, to be logged."""
        return {}

    def histograms(self) -> dict[str, Tensor]:
        """Values (B,) of the last step whose distribution is to be logged."""
        return {}


class SumLoss(Loss):
    """Weighted sum of losses on the same embeddings; each keeps its own classifier and state.

    Accuracy, `prototypes` and `logits` are those of the first classifier among them.

    Args:
        terms: the losses by name.
        weights: the factor of each, by name.
    """

    def __init__(self, terms: Mapping[str, Loss], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)
        self.needs_pairs = any(loss.needs_pairs for loss in terms.values())
        self.classifies = any(loss.classifies for loss in terms.values())
        self.looks = any(loss.looks for loss in terms.values())
        self._last: dict[str, Tensor] = {}

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """The weighted sum of the losses of `z` (B, D), `y` (B,)."""
        # Widened once for all: the gradients of the losses would add up in bfloat16.
        z = z.to(working_dtype(z))
        values = {name: loss(z, y) for name, loss in self.terms.items()}
        self._last = {name: value.detach() for name, value in values.items()}
        return torch.stack([self.weights[name] * value for name, value in values.items()]).sum()

    def losses(self) -> dict[str, Loss]:
        """The summed losses by name, in the order in which they were written."""
        return {name: loss for name, loss in self.terms.items() if isinstance(loss, Loss)}

    @property
    def classifier(self) -> Loss:
        """The first of the losses that has prototypes.

        Raises:
            TypeError: none has.
        """
        for loss in self.losses().values():
            if loss.classifies:
                return loss
        raise TypeError(f"none of {', '.join(self.losses())} has a classifier")

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        if name in ("prototypes", "margin") and self.classifies:
            found: Tensor | nn.Module = getattr(self.classifier, name)
            return found
        return super().__getattr__(name)

    def logits(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits (B, C) of the first classifier."""
        return self.classifier.logits(z, y)

    def classify(self, z: Tensor) -> Tensor:
        """The identities (B,) of the first classifier's largest logits."""
        return self.classifier.classify(z)

    def look(self, pixels: Tensor) -> None:
        """Show the images (B, S, S, 3) of the next batch to every loss."""
        for loss in self.losses().values():
            loss.look(pixels)

    def expect_all(self) -> None:
        """Let every loss count on seeing the embeddings of all processes."""
        for loss in self.losses().values():
            loss.expect_all()

    def shard(self) -> None:
        """Keep this process's share of every classifier's prototypes only."""
        for loss in self.losses().values():
            loss.shard()

    def shards(self) -> dict[nn.Parameter, int]:
        """The parameters of all losses of which a share is here, and the rows of the whole."""
        return {p: rows for loss in self.losses().values() for p, rows in loss.shards().items()}

    def set_margin(self, fraction: float) -> None:
        """Train every loss with this fraction of its margin."""
        for loss in self.losses().values():
            loss.set_margin(fraction)

    def initialise(self, means: Tensor) -> None:
        """Start every classifier at the identities' mean embeddings (C, D)."""
        for loss in self.losses().values():
            loss.initialise(means)

    def observe(self, norms: Tensor) -> None:
        """Show the norms of the data (N,) to every loss."""
        for loss in self.losses().values():
            loss.observe(norms)

    def stats(self) -> dict[str, Tensor]:
        """Each loss's value and scalars, as `<name>.loss`, `<name>.<scalar>`."""
        found = {f"{name}.loss": value for name, value in self._last.items()}
        for name, loss in self.losses().items():
            found |= {f"{name}.{key}": value for key, value in loss.stats().items()}
        return found

    def histograms(self) -> dict[str, Tensor]:
        """Each loss's histograms, as `<name>.<histogram>`."""
        return {
            f"{name}.{key}": values
            for name, loss in self.losses().items()
            for key, values in loss.histograms().items()
        }
