"""Losses that classify: a prototype per identity, and softmax cross-entropy.

B: batch, C: identities, D: embedding dimension; `z` raw embeddings (B, D), `y` identities
(B,), theta_j the angle between an embedding and prototype j.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from facever.losses.chunked import others, own_rows, softmax_loss
from facever.losses.classifier import CHUNK, Classifier
from facever.losses.margin import Margin, NoMargin
from facever.losses.parameters import POSITIVE, SMOOTHING, Bound
from facever.losses.similarity import (
    cosine_matrix,
    full_precision,
    target_and_rest,
    unit_rows,
    working_dtype,
)

Product = Literal["full", "bfloat16", "float16"]
PRODUCTS: dict[str, torch.dtype | None] = {
    "full": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class CrossEntropy(Classifier):
    """Softmax cross-entropy on logits W z + b.

    Args:
        dim: D.
        identities: C.
        label_smoothing: share of the target probability spread evenly over all identities.
        bias: whether there is a b.
        **scale: of `Classifier`.
    """

    bounds: ClassVar = Classifier.bounds | {"label_smoothing": SMOOTHING}

    def __init__(
        self,
        dim: int,
        identities: int,
        *,
        label_smoothing: float = 0.1,
        bias: bool = True,
        **scale: Any,
    ) -> None:
        super().__init__(**scale)
        self.label_smoothing = label_smoothing
        self.prototypes = nn.Parameter(torch.empty(identities, dim))
        # As nn.Linear: uniform in +-1 / sqrt(D), so that the first loss is about ln C.
        reach = 1 / math.sqrt(dim)
        nn.init.uniform_(self.prototypes, -reach, reach)
        self.bias = nn.Parameter(torch.empty(identities).uniform_(-reach, reach)) if bias else None

    def logits(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """W z + b, (B, n) for the prototypes that are here; `y` has no effect without a margin."""
        with full_precision(z):
            return functional.linear(*self._widened(z))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of `z` (B, D) against `y` (B,)."""
        with full_precision(z):
            z, *parameters = self._widened(z)
            parameters, y = self._in_this_step(y, *parameters)
            if not self._in_slices():
                logits = functional.linear(z, *parameters)
                return functional.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
            own, parameters = own_rows(parameters, y)
            z = self.here.joint(z)
            logit = self.here.own((z * own[0]).sum(1) + (0 if self.bias is None else own[1]), y)
            rest, total = others(functional.linear, z, parameters, y, self.chunk)
            rest, total, count = self.here.others(rest, total, len(parameters[0]))
            return softmax_loss(logit, rest, total, count, self.label_smoothing)

    def _widened(self, z: Tensor) -> list[Tensor]:
        """`z`, W and b, where there is one, in the dtype to work in."""
        parameters = [self.prototypes] if self.bias is None else [self.prototypes, self.bias]
        dtype = working_dtype(z, self.prototypes)
        return [tensor.to(dtype) for tensor in (z, *parameters)]

    @torch.no_grad()
    def initialise(self, means: Tensor) -> None:
        """Prototypes along the mean raw embeddings `means` (C, D), bias zero.

        Their common length makes ln(9 (C - 1)) of the logit of a mean on its own prototype:
        were the others orthogonal, its probability would start at 0.9. Raw means as rows
        would make logits of |z|^2, hundreds, where the softmax no longer learns.
        """
        norms = torch.linalg.vector_norm(means, dim=1)
        typical = norms[norms > 0].mean() if (norms > 0).any() else norms.new_ones(())
        length = math.log(9 * max(len(means) - 1, 1)) / typical
        _start_rows(self.prototypes, means[self.here.rows], length)
        if self.bias is not None:
            self.bias.zero_()


class MarginSoftmax(Classifier):
    """Softmax over s cos(theta_j), the true identity's cosine replaced by psi(theta_y, |z|).

    L = -log sigmoid(s psi - rest), rest the log-sum-exp of s cos(theta_j) over j != y.

    Args:
        dim: D.
        identities: C.
        margin: psi.
        s: scale of all logits.
        detach_margin: keep the value of psi but give it the gradient of cos(theta_y), as
            codes do that compute the angle without gradient.
        label_smoothing: share of the target probability spread evenly over all identities.
        product: dtype of the matrix products; everything else stays float32 or float64.
        **scale: of `Classifier`.
    """

    bounds: ClassVar[dict[str, Bound]] = Classifier.bounds | {
        "s": POSITIVE,
        "label_smoothing": SMOOTHING,
    }

    def __init__(
        self,
        dim: int,
        identities: int,
        margin: Margin,
        *,
        s: float = 64.0,
        detach_margin: bool = False,
        label_smoothing: float = 0.0,
        product: Product = "full",
        **scale: Any,
    ) -> None:
        super().__init__(**scale)
        self.margin = margin
        self.s = s
        self.detach_margin = detach_margin
        self.label_smoothing = label_smoothing
        self.product = product
        # Rows of length one on average: only their direction counts, but the longer a row,
        # the less of an angle a step of the optimiser turns it by.
        self.prototypes = nn.Parameter(torch.randn(identities, dim).div_(math.sqrt(dim)))
        self._cos_y: Tensor | None = None

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Mean loss of raw embeddings `z` (B, D) against `y` (B,)."""
        with full_precision(z):
            unit, norm = self._unit(z)
            (prototypes,), y = self._in_this_step(y, self.prototypes.to(unit.dtype))
            if self._in_slices():
                loss = self._by_slices(unit, norm, prototypes, y)
            elif self._whole_matrix():
                logits = self._trained_logits(unit, norm, prototypes, y)
                loss = functional.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
            else:
                limit, product = self.margin.limit, PRODUCTS[self.product]
                cos_y, rest = target_and_rest(unit, prototypes, y, self.s, limit, product)
                psi = self._psi(cos_y, self._indicator(norm, cos_y, lambda: rest))
                loss = -functional.logsigmoid(self.s * psi - rest).mean()
            return loss + self.margin.penalty(norm).mean()

    def logits(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits s cos(theta_j), (B, C), for accuracy; with `y` (B,) the margin is included.

        With `y` the state moves in training mode as it does in `forward`. Once the prototypes are
        divided, the plain logits (B, n) are those of this process's, and others are not given.
        """
        assert y is None or not self.shards(), "the true identity's prototype may be elsewhere"
        with full_precision(z):
            unit, norm = self._unit(z)
            prototypes = self.prototypes.to(unit.dtype)
            if y is None:
                return self.s * self._cosines(unit, prototypes)
            return self._trained_logits(unit, norm, prototypes, y)

    def _unit(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return unit_rows(z.to(working_dtype(z, self.prototypes)))

    def _cosines(self, unit: Tensor, prototypes: Tensor) -> Tensor:
        return cosine_matrix(unit, prototypes, PRODUCTS[self.product])

    def _own_cosine(self, unit: Tensor, own: Tensor) -> Tensor:
        """Cosine (B,) of each embedding to its own prototype, (B, D), or the best of (B, k, D)."""
        rows, _ = unit_rows(own.flatten(0, -2))
        cosines = (rows.view(len(unit), -1, unit.shape[1]) * unit[:, None]).sum(2)
        return cosines.max(dim=1).values

    def _whole_matrix(self) -> bool:
        return self.label_smoothing > 0 or self.margin.reshapes_negatives

    def _by_slices(self, unit: Tensor, norm: Tensor, prototypes: Tensor, y: Tensor) -> Tensor:
        """The mean loss without the penalty, from slices of the prototypes."""
        (own,), (prototypes,) = own_rows([prototypes], y)
        unit = self.here.joint(unit)
        cos_y = self.here.own(self._own_cosine(unit, own), y)

        def among_others(psi: Tensor) -> tuple[Tensor, Tensor, Tensor | int]:
            negatives = self.margin.negatives(psi)

            def logits(unit: Tensor, prototypes: Tensor) -> Tensor:
                return self.s * negatives(self._cosines(unit, prototypes))

            rest, total = others(logits, unit, [prototypes], y, self.chunk)
            return self.here.others(rest, total, len(prototypes))

        # A proxy that asks for the rest costs a pass of its own.
        psi = self._psi(
            cos_y, self._indicator(norm, cos_y, lambda: among_others(cos_y)[0].detach())
        )
        rest, total, count = among_others(psi)
        return softmax_loss(self.s * psi, rest, total, count, self.label_smoothing)

    def _trained_logits(self, unit: Tensor, norm: Tensor, prototypes: Tensor, y: Tensor) -> Tensor:
        cosines = self._cosines(unit, prototypes)
        own = y[:, None]
        cos_y = cosines.gather(1, own).squeeze(1)
        rest = partial(self._rest, cosines.detach(), own)
        psi = self._psi(cos_y, self._indicator(norm, cos_y, rest))
        return self.s * self.margin.negatives(psi)(cosines).scatter(1, own, psi[:, None])

    def _rest(self, cosines: Tensor, own: Tensor) -> Tensor:
        """Log-sum-exp (B,) of s cos(theta_j) over j != y, as `target_and_rest` has it."""
        limit = self.margin.limit
        others = self.s * cosines.clamp(-limit, limit)
        return others.scatter_(1, own, torch.finfo(others.dtype).min).logsumexp(1)

    def _indicator(self, norm: Tensor, cos_y: Tensor, rest: Callable[[], Tensor]) -> Tensor:
        """What the margin is told of each image beside its cosine, (B,): the norm.

        `rest` gives the log-sum-exp of the other logits, (B,), which only the fused path has
        at hand.
        """
        return norm

    def _psi(self, cos_y: Tensor, indicator: Tensor) -> Tensor:
        self._cos_y = cos_y.detach()
        if self.training:
            self.margin.update(self._cos_y, indicator.detach())
        psi = self.margin.target(cos_y, indicator)
        return cos_y + (psi - cos_y).detach() if self.detach_margin else psi

    def expect_all(self) -> None:
        """Count on seeing the embeddings of all processes."""
        self.margin.gathered = True

    def set_margin(self, fraction: float) -> None:
        """Train with this fraction of the margin; 1 is the whole of it."""
        self.margin.fraction = fraction

    @torch.no_grad()
    def initialise(self, means: Tensor) -> None:
        """Unit prototypes along the mean embeddings `means` (C, D), or (C, k, D) of sub-centres."""
        _start_rows(self.prototypes, means[self.here.rows], means.new_ones(()))

    def observe(self, norms: Tensor) -> None:
        """Start the margin's statistics of norms from those of the data, (N,)."""
        self.margin.observe(norms)

    def stats(self) -> dict[str, Tensor]:
        """Mean cosine to the own prototype, and the margin's state."""
        mean = {} if self._cos_y is None else {"cos_y": self._cos_y.mean()}
        return mean | self.margin.stats()

    def histograms(self) -> dict[str, Tensor]:
        """Those of the margin."""
        return self.margin.histograms()


class NormFace(MarginSoftmax):
    """Softmax over s cos(theta_j).  Wang et al., ACM MM 2017 (arXiv:1704.06369).

    Departs from the paper: the scale s is fixed, not learnt.
    """

    def __init__(
        self,
        dim: int,
        identities: int,
        *,
        s: float = 64.0,
        label_smoothing: float = 0.0,
        product: Product = "full",
        chunked: bool = False,
        chunk: int = CHUNK,
        sample_rate: float = 1.0,
    ) -> None:
        super().__init__(
            dim,
            identities,
            NoMargin(),
            s=s,
            label_smoothing=label_smoothing,
            product=product,
            chunked=chunked,
            chunk=chunk,
            sample_rate=sample_rate,
        )


def _start_rows(prototypes: Tensor, means: Tensor, length: Tensor) -> None:
    """Turn rows along `means`; an identity whose mean is zero was not seen and keeps its row."""
    if means.shape != prototypes.shape:
        raise ValueError(
            f"initialise: means of shape {tuple(means.shape)}; "
            f"expected {tuple(prototypes.shape)}, a row per identity"
        )
    unit, norms = unit_rows(means.to(prototypes).flatten(0, -2))
    rows = prototypes.view(unit.shape)
    rows.copy_(torch.where(norms[:, None] > 0, unit * length, rows))
