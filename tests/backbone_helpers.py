"""Narrow networks for faces, quick enough for tests."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from facever.backbones import FaceNetwork
from facever.backbones.convnext import ConvNeXt
from facever.backbones.iresnet import IResNet
from facever.backbones.mobilefacenet import TABLE, MobileFaceNet
from facever.backbones.resnet import ResNet

DEPTHS, WIDTHS = (1, 2, 1, 1), (16, 16, 32, 32)
SLIM = tuple(row._replace(channels=row.channels // 4) for row in TABLE)
NARROW: dict[str, Callable[..., FaceNetwork]] = {
    "resnet": lambda side=2, **more: ResNet(DEPTHS, WIDTHS, **more),
    "bottleneck": lambda side=2, **more: ResNet(DEPTHS, WIDTHS, bottleneck=True, **more),
    "seresnet": lambda side=2, **more: ResNet(DEPTHS, WIDTHS, squeeze_excitation=True, **more),
    "iresnet": lambda side=2, **more: IResNet(DEPTHS, WIDTHS, gdc_side=side, **more),
    "mobilefacenet": lambda side=2, **more: MobileFaceNet(side, SLIM, stem=8, head=16, **more),
    "convnext": lambda side=2, **more: ConvNeXt(side, DEPTHS, WIDTHS, **more),
}


def faces(count: int = 2, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def randomised(network: nn.Module) -> nn.Module:
    """Give every number of a network a value of its own, statistics included, for oracles."""
    generator = torch.Generator().manual_seed(2)
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            if key.endswith("running_var") or value.ndim == 1:
                value.copy_(noise + 0.5)
            else:
                value.copy_((noise - 0.5) * (8 / value[0].numel()) ** 0.5)
    return network.eval()
