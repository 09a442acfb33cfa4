"""The margin losses under their published names, with their papers' defaults.

B: batch, C: identities, D: embedding dimension. `**head` stands for the keyword parameters of
`MarginSoftmax`: s, detach_margin, label_smoothing, product, and of `Classifier`: chunked, chunk,
sample_rate. Formulas and sources are with the functions psi in `margin` and `adaptive`.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from facever.losses import adaptive, margin
from facever.losses.parameters import (
    ANGLE_FACTOR,
    COSINE_MARGIN,
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    RADIANS,
    SHARE,
    Bound,
)
from facever.losses.quality import sharpness
from facever.losses.similarity import unit_rows
from facever.losses.softmax import MarginSoftmax


class SphereFace(MarginSoftmax):
    """Softmax with `margin.SphereFace`; m multiplies the angle, and may be the paper's 4."""

    bounds: ClassVar = MarginSoftmax.bounds | {"m": ANGLE_FACTOR}

    def __init__(
        self, dim: int, identities: int, *, m: float = 1.7, s: float = 30.0, **head: Any
    ) -> None:
        super().__init__(dim, identities, margin.SphereFace(m), s=s, **head)


class CosFace(MarginSoftmax):
    """Softmax with `margin.CosFace`; m in units of cosine."""

    bounds: ClassVar = MarginSoftmax.bounds | {"m": COSINE_MARGIN}

    def __init__(self, dim: int, identities: int, *, m: float = 0.35, **head: Any) -> None:
        super().__init__(dim, identities, margin.CosFace(m), **head)


class ArcFace(MarginSoftmax):
    """Softmax with `margin.ArcFace`; m in radians."""

    bounds: ClassVar = MarginSoftmax.bounds | {"m": RADIANS}

    def __init__(
        self,
        dim: int,
        identities: int,
        *,
        m: float = 0.5,
        easy_margin: bool = False,
        **head: Any,
    ) -> None:
        super().__init__(dim, identities, margin.ArcFace(m, easy_margin=easy_margin), **head)


class Combined(MarginSoftmax):
    """Softmax with `margin.Combined`; m1 times the angle, m2 in radians, m3 of cosine."""

    bounds: ClassVar = MarginSoftmax.bounds | {
        "m1": ANGLE_FACTOR,
        "m2": RADIANS,
        "m3": COSINE_MARGIN,
    }

    def __init__(
        self,
        dim: int,
        identities: int,
        *,
        m1: float = 1.0,
        m2: float = 0.3,
        m3: float = 0.2,
        **head: Any,
    ) -> None:
        super().__init__(dim, identities, margin.Combined(m1, m2, m3), **head)


class CurricularFace(MarginSoftmax):
    """Softmax with `adaptive.CurricularFace`; m in radians, `ema` the batch's weight in t."""

    bounds: ClassVar = MarginSoftmax.bounds | {"m": RADIANS, "ema": SHARE}

    def __init__(
        self,
        dim: int,
        identities: int,
        *,
        m: float = 0.5,
        ema: float = 0.01,
        easy_margin: bool = False,
        **head: Any,
    ) -> None:
        psi = adaptive.CurricularFace(m, ema=ema, easy_margin=easy_margin)
        super().__init__(dim, identities, psi, **head)


class MagFace(MarginSoftmax):
    """Softmax with `adaptive.MagFace`; l_a, u_a bound the norm, l_m, u_m the margin in radians."""

    bounds: ClassVar = MarginSoftmax.bounds | {
        "l_a": POSITIVE,
        "u_a": POSITIVE,
        "l_m": RADIANS,
        "u_m": RADIANS,
        "lambda_g": NOT_NEGATIVE,
    }

    def __init__(
        self,
        dim: int,
        identities: int,
        *,
        l_a: float = 10.0,
        u_a: float = 110.0,
        l_m: float = 0.45,
        u_m: float = 0.8,
        lambda_g: float = 35.0,
        easy_margin: bool = False,
        **head: Any,
    ) -> None:
        psi = adaptive.MagFace(l_a, u_a, l_m, u_m, lambda_g, easy_margin=easy_margin)
        super().__init__(dim, identities, psi, **head)

    @classmethod
    def contradictions(cls, params: Mapping[str, Any]) -> list[str]:
        """Norms or margins whose lower end is not below the upper."""
        found = super().contradictions(params)
        if not params["l_a"] < params["u_a"]:
            found.append(f"l_a {params['l_a']:g} is not below u_a {params['u_a']:g}")
        if not params["l_m"] <= params["u_m"]:
            found.append(f"l_m {params['l_m']:g} is above u_m {params['u_m']:g}")
        return found


class AdaFace(MarginSoftmax):
    """Softmax with `adaptive.AdaFace`; m in radians and of cosine, `ema` the batch's weight.

    The proxies of the image quality are those that the paper compares (section 4.3, Table 1).

    Departs from the paper: its `image` is 1 - BRISQUE.

    Args:
        dim: D.
        identities: C.
        m: margin.
        h: how far the proxy spreads q.
        ema: weight of a batch in the proxy's mean and standard deviation.
        ema_init: where these start, `authors` or `data`; see `adaptive.AdaFace`.
        proxy: what q is computed from, without gradient: `norm` of the raw embedding;
            `probability` of the true identity, the softmax of s cos(theta_j) without a margin;
            `image`, the `quality.sharpness` of what `look` was shown.
        **head: of `MarginSoftmax`.
    """

    bounds: ClassVar = MarginSoftmax.bounds | {"m": RADIANS, "h": NOT_NEGATIVE, "ema": SHARE}

    def __init__(
        self,
        dim: int,
        identities: int,
        *,
        m: float = 0.4,
        h: float = 0.333,
        ema: float = 0.01,
        ema_init: Literal["authors", "data"] | None = None,
        proxy: adaptive.Proxy = "norm",
        **head: Any,
    ) -> None:
        psi = adaptive.AdaFace(m, h, ema=ema, ema_init=ema_init, proxy=proxy)
        super().__init__(dim, identities, psi, **head)
        self.proxy = proxy
        self.looks = proxy == "image"
        self._sharpness: Tensor | None = None

    @classmethod
    def contradictions(cls, params: Mapping[str, Any]) -> list[str]:
        """The authors' statistics, which are those of norms, for another proxy."""
        found = super().contradictions(params)
        if params["proxy"] != "norm" and params["ema_init"] == "authors":
            found.append(
                f"ema_init authors, mu 20 and sigma 100, is a start for norms; proxy "
                f"{params['proxy']} starts from the data: leave ema_init out"
            )
        return found

    def look(self, pixels: Tensor) -> None:
        """Keep the sharpness of images (B, S, S, 3), uint8, for the next batch and no other."""
        if self.looks:
            self._sharpness = sharpness(pixels)

    def _indicator(self, norm: Tensor, cos_y: Tensor, rest: Callable[[], Tensor]) -> Tensor:
        if self.proxy == "probability":
            return (self.s * cos_y - rest()).detach().sigmoid()
        return self._shown(norm) if self.proxy == "image" else norm

    def _shown(self, norm: Tensor) -> Tensor:
        seen, self._sharpness = self._sharpness, None
        if seen is None or len(seen) != len(norm):
            raise ValueError(
                f"adaface: {0 if seen is None else len(seen)} images for {len(norm)} embeddings; "
                "with proxy=image, loss.look(pixels) shows the images of every batch before "
                "loss(z, y)"
            )
        return seen.to(norm)


class ElasticFace(MarginSoftmax):
    """Softmax with `adaptive.ElasticFace`.

    Args:
        dim: D.
        identities: C.
        base: `arc` or `cos`.
        plus: whether the hardest samples get the largest margins.
        m: mean margin; by default 0.5 radians for `arc`, 0.35 of cosine for `cos`.
        std: its standard deviation; by default 0.05, with `plus` 0.0175 for `arc`, 0.02 for
            `cos`.
        **head: of `MarginSoftmax`.
    """

    bounds: ClassVar = MarginSoftmax.bounds | {"m": RADIANS, "std": NOT_NEGATIVE}

    def __init__(
        self,
        dim: int,
        identities: int,
        *,
        base: Literal["arc", "cos"] = "arc",
        plus: bool = False,
        m: float | None = None,
        std: float | None = None,
        **head: Any,
    ) -> None:
        if m is None:
            m = 0.5 if base == "arc" else 0.35
        if std is None:
            std = (0.0175 if base == "arc" else 0.02) if plus else 0.05
        super().__init__(dim, identities, adaptive.ElasticFace(base, m, std, plus=plus), **head)

    @classmethod
    def bounds_for(cls, params: Mapping[str, object]) -> Mapping[str, Bound]:
        """The margin counts cosine where `base` is `cos`."""
        return cls.bounds | ({"m": COSINE_MARGIN} if params.get("base") == "cos" else {})


class SubcenterArcFace(MarginSoftmax):
    """ArcFace on cos(theta_j), the largest over the k sub-centres of identity j.

    Deng et al., ECCV 2020, eq. 3. `prototypes` is (C, k, D); m in radians.
    """

    bounds: ClassVar = MarginSoftmax.bounds | {"m": RADIANS, "k": COUNT}

    def __init__(
        self,
        dim: int,
        identities: int,
        *,
        m: float = 0.5,
        k: int = 3,
        easy_margin: bool = False,
        **head: Any,
    ) -> None:
        psi = margin.ArcFace(m, easy_margin=easy_margin)
        super().__init__(dim, identities * k, psi, **head)
        self.prototypes = nn.Parameter(self.prototypes.detach().view(identities, k, dim))

    def _whole_matrix(self) -> bool:
        return True

    def _cosines(self, unit: Tensor, prototypes: Tensor) -> Tensor:
        identities, k, _ = prototypes.shape
        cosines = super()._cosines(unit, prototypes.flatten(0, 1))
        # One winner takes the gradient; amax would share it out among equal sub-centres.
        return cosines.view(-1, identities, k).max(dim=2).values

    @torch.no_grad()
    def initialise(self, means: Tensor) -> None:
        """Unit sub-centres near the mean embeddings `means` (C, D).

        All but the first are turned away a little: equal ones would stay equal, and idle.
        """
        identities, (k, dim) = len(means), self.prototypes.shape[1:]
        first, _ = unit_rows(means)
        aside = 0.1 * torch.randn(identities, k, dim).to(first) / dim**0.5
        aside[:, 0] = 0
        seen = first.abs().sum(1, keepdim=True) > 0
        super().initialise((first[:, None] + aside) * seen[:, None])
