"""The functions psi(theta_y, |z|) that replace the true identity's cosine.

B: batch, C: identities; `cos_y` (B,) the cosine of each embedding to its own prototype, theta
that angle, `norm` (B,) the norm of the raw embedding. Angular margins are in radians, additive
ones in units of cosine. Nothing here has a default: those are in the signatures of `published`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def sine(cos: Tensor) -> Tensor:
    """sin(theta) >= 0 of cos(theta), with a finite gradient at cos = +-1."""
    return ((1 - cos) * (1 + cos)).clamp_min(torch.finfo(cos.dtype).eps).sqrt()


def angle(cos: Tensor, limit: float | None = None) -> Tensor:
    """Theta in (0, pi) of cos(theta), with a finite gradient at cos = +-1.

    Args:
        cos: cosines; shape (B,).
        limit: cosines are clamped into [-limit, limit]; by default as near 1 as rounding lets.
    """
    limit = 1 - 4 * torch.finfo(cos.dtype).eps if limit is None else limit
    return cos.clamp(-limit, limit).acos()


def add_angle(cos: Tensor, m: Tensor | float, easy_margin: bool = False) -> Tensor:
    """cos(theta + m), by the addition theorem; falling over all of [0, pi].

    Beyond theta = pi - m, where cos(theta + m) would turn up again, it goes on as
    cos(theta) + cos(m) - 1, which meets it there.

    Args:
        cos: cos(theta); shape (B,).
        m: margin in radians, one or one for each.
        easy_margin: the margin only where cos(theta) > 0, elsewhere cos(theta).
    """
    cos_m: Tensor | float
    sin_m: Tensor | float
    if isinstance(m, Tensor):
        cos_m, sin_m = m.cos(), m.sin()
    else:
        cos_m, sin_m = math.cos(m), math.sin(m)
    turned = cos * cos_m - sine(cos) * sin_m
    if easy_margin:
        return torch.where(cos > 0, turned, cos)
    # A negative margin, which ElasticFace may draw, meets no turn.
    falls = (cos > -cos_m) | (sin_m < 0)
    return torch.where(falls, turned, cos + cos_m - 1)


class Margin(nn.Module):
    """psi(theta_y, |z|), and what else a loss does to the cosines."""

    limit: float = 1.0
    """The largest cosine of the other identities."""
    reshapes_negatives: bool = False
    """Whether `negatives` does anything but clamp to `limit`."""
    reads_norms: bool = True
    """Whether what `target` takes beside the cosines are the norms of raw embeddings."""
    gathered: bool = False
    """Whether each of several processes is shown the embeddings of all."""
    fraction: float = 1.0
    """How much of the margin is in force, for a warm-up."""

    def target(self, cos_y: Tensor, norm: Tensor) -> Tensor:
        """Psi (B,) of `cos_y` (B,) and the norms of the raw embeddings (B,)."""
        raise NotImplementedError

    def negatives(self, psi: Tensor) -> Callable[[Tensor], Tensor]:
        """What becomes of the other identities' cosines (B, C), given psi (B,).

        The function holds the state of now: it may be called again when that has moved.
        """
        if self.limit == 1:
            return lambda cosines: cosines
        return lambda cosines: cosines.clamp(-self.limit, self.limit)

    def penalty(self, norm: Tensor) -> Tensor:
        """What a norm itself costs, (B,)."""
        return torch.zeros_like(norm)

    def update(self, cos_y: Tensor, norm: Tensor) -> None:
        """Move the state with a training batch, before it is used."""

    def observe(self, norms: Tensor) -> None:
        """Start the state from the norms of the data, (N,)."""

    def stats(self) -> dict[str, Tensor]:
        """The state, as scalars to log."""
        return {}

    def histograms(self) -> dict[str, Tensor]:
        """Values (B,) of the last batch whose distribution is worth a look."""
        return {}


class NoMargin(Margin):
    """psi = cos(theta)."""

    def target(self, cos_y: Tensor, norm: Tensor) -> Tensor:
        """The cosine itself, (B,)."""
        return cos_y


class SphereFace(Margin):
    """psi = (-1)^k cos(m theta) - 2 k, k = floor(m theta / pi).

    Liu et al., CVPR 2017 (arXiv:1704.08063), eq. 6; m multiplies the angle.

    Departs from the paper: embeddings are scaled to s instead of keeping their length, and the
    margin's warm-up takes the place of annealing towards the softmax.
    """

    def __init__(self, m: float) -> None:
        super().__init__()
        self.m = m

    def target(self, cos_y: Tensor, norm: Tensor) -> Tensor:
        """The margin's psi, (B,)."""
        theta = (1 + self.fraction * (self.m - 1)) * angle(cos_y)
        k = (theta / math.pi).floor().detach()
        return (1 - 2 * (k % 2)) * theta.cos() - 2 * k


class CosFace(Margin):
    """psi = cos(theta) - m, m in units of cosine.

    Wang et al., CVPR 2018 (arXiv:1801.09414), eq. 4; AM-Softmax (arXiv:1801.05599) is the same.
    """

    def __init__(self, m: float) -> None:
        super().__init__()
        self.m = m

    def target(self, cos_y: Tensor, norm: Tensor) -> Tensor:
        """The margin's psi, (B,)."""
        return cos_y - self.fraction * self.m


class ArcFace(Margin):
    """psi = cos(theta + m), m in radians.  Deng et al., CVPR 2019 (arXiv:1801.07698), eq. 3.

    Departs from the paper: beyond theta = pi - m, psi = cos(theta) + cos(m) - 1,
    which is continuous and falling where cos(theta + m) would turn up again.
    """

    def __init__(self, m: float, *, easy_margin: bool) -> None:
        super().__init__()
        self.m = m
        self.easy_margin = easy_margin

    def target(self, cos_y: Tensor, norm: Tensor) -> Tensor:
        """The margin's psi, (B,)."""
        return add_angle(cos_y, self.fraction * self.m, self.easy_margin)


class Combined(Margin):
    """psi = cos(m1 theta + m2) - m3.  Deng et al., CVPR 2019 (arXiv:1801.07698), eq. 4.

    m1 multiplies the angle, m2 is in radians, m3 in units of cosine; all three at once, where
    InsightFace's PyTorch code drops m2 when m3 > 0.

    Departs from the paper: beyond theta_0 = (pi - m2) / m1, where the cosine would turn up
    again, psi = cos(theta) - cos(theta_0) - 1 - m3, which is continuous and falling.
    """

    def __init__(self, m1: float, m2: float, m3: float) -> None:
        super().__init__()
        self.m1 = m1
        self.m2 = m2
        self.m3 = m3

    def target(self, cos_y: Tensor, norm: Tensor) -> Tensor:
        """The margin's psi, (B,)."""
        m1 = 1 + self.fraction * (self.m1 - 1)
        m2 = self.fraction * self.m2
        theta = angle(cos_y)
        turn = min((math.pi - m2) / m1, math.pi)
        turned = torch.where(theta < turn, (m1 * theta + m2).cos(), cos_y - math.cos(turn) - 1)
        return turned - self.fraction * self.m3
