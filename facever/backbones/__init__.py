"""Backbones of facever's own, from torch's basic operations: image batch to feature map.

They stand beside timm's in `model.backbone` with the same interface: images (B, 3, S, S) in,
features (B, C, H, W) out. Their weights come from torch's generator; the embedding layer is the
neck's. None has attention; squeeze-excitation is in those that are named for it or asked for it.

A builder takes what its network can vary, each with a default: `image_size`, where the side of
the last map is built in; `drop_path_rate` and `squeeze_excitation`, where there are residual
branches.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from facever.backbones.baseline import baseline5
from facever.backbones.blocks import FaceNetwork
from facever.backbones.convnext import convnext_face
from facever.backbones.iresnet import iresnet18, iresnet34_gdc
from facever.backbones.mobilefacenet import mobilefacenet
from facever.backbones.resnet import resnet18_face, resnet34_face, resnet50_face
from facever.backbones.small import airbench_cifar, airbench_mnist, cnn2_mnist, resnet18_cifar

__all__ = ["BACKBONES", "FaceNetwork"]

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "cnn2-mnist": cnn2_mnist,
    "resnet18-cifar": resnet18_cifar,
    "airbench-cifar": airbench_cifar,
    "airbench-mnist": airbench_mnist,
    "baseline5": baseline5,
    "resnet18-face": resnet18_face,
    "resnet34-face": resnet34_face,
    "resnet50-face": resnet50_face,
    "seresnet34": partial(resnet34_face, squeeze_excitation=True),
    "iresnet18": iresnet18,
    "iresnet34_gdc": iresnet34_gdc,
    "mobilefacenet": mobilefacenet,
    "convnext_face": convnext_face,
}
