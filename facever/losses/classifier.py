"""What the losses with a prototype for each identity share: how to train very many of them.

B: batch, C: identities, D: embedding dimension; `y` identities (B,).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from facever.losses.base import Loss
from facever.losses.parameters import COUNT, RATE, Bound
from facever.losses.sampled import sampled

# Identities of a slice: at B = 128, D = 512 in float32 four buffers of 4 MiB and one of 16.
CHUNK = 8192


class Classifier(Loss):
    """A loss over identities: over all of them at once, in slices, or over a share in each step.

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

    @classmethod
    def contradictions(cls, params: Mapping[str, Any]) -> list[str]:
        """A size of slices where there are none."""
        if params["chunked"] or params["chunk"] == CHUNK:
            return []
        return [f"chunk {params['chunk']} has no effect without chunked=true"]

    def _in_this_step(self, y: Tensor, *parameters: Tensor) -> tuple[list[Tensor], Tensor]:
        """The rows of the parameters (C, ...) to compare with, and where among them `y` is."""
        if not self.training or self.sample_rate == 1:
            return list(parameters), y
        return sampled(parameters, y, self.sample_rate)
