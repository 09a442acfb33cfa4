"""The network that the competition's notebook begins with.

Letters: B images of side S, C channels.
"""

import itertools

from torch import nn


def baseline5(widths: tuple[int, ...] = (64, 128, 256, 512, 1024)) -> nn.Module:
    """Build five strided convolutions and their mean: C = 1024, H = 1 for any S.

    The five-layer CNN of the starter notebook of CMU 11-785, homework 2 part 2: a 7x7
    convolution of stride 4, four 3x3 ones of stride 2, each with BN and ReLU, and global average
    pooling. It reaches 5.5 to 9 % EER there: a floor, against which the others are measured.

    Departs from the notebook: convolutions have no bias, which the batch norm would take away.

    Args:
        widths: channels of each convolution; the notebook's by default.
    """
    layers = [*_convolution(3, widths[0], kernel=7, stride=4)]
    for inputs, outputs in itertools.pairwise(widths):
        layers += _convolution(inputs, outputs, kernel=3, stride=2)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))


def _convolution(inputs: int, outputs: int, *, kernel: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
