"""MobileFaceNet: a million parameters for faces on a telephone.

Chen et al., CCBR 2018 (arXiv:1804.07573), table 1. PReLU throughout, none after a bottleneck.

Letters: B images of side S, C channels of the feature map of side H x W.
"""

import math
from typing import NamedTuple

from torch import Tensor, nn

from facever.backbones.blocks import (
    DropPath,
    FaceNetwork,
    SqueezeExcitation,
    conv3x3,
    drop_path_rates,
    global_depthwise,
    initialise,
)


class _Row(NamedTuple):
    """A line of table 1; `expansion` is the factor of channels inside a bottleneck."""

    expansion: int
    channels: int
    depth: int
    stride: int


TABLE = (
    _Row(expansion=2, channels=64, depth=5, stride=2),
    _Row(expansion=4, channels=128, depth=1, stride=2),
    _Row(expansion=2, channels=128, depth=6, stride=1),
    _Row(expansion=4, channels=128, depth=1, stride=2),
    _Row(expansion=2, channels=128, depth=2, stride=1),
)


def mobilefacenet(
    *, image_size: int = 112, drop_path_rate: float = 0.0, squeeze_excitation: bool = False
) -> FaceNetwork:
    """Build MobileFaceNet: C = 512, H = 1.

    Its last layer, 1x1 to 128 dimensions with BN, is the neck's: `model.embedding_dim=128`,
    `model.neck=bn-linear-bn`.
    """
    return MobileFaceNet(
        math.ceil(image_size / 16),
        drop_path_rate=drop_path_rate,
        squeeze_excitation=squeeze_excitation,
    )


class MobileFaceNet(FaceNetwork):
    """Stem, bottlenecks, 1x1 convolution and global depth-wise convolution.

    Args:
        side: of the last map, S / 16.
        table: the rows of bottlenecks.
        stem: channels of the first two convolutions.
        head: C.
        drop_path_rate: of the last unit; see `DropPath`.
        squeeze_excitation: a `SqueezeExcitation` at the end of each bottleneck.
    """

    def __init__(
        self,
        side: int,
        table: tuple[_Row, ...] = TABLE,
        *,
        stem: int = 64,
        head: int = 512,
        drop_path_rate: float = 0.0,
        squeeze_excitation: bool = False,
    ) -> None:
        super().__init__()
        self.stem = _activated(conv3x3(3, stem, stride=2))
        self.depthwise = _activated(conv3x3(stem, stem, groups=stem))
        rates = iter(drop_path_rates(drop_path_rate, sum(row.depth for row in table)))
        units, inputs = [], stem
        for row in table:
            for i in range(row.depth):
                stride = 1 if i else row.stride
                inner = row.expansion * inputs
                units.append(
                    _Bottleneck(
                        inputs, inner, row.channels, stride, next(rates), squeeze_excitation
                    )
                )
                inputs = row.channels
        self.units = nn.Sequential(*units)
        self.head = _activated(nn.Conv2d(inputs, head, 1, bias=False))
        self.gdc = global_depthwise(head, side)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, S, S) into features (B, C, H, W)."""
        x = self._through(self.units, self.depthwise(self.stem(images)))
        features: Tensor = self.gdc(self.head(x))
        return features


class _Bottleneck(nn.Module):
    """1x1 up, depth-wise 3x3, linear 1x1 down; a shortcut where the shape stays.

    Sandler et al., CVPR 2018 (MobileNetV2, arXiv:1801.04381), table 1.
    """

    def __init__(
        self, inputs: int, inner: int, outputs: int, stride: int, drop: float, squeeze: bool
    ) -> None:
        super().__init__()
        self.expand = _activated(nn.Conv2d(inputs, inner, 1, bias=False))
        self.depthwise = _activated(conv3x3(inner, inner, stride, groups=inner))
        self.project = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.se = SqueezeExcitation(outputs) if squeeze else nn.Identity()
        self.drop_path = DropPath(drop)
        self.residual = stride == 1 and inputs == outputs
        if self.residual:
            nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.se(self.bn(self.project(self.depthwise(self.expand(x)))))
        return x + self.drop_path(branch) if self.residual else branch


def _activated(convolution: nn.Conv2d) -> nn.Sequential:
    channels = convolution.out_channels
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.PReLU(channels))
