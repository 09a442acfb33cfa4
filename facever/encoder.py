"""Image to raw embedding: a backbone and the projection that follows it.

The encoder is all that inference needs. It returns raw embeddings, since AdaFace and MagFace
read their norms; normalising is the business of the losses and of `score`.

Letters: B images, D embedding dimension, C channels of the feature map of side H x W.
"""

import copy
import inspect
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from facever.backbones import BACKBONES, FaceNetwork
from facever.errors import ConfigError
from facever.transforms import EvalTransform


class Encoder(nn.Module):
    """Backbone and projection: images (B, 3, S, S) to raw embeddings (B, D) float32.

    Attributes:
        transform: how uint8 pixels become the images that `forward` expects.
        embedding_dim: D.
    """

    def __init__(
        self, backbone: nn.Module, projection: nn.Module, dim: int, transform: EvalTransform
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = projection
        self.embedding_dim = dim
        self.transform = transform

    def forward(self, images: Tensor) -> Tensor:
        """Embed preprocessed images; see the class for shapes."""
        embeddings: Tensor = self.projection(self.backbone(images))
        return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def build_encoder(
    *,
    backbone: str,
    embedding_dim: int,
    neck: str,
    stem: str = "default",
    image_size: int = 112,
    pretrained: bool = False,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    squeeze_excitation: bool = False,
    checkpointing: bool = False,
) -> Encoder:
    """Build an encoder with weights drawn from torch's generator, or timm's pretrained ones.

    Args:
        backbone: one of `BACKBONES`, or any timm model that gives a feature map.
        embedding_dim: D.
        neck: one of `NECKS`.
        stem: `default`, or `face` for a stride-1 first convolution without early pooling.
        image_size: side S of the input, pixels.
        pretrained: load timm's weights, and take the normalisation they were trained with.
        drop_rate: dropout before the embedding layer.
        drop_path_rate: share of the images that the last residual branch is left out for in
            training; it grows to that linearly with depth.
        squeeze_excitation: put it into one of facever's own residual networks.
        checkpointing: recompute activations in the backward pass.

    Raises:
        ConfigError: the backbone is unknown, gives no feature map, has no face stem, lacks an
            option, cannot recompute activations, or its weights cannot be had.
    """
    options = {"drop_path_rate": drop_path_rate, "squeeze_excitation": squeeze_excitation}
    trunk = _trunk(backbone, pretrained, image_size, {k: v for k, v in options.items() if v})
    transform = _transform_of(trunk, image_size) if pretrained else EvalTransform(image_size)
    if stem == "face":
        adapt_stem(trunk, backbone)
    if checkpointing:
        if not hasattr(trunk, "set_grad_checkpointing"):
            raise ConfigError(
                f"model.checkpointing: {backbone} is too small to need it and has none\n"
                "  expected model.checkpointing=false, or a larger backbone"
            )
        trunk.set_grad_checkpointing(True)
        _update_statistics_once(trunk, image_size)
    channels, side = _feature_map(trunk, image_size, backbone)
    projection = NECKS[neck](channels, side, embedding_dim, drop_rate)
    return Encoder(trunk, projection, embedding_dim, transform)


def _trunk(name: str, pretrained: bool, image_size: int, options: dict[str, Any]) -> Any:
    """Build a backbone of facever's own, else the one that timm calls so.

    Args:
        name: of the backbone.
        pretrained: load timm's weights.
        image_size: side S of the input, for those that are built for one.
        options: those that were asked for.
    """
    if name not in BACKBONES:
        return _timm_backbone(name, pretrained, options)
    if pretrained:
        raise ConfigError(
            f"model.pretrained: {name} is facever's own, and there are no such weights\n"
            "  expected model.pretrained=false, or a backbone of timm's"
        )
    build = BACKBONES[name]
    known = inspect.signature(build).parameters
    for option, value in options.items():
        if option not in known:
            having = [
                n for n, make in BACKBONES.items() if option in inspect.signature(make).parameters
            ]
            raise ConfigError(
                f"model.{option}: {value} given, but {name} has no place for it\n"
                f"  expected a backbone that has one: {', '.join(having)}"
            )
    return build(**options, **({"image_size": image_size} if "image_size" in known else {}))


def _timm_backbone(name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    import timm

    if not timm.is_model(name):
        from facever.config import nearest

        close = nearest(name, [*BACKBONES, *timm.list_models()])
        raise ConfigError(
            f"model.backbone: timm knows no {name!r}{close}\n"
            f"  expected a model of timm's, or {', '.join(BACKBONES)}"
        )
    if "squeeze_excitation" in options:
        raise ConfigError(
            f"model.squeeze_excitation: true given, but {name} is timm's\n"
            "  expected one of facever's own residual networks, or timm's seresnet50 and the like"
        )
    try:
        return timm.create_model(
            name, pretrained=pretrained, num_classes=0, global_pool="", **options
        )
    except Exception as error:
        if pretrained:
            raise ConfigError(
                f"model.pretrained: the weights of {name} could not be had: {error}\n"
                "  expected network access to timm's hub, or model.pretrained=false"
            ) from error
        raise ConfigError(f"model.backbone: timm cannot build {name}: {error}") from error


def _transform_of(trunk: nn.Module, image_size: int) -> EvalTransform:
    from timm.data.config import resolve_model_data_config

    values: dict[str, Any] = resolve_model_data_config(trunk)  # type: ignore[no-untyped-call] # timm has no types there
    return EvalTransform(image_size, tuple(values["mean"]), tuple(values["std"]))


def _feature_map(trunk: nn.Module, image_size: int, name: str) -> tuple[int, tuple[int, int]]:
    """Find the channels and the sides of the backbone's output for one image."""
    was_training = trunk.training
    trunk.eval()
    try:
        with torch.no_grad():
            shape = trunk(torch.zeros(1, 3, image_size, image_size)).shape
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"model.backbone: {name} does not take images of {image_size} pixels: {error}"
        ) from error
    finally:
        trunk.train(was_training)
    if len(shape) != 4:
        raise ConfigError(
            f"model.backbone: {name} gives {tuple(shape)} for one image; expected a feature map "
            "(1, C, H, W): a convolutional network such as resnet18 or convnext_atto"
        )
    return shape[1], (shape[2], shape[3])


def _bn_linear_bn(channels: int, side: tuple[int, int], dim: int, drop: float) -> nn.Sequential:
    """Build BN - dropout - flatten - FC - BN, option E of ArcFace (arXiv:1801.07698, 3.2.2).

    The last batch norm has no scale of its own, as in AdaFace's code: norms keep their meaning.
    """
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.Dropout(drop),
        nn.Flatten(),
        nn.Linear(channels * side[0] * side[1], dim, bias=False),
        nn.BatchNorm1d(dim, affine=False),
    )


def _bn_linear_shift(channels: int, side: tuple[int, int], dim: int, drop: float) -> nn.Module:
    """Build `bn-linear-bn` and a learned shift, as InsightFace's last batch norm has.

    InsightFace's FC has a bias too, which only moves that batch norm's mean: its weights fit
    with running_mean - bias as mean.
    """
    return nn.Sequential(*_bn_linear_bn(channels, side, dim, drop), _Shift(dim))


def _gap_linear(channels: int, side: tuple[int, int], dim: int, drop: float) -> nn.Module:
    """Build global average pooling - dropout - FC, the fewest parameters of the three."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(drop), nn.Linear(channels, dim)
    )


def _gdc(channels: int, side: tuple[int, int], dim: int, drop: float) -> nn.Module:
    """Build a global depth-wise convolution - FC - BN (MobileFaceNets, arXiv:1804.07573, 3.1)."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, side, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.Flatten(),
        nn.Dropout(drop),
        nn.Linear(channels, dim, bias=False),
        nn.BatchNorm1d(dim, affine=False),
    )


class _Shift(nn.Module):
    """Add a vector to every row, (B, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, embeddings: Tensor) -> Tensor:
        return embeddings + self.bias


NECKS: dict[str, Callable[[int, tuple[int, int], int, float], nn.Module]] = {
    "bn-linear-bn": _bn_linear_bn,
    "bn-linear-shift": _bn_linear_shift,
    "gap-linear": _gap_linear,
    "gdc": _gdc,
}


def adapt_stem(trunk: Any, name: str) -> None:
    """Keep the resolution of a 112-pixel face, which stems made for 224 pixels throw away.

    ResNets: a 3x3 stride-1 first convolution and no pooling; the first stage strides instead,
    as in ArcFace's IR networks, so that 112 pixels end as a 7x7 map. MobileNets and
    EfficientNets: a stride-1 first convolution. ConvNeXts: patches of 2 pixels in place of 4.

    Raises:
        ConfigError: a backbone of another family, or one made for faces.
    """
    if isinstance(trunk, FaceNetwork):
        raise ConfigError(
            f"model.stem: {name} is made for faces as it is; expected model.stem=default"
        )
    stem = getattr(trunk, "stem", None)
    if hasattr(trunk, "maxpool") and hasattr(trunk, "layer1"):
        _adapt_resnet(trunk)
    elif hasattr(trunk, "conv_stem"):
        trunk.conv_stem.stride = (1, 1)
    elif isinstance(stem, nn.Sequential) and getattr(stem[0], "stride", None) == (4, 4):
        stem[0] = nn.Conv2d(3, trunk.stem[0].out_channels, kernel_size=2, stride=2)
    else:
        raise ConfigError(
            f"model.stem: {name} has no face stem; expected timm's ResNets, ConvNeXts, "
            "MobileNets or EfficientNets, or model.stem=default"
        )


def _adapt_resnet(trunk: Any) -> None:
    if isinstance(trunk.conv1, nn.Conv2d):
        trunk.conv1 = nn.Conv2d(3, trunk.conv1.out_channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
    else:
        trunk.conv1[0].stride = (1, 1)
    trunk.maxpool = nn.Identity()
    first = trunk.layer1[0]
    strided = first.conv2 if hasattr(first, "conv3") else first.conv1
    strided.stride = (2, 2)
    halve = nn.AvgPool2d(2, ceil_mode=True)
    first.downsample = halve if first.downsample is None else nn.Sequential(halve, first.downsample)


def parameter_count(*modules: nn.Module) -> int:
    """Count the parameters of all modules together, a shared one once."""
    return sum(p.numel() for p in {p for module in modules for p in module.parameters()})


def flop_count(network: nn.Module, image_size: int) -> int:
    """Count the floating-point operations of embedding one image of side `image_size`.

    A multiplication and its addition are two, as in torch; only convolutions and products count.
    A training step takes about three times as many.
    """
    from torch.utils.flop_counter import FlopCounterMode

    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shapes = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    # Two: batch norm refuses to train on one position.
    images = torch.empty(2, 3, image_size, image_size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        torch.func.functional_call(network, shapes, (images,))
    return int(counter.get_total_flops()) // 2


def _update_statistics_once(trunk: nn.Module, image_size: int) -> None:
    """Undo the second update that recomputing gives to the statistics of batch norms.

    Two updates with momentum 1 - sqrt(1 - m) on one batch are one update with m, exactly. Which
    layers are run twice is seen on a copy, for timm does not recompute all of them.
    """
    copied = copy.deepcopy(trunk).train()
    calls: Counter[str] = Counter()
    for name, module in copied.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            # On entry: recomputing ends within the last layer that keeps something.
            module.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
    with torch.random.fork_rng(devices=[]):
        images = torch.rand(2, 3, image_size, image_size, requires_grad=True)
        copied(images).sum().backward()
    for name, module in trunk.named_modules():
        if calls[name] == 2:
            module.momentum = 1 - math.sqrt(1 - module.momentum)


def is_depthwise_mobile(encoder: nn.Module) -> bool:
    """Tell a net of the MobileNet kind, whose bf16 backward pass is slow on a CPU.

    Its depth-wise convolutions are followed by batch norm; ConvNeXt's by layer norm.
    """
    modules = list((encoder.backbone if isinstance(encoder, Encoder) else encoder).modules())
    depthwise = sum(
        isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 3 and m.kernel_size[0] > 1
        for m in modules
    )
    layer_norm = any("layernorm" in type(m).__name__.lower() for m in modules)
    # One alone is a global depth-wise convolution at the end of a plain net, which is small.
    return depthwise > 1 and not layer_norm
