"""Losses that compare the embeddings of a batch with each other; they have no classifier.

B: batch. S (B, B) cosine similarities, d (B, B) distances; a an anchor, p its positives (same
identity, not itself), n its negatives. They want batches of P identities x K images, K >= 2;
without a pair of one identity in the batch the loss is S.sum() * 0.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from facever.losses.base import Loss
from facever.losses.parameters import COSINE, NOT_NEGATIVE, POSITIVE, SHARE
from facever.losses.similarity import full_precision, unit_rows, working_dtype

Reduction = Literal["mean", "active"]


class PairLoss(Loss):
    """What the pair losses share: similarities, masks, and the mean over what counts."""

    needs_pairs = True

    def __init__(self) -> None:
        super().__init__()
        self._active_share: Tensor | None = None

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Mean loss of raw embeddings `z` (B, D) with identities `y` (B,)."""
        with full_precision(z):
            z = z.to(working_dtype(z))
            same = y[:, None] == y
            positive = same & ~torch.eye(len(y), dtype=torch.bool, device=y.device)
            value = self.compare(z, positive, ~same)
            return torch.where(positive.any(), value, (z * 0).sum())

    def compare(self, z: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss, given the masks (B, B) of positives and negatives."""
        raise NotImplementedError

    def average(self, terms: Tensor, valid: Tensor, reduction: Reduction) -> Tensor:
        """Mean of the `terms` that are `valid`, or of those among them that are positive."""
        active = valid & (terms > 0)
        self._note(active.sum(), valid.sum())
        chosen = active if reduction == "active" else valid
        return torch.where(chosen, terms, 0).sum() / chosen.sum().clamp_min(1)

    def _note(self, active: Tensor, valid: Tensor) -> None:
        self._active_share = active.detach() / valid.clamp_min(1)

    def stats(self) -> dict[str, Tensor]:
        """Share of the terms that were positive."""
        return {} if self._active_share is None else {"active_share": self._active_share}


class Contrastive(PairLoss):
    """relu(pos_margin - S_ap) averaged over positives + relu(S_an - neg_margin) over negatives.

    Hadsell et al., CVPR 2006, on cosine similarities; margins in units of cosine.
    """

    bounds: ClassVar = {"pos_margin": COSINE, "neg_margin": COSINE}

    def __init__(
        self,
        *,
        pos_margin: float = 1.0,
        neg_margin: float = 0.0,
        reduction: Reduction = "active",
    ) -> None:
        super().__init__()
        self.pos_margin = pos_margin
        self.neg_margin = neg_margin
        self.reduction = reduction

    def compare(self, z: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss, given the masks (B, B)."""
        S = similarities(z)
        pull = functional.relu(self.pos_margin - S)
        push = functional.relu(S - self.neg_margin)
        value = self.average(pull, positive, self.reduction)
        value = value + self.average(push, negative, self.reduction)
        active = (positive & (pull > 0)) | (negative & (push > 0))
        self._note(active.sum(), (positive | negative).sum())
        return value


class Triplet(PairLoss):
    """relu(d_ap - d_an + m) on unit vectors.  Schroff et al., CVPR 2015 (arXiv:1503.03832).

    Departs from the paper: `semihard` averages over all its triplets instead of drawing one
    for each positive pair.

    Args:
        m: margin, in the unit of the metric.
        metric: `cosine` d = 1 - S, `sqeuclidean` d = 2 - 2 S (eq. 1), `euclidean` its root.
        miner: `all` triplets; `hard`, the farthest positive and the nearest negative of each
            anchor; `semihard`, the triplets with 0 < d_an - d_ap <= m.
        reduction: `active`, over the triplets with a positive term; `mean`, over all mined.
    """

    bounds: ClassVar = {"m": NOT_NEGATIVE}

    def __init__(
        self,
        *,
        m: float = 0.2,
        metric: Literal["cosine", "sqeuclidean", "euclidean"] = "cosine",
        miner: Literal["all", "hard", "semihard"] = "all",
        reduction: Reduction = "active",
    ) -> None:
        super().__init__()
        self.m = m
        self.metric = metric
        self.miner = miner
        self.reduction = reduction

    def compare(self, z: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss, given the masks (B, B)."""
        d = self._distances(similarities(z))
        if self.miner == "hard":
            return self._hardest(d, positive, negative)
        return self._every(d, positive, negative)

    def _distances(self, S: Tensor) -> Tensor:
        if self.metric == "cosine":
            return 1 - S
        squared = 2 - 2 * S
        if self.metric == "sqeuclidean":
            return squared
        # The root's slope is infinite at 0, where equal embeddings lie.
        return squared.clamp_min(4 * torch.finfo(S.dtype).eps).sqrt()

    def _hardest(self, d: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        farthest = d.masked_fill(~positive, -torch.inf).max(1).values
        nearest = d.masked_fill(~negative, torch.inf).min(1).values
        valid = positive.any(1) & negative.any(1)
        terms = functional.relu(torch.where(valid, farthest - nearest, 0) + self.m)
        return self.average(terms, valid, self.reduction)

    def _every(self, d: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Sum over triplets without a (B, B, B) tensor.

        With the negatives of an anchor sorted, those that are active with a positive p are the
        nearest `end` of them (for `semihard` without the nearest `begin`), and their terms
        add up to (end - begin) (d_ap + m) - (prefix[end] - prefix[begin]).
        """
        ordered = d.masked_fill(~negative, torch.inf).sort(1).values
        prefix = functional.pad(torch.where(ordered.isinf(), 0, ordered).cumsum(1), (1, 0))
        with torch.no_grad():
            keys, reach = ordered.detach(), d.detach() + self.m
            end = torch.searchsorted(keys, reach)
            mined = negative.sum(1, keepdim=True).expand_as(end)
            begin = torch.zeros_like(end)
            if self.miner == "semihard":
                begin = torch.searchsorted(keys, d.detach().contiguous(), right=True)
                mined = torch.searchsorted(keys, reach, right=True)
            end = torch.maximum(begin, end)
            active = torch.where(positive, end - begin, 0)
            valid = torch.where(positive, (mined - begin).clamp_min(0), 0).sum()
        sums = active * (d + self.m) - (prefix.gather(1, end) - prefix.gather(1, begin))
        self._note(active.sum(), valid)
        count = active.sum() if self.reduction == "active" else valid
        return torch.where(positive, sums, 0).sum() / count.clamp_min(1)


class NPair(PairLoss):
    """log(1 + sum_n exp(z_a . z_n - z_a . z_p)) + reg mean |z|^2.  Sohn, NIPS 2016, eq. 7.

    Of each identity with two images or more, the first in the batch is the anchor and the
    second the positive; the other identities' positives are the negatives.

    Args:
        reg: weight of the mean squared norm of the batch's embeddings.
        normalized: products of unit vectors, times `s`, instead of raw embeddings.
        s: scale of the cosines, where `normalized`.
    """

    bounds: ClassVar = {"reg": NOT_NEGATIVE, "s": POSITIVE}

    def __init__(self, *, reg: float = 0.02, normalized: bool = False, s: float = 16.0) -> None:
        super().__init__()
        self.reg = reg
        self.normalized = normalized
        self.s = s

    def compare(self, z: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss, given the masks (B, B)."""
        products = self.s * similarities(z) if self.normalized else z @ z.t()
        turn = positive.tril().sum(1)  # how many images of the identity come before
        anchor = (turn == 0) & positive.any(1)
        second = turn == 1
        own = torch.where(positive & second, products, 0).sum(1, keepdim=True)
        terms = log1p_sum_exp(products - own, negative & second)
        value = self.average(terms, anchor, "mean")
        return value + self.reg * z.square().sum(1).mean()


class Circle(PairLoss):
    """log(1 + sum_n exp(gamma a_n (S_n - m)) sum_p exp(-gamma a_p (S_p - 1 + m))) per anchor.

    Sun et al., CVPR 2020 (arXiv:2002.10857), eqs. 6 and 8: a_p = relu(1 + m - S_p) and
    a_n = relu(S_n + m), without gradient.

    Args:
        m: relaxation, in units of cosine.
        gamma: scale.
        weighted: False leaves the weights a out.
        reduction: over anchors with a positive and a negative.
    """

    bounds: ClassVar = {"m": SHARE, "gamma": POSITIVE}

    def __init__(
        self,
        *,
        m: float = 0.25,
        gamma: float = 256.0,
        weighted: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.m = m
        self.gamma = gamma
        self.weighted = weighted
        self.reduction = reduction

    def compare(self, z: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss, given the masks (B, B)."""
        S = similarities(z)
        pull, push = 1 - self.m - S, S - self.m
        if self.weighted:
            pull = pull * functional.relu(1 + self.m - S.detach())
            push = push * functional.relu(S.detach() + self.m)
        exponent = log_sum_exp(self.gamma * pull, positive) + log_sum_exp(
            self.gamma * push, negative
        )
        valid = positive.any(1) & negative.any(1)
        terms = log1p_exp(torch.where(valid, exponent, 0))
        return self.average(terms, valid, self.reduction)


class SupCon(PairLoss):
    """mean_p -log(exp(S_ap / tau) / sum_{i != a} exp(S_ai / tau)) per anchor.

    Khosla et al., NeurIPS 2020 (arXiv:2004.11362), eq. 2 (L_out).

    Args:
        tau: temperature.
        reduction: over anchors with a positive.
    """

    bounds: ClassVar = {"tau": POSITIVE}

    def __init__(self, *, tau: float = 0.1, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.tau = tau
        self.reduction = reduction

    def compare(self, z: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss, given the masks (B, B)."""
        scaled = similarities(z) / self.tau
        surprise = log_sum_exp(scaled, positive | negative)[:, None] - scaled
        count = positive.sum(1)
        terms = torch.where(positive, surprise, 0).sum(1) / count.clamp_min(1)
        return self.average(terms, count > 0, self.reduction)


class MultiSimilarity(PairLoss):
    """log(1 + sum_p exp(-alpha (S_p - base))) / alpha + the like over n with beta, per anchor.

    Wang et al., CVPR 2019 (arXiv:1904.06627), eq. 15; the negatives' term is
    log(1 + sum_n exp(beta (S_n - base))) / beta.

    Departs from the paper: no pairs are mined out.
    """

    bounds: ClassVar = {"alpha": POSITIVE, "beta": POSITIVE, "base": COSINE}

    def __init__(self, *, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.base = base

    def compare(self, z: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss, given the masks (B, B)."""
        S = similarities(z) - self.base
        terms = log1p_sum_exp(-self.alpha * S, positive) / self.alpha
        terms = terms + log1p_sum_exp(self.beta * S, negative) / self.beta
        return self.average(terms, torch.ones_like(terms, dtype=torch.bool), "mean")


def similarities(z: Tensor) -> Tensor:
    """Cosines (B, B) between the rows of `z` (B, D)."""
    unit, _ = unit_rows(z)
    return unit @ unit.t()


def log_sum_exp(x: Tensor, mask: Tensor) -> Tensor:
    """Log of the sum of exp(x) over the columns in `mask`, (B,); very negative where none is."""
    return x.masked_fill(~mask, torch.finfo(x.dtype).min).logsumexp(1)


def log1p_sum_exp(x: Tensor, mask: Tensor) -> Tensor:
    """Log of 1 + the sum of exp(x) over the columns in `mask`, (B,); 0 where none is."""
    return log1p_exp(log_sum_exp(x, mask))


def log1p_exp(x: Tensor) -> Tensor:
    """Log of 1 + exp(x); `softplus` would drop the 1 beyond x = 20, 2e-9 of the value."""
    return -functional.logsigmoid(-x)
