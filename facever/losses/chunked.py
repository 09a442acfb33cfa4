"""A softmax over slices of the identities, so that no matrix (B, C) is ever held.

B: batch, C: identities, D: embedding dimension, c: identities of a slice; `x` embeddings (B, D),
`y` identities (B,).

The forward pass keeps a log-sum-exp for each slice and each row and forgets the logits; the
backward pass computes them once more, slice by slice: four matrix products in place of three,
and (B, c) in place of (B, C). As in `similarity` the true logit stays outside, so that a margin
is differentiated by autograd on B numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from facever.losses.similarity import full_precision

Logits = Callable[..., Tensor]
"""Embeddings (B, D) and the slice of each parameter, (c, ...), to fresh logits (B, c); called
again in the backward pass, so that it must not depend on what moves between the two."""


def own_rows(parameters: Sequence[Tensor], y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Rows `y` of each parameter (C, ...), any row for -1, and the parameters to go on with.

    Indexing one beside its other use would make two gradients of its size, and a sum of them;
    here the gradient of the rows is added in place to that of the whole.
    """
    pairs = [_OwnRows.apply(parameter, y) for parameter in parameters]
    return [rows for rows, _ in pairs], [whole for _, whole in pairs]


def others(
    logits: Logits, x: Tensor, parameters: Sequence[Tensor], y: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp and sum of the logits of all identities but the own, slice by slice.

    Args:
        logits: of a slice.
        x: embeddings; shape (B, D).
        parameters: with a row for each identity; shapes (C, ...).
        y: the own identities, -1 where that is none of the C; shape (B,).
        chunk: identities of a slice.

    Returns:
        two tensors (B,), differentiable in `x` and `parameters`.
    """
    return _Others.apply(logits, chunk, y, x, *parameters)  # type: ignore[no-any-return]


def softmax_loss(
    own: Tensor, rest: Tensor, total: Tensor, count: int | Tensor, smoothing: float
) -> Tensor:
    """Mean softmax cross-entropy, from B numbers of each kind.

    Args:
        own: logits of the true identities; shape (B,).
        rest: log-sum-exp of the others' logits; shape (B,).
        total: sum of the others' logits; shape (B,).
        count: C.
        smoothing: share of the target probability spread evenly over all identities.
    """
    loss = -functional.logsigmoid(own - rest).mean()
    if smoothing == 0:
        return loss
    return loss + smoothing * (own - (own + total) / count).mean()


class _OwnRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        # -1 is no row; what comes back for it is a gradient of zero.
        y = y.clamp(min=0)
        ctx.save_for_backward(y)
        return parameter[y], parameter

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_rows: Tensor, d_parameter: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return d_parameter.index_add_(0, y, d_rows), None


class _Others(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Logits, chunk: int, y: Tensor, x: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        rests, totals = [], []
        for here in _slices(len(parameters[0]), chunk):
            values = logits(x, *(parameter[here] for parameter in parameters))
            totals.append(_fill_own(values, y - here.start, 0.0).sum(1))
            # Not -inf: a slice may hold no other identity, and inf - inf would be NaN.
            _fill_own(values, y - here.start, torch.finfo(values.dtype).min)
            rests.append(values.logsumexp(1))
        # All slices at once: added one by one, their rounding errors would add up too.
        rest = torch.stack(rests).logsumexp(0)
        ctx.save_for_backward(y, x, rest, *parameters)
        ctx.logits = logits
        ctx.chunk = chunk
        return rest, torch.stack(totals).sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_rest: Tensor, d_total: Tensor) -> tuple[Tensor | None, ...]:
        y, x, rest, *parameters = ctx.saved_tensors
        gradients = [torch.empty_like(parameter) for parameter in parameters]
        d_x = torch.zeros_like(x)

        # A function, so that nothing of a slice is held while the next one is computed.
        def descend(here: slice) -> None:
            with torch.enable_grad():
                slices = [x, *(parameter[here] for parameter in parameters)]
                leaves = [tensor.detach().requires_grad_() for tensor in slices]
                values = ctx.logits(*leaves)
            weights = values.detach().sub_(rest[:, None]).exp_()
            weights.mul_(d_rest[:, None]).add_(d_total[:, None])
            _fill_own(weights, y - here.start, 0.0)
            d_slice, *found = torch.autograd.grad(values, leaves, weights)
            d_x.add_(d_slice)
            for gradient, part in zip(gradients, found, strict=True):
                gradient[here] = part

        with full_precision(x):
            for here in _slices(len(parameters[0]), ctx.chunk):
                descend(here)
        return None, None, None, d_x, *gradients


def _slices(count: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, count)) for start in range(0, count, chunk))


def _fill_own(values: Tensor, column: Tensor, fill: float) -> Tensor:
    """Put `fill` into each row's own `column` (B,) of a slice (B, c), in place, if it is there."""
    width = values.shape[1]
    # Not by an index of the rows that are there: their number would have to leave the device.
    there = ((column >= 0) & (column < width))[:, None]
    column = column.clamp(0, width - 1)[:, None]
    return values.scatter_(1, column, torch.where(there, fill, values.gather(1, column)))
