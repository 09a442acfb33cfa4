"""The prototypes of one process, where several divide them by identity.

Model parallelism of the last layer, as in ArcFace's code: An et al., "Partial FC: Training 10
Million Identities on a Single Machine", ICCV Workshops 2021 (arXiv:2010.05222), section 3. Every
process has the embeddings of the whole batch and computes the loss from the same few numbers an
image; the logits of its identities, and what they add to the gradients, are its own work.

B: batch, C: identities, n: those of this process, D: embedding dimension, W: processes.
"""

import torch
from torch import Tensor

from facever import distributed


class Whole:
    """All prototypes are here, and there is nothing to exchange."""

    rows = slice(None)
    """the identities whose prototypes are here"""

    def in_all(self, count: int) -> int:
        """Number of identities, of which the prototypes of `count` are here."""
        return count

    def columns(self, y: Tensor) -> Tensor:
        """Where among the rows identities `y` (B,) are; -1: in another process."""
        return y

    def joint(self, x: Tensor) -> Tensor:
        """Embeddings (B, D), about to be compared with the rows that are here."""
        return x

    def own(self, values: Tensor, columns: Tensor) -> Tensor:
        """Values (B,), each as the process has it that has the own prototype."""
        return values

    def others(
        self, rest: Tensor, total: Tensor, count: int
    ) -> tuple[Tensor, Tensor, Tensor | int]:
        """Log-sum-exp and sum (B,) of logits, and the number of identities, over all processes."""
        return rest, total, count

    def best(self, largest: Tensor, columns: Tensor) -> Tensor:
        """Identities (B,) of the largest logits, given those among the rows and their columns."""
        return columns


class Shard(Whole):
    """The prototypes of this process's share of C identities are here."""

    def __init__(self, identities: int) -> None:
        self.identities = identities
        self.rows = distributed.share(identities)

    def in_all(self, count: int) -> int:
        """Number of identities, of which the prototypes of `count` are here."""
        return self.identities

    def columns(self, y: Tensor) -> Tensor:
        """Where among the rows identities `y` (B,) are; -1: in another process."""
        here = (y >= self.rows.start) & (y < self.rows.stop)
        return torch.where(here, y - self.rows.start, -1)

    def joint(self, x: Tensor) -> Tensor:
        """The same embeddings (B, D), whose gradient is summed over processes."""
        return distributed.joint(x)

    def own(self, values: Tensor, columns: Tensor) -> Tensor:
        """Values (B,), each as the process has it that has the own prototype."""
        return distributed.stack(torch.where(columns >= 0, values, 0)).sum(0)

    def others(
        self, rest: Tensor, total: Tensor, count: int
    ) -> tuple[Tensor, Tensor, Tensor | int]:
        """Log-sum-exp and sum (B,) of logits, and the number of identities, over all processes."""
        told = torch.stack([rest, total, torch.full_like(rest, count)])
        rests, totals, counts = distributed.stack(told).unbind(1)
        return rests.logsumexp(0), totals.sum(0), counts[:, 0].sum()

    def best(self, largest: Tensor, columns: Tensor) -> Tensor:
        """Identities (B,) of the largest logits, given those among the rows and their columns."""
        winners = distributed.stack(largest).argmax(0)
        identities = distributed.stack(columns + self.rows.start)
        return identities.gather(0, winners[None]).squeeze(0)
