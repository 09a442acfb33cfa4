"""facever's own backbones: what all keep, and the small networks for small pictures."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from facever.backbones import BACKBONES
from facever.backbones.baseline import baseline5
from facever.backbones.blocks import SqueezeExcitation
from facever.backbones.convnext import ConvNeXt
from facever.backbones.iresnet import IResNet
from facever.backbones.mobilefacenet import TABLE, MobileFaceNet
from facever.backbones.resnet import ResNet
from facever.backbones.small import airbench_cifar, resnet18_cifar
from facever.encoder import Encoder, build_encoder, is_depthwise_mobile, parameter_count
from facever.errors import ConfigError

torch.set_num_threads(1)

SMALL = {"cnn2-mnist": 28, "resnet18-cifar": 32, "airbench-cifar": 32, "airbench-mnist": 28}
# The last convolution of `baseline5` would see a single position of 32 pixels, and the weight
# gradient of such a one in bf16 reads memory that nobody wrote (torch 2.15 with oneDNN).
NATIVE = dict.fromkeys(BACKBONES, 32) | {"baseline5": 64} | SMALL
# The same networks, narrow enough to train in a test.
NARROW: dict[str, Callable[[], nn.Module]] = {
    "cnn2-mnist": BACKBONES["cnn2-mnist"],
    "resnet18-cifar": lambda: resnet18_cifar((4, 4, 8, 8)),
    "airbench-cifar": lambda: airbench_cifar((8, 16, 16)),
    "airbench-mnist": BACKBONES["airbench-mnist"],
    "baseline5": lambda: baseline5((8, 16, 16, 32, 32)),
    "resnet18-face": lambda: ResNet((1, 1, 1, 1), (8, 8, 16, 16)),
    "resnet34-face": lambda: ResNet((2, 1, 1, 1), (8, 8, 16, 16)),
    "resnet50-face": lambda: ResNet((1, 1, 1, 1), (16, 32, 32, 32), bottleneck=True),
    "seresnet34": lambda: ResNet((2, 1, 1, 1), (8, 8, 16, 16), squeeze_excitation=True),
    "iresnet18": lambda: IResNet((1, 1, 1, 1), (8, 8, 16, 16)),
    "iresnet34_gdc": lambda: IResNet((2, 1, 1, 1), (8, 8, 16, 16), gdc_side=2),
    "mobilefacenet": lambda: MobileFaceNet(2, narrow_table(), stem=8, head=32),
    "convnext_face": lambda: ConvNeXt(2, (1, 1, 2, 1), (8, 16, 16, 16)),
}


def narrow_table():
    return tuple(row._replace(channels=row.channels // 8) for row in TABLE)


def awake(network: nn.Module) -> nn.Module:
    """Let branches take part that begin as nothing."""
    for parameter in network.parameters():
        if parameter.ndim == 1 and parameter.detach().abs().max() < 1e-5:
            nn.init.constant_(parameter, 0.3)
    for module in network.modules():
        # Narrow networks have one hidden channel there, which must not be dead.
        if isinstance(module, SqueezeExcitation):
            nn.init.ones_(module.fc1.bias)
    return network


def images(count: int, size: int, seed: int = 0) -> Tensor:
    """Draw smooth pictures in [-1, 1] whose colours go together, as those of photographs do."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=rng) * 0.4 + torch.rand(
        count, 1, 8, 8, generator=rng
    )
    fine = torch.rand(count, 3, size, size, generator=rng) * 0.1
    return nn.functional.interpolate(coarse, size, mode="bilinear") + fine - 0.75


def build(name: str, **settings: object) -> Encoder:
    torch.manual_seed(0)
    given = {"image_size": NATIVE.get(name, 32), "embedding_dim": 8, "neck": "bn-linear-bn"}
    return build_encoder(backbone=name, **{**given, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("cnn2-mnist", {28: (64, 7, 7), 32: (64, 8, 8), 112: (64, 28, 28)}),
        ("resnet18-cifar", {28: (512, 4, 4), 32: (512, 4, 4), 112: (512, 14, 14)}),
        ("airbench-cifar", {28: (256, 1, 1), 32: (256, 1, 1), 112: (256, 4, 4)}),
    ],
)
def test_images_of_any_usual_side_become_a_feature_map(
    name: str, maps: dict[int, tuple[int, ...]]
) -> None:
    # Without numbers: shapes are all that is asked.
    with torch.device("meta"):
        network = BACKBONES[name]()
        for size, shape in maps.items():
            assert network(torch.rand(2, 3, size, size)).shape == (2, *shape)


def convolution(inputs: int, outputs: int, kernel: int = 3) -> int:
    return inputs * outputs * kernel**2


def test_parameters_are_those_of_the_published_tables() -> None:
    two_layers = convolution(3, 32) + 2 * 32 + convolution(32, 64) + 2 * 64
    resnet, inputs = convolution(3, 64) + 2 * 64, 64
    for width in (64, 128, 256, 512):
        resnet += convolution(inputs, width) + 3 * convolution(width, width) + 4 * 2 * width
        if width != inputs:
            resnet += convolution(inputs, width, 1) + 2 * width
        inputs = width

    def airbench(*widths):
        total, inputs = 24, 24
        for width in widths:
            total += convolution(inputs, width) + convolution(width, width) + 2 * width
            inputs = width
        return total

    with torch.device("meta"):
        counts = {name: parameter_count(BACKBONES[name]()) for name in SMALL}
    assert counts == {
        "cnn2-mnist": two_layers, "resnet18-cifar": resnet,
        "airbench-cifar": airbench(64, 256, 256), "airbench-mnist": airbench(32, 64, 64),
    }  # fmt: skip
    # CIFAR's ResNet-18 is known for 11.17 million, Jordan's network for 1.97.
    assert (two_layers, resnet, airbench(64, 256, 256)) == (19_488, 11_168_832, 1_968_792)


def test_resnet18_computes_what_timms_does_with_its_stem_replaced() -> None:
    import timm

    torch.manual_seed(0)
    ours = resnet18_cifar()
    with torch.device("meta"):
        theirs = timm.create_model("resnet18", num_classes=0, global_pool="")
        theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    same_order = zip(theirs.state_dict(), ours.state_dict().values(), strict=True)
    theirs.load_state_dict(dict(same_order), assign=True)
    with torch.no_grad():
        x = images(2, 32)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("bf16", [False, True])
def test_every_parameter_gets_a_gradient(name: str, bf16: bool) -> None:
    """Channels-last, and with bf16 too: that is how a CPU trains."""
    torch.manual_seed(0)
    network = awake(NARROW[name]()).to(memory_format=torch.channels_last)
    x = images(4, NATIVE[name]).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features = network(x)
    assert features.dtype == (torch.bfloat16 if bf16 else torch.float32)
    assert features.is_contiguous(memory_format=torch.channels_last)
    features.float().square().mean().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("name", BACKBONES)
def test_a_few_steps_lower_the_loss(name: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(NARROW[name](), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(2))
    x, y = images(16, NATIVE[name]), torch.arange(16) % 2
    # What tells the classes apart is contrast between neighbours, which a mean would not show.
    x[y == 1, :, ::2] += 0.2
    x[y == 1, :, 1::2] -= 0.2
    network(x)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.5 * losses[0]


def whitening() -> nn.Module:
    stem: nn.Module = next(airbench_cifar((8,)).children())
    return stem


def test_the_whitening_filters_are_an_orthonormal_basis_and_its_negative() -> None:
    filters = whitening().filters
    assert isinstance(filters, Tensor)
    assert filters.shape == (24, 3, 2, 2)
    basis = filters[:12].reshape(12, 12)
    torch.testing.assert_close(basis @ basis.T, torch.eye(12))
    assert torch.equal(filters[12:], -filters[:12])
    # The first is luminance, the mean of the patch; no other sees a grey patch of one value.
    torch.testing.assert_close(filters[:12].sum(dim=(1, 2, 3)), torch.eye(12)[0] * 12**0.5)


def test_whitened_patches_have_unit_variance_and_come_with_both_signs() -> None:
    out = whitening()(images(64, 32))
    assert out.shape == (64, 24, 31, 31)
    torch.testing.assert_close(out[:, 12:], -out[:, :12], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(out.var(dim=(0, 2, 3)), torch.ones(24), rtol=0.2, atol=0)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_grey_pictures_have_no_colour_after_whitening(precision: torch.dtype) -> None:
    """MNIST has none; dividing by its standard deviation must not make noise of rounding."""
    grey = images(8, 28)[:, :1].expand(-1, 3, -1, -1)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        out = whitening()(grey).float()
    colour = [*range(4, 12), *range(16, 24)]
    assert out[:, colour].abs().max() < 0.01
    assert out[:, :4].std() > 0.5


def test_convolutions_of_airbench_begin_as_the_identity() -> None:
    torch.manual_seed(0)
    convolutions = [m for m in airbench_cifar().modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 6
    for layer in convolutions:
        x = torch.rand(1, layer.in_channels, 5, 5)
        torch.testing.assert_close(layer(x)[:, : layer.in_channels], x)
        assert not layer.weight[layer.in_channels :].eq(0).any()


@pytest.mark.parametrize("name", BACKBONES)
def test_channels_last_gives_the_same_values(name: str) -> None:
    torch.manual_seed(0)
    network = awake(NARROW[name]()).eval()
    x = images(2, NATIVE[name])
    with torch.no_grad():
        found = copy.deepcopy(network).to(memory_format=torch.channels_last)(
            x.contiguous(memory_format=torch.channels_last)
        )
        torch.testing.assert_close(found, network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_an_encoder_is_rebuilt_from_its_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, name, NARROW[name])
    first = build(name)
    first(images(4, NATIVE[name]))
    torch.rand(1)
    second = build_encoder(
        backbone=name, embedding_dim=8, neck="bn-linear-bn", image_size=NATIVE[name]
    )
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        x = images(3, NATIVE[name], seed=1)
        z = first.eval()(x)
        assert z.shape == (3, 8)
        assert torch.equal(second.eval()(x), z)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_weights_are_a_function_of_the_seed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, name, NARROW[name])
    first, second = build(name).state_dict(), build(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_mobilefacenet_alone_counts_as_a_net_of_the_mobile_kind() -> None:
    """Those are trained in fp32 on a CPU, as their bf16 is slow."""
    mobile = [name for name, make in NARROW.items() if is_depthwise_mobile(make())]
    assert mobile == ["mobilefacenet"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pretrained": True}, r"model\.pretrained: cnn2-mnist is facever's own, and there are no"),
        ({"stem": "face"}, r"model\.stem: cnn2-mnist has no face stem; expected timm's ResNets"),
        ({"checkpointing": True}, r"model\.checkpointing: cnn2-mnist is too small"),
    ],
)
def test_what_ours_cannot_do_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("cnn2-mnist", **settings)


def test_images_too_small_for_the_last_pooling_are_refused() -> None:
    with pytest.raises(ConfigError, match="airbench-cifar does not take images of 24 pixels"):
        build("airbench-cifar", image_size=24)


@pytest.mark.parametrize(
    ("name", "near"),
    [("cnn2-minst", "cnn2-mnist"), ("airbench-cifr", "airbench-cifar"), ("resnet81", "resnet18")],
)
def test_an_unknown_name_tells_the_nearest_of_ours_and_timms(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"no '{name}'; nearest is {near}\n.*resnet18-cifar"):
        build(name)
