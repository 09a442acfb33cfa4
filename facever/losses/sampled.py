"""A random share of the identities for each step: Partial FC.

An et al., "Killing Two Birds with One Stone", CVPR 2022 (arXiv:2203.15565): a step looks at the
identities of its batch and at a random part of the others, and its gradient reaches their
prototypes alone.

The log-sum-exp is not corrected, in the paper and here: over a share r of the others it is
smaller by about -log r, as in a set of r C identities. Validation looks at all of them.

Letters: B batch, C identities, S of them drawn.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

ALL = slice(None)


def draw(y: Tensor, identities: int, rate: float, rows: slice = ALL) -> Tensor:
    """Identities (S,), rising: all of `y` (B,), filled up at random to a share of all.

    S is `rate` of the identities, or B where that is more: it depends on nothing that would have
    to leave the device. The draw is a function of torch's global generator, which the training
    seeds in each step, so that a resumed run draws alike.

    Args:
        y: what must be drawn; -1 stands for none.
        identities: C.
        rate: share to draw.
        rows: draw from these identities alone, counted from the first of them. As many numbers are
            taken from the generator as for all, or processes that share them would differ in what
            they draw next.
    """
    # Double: of a million floats some are equal, and which of those topk takes is its affair.
    order = torch.rand(identities, dtype=torch.float64, device=y.device)[rows]
    count = min(len(order), max(len(y), round(rate * len(order))))
    # The larger, for none stands at identity 0, which may be wanted too.
    wanted = torch.where(y >= 0, 2.0, 0.0).to(order)
    order.scatter_reduce_(0, y.clamp(min=0), wanted, "amax")
    return order.topk(count).indices.sort().values


def sampled(
    parameters: Sequence[Tensor], y: Tensor, rate: float, identities: int, rows: slice = ALL
) -> tuple[list[Tensor], Tensor]:
    """Rows (S, ...) of the parameters (n, ...), and where among them each `y` (B,) is.

    `identities` and `rows` are as for `draw`; a `y` of -1 is nowhere, and stays -1.

    The gradient of a parameter stays dense, zero where nothing was drawn, as in InsightFace's
    PartialFC_V2: any optimiser takes it and its state is saved as ever. So a row that was not
    drawn still follows its momentum, and weight decay shortens it, which turns no row; SGD moves
    it by each of its gradients as far in all as if it stood still in between (which the first
    Partial FC, arXiv:2010.05222, did by swapping rows of weights and momentum in and out).
    """
    chosen = draw(y, identities, rate, rows)
    found = [parameter.index_select(0, chosen) for parameter in parameters]
    return found, torch.where(y >= 0, torch.searchsorted(chosen, y), -1)
