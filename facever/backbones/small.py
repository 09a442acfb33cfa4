"""Small networks for small pictures, of which timm has none: MNIST and CIFAR-10.

Letters: B images of side S, C channels of the feature map of side H x W.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def cnn2_mnist() -> nn.Module:
    """Build two 3x3 convolutions, each with BN, ReLU and 2x2 pooling: C = 64, H = S / 4.

    The network for MNIST of the project's seed report, which ends in 128 dimensions and dropout
    of 0.25: `model.embedding_dim=128`, `model.drop_rate=0.25`, `model.neck=bn-linear-bn`.
    """
    return nn.Sequential(*_pooled_convolution(3, 32), *_pooled_convolution(32, 64))


def _pooled_convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


def resnet18_cifar(widths: tuple[int, ...] = (64, 128, 256, 512)) -> nn.Module:
    """Build ResNet-18 for 32 pixels: C = 512, H = S / 8.  He et al. (arXiv:1512.03385), table 1.

    Departs from the paper: the stem is one 3x3 convolution of stride 1 without pooling, as its
    own networks for CIFAR-10 have (section 4.2); the 7x7 convolution and the pooling that
    ImageNet's pictures get would leave 8x8 of 32x32 pixels before the first block. Shortcuts
    that change the shape are projections (option B).
    """
    stem = _conv3x3(3, widths[0])
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(widths[0]), nn.ReLU()]
    inputs = widths[0]
    for stage, width in enumerate(widths):
        layers += [_BasicBlock(inputs, width, 2 if stage else 1), _BasicBlock(width, width, 1)]
        inputs = width
    network = nn.Sequential(*layers)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut around them (figure 2 of the paper)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _conv3x3(inputs, outputs, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            _conv3x3(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.residual(x) + self.shortcut(x))


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def airbench_cifar(widths: tuple[int, ...] = (64, 256, 256)) -> nn.Module:
    """Build the network of Jordan's CIFAR-10 speed run: C = 256, H = 1 for 32 pixels.

    "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv:2404.00498), section 3: a 2x2
    whitening convolution, GELU, a group of two convolutions for each of `widths`, and a last
    3x3 pooling. Batch norms have no scale; convolutions start as the identity on as many
    channels as they take.

    Departs from the paper, whose whitening filters are eigenvectors of the training data's
    patches: here they are a fixed basis that batch norm divides by its standard deviations, so
    that the weights are a function of the seed alone; see `_Whitening`. Batch norm's epsilon is
    torch's 1e-5 in place of 1e-12, which a dead channel turns into noise. The paper's scaling
    of logits, learning rates and other matters of the recipe are not the backbone's.

    Args:
        widths: channels of each group, which halves the side; the paper's by default.
    """
    groups = (_group(inputs, outputs) for inputs, outputs in itertools.pairwise((24, *widths)))
    return nn.Sequential(_Whitening(), nn.GELU(), *groups, nn.MaxPool2d(3))


def _group(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        _identity_convolution(inputs, outputs),
        nn.MaxPool2d(2),
        _ShiftNorm(outputs),
        nn.GELU(),
        _identity_convolution(outputs, outputs),
        _ShiftNorm(outputs),
        nn.GELU(),
    )


def _identity_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """Build a 3x3 convolution whose first filters hand the inputs on, the rest being random."""
    convolution = _conv3x3(inputs, outputs)
    nn.init.dirac_(convolution.weight.detach()[:inputs])
    return convolution


class _ShiftNorm(nn.BatchNorm2d):
    """Batch norm with a bias and without a scale, which is fixed at 1.

    The momentum is the paper's 0.6, which torch counts from the other end.
    """

    weight: Tensor  # type: ignore[assignment] # a constant here, and no parameter

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.4) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        del self.weight
        self.register_buffer("weight", torch.ones(channels), persistent=False)


class _Whitening(nn.Module):
    """Decorrelate patches of 2x2 pixels, (B, 3, S, S) to (B, 24, S - 1, S - 1), without data.

    The 12 filters are the orthonormal cosine transform of the patch along height, width and
    colour: (sum, difference) twice, and red, green, blue into luminance, red against blue and
    green against the two others. Batch norm then divides each by its standard deviation. On
    CIFAR-10 (1,000 test images) outputs correlate by 0.14 at most and have the variances of the
    eigenvectors to 4 %, so that this is nearly the paper's whitening.

    Filters and their negatives go out, as in the paper, for the GELU that follows.
    """

    filters: Tensor
    # The paper adds 5e-4 to the variances of pixels of standard deviation 1; here it is 0.5.
    EPSILON = 5e-4 / 4

    def __init__(self) -> None:
        super().__init__()
        basis = _patch_basis()
        self.register_buffer("filters", torch.cat((basis, -basis)))
        # The statistics of pixels do not move with the weights: slow averages are the better.
        self.norm = _ShiftNorm(len(self.filters), eps=self.EPSILON, momentum=0.1)

    def forward(self, images: Tensor) -> Tensor:
        whitened: Tensor = self.norm(functional.conv2d(images, self.filters))
        return whitened


def _patch_basis() -> Tensor:
    """Give 12 orthonormal filters (12, 3, 2, 2) of RGB patches, constant ones first."""
    pair, triple = _cosines(2), _cosines(3)
    return torch.einsum("cz,ay,bx->cabzyx", triple, pair, pair).reshape(12, 3, 2, 2)


def _cosines(n: int) -> Tensor:
    """Give the orthonormal DCT-II (n, n), a row per frequency."""
    rows = [[math.cos(math.pi / n * (x + 0.5) * k) for x in range(n)] for k in range(n)]
    return functional.normalize(torch.tensor(rows))


def airbench_mnist() -> nn.Module:
    """Build `airbench_cifar` in the size of digits: C = 64, H = 1 for 28 pixels."""
    return airbench_cifar((32, 64, 64))
