"""Losses written once more as loops over samples and identities, straight from the papers.

Everything is float64 and slow on purpose. `z` is a raw embedding (D,), `w` a prototype (D,),
`y` an identity, cos and theta belong to an embedding and a prototype.
"""

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from facever.losses import Loss, build_loss

SPHERE, COSINE, ARC = ["sphereface"], ["cosface", "amsoftmax"], ["arcface", "subcenter_arcface"]
MARGINS = [*SPHERE, *COSINE, *ARC, "combined", "curricularface", "magface", "adaface"]
MARGINS += ["elasticface"]
CLASSIFIERS = ["ce", "normface", *MARGINS]
PAIRS = ["contrastive", "triplet", "npair", "circle", "supcon", "multisimilarity"]
ALL = [*CLASSIFIERS, *PAIRS]
# Losses whose parameters take another path than the defaults, and a sum.
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "adaface by probability": ("adaface", {"proxy": "probability"}),
    "adaface by image": ("adaface", {"proxy": "image"}),
    "adaface smoothed": (
        "adaface",
        {"proxy": "probability", "label_smoothing": 0.1, "allow_smoothing": True},
    ),
    "ce+0.5*triplet+magface": ("ce+0.5*triplet+magface", {}),
}
EVERY = [*ALL, *VARIANTS]
# Every loss with prototypes, under each name that takes its parameters directly.
CHUNKED = [*CLASSIFIERS, "adaface by probability", "adaface by image", "adaface smoothed"]
STATEFUL = ["curricularface", "adaface", "adaface by probability", "adaface by image"]


DIM, IDENTITIES = 8, 6
Oracle = Callable[[Tensor, Tensor, Tensor], Tensor]


def build(name: str, identities: int = IDENTITIES, **params: object) -> Loss:
    """A loss of `EVERY`, in float32, with the same prototypes every time."""
    name, own = VARIANTS.get(name, (name, {}))
    torch.manual_seed(1)
    return build_loss(name, dim=DIM, identities=identities, **(own | params))


def head(name: str, **params: object) -> Loss:
    return build(name, **params).double()


def images_of(z: Tensor) -> Tensor:
    """An image (B, D, D, 3) for each embedding, a function of that row alone."""
    unit = torch.nn.functional.normalize(z.detach().float())
    grey = 127.5 + 127.5 * unit[:, :, None] * unit[:, None, :]
    return torch.stack([grey, grey.flip(1), 255 - grey], 3).to(torch.uint8)


def look_and_compare(loss: Loss, z: Tensor, y: Tensor) -> Tensor:
    """What the training loop does with every loss."""
    loss.look(images_of(z))
    return loss(z, y)


def value_and_gradients(
    function: Callable[[Tensor], Tensor], z: Tensor, *parameters: Tensor
) -> list[Tensor]:
    z = z.clone().requires_grad_()
    value = function(z)
    return [value.detach(), *torch.autograd.grad(value, [z, *parameters])]


def loss_and_gradients(loss: Loss, z: Tensor, y: Tensor) -> list[Tensor]:
    """The value, and the gradients of `z` and of the parameters, as the training loop has them."""
    return value_and_gradients(lambda z: look_and_compare(loss, z, y), z, *loss.parameters())


def assert_same(loss: Loss, oracle: Oracle, z: Tensor, y: Tensor, rtol: float = 1e-9) -> None:
    """Value and both gradients of `loss` against `oracle(z, y, prototypes)`."""
    w = loss.prototypes
    got = value_and_gradients(lambda z: look_and_compare(loss, z, y), z, w)
    wanted = value_and_gradients(lambda z: oracle(z, y, w), z, w)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-11)


def batch(
    p: int = 4, k: int = 3, dim: int = 8, *, length: float = 5.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Embeddings (p * k, dim) with norms around `length`, and identities, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(p).repeat_interleave(k)[torch.randperm(p * k, generator=generator)]
    z = torch.randn(p * k, dim, generator=generator, dtype=torch.float64)
    centres = torch.randn(p, dim, generator=generator, dtype=torch.float64)
    lengths = 0.5 + torch.rand(p * k, 1, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(z + centres[y]) * lengths * length, y


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return a @ b / (a.norm() * b.norm())


def cross_entropy(logits: list[Tensor], y: int, smoothing: float = 0.0) -> Tensor:
    total = torch.stack(logits).logsumexp(0)
    wrong = sum((total - logit for logit in logits), torch.zeros(()).double()) / len(logits)
    return (1 - smoothing) * (total - logits[y]) + smoothing * wrong


def psi_arcface(cos: Tensor, m: float | Tensor, easy: bool = False) -> Tensor:
    theta = torch.acos(cos)
    if easy:
        return torch.cos(theta + m) if cos > 0 else cos
    if theta + m < math.pi:
        return torch.cos(theta + m)
    return cos + math.cos(m) - 1


def psi_sphereface(cos: Tensor, m: float) -> Tensor:
    theta = torch.acos(cos)
    k = math.floor(m * theta.item() / math.pi)
    return (-1) ** k * torch.cos(m * theta) - 2 * k


def psi_combined(cos: Tensor, m1: float, m2: float, m3: float) -> Tensor:
    theta = torch.acos(cos)
    if m1 * theta + m2 < math.pi:
        return torch.cos(m1 * theta + m2) - m3
    return cos - math.cos((math.pi - m2) / m1) - 1 - m3


def margin_softmax(
    z: Tensor,
    y: Tensor,
    w: Tensor,
    s: float,
    psi: Callable[[Tensor, Tensor], Tensor],
    smoothing: float = 0.0,
) -> Tensor:
    """Mean of -log e^{s psi} / (e^{s psi} + sum_{j != y} e^{s cos_j}); psi(cos_y, |z|)."""
    terms = []
    for i, identity in enumerate(y.tolist()):
        cosines = [cosine(z[i], row) for row in w]
        logits = [s * cos for cos in cosines]
        logits[identity] = s * psi(cosines[identity], z[i].norm())
        terms.append(cross_entropy(logits, identity, smoothing))
    return torch.stack(terms).mean()


def clamped_norms(z: Tensor, y: Tensor, w: Tensor) -> list[float]:
    return [min(max(row.norm().item(), 0.001), 100.0) for row in z]


class AdaFaceByItsAuthors:
    """What the authors' head computes, sample by sample, with its moving averages.

    With `start` None these begin at the mean and standard deviation of the first batch.
    """

    def __init__(
        self,
        weight: float,
        indicator: Callable[[Tensor, Tensor, Tensor], list[float]] = clamped_norms,
        start: tuple[float, float] | None = (20.0, 100.0),
        smoothing: float = 0.0,
    ) -> None:
        self.m, self.h, self.s, self.weight = 0.4, 0.333, 64.0, weight
        self.indicator, self.smoothing = indicator, smoothing
        self.started = start is not None
        self.mean, self.std = start or (0.0, 0.0)

    def move(self, values: list[float]) -> None:
        mean = sum(values) / len(values)
        std = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
        weight = self.weight if self.started else 1.0
        self.mean = weight * mean + (1 - weight) * self.mean
        self.std = weight * std + (1 - weight) * self.std
        self.started = True

    def __call__(self, z: Tensor, y: Tensor, w: Tensor) -> Tensor:
        eps = 1e-3
        values = self.indicator(z, y, w)
        self.move(values)
        terms = []
        for i, identity in enumerate(y.tolist()):
            q = min(max((values[i] - self.mean) / (self.std + eps) * self.h, -1), 1)
            logits = []
            for j, row in enumerate(w):
                own = j == identity
                theta = torch.acos(cosine(z[i], row).clamp(-1 + eps, 1 - eps))
                theta = (theta - self.m * q * own).clamp(eps, math.pi - eps)
                logits.append(self.s * (torch.cos(theta) - (self.m + self.m * q) * own))
            terms.append(cross_entropy(logits, identity, self.smoothing))
        return torch.stack(terms).mean()


class CurricularFaceByItsAuthors:
    """What the authors' head computes where theta_y < pi - m, with its moving average t."""

    def __init__(self, m: float, s: float, weight: float = 0.01) -> None:
        self.m, self.s, self.weight, self.t = m, s, weight, 0.0

    def __call__(self, z: Tensor, y: Tensor, w: Tensor) -> Tensor:
        cosines = [[cosine(embedding, row) for row in w] for embedding in z]
        own = [float(row[identity].detach()) for row, identity in zip(cosines, y, strict=True)]
        self.t = self.weight * sum(own) / len(own) + (1 - self.weight) * self.t
        terms = []
        for row, identity in zip(cosines, y.tolist(), strict=True):
            psi = psi_arcface(row[identity], self.m)
            logits = [
                psi if j == identity else cos * (self.t + cos) if cos > psi else cos
                for j, cos in enumerate(row)
            ]
            terms.append(cross_entropy([self.s * logit for logit in logits], identity))
        return torch.stack(terms).mean()


def magface(
    z: Tensor,
    y: Tensor,
    w: Tensor,
    *,
    l_a: float = 10,
    u_a: float = 110,
    l_m: float = 0.45,
    u_m: float = 0.8,
    lambda_g: float = 35,
    s: float = 64,
    easy: bool = False,
) -> Tensor:
    def psi(cos: Tensor, norm: Tensor) -> Tensor:
        m = l_m + (u_m - l_m) * (norm.clamp(l_a, u_a) - l_a) / (u_a - l_a)
        theta = torch.acos(cos)
        if easy:
            return torch.cos(theta + m) if cos > 0 else cos
        return torch.cos(theta + m) if theta + m < math.pi else cos + torch.cos(m) - 1

    lengths = [row.norm().clamp(l_a, u_a) for row in z]
    cost = torch.stack([1 / a + a / u_a**2 for a in lengths]).mean()
    return margin_softmax(z, y, w, s, psi) + lambda_g * cost


def neighbours(y: Tensor, a: int) -> tuple[list[int], list[int]]:
    """Positives and negatives of anchor `a`."""
    positives = [i for i in range(len(y)) if y[i] == y[a] and i != a]
    return positives, [i for i in range(len(y)) if y[i] != y[a]]


def mean(terms: list[Tensor], reduction: str = "mean") -> Tensor:
    chosen = [term for term in terms if reduction == "mean" or term > 0]
    return torch.stack(chosen).mean() if chosen else torch.zeros((), dtype=torch.float64)


def contrastive(
    z: Tensor, y: Tensor, *, pos: float = 1, neg: float = 0, reduction: str = "active"
) -> Tensor:
    pull, push = [], []
    for a in range(len(y)):
        positives, negatives = neighbours(y, a)
        pull += [torch.relu(pos - cosine(z[a], z[p])) for p in positives]
        push += [torch.relu(cosine(z[a], z[n]) - neg) for n in negatives]
    return mean(pull, reduction) + mean(push, reduction)


def distance(a: Tensor, b: Tensor, metric: str) -> Tensor:
    if metric == "cosine":
        return 1 - cosine(a, b)
    squared = (a / a.norm() - b / b.norm()).square().sum()
    return squared if metric == "sqeuclidean" else squared.sqrt()


def triplet(
    z: Tensor,
    y: Tensor,
    *,
    m: float = 0.2,
    metric: str = "cosine",
    miner: str = "all",
    reduction: str = "active",
) -> Tensor:
    terms = []
    for a in range(len(y)):
        positives, negatives = neighbours(y, a)
        near = [distance(z[a], z[p], metric) for p in positives]
        far = [distance(z[a], z[n], metric) for n in negatives]
        if miner == "hard" and near and far:
            terms.append(torch.relu(max(near) - min(far) + m))
        if miner == "hard":
            continue
        terms += [
            torch.relu(d_ap - d_an + m)
            for d_ap, d_an in product(near, far)
            if miner == "all" or 0 < d_an - d_ap <= m
        ]
    return mean(terms, reduction)


def npair(z: Tensor, y: Tensor, *, reg: float = 0.02) -> Tensor:
    pairs = {}
    for identity in y.unique().tolist():
        images = [i for i in range(len(y)) if y[i] == identity]
        if len(images) > 1:
            pairs[identity] = images[:2]
    terms = []
    for identity, (a, p) in pairs.items():
        others = [pairs[other][1] for other in pairs if other != identity]
        total = sum((torch.exp(z[a] @ z[n] - z[a] @ z[p]) for n in others), torch.zeros(()))
        terms.append(torch.log(1 + total))
    return mean(terms) + reg * torch.stack([row @ row for row in z]).mean()


def circle(
    z: Tensor, y: Tensor, *, m: float = 0.25, gamma: float = 256, weighted: bool = True
) -> Tensor:
    terms = []
    for a in range(len(y)):
        positives, negatives = neighbours(y, a)
        if not positives or not negatives:
            continue
        up, down = [], []
        for p in positives:
            S = cosine(z[a], z[p])
            weight = torch.relu(1 + m - S.detach()) if weighted else 1
            up.append(torch.exp(-gamma * weight * (S - (1 - m))))
        for n in negatives:
            S = cosine(z[a], z[n])
            weight = torch.relu(S.detach() + m) if weighted else 1
            down.append(torch.exp(gamma * weight * (S - m)))
        terms.append(torch.log(1 + torch.stack(up).sum() * torch.stack(down).sum()))
    return mean(terms)


def supcon(z: Tensor, y: Tensor, *, tau: float = 0.1) -> Tensor:
    terms = []
    for a in range(len(y)):
        positives, negatives = neighbours(y, a)
        if not positives:
            continue
        others = [torch.exp(cosine(z[a], z[i]) / tau) for i in positives + negatives]
        total = torch.stack(others).sum()
        own = [-torch.log(torch.exp(cosine(z[a], z[p]) / tau) / total) for p in positives]
        terms.append(torch.stack(own).mean())
    return mean(terms)


def multisimilarity(
    z: Tensor, y: Tensor, *, alpha: float = 2, beta: float = 50, base: float = 0.5
) -> Tensor:
    zero = torch.zeros((), dtype=torch.float64)
    terms = []
    for a in range(len(y)):
        positives, negatives = neighbours(y, a)
        up = sum((torch.exp(-alpha * (cosine(z[a], z[p]) - base)) for p in positives), zero)
        down = sum((torch.exp(beta * (cosine(z[a], z[n]) - base)) for n in negatives), zero)
        terms.append(torch.log(1 + up) / alpha + torch.log(1 + down) / beta)
    return mean(terms)
