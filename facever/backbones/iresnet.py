"""ResNets of improved units, the networks of ArcFace and of most of the field since.

Deng et al., CVPR 2019 (arXiv:1801.07698), section 3.1 of version 3, after Han et al. (PyramidNet,
arXiv:1610.02915): BN - conv - BN - PReLU - conv - BN, nothing after the sum, and a stem of stride
1, so that 112 pixels end as 7x7. Modules have the names of InsightFace's `iresnet`, whose
numbers these are: its weights fit, its last layers being `model.neck=bn-linear-shift`.

Departs from InsightFace's code: weights are drawn as He et al. do, not with a standard deviation
of 0.1. Branches take part from the start, unlike those of `resnet`: nothing follows the sum that is
not linear, so that without them little more than projections would be left of the network.

Letters: B images of side S, C channels of the feature map of side H x W.
"""

import math
from functools import partial

from torch import Tensor, nn

from facever.backbones.blocks import (
    DropPath,
    FaceNetwork,
    SqueezeExcitation,
    conv3x3,
    global_depthwise,
    initialise,
    residual_stages,
    shortcut,
)


def iresnet18(*, drop_path_rate: float = 0.0, squeeze_excitation: bool = False) -> FaceNetwork:
    """Build IR-18: C = 512, H = S / 16."""
    return IResNet(
        (2, 2, 2, 2), drop_path_rate=drop_path_rate, squeeze_excitation=squeeze_excitation
    )


def iresnet34_gdc(
    *, image_size: int = 112, drop_path_rate: float = 0.0, squeeze_excitation: bool = False
) -> FaceNetwork:
    """Build IR-34 with a global depth-wise convolution at its end: C = 512, H = 1.

    A projection of the whole 7x7 map to 512 dimensions has 12.8 M parameters, this has 0.3 M:
    it is what fits IR-34 and 8,631 prototypes under a cap of 30 M.
    """
    return IResNet(
        (3, 4, 6, 3),
        gdc_side=math.ceil(image_size / 16),
        drop_path_rate=drop_path_rate,
        squeeze_excitation=squeeze_excitation,
    )


class IResNet(FaceNetwork):
    """Stem, four stages of improved units, and a global depth-wise convolution where wanted.

    Args:
        depths: units of each stage.
        widths: channels of each stage.
        gdc_side: side of the last map, if it is to become one position.
        drop_path_rate: of the last unit; see `DropPath`.
        squeeze_excitation: a `SqueezeExcitation` at the end of each branch.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        widths: tuple[int, ...] = (64, 128, 256, 512),
        *,
        gdc_side: int | None = None,
        drop_path_rate: float = 0.0,
        squeeze_excitation: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        self.layer1, self.layer2, self.layer3, self.layer4 = residual_stages(
            partial(_ImprovedUnit, squeeze_excitation),
            widths[0],
            depths=depths,
            widths=widths,
            strides=(2, 2, 2, 2),
            drop_path_rate=drop_path_rate,
        )
        self.gdc = global_depthwise(widths[-1], gdc_side) if gdc_side else nn.Identity()
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, S, S) into features (B, C, H, W)."""
        x = self.prelu(self.bn1(self.conv1(images)))
        x = self._through([*self.layer1, *self.layer2, *self.layer3, *self.layer4], x)
        features: Tensor = self.gdc(x)
        return features


class _ImprovedUnit(nn.Module):
    """BN - conv - BN - PReLU - conv - BN, and the shortcut around them."""

    def __init__(
        self, squeeze_excitation: bool, inputs: int, outputs: int, stride: int, drop: float
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = conv3x3(outputs, outputs, stride)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.se = SqueezeExcitation(outputs) if squeeze_excitation else nn.Identity()
        self.drop_path = DropPath(drop)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        branch = self.se(self.bn3(self.conv2(branch)))
        total: Tensor = self.downsample(x) + self.drop_path(branch)
        return total
