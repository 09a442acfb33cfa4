"""The networks for faces: counts, shapes, rules, and what others' code computes."""

import zlib
from collections import Counter
from functools import cache

import pytest
import torch
from backbone_helpers import DEPTHS, NARROW, WIDTHS, faces, randomised
from torch import Tensor, nn
from torch.nn import functional

from facever.backbones import BACKBONES
from facever.backbones.blocks import SqueezeExcitation
from facever.backbones.convnext import ConvNeXt
from facever.backbones.iresnet import IResNet
from facever.backbones.mobilefacenet import TABLE, MobileFaceNet
from facever.backbones.resnet import ResNet
from facever.encoder import NECKS, Encoder, build_encoder, flop_count, parameter_count
from facever.errors import ConfigError

torch.set_num_threads(1)

FACES = [name for name in BACKBONES if "cifar" not in name and "mnist" not in name]


@cache
def outline(name: str, size: int = 112, *, neck: str = "bn-linear-bn", dim: int = 512) -> Encoder:
    """Build an encoder without numbers, for shapes and counts."""
    with torch.device("meta"):
        return build_encoder(backbone=name, embedding_dim=dim, neck=neck, image_size=size)


@pytest.mark.parametrize(
    ("name", "neck", "millions"),
    [("iresnet18", "bn-linear-bn", 28.4), ("iresnet18", "bn-linear-shift", 28.4),
     ("iresnet34_gdc", "bn-linear-bn", 26.0), ("resnet18-face", "bn-linear-bn", 28.4),
     ("resnet34-face", "gdc", 26.0), ("seresnet34", "gdc", 26.1), ("resnet50-face", "gdc", 29.1),
     ("convnext_face", "bn-linear-bn", 28.2), ("mobilefacenet", "bn-linear-bn", 5.6),
     ("baseline5", "bn-linear-bn", 11.2)],
)  # fmt: skip
def test_each_fits_under_30_million_with_512_dimensions_and_8631_prototypes(
    name: str, neck: str, millions: float
) -> None:
    total = parameter_count(outline(name, neck=neck)) + 512 * 8631
    assert round(total / 1e6, 1) == millions < 30


@pytest.mark.parametrize(("depths", "millions"), [((3, 4, 6, 3), 38.6), ((3, 4, 14, 3), 48.0)])
def test_ir34_and_ir50_with_the_whole_map_projected_do_not_fit(
    depths: tuple[int, int, int, int], millions: float
) -> None:
    with torch.device("meta"):
        neck = NECKS["bn-linear-bn"](512, (7, 7), 512, 0.0)
        total = parameter_count(IResNet(depths), neck) + 512 * 8631
    assert round(total / 1e6, 1) == millions > 30


def test_trunks_have_the_parameters_of_their_papers() -> None:
    # torchvision's and InsightFace's counts, less what the encoder has elsewhere.
    stem = 64 * 3 * (7**2 - 3**2)
    assert parameter_count(outline("resnet18-face").backbone) == 11_689_512 - 513_000 - stem
    assert parameter_count(outline("resnet34-face").backbone) == 21_797_672 - 513_000 - stem
    assert parameter_count(outline("resnet50-face").backbone) == 25_557_032 - 2_049_000 - stem
    # Less the bias before a batch norm, and that batch norm's scale of 1.
    shifted = outline("iresnet18", neck="bn-linear-shift")
    assert parameter_count(shifted) == 24_025_600 - 512 - 512
    # The paper says 0.99 million; the slopes of PReLUs are 0.008.
    assert parameter_count(outline("mobilefacenet", dim=128)) == pytest.approx(0.99e6, rel=0.015)


@pytest.mark.parametrize(
    ("name", "channels", "sides"),
    [("baseline5", 1024, (1, 1)), ("resnet18-face", 512, (7, 4)), ("resnet50-face", 2048, (7, 4)),
     ("seresnet34", 512, (7, 4)), ("iresnet18", 512, (7, 4)), ("iresnet34_gdc", 512, (1, 1)),
     ("mobilefacenet", 512, (1, 1)), ("convnext_face", 704, (1, 1))],
)  # fmt: skip
def test_faces_of_112_and_64_pixels_become_a_feature_map(
    name: str, channels: int, sides: tuple[int, int]
) -> None:
    for size, side in zip((112, 64), sides, strict=True):
        linear = outline(name, size).projection[3]  # type: ignore[index]
        assert isinstance(linear, nn.Linear)
        assert linear.in_features == channels * side**2


@pytest.mark.parametrize("name", ["iresnet34_gdc", "mobilefacenet", "convnext_face"])
@pytest.mark.parametrize(("size", "side"), [(16, (1, 1)), (31, (2, 1)), (100, (7, 6))])
def test_the_global_convolution_is_as_large_as_the_map_of_any_side(
    name: str, size: int, side: tuple[int, int]
) -> None:
    """Strided 3x3 convolutions round up, patches of 2 pixels down."""
    with torch.device("meta"):
        network = BACKBONES[name](image_size=size)
    last = side[1] if name == "convnext_face" else side[0]
    assert network.gdc.kernel_size == (last, last)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize(("size", "up", "down"), [(17, 2, 1), (50, 4, 3)])
def test_a_single_face_of_any_side_is_embedded(kind: str, size: int, up: int, down: int) -> None:
    network = NARROW[kind](down if kind == "convnext" else up).eval()
    with torch.no_grad():
        features = network(faces(1, size))
    one = kind in ("iresnet", "mobilefacenet", "convnext")
    assert features.shape[2:] == ((1, 1) if one else (up, up))
    assert features.isfinite().all()


@pytest.mark.parametrize(
    ("name", "gigaflop"),
    [("baseline5", 0.15), ("resnet18-face", 3.43), ("resnet50-face", 8.05), ("iresnet18", 5.22),
     ("mobilefacenet", 0.44), ("convnext_face", 7.49)],
)  # fmt: skip
def test_operations_of_a_face_are_counted(name: str, gigaflop: float) -> None:
    """MobileFaceNets: 221 million multiplications, twice that here."""
    dim = 128 if name == "mobilefacenet" else 512
    assert round(flop_count(outline(name, dim=dim), 112) / 1e9, 2) == gigaflop


def test_counting_operations_changes_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, bias=False), nn.BatchNorm2d(5))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert flop_count(network, 9) == 2 * 3 * 5 * 3**2 * 4**2
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("bottleneck", [False, True])
def test_resnets_compute_what_timms_do_with_the_stem_replaced(bottleneck: bool) -> None:
    """The names are the same too, so that weights of one are weights of the other."""
    from timm.models import resnet

    # The stem of timm's has 64 channels always; its bottlenecks count the channels inside.
    widths = (256, 32, 32, 64) if bottleneck else (64, 16, 16, 32)
    theirs = resnet.ResNet(
        resnet.Bottleneck if bottleneck else resnet.BasicBlock, DEPTHS, num_classes=0,
        channels=tuple(w // 4 for w in widths) if bottleneck else widths, global_pool="",
    )  # fmt: skip
    theirs.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    ours = randomised(ResNet(DEPTHS, widths, bottleneck=bottleneck))
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(faces()), theirs.eval()(faces()), rtol=1e-4, atol=1e-5)


def test_convnext_computes_what_timms_does() -> None:
    from timm.models.convnext import ConvNeXt as Theirs

    ours = randomised(ConvNeXt(2, DEPTHS, WIDTHS))
    assert isinstance(ours, ConvNeXt)
    theirs = Theirs(depths=DEPTHS, dims=WIDTHS, num_classes=0, global_pool="")
    theirs.stem[0] = nn.Conv2d(3, WIDTHS[0], 2, stride=2)
    weights = [value for key, value in ours.state_dict().items() if not key.startswith("gdc")]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), weights, strict=True)))
    with torch.no_grad():
        map_2x2 = theirs.eval()(faces())
        expected = (map_2x2 * ours.gdc.weight[:, 0]).sum(dim=(2, 3))
        torch.testing.assert_close(ours(faces())[..., 0, 0], expected, rtol=1e-4, atol=1e-5)


def insightface(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Embed images by ArcFace's section 3.1 and the names of InsightFace's published weights."""

    def norm(x: Tensor, name: str) -> Tensor:
        parts = (weights[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight"))
        return functional.batch_norm(x, *parts, weights[f"{name}.bias"])

    def convolution(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        return functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def prelu(x: Tensor, name: str) -> Tensor:
        slope = weights[f"{name}.weight"].view(1, -1, 1, 1)
        return torch.where(x > 0, x, slope * x)

    x = prelu(norm(convolution(images, "conv1"), "bn1"), "prelu")
    for unit in dict.fromkeys(key[:8] for key in weights if key.startswith("layer")):
        stride = 2 if unit.endswith("0") else 1
        y = prelu(norm(convolution(norm(x, f"{unit}.bn1"), f"{unit}.conv1"), f"{unit}.bn2"),
                  f"{unit}.prelu")  # fmt: skip
        y = norm(convolution(y, f"{unit}.conv2", stride), f"{unit}.bn3")
        if f"{unit}.downsample.0.weight" in weights:
            x = norm(convolution(x, f"{unit}.downsample.0", stride), f"{unit}.downsample.1")
        x = x + y
    flat = norm(x, "bn2").flatten(1)
    return norm(flat @ weights["fc.weight"].T + weights["fc.bias"], "features")


def test_iresnet_embeds_as_insightfaces_does_with_its_weights() -> None:
    trunk = randomised(IResNet(DEPTHS, WIDTHS))
    neck = randomised(NECKS["bn-linear-shift"](32, (2, 2), 8, 0.0))
    # What a file of theirs holds: our names in the trunk, other ones behind it, and a bias that
    # becomes a part of the last mean.
    behind = neck.state_dict()
    theirs = trunk.state_dict() | {
        "fc.weight": behind["3.weight"],
        "fc.bias": torch.linspace(-1, 1, 8),
        "features.weight": torch.ones(8),
        "features.bias": behind["5.bias"],
        "features.running_var": behind["4.running_var"],
        "features.running_mean": behind["4.running_mean"] + torch.linspace(-1, 1, 8),
    }
    theirs |= {f"bn2.{key[2:]}": value for key, value in behind.items() if key.startswith("0.")}
    with torch.no_grad():
        expected = insightface(theirs, faces())
        torch.testing.assert_close(neck(trunk(faces())), expected, rtol=1e-4, atol=1e-4)


def test_mobilefacenet_has_the_rows_of_its_table() -> None:
    with torch.device("meta"):
        network = MobileFaceNet(7)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    strides = [m.stride[0] for m in convolutions]
    # Stem, depth-wise, three a bottleneck, 1x1 to 512, global depth-wise.
    assert len(convolutions) == 2 + 3 * (5 + 1 + 6 + 1 + 2) + 2
    assert Counter(strides)[2] == 4
    assert [m.out_channels for m in convolutions[-2:]] == [512, 512]
    assert convolutions[-1].kernel_size == (7, 7)
    # Nothing linear is activated, all else is: PReLUs stand behind every other batch norm.
    kinds = Counter(type(m) for m in network.modules())
    assert kinds[nn.PReLU] == kinds[nn.BatchNorm2d] - sum(row.depth for row in TABLE)


@pytest.mark.parametrize("name", FACES)
def test_all_is_made_of_basic_operations_without_attention(name: str) -> None:
    with torch.device("meta"):
        kinds = {type(m) for m in BACKBONES[name]().modules() if not list(m.children())}
    ours = {kind.__name__ for kind in kinds if kind.__module__.startswith("facever.")}
    assert ours <= {"DropPath", "_LayerNorm2d"}
    assert {kind.__module__.split(".")[0] for kind in kinds} <= {"facever", "torch"}
    assert {kind.__name__ for kind in kinds} - ours <= {
        "Conv2d", "Linear", "BatchNorm2d", "LayerNorm", "ReLU", "PReLU", "Identity",
        "AdaptiveAvgPool2d",
    }  # fmt: skip


def test_squeeze_excitation_is_only_where_it_is_asked_for() -> None:
    def squeezing(name: str, **settings: bool) -> int:
        with torch.device("meta"):
            network = BACKBONES[name](**settings)
        return sum(isinstance(m, SqueezeExcitation) for m in network.modules())

    assert [name for name in FACES if squeezing(name)] == ["seresnet34"]
    assert squeezing("seresnet34") == 3 + 4 + 6 + 3
    assert squeezing("iresnet18", squeeze_excitation=True) == 8
    assert squeezing("mobilefacenet", squeeze_excitation=True) == 15


# Checkpoints hold these names: how many there are, and a sum over them in order.
NAMES = {
    "baseline5": (30, 335645090), "resnet18-face": (120, 2708865166),
    "resnet34-face": (216, 3864967979), "resnet50-face": (318, 1304322755),
    "seresnet34": (280, 3892902146), "iresnet18": (175, 851430900),
    "iresnet34_gdc": (320, 3320111632), "mobilefacenet": (322, 1319141143),
    "convnext_face": (181, 3826208733),
}  # fmt: skip


@pytest.mark.parametrize("name", FACES)
def test_weights_keep_their_names(name: str) -> None:
    with torch.device("meta"):
        names = list(BACKBONES[name]().state_dict())
    assert (len(names), zlib.crc32("\n".join(names).encode())) == NAMES[name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "cnn2-mnist", "drop_path_rate": 0.1},
         r"model\.drop_path_rate: 0\.1 given, but cnn2-mnist has no place.*\n  .*iresnet18"),
        ({"backbone": "convnext_face", "squeeze_excitation": True},
         r"model\.squeeze_excitation: True given, but convnext_face has no place for it"),
        ({"backbone": "resnet10t", "squeeze_excitation": True},
         r"model\.squeeze_excitation: true given, but resnet10t is timm's"),
        ({"backbone": "mobilefacenet", "stem": "face"},
         r"model\.stem: mobilefacenet is made for faces as it is; expected model\.stem=default"),
    ],
)  # fmt: skip
def test_an_option_without_effect_is_refused(settings: dict[str, object], message: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        build_encoder(embedding_dim=8, neck="gap-linear", image_size=32, **settings)  # type: ignore[arg-type]


def test_timms_backbones_take_a_drop_path_rate() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(
        backbone="test_resnet", embedding_dim=8, neck="gap-linear", image_size=32,
        drop_path_rate=0.5,
    )  # fmt: skip
    rates = [m.drop_prob for m in encoder.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == 0.5
