"""Unit rows, and cosines to prototypes, at the cost of the matrix products alone.

B: batch, C: prototypes, D: embedding dimension. Normalising the prototypes through autograd
costs several passes over (C, D) and keeps a copy; here the columns of the (B, C) product are
divided by the prototypes' norms instead, and the backward pass takes the radial part out of
the prototypes' gradient in place.

The loss of a softmax with the true logit t and the log-sum-exp `rest` of the others is
-log sigmoid(t - rest), so that a margin, which changes t alone, is differentiated by autograd
on B numbers while the (B, C) matrix never leaves the Function. One buffer of (B, C) is made
by the forward pass and none by the backward pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Shorter rows have no direction: their unit row is zero and so is its gradient, which
# 1 / 1e-12 would turn into an explosion.
SHORTEST = 1e-12


def full_precision(x: Tensor) -> torch.autocast:
    """A context without autocast on the device of `x`."""
    return torch.autocast(device_type=x.device.type, enabled=False)


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest dtype of `tensors`, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def unit_rows(z: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of `z` (B, D) divided by their norms, and the norms (B,)."""
    norm = torch.linalg.vector_norm(z, dim=1)
    return z * _reciprocal(norm)[:, None], norm


def cosine_matrix(unit: Tensor, prototypes: Tensor, product: torch.dtype | None = None) -> Tensor:
    """Cosines (B, C) of unit rows (B, D) to the rows of `prototypes` (C, D).

    Args:
        unit: rows of length one.
        prototypes: rows of any length.
        product: dtype of the matrix products where it is to be lower than the operands'.
    """
    return _CosineMatrix.apply(unit, prototypes, product)  # type: ignore[no-any-return]


def target_and_rest(
    unit: Tensor,
    prototypes: Tensor,
    y: Tensor,
    s: float,
    limit: float = 1.0,
    product: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosine to the own prototype, and log-sum-exp of `s` cos over all the others.

    Args:
        unit: rows of length one; shape (B, D).
        prototypes: rows of any length; shape (C, D).
        y: index of each row's own prototype; shape (B,).
        s: scale.
        limit: below 1, the others' cosines are clamped into [-limit, limit].
        product: as in `cosine_matrix`.

    Returns:
        cos_y (B,), not clamped, and rest (B,).
    """
    return _TargetAndRest.apply(unit, prototypes, y, s, limit, product)  # type: ignore[no-any-return]


class _CosineMatrix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, unit: Tensor, prototypes: Tensor, product: torch.dtype | None) -> Tensor:
        inverse = _reciprocal(torch.linalg.vector_norm(prototypes, dim=1))
        ctx.save_for_backward(unit, prototypes, inverse)
        ctx.product = product
        return _matmul(unit, prototypes.t(), product).mul_(inverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        unit, prototypes, inverse = ctx.saved_tensors
        with full_precision(unit):
            columns = grad * inverse
            d_unit = _matmul(columns, prototypes, ctx.product)
            d_prototypes = _matmul(columns.t(), unit, ctx.product)
            return d_unit, _without_radial_part(d_prototypes, prototypes, inverse), None


class _TargetAndRest(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        unit: Tensor,
        prototypes: Tensor,
        y: Tensor,
        s: float,
        limit: float,
        product: torch.dtype | None,
    ) -> tuple[Tensor, Tensor]:
        inverse = _reciprocal(torch.linalg.vector_norm(prototypes, dim=1))
        x = _matmul(unit, prototypes.t(), product)
        own = y[:, None]
        cos_y = x.gather(1, own).squeeze(1) * inverse[y]
        x.mul_(inverse * s)
        # Not x.abs(), which would be another matrix of floats.
        clamped = (x > s * limit).logical_or_(x < -s * limit) if limit < 1 else None
        if clamped is not None:
            x.clamp_(-s * limit, s * limit)
        # Not -inf: with one identity there is no other logit, and inf - inf would be NaN.
        x.scatter_(1, own, torch.finfo(x.dtype).min)
        top = x.amax(1, keepdim=True)
        x.sub_(top).exp_()
        total = x.sum(1)
        rest = top.squeeze(1) + total.log()
        if clamped is not None:
            x.masked_fill_(clamped, 0)
        x.scatter_(1, own, 0)
        x.mul_(inverse)
        ctx.save_for_backward(unit, prototypes, y, inverse, x, s / total)
        ctx.product = product
        return cos_y, rest

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_cos_y: Tensor, d_rest: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None, None]:
        unit, prototypes, y, inverse, others, weight = ctx.saved_tensors
        # d loss / d x is `others` with its rows weighted and B target entries: the weights go
        # into the small factors and the targets are added apart, so `others` is only read.
        with full_precision(unit):
            rows = (d_rest * weight)[:, None]
            own = (d_cos_y * inverse[y])[:, None]
            d_unit = _matmul(others, prototypes, ctx.product).mul_(rows)
            d_unit.addcmul_(prototypes[y], own)
            d_prototypes = _matmul(others.t(), unit * rows, ctx.product)
            d_prototypes.index_add_(0, y, unit * own)
            _without_radial_part(d_prototypes, prototypes, inverse)
            return d_unit, d_prototypes, None, None, None, None


def _reciprocal(norm: Tensor) -> Tensor:
    return torch.where(norm > SHORTEST, norm, torch.inf).reciprocal()


def _matmul(a: Tensor, b: Tensor, product: torch.dtype | None) -> Tensor:
    if product is None:
        return a @ b
    return (a.to(product) @ b.to(product)).to(a.dtype)


def _without_radial_part(grad: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
    """Project `grad` (C, D), in place, onto the tangents of the sphere at `rows`."""
    # On a CPU in slices that stay in its cache: 19 ms instead of 146 at C = 100,000.
    # On a GPU few, but no product of the whole (C, D) at once, which may be more than (B, C).
    size = 2048 if grad.device.type == "cpu" else max(4096, len(grad) // 16)
    slices = (torch.split(whole, size) for whole in (grad, rows, inverse))
    for d, row, scale in zip(*slices, strict=True):
        radial = (d * row).sum(1).mul_(scale.square())
        d.addcmul_(row, radial[:, None], value=-1)
    return grad
