"""What the losses with a prototype for each identity share: how to train very many of them.

B: batch, C: identities, D: embedding dimension; `y` identities (B,).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from facever.losses.base import Loss
from facever.losses.parameters import COUNT, RATE, Bound
from facever.losses.sampled import sampled
from facever.losses.sharded import Shard, Whole

# Identities of a slice: at B = 128, D = 512 in float32 four buffers of 4 MiB and one of 16.
CHUNK = 8192

# Logits that are held at once to classify: 1,024 rows of a million identities would be 4 GB.
LOGITS = 2**26


class Classifier(Loss):
    """A loss over identities: over all of them at once, in slices, or over a share in each step.

    Once `shard` was called, each of several processes has the prototypes of its share of the
    identities, in slices; see `sharded`. The loss is that of all of them.

    Args:
        chunked: never hold a matrix (B, C): slices of it are computed in the forward pass and
            again in the backward pass, with the same result but for rounding.
        chunk: identities of a slice; it holds about 4 B chunk + D chunk floats at once.
        sample_rate: share of the identities that a training step looks at, those of the batch
            always among them; see `sampled`.
    """

    classifies = True
    bounds: ClassVar[dict[str, Bound]] = {"chunk": COUNT, "sample_rate": RATE}

    def __init__(
        self, *, chunked: bool = False, chunk: int = CHUNK, sample_rate: float = 1.0
    ) -> None:
        super().__init__()
        self.chunked = chunked
        self.chunk = chunk
        self.sample_rate = sample_rate
        self.here = Whole()

    @classmethod
    def contradictions(cls, params: Mapping[str, Any]) -> list[str]:
        """A size of slices where there are none."""
        if params["chunked"] or params["chunk"] == CHUNK:
            return []
        return [f"chunk {params['chunk']} has no effect without chunked=true"]

    def shard(self) -> None:
        """Keep this process's share of the prototypes only, by identity; all are to call it."""
        self.here = Shard(len(self.prototypes))
        for parameter in self.parameters():
            parameter.data = parameter.data[self.here.rows].clone()

    def shards(self) -> dict[nn.Parameter, int]:
        """The parameters of which a share is here, and how many rows the whole of each has."""
        if not isinstance(self.here, Shard):
            return {}
        return dict.fromkeys(self.parameters(), self.here.identities)

    def classify(self, z: Tensor) -> Tensor:
        """The identities (B,) of the largest plain logits."""
        blocks = torch.split(z, max(1, LOGITS // len(self.prototypes)))
        largest, columns = zip(*(self.logits(block).max(1) for block in blocks), strict=True)
        return self.here.best(torch.cat(largest), torch.cat(columns))

    def _in_slices(self) -> bool:
        return self.chunked or isinstance(self.here, Shard)

    def _in_this_step(self, y: Tensor, *parameters: Tensor) -> tuple[list[Tensor], Tensor]:
        """The rows of the parameters (n, ...) to compare with, and where among them `y` is.

        -1 stands for identities whose prototypes another process has.
        """
        y = self.here.columns(y)
        if not self.training or self.sample_rate == 1:
            return list(parameters), y
        identities = self.here.in_all(len(self.prototypes))
        return sampled(parameters, y, self.sample_rate, identities, self.here.rows)
