"""Image to raw embedding."""

import copy

import pytest
import torch
from torch import nn

from facever.encoder import (
    NECKS,
    Encoder,
    build_encoder,
    is_depthwise_mobile,
    parameter_count,
)
from facever.errors import ConfigError

torch.set_num_threads(1)


def build(
    backbone: str = "test_resnet",
    size: int = 32,
    *,
    neck: str = "gap-linear",
    stem: str = "default",
    checkpointing: bool = False,
    drop_rate: float = 0.0,
) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(
        backbone=backbone, embedding_dim=8, neck=neck, stem=stem, image_size=size,
        checkpointing=checkpointing, drop_rate=drop_rate,
    )  # fmt: skip


def images(n: int = 2, size: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(
    "backbone",
    ["resnet18", "resnet34", "resnet50", "seresnet18", "seresnet50", "resnet10t", "convnext_atto",
     "convnext_femto", "convnext_pico", "convnext_nano", "mobilenetv3_small_050", "mobilenetv2_035",
     pytest.param("convnext_tiny", marks=pytest.mark.slow)],
)  # fmt: skip
def test_every_backbone_gives_raw_embeddings_through_every_neck(backbone: str) -> None:
    encoder = build(backbone).eval()
    with torch.no_grad():
        features = encoder.backbone(images())
        for neck in NECKS.values():
            encoder.projection = neck(features.shape[1], features.shape[2:], 8, 0.0).eval()
            z = encoder(images())
            assert z.shape == (2, 8)
            assert z.dtype == torch.float32
            assert z.isfinite().all()
            # Raw: nobody has normalised them.
            assert not torch.allclose(z.norm(dim=1), torch.ones(2), atol=1e-3)


@pytest.mark.parametrize("neck", NECKS)
def test_every_neck_fits_a_feature_map_of_any_side_and_passes_gradients(neck: str) -> None:
    for size in (32, 96):
        encoder = build(neck=neck, size=size)
        assert encoder.training
        assert encoder.transform.image_size == size
        z = encoder(images(3, size))
        assert z.shape == (3, encoder.embedding_dim) == (3, 8)
        (z * torch.arange(8.0)).sum().backward()
        assert all(p.grad is not None for p in encoder.parameters())


def first_convolution(encoder: Encoder) -> nn.Conv2d:
    return next(m for m in encoder.backbone.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    ("backbone", "stride"),
    [("resnet18", 1), ("resnet10t", 1), ("resnet50", 1), ("seresnet18", 1), ("test_resnet", 1),
     ("mobilenetv3_small_050", 1), ("mobilenetv2_035", 1), ("convnext_atto", 2)],
)  # fmt: skip
def test_the_face_stem_keeps_the_resolution_of_112_pixels(backbone: str, stride: int) -> None:
    encoder = build(backbone, 112, stem="face").eval()
    assert first_convolution(encoder).stride == (stride, stride)
    with torch.no_grad():
        assert encoder.backbone(images(1, 112)).shape[2:] == (7, 7)
        assert encoder(images(1, 112)).shape == (1, 8)
    assert first_convolution(build(backbone)).stride == (2 * stride, 2 * stride)


def test_the_face_stem_takes_odd_sides() -> None:
    encoder = build("resnet18", 33, stem="face").eval()
    assert encoder(images(1, 33)).shape == (1, 8)


@pytest.mark.parametrize("backbone", ["test_nfnet", "legacy_seresnet18", "test_byobnet"])
def test_a_backbone_without_a_face_stem_is_refused(backbone: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.stem: {backbone} has no face stem"):
        build(backbone, stem="face")


@pytest.mark.parametrize(
    ("name", "near"), [("resnet81", "resnet18"), ("convnext_ato", "convnext_atto")]
)
def test_an_unknown_backbone_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"timm knows no '{name}'; nearest is {near}"):
        build(name)


@pytest.mark.parametrize("size", [160, 32])
def test_a_vision_transformer_is_refused_as_no_feature_map(size: int) -> None:
    with pytest.raises(ConfigError, match=r"model\.backbone: test_vit gives .* a feature map"):
        build("test_vit", size)


def test_an_image_size_that_the_backbone_does_not_take_is_said() -> None:
    with pytest.raises(ConfigError, match="does not take images of 32 pixels"):
        build("vit_tiny_patch16_224", 32)


def test_pretrained_weights_that_cannot_be_had_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"model\.pretrained: .* could not be had"):
        build_encoder(
            backbone="resnet10t", embedding_dim=8, neck="gap-linear", image_size=32, pretrained=True
        )


def test_a_parameter_that_is_shared_counts_once() -> None:
    layer = nn.Linear(3, 4)
    assert parameter_count(layer) == 16
    assert parameter_count(layer, layer, nn.Sequential(layer, nn.BatchNorm1d(4))) == 16 + 8
    tied = nn.Linear(3, 4)
    tied.weight = layer.weight
    assert parameter_count(layer, tied) == 16 + 4


def test_resnet18_has_the_parameters_of_the_paper() -> None:
    """11.69 million less the 513,000 of ImageNet's classifier (He et al., table 1)."""
    assert parameter_count(build("resnet18").backbone) == 11_689_512 - 513_000


def test_recomputing_activations_changes_no_gradient() -> None:
    plain, saving = build(), build(checkpointing=True)
    for encoder in (plain, saving):
        encoder(images(4)).square().mean().backward()
    for (name, p), q in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(p, q)
        assert p.grad is not None
        assert q.grad is not None
        torch.testing.assert_close(p.grad, q.grad, msg=name)


def test_recomputing_activations_changes_no_statistics() -> None:
    plain, saving = build(), build(checkpointing=True)
    for encoder in (plain, saving):
        encoder(images(4)).sum().backward()
    for module, other in zip(plain.modules(), saving.modules(), strict=True):
        if isinstance(module, nn.BatchNorm2d):
            torch.testing.assert_close(module.running_mean, other.running_mean)
            torch.testing.assert_close(module.running_var, other.running_var)


@pytest.mark.parametrize("backbone", ["test_resnet", "convnext_atto", "mobilenetv3_small_050"])
def test_channels_last_gives_the_same_values_to_rounding(backbone: str) -> None:
    encoder = build(backbone).eval()
    with torch.no_grad():
        expected = encoder(images())
        found = copy.deepcopy(encoder).to(memory_format=torch.channels_last)(
            images().contiguous(memory_format=torch.channels_last)
        )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_weights_are_a_function_of_the_seed() -> None:
    first, second = build(), build()
    for p, q in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(p, q)
    # Finding the shape of the feature map has not moved batch norm's statistics.
    means = [m.running_mean for m in first.modules() if isinstance(m, nn.BatchNorm2d)]
    assert means
    assert all(mean is not None and not mean.any() for mean in means)


@pytest.mark.parametrize("neck", NECKS)
def test_dropout_stands_before_the_embedding_and_only_in_training(neck: str) -> None:
    encoder = build(neck=neck, drop_rate=0.5)
    (dropout,) = (m for m in encoder.projection.modules() if isinstance(m, nn.Dropout))
    assert dropout.p == 0.5
    encoder.eval()
    with torch.no_grad():
        assert torch.equal(encoder(images()), encoder(images()))


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize(
    ("backbone", "mobile"),
    [("mobilenetv2_035", True), ("mobilenetv3_small_050", True), ("test_efficientnet", True),
     ("test_resnet", False), ("convnext_atto", False)],
)  # fmt: skip
def test_nets_of_the_mobile_kind_are_known_whatever_their_neck(
    backbone: str, mobile: bool, neck: str
) -> None:
    """The `gdc` neck is itself a depth-wise convolution with batch norm."""
    assert is_depthwise_mobile(build(backbone, 96, neck=neck)) == mobile
