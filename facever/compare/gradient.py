"""The gradient scaling of a margin loss over the plane of angle and norm: AdaFace's figure 3.

Kim et al., CVPR 2022 (arXiv:2204.00964), eq. 11: g = (P_y - 1) d psi / d cos(theta_y), here for
two identities with orthogonal prototypes and an embedding that lies between them.

Letters: A angles, R norms.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facever.losses import Loss, MarginSoftmax, SumLoss

Floats = NDArray[np.float64]

ANGLES, NORMS = 121, 60


@dataclass(frozen=True, eq=False)
class Plane:
    """|g| over angles (A,), in radians to the own prototype, and norms (R,); scale (R, A)."""

    angle: Floats
    norm: Floats
    scale: Floats
    boundary: float = float(np.pi / 4)
    """angle at which both prototypes are equally near"""


def margin_head(loss: Loss) -> MarginSoftmax | None:
    """The loss itself, or the first of a sum, that has a margin on norms and cosines."""
    terms = list(loss.losses().values()) if isinstance(loss, SumLoss) else [loss]
    heads = [term for term in terms if isinstance(term, MarginSoftmax)]
    return heads[0] if heads else None


def gradient_plane(head: MarginSoftmax, norms: NDArray[Any]) -> Plane:
    """Evaluate |g| with the margin as it stands, its state included.

    Args:
        head: a margin loss.
        norms: of real embeddings, whose range the plane covers; shape (N,).
    """
    low, high = np.percentile(norms, [0.5, 99.5])
    angle = np.linspace(0, np.pi / 2, ANGLES)
    norm = np.linspace(low, max(high, low + 1e-3), NORMS)
    theta = torch.from_numpy(np.tile(angle, NORMS))
    length = torch.from_numpy(np.repeat(norm, ANGLES))
    margin = head.margin
    training = margin.training
    margin.eval()
    cos_y = theta.cos().requires_grad_()
    psi = margin.target(cos_y, length)
    (slope,) = torch.autograd.grad(psi.sum(), cos_y)
    with torch.no_grad():
        # The other identity's prototype lies at a right angle to the own one.
        other = margin.negatives(psi)(theta.sin()[:, None])[:, 0]
        share = torch.sigmoid(head.s * (psi - other))
        scale = ((share - 1) * slope).abs()
    margin.train(training)
    return Plane(angle, norm, scale.view(NORMS, ANGLES).numpy())
