"""ResNets for aligned faces of 112 pixels, with squeeze-excitation as an option.

He et al., CVPR 2016 (arXiv:1512.03385), table 1. Modules have torchvision's names.

Departs from the paper: the stem is one 3x3 convolution of stride 2 without pooling. The paper's
7x7 convolution and pooling were made for 224 pixels: of 112 they leave 28x28 before the first
unit and 4x4 at the end, this leaves 56x56 and 7x7. A stem of stride 1, and a first stage that
strides in its place, ends as 7x7 too: for 1 % more arithmetic, but a third more activations to
keep and to move, all at 112x112. `iresnet` has it, for what a face shows in single pixels.

Letters: B images of side S, C channels of the feature map of side H x W.
"""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from facever.backbones.blocks import (
    DropPath,
    FaceNetwork,
    SqueezeExcitation,
    conv3x3,
    initialise,
    residual_stages,
    shortcut,
)

WIDTHS = (64, 128, 256, 512)


def resnet18_face(*, drop_path_rate: float = 0.0, squeeze_excitation: bool = False) -> FaceNetwork:
    """Build ResNet-18: C = 512, H = S / 16."""
    return ResNet(
        (2, 2, 2, 2), drop_path_rate=drop_path_rate, squeeze_excitation=squeeze_excitation
    )


def resnet34_face(*, drop_path_rate: float = 0.0, squeeze_excitation: bool = False) -> FaceNetwork:
    """Build ResNet-34: C = 512, H = S / 16.  Under a cap of 30 M: `neck=gdc` or `gap-linear`."""
    return ResNet(
        (3, 4, 6, 3), drop_path_rate=drop_path_rate, squeeze_excitation=squeeze_excitation
    )


def resnet50_face(*, drop_path_rate: float = 0.0, squeeze_excitation: bool = False) -> FaceNetwork:
    """Build ResNet-50: C = 2048, H = S / 16.  Under a cap of 30 M: `neck=gdc` or `gap-linear`."""
    return ResNet(
        (3, 4, 6, 3),
        tuple(4 * width for width in WIDTHS),
        bottleneck=True,
        drop_path_rate=drop_path_rate,
        squeeze_excitation=squeeze_excitation,
    )


class ResNet(FaceNetwork):
    """Stem and four stages of units.

    Args:
        depths: units of each stage.
        widths: channels that leave each stage.
        bottleneck: units of three convolutions in place of two.
        drop_path_rate: of the last unit; see `DropPath`.
        squeeze_excitation: a `SqueezeExcitation` at the end of each branch.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        widths: tuple[int, ...] = WIDTHS,
        *,
        bottleneck: bool = False,
        drop_path_rate: float = 0.0,
        squeeze_excitation: bool = False,
    ) -> None:
        super().__init__()
        stem = widths[0] // 4 if bottleneck else widths[0]
        self.conv1 = conv3x3(3, stem, stride=2)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1, self.layer2, self.layer3, self.layer4 = residual_stages(
            partial(_Bottleneck if bottleneck else _Basic, squeeze_excitation),
            stem,
            depths=depths,
            widths=widths,
            strides=(1, 2, 2, 2),
            drop_path_rate=drop_path_rate,
        )
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, S, S) into features (B, C, H, W)."""
        x = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        return self._through([*self.layer1, *self.layer2, *self.layer3, *self.layer4], x)


class _Basic(nn.Module):
    """Two 3x3 convolutions and the shortcut around them (figure 5, left)."""

    def __init__(
        self, squeeze_excitation: bool, inputs: int, outputs: int, stride: int, drop: float
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.bn2.weight)
        self.se = SqueezeExcitation(outputs) if squeeze_excitation else nn.Identity()
        self.drop_path = DropPath(drop)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        branch = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        branch = self.drop_path(self.se(self.bn2(self.conv2(branch))))
        return functional.relu(self.downsample(x) + branch, inplace=True)


class _Bottleneck(nn.Module):
    """1x1 down to a quarter, 3x3, 1x1 up, and the shortcut around them (figure 5, right).

    Departs from the paper: the 3x3 convolution strides, as in Goyal et al. (arXiv:1706.02677).
    """

    def __init__(
        self, squeeze_excitation: bool, inputs: int, outputs: int, stride: int, drop: float
    ) -> None:
        super().__init__()
        inner = outputs // 4
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.bn3.weight)
        self.se = SqueezeExcitation(outputs) if squeeze_excitation else nn.Identity()
        self.drop_path = DropPath(drop)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        branch = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        branch = functional.relu(self.bn2(self.conv2(branch)), inplace=True)
        branch = self.drop_path(self.se(self.bn3(self.conv3(branch))))
        return functional.relu(self.downsample(x) + branch, inplace=True)
