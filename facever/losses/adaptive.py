"""The functions psi that adapt: to the norm of an embedding, to the training, or to chance.

B: batch, C: identities; `cos_y` (B,) the cosine of each embedding to its own prototype, theta
that angle, `norm` (B,) the norm of the raw embedding. What is learnt from the batches lives in
buffers; it moves in training mode, before it is used, and alike in all processes.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, distributed

from facever.losses.margin import Margin, add_angle, angle

Proxy = Literal["norm", "probability", "image"]


def moments(values: Tensor, gathered: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and unbiased standard deviation of `values` (B,), over all processes.

    Args:
        values: of this process; shape (B,).
        gathered: every process has those of all.
    """
    shared = distributed.is_available() and distributed.is_initialized() and not gathered

    def add_up(parts: Tensor) -> Tensor:
        if shared:
            distributed.all_reduce(parts)
        return parts

    count, total = add_up(torch.stack([values.new_full((), values.numel()), values.sum()]))
    mean = total / count
    (squares,) = add_up((values - mean).square().sum()[None])
    return count, mean, (squares / (count - 1).clamp_min(1)).sqrt()


class CurricularFace(Margin):
    """psi = cos(theta + m); hard negatives weigh t + cos(theta_j), t growing as training goes.

    Huang et al., CVPR 2020 (arXiv:2004.00288), eqs. 5 to 8: a negative with cos(theta_j) > psi
    becomes cos(theta_j) (t + cos(theta_j)), t the moving average of the mean cos(theta_y).

    Departs from the paper: beyond theta = pi - m psi goes on as in `ArcFace`.
    """

    reshapes_negatives = True
    t: Tensor

    def __init__(self, m: float, *, ema: float, easy_margin: bool) -> None:
        super().__init__()
        self.m = m
        self.ema = ema
        self.easy_margin = easy_margin
        self.register_buffer("t", torch.zeros(()))

    def target(self, cos_y: Tensor, norm: Tensor) -> Tensor:
        """The margin's psi, (B,)."""
        return add_angle(cos_y, self.fraction * self.m, self.easy_margin)

    def negatives(self, psi: Tensor) -> Callable[[Tensor], Tensor]:
        """Cosines (B, C) to the same with those above psi (B,) turned into cos (t + cos)."""
        level, t = psi.detach()[:, None], self.t.clone()
        return lambda cosines: torch.where(cosines > level, cosines * (t + cosines), cosines)

    @torch.no_grad()
    def update(self, cos_y: Tensor, norm: Tensor) -> None:
        """Move t towards the mean of `cos_y`; a batch of one moves nothing."""
        count, mean, _ = moments(cos_y, self.gathered)
        self.t.lerp_(mean.to(self.t), self.ema * (count > 1).to(self.t))

    def stats(self) -> dict[str, Tensor]:
        """`t`."""
        return {"t": self.t.clone()}


class MagFace(Margin):
    """psi = cos(theta + m(a)), a = clip(|z|, l_a, u_a), m(a) linear from l_m to u_m (radians).

    Meng et al., CVPR 2021 (arXiv:2103.06627), eqs. 3 and 4, with the penalty
    lambda_g (1 / a + a / u_a^2); the gradient flows through a.

    Departs from the authors' code: the margin holds at every angle, as in `ArcFace`; the code's
    margin only where cos(theta) > 0 is `easy_margin`.
    """

    def __init__(
        self,
        l_a: float,
        u_a: float,
        l_m: float,
        u_m: float,
        lambda_g: float,
        *,
        easy_margin: bool,
    ) -> None:
        super().__init__()
        self.l_a = l_a
        self.u_a = u_a
        self.l_m = l_m
        self.u_m = u_m
        self.lambda_g = lambda_g
        self.easy_margin = easy_margin

    def target(self, cos_y: Tensor, norm: Tensor) -> Tensor:
        """The margin's psi, (B,)."""
        a = norm.clamp(self.l_a, self.u_a)
        m = self.l_m + (self.u_m - self.l_m) / (self.u_a - self.l_a) * (a - self.l_a)
        return add_angle(cos_y, self.fraction * m, self.easy_margin)

    def penalty(self, norm: Tensor) -> Tensor:
        """lambda_g (1 / a + a / u_a^2), (B,): least at a = u_a."""
        a = norm.clamp(self.l_a, self.u_a)
        return self.lambda_g * (1 / a + a / self.u_a**2)


class AdaFace(Margin):
    """psi = cos(theta - m q) - (m + m q), q = clip(h (|z| - mu) / (sigma + 1e-3), -1, 1).

    Kim et al., CVPR 2022 (arXiv:2204.00964), eqs. 10 and 11: q = -1 is ArcFace, q = 0 CosFace,
    q = 1 a negative angular margin with a shift. No gradient flows through q. mu and sigma are
    moving averages of the mean and the unbiased standard deviation of the norms, clamped to
    [0.001, 100], moved with the batch before they are used.

    Departs from the paper, as its authors' code does: g_add is inside the scale, the angle is
    clipped into [eps, pi - eps] and every cosine into [-1 + eps, 1 - eps], eps = 1e-3, and
    `ema` is the weight of the new batch.

    The norm is one proxy of the quality; section 4.3 compares it with others. In place of the
    norms they are what `target` and `update` take, and they are not clamped.

    Args:
        m: margin, in radians and in units of cosine.
        h: how far the proxy spreads q.
        ema: weight of a batch in mu and sigma.
        ema_init: `authors` starts at mu 20, sigma 100, which keeps q near 0 for some 350
            steps; `data` starts at what `observe` is shown, or at the first training batch.
            By default `authors` for norms, `data` for every other proxy.
        proxy: what q is computed from.
    """

    EPS = 1e-3
    limit = 1 - EPS
    mu: Tensor
    sigma: Tensor
    started: Tensor

    def __init__(
        self,
        m: float,
        h: float,
        *,
        ema: float,
        ema_init: Literal["authors", "data"] | None,
        proxy: Proxy,
    ) -> None:
        super().__init__()
        if ema_init is None:
            ema_init = "authors" if proxy == "norm" else "data"
        self.m = m
        self.h = h
        self.ema = ema
        self.ema_init = ema_init
        self.reads_norms = proxy == "norm"
        self.register_buffer("mu", torch.tensor(20.0))
        self.register_buffer("sigma", torch.tensor(100.0))
        self.register_buffer("started", torch.tensor(ema_init == "authors"))
        self._q: Tensor | None = None

    def quality(self, indicator: Tensor) -> Tensor:
        """The image quality q in [-1, 1], (B,), of norms or another proxy (B,)."""
        indicator = self._clamped(indicator.detach())
        return (self.h * (indicator - self.mu) / (self.sigma + self.EPS)).clamp(-1, 1)

    def target(self, cos_y: Tensor, norm: Tensor) -> Tensor:
        """The margin's psi, (B,)."""
        q = self.quality(norm)
        self._q = q
        m = self.fraction * self.m
        turned = (angle(cos_y, self.limit) - m * q).clamp(self.EPS, math.pi - self.EPS).cos()
        return turned - (m + m * q)

    @torch.no_grad()
    def update(self, cos_y: Tensor, norm: Tensor) -> None:
        """Move mu and sigma with norms or another proxy (B,); a batch of one moves nothing."""
        count, mean, deviation = moments(self._clamped(norm), self.gathered)
        weight = torch.where(self.started, self.ema * torch.ones_like(mean), 1.0) * (count > 1)
        self.mu.lerp_(mean.to(self.mu), weight.to(self.mu))
        self.sigma.lerp_(deviation.to(self.sigma), weight.to(self.sigma))
        self.started.logical_or_(count > 1)

    @torch.no_grad()
    def observe(self, norms: Tensor) -> None:
        """Start mu and sigma from the norms of the data (N,), where `ema_init` is `data`.

        Every process is to be shown the same norms. They say nothing about another proxy.
        """
        if self.reads_norms and self.ema_init == "data" and len(norms) > 1:
            norms = self._clamped(norms)
            self.mu.copy_(norms.mean())
            self.sigma.copy_(norms.std())
            self.started.fill_(True)

    def _clamped(self, indicator: Tensor) -> Tensor:
        return indicator.clamp(0.001, 100) if self.reads_norms else indicator

    def stats(self) -> dict[str, Tensor]:
        """`mu` and `sigma`."""
        return {"mu": self.mu.clone(), "sigma": self.sigma.clone()}

    def histograms(self) -> dict[str, Tensor]:
        """`q` of the last batch."""
        return {} if self._q is None else {"q": self._q}


class ElasticFace(Margin):
    """ArcFace or CosFace, the margin of each sample drawn anew from N(m, std) while training.

    Boutros et al., CVPR Workshops 2022 (arXiv:2109.09416), eqs. 5 and 6. `plus` (section 3.3)
    gives the larger of the drawn margins to the smaller cosines.

    Departs from the authors' code: with `plus` it orders the margins by the sorting
    permutation where its inverse, the ranks, is what the paper describes.

    Args:
        base: `arc`, m in radians, or `cos`, m in units of cosine.
        m: mean of the margins, the margin in evaluation mode.
        std: their standard deviation.
        plus: whether the hardest samples get the largest margins.
    """

    def __init__(self, base: Literal["arc", "cos"], m: float, std: float, *, plus: bool) -> None:
        super().__init__()
        self.base = base
        self.m = m
        self.std = std
        self.plus = plus

    def target(self, cos_y: Tensor, norm: Tensor) -> Tensor:
        """The margin's psi, (B,)."""
        m = self.fraction * self._margins(cos_y.detach())
        return add_angle(cos_y, m) if self.base == "arc" else cos_y - m

    def _margins(self, cos_y: Tensor) -> Tensor:
        if not self.training:
            return torch.full_like(cos_y, self.m)
        m = torch.normal(self.m, self.std, cos_y.shape, dtype=cos_y.dtype, device=cos_y.device)
        if not self.plus:
            return m
        easiest_first = cos_y.argsort(descending=True)
        return torch.empty_like(m).scatter_(0, easiest_first, m.sort().values)
