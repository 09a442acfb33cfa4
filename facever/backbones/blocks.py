"""What the networks for faces are made of.

Where a network is not linear without them, residual branches begin as nothing: the scale of each
one's last norm is 0, so that a unit starts as its shortcut (Goyal et al., arXiv:1706.02677, 5.1; He
et al., arXiv:1812.01187, 3.1).

Letters: B images of side S, C channels of a map of side H x W.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# From (inputs, outputs, stride, drop-path rate).
Unit = Callable[[int, int, int, float], nn.Module]


class FaceNetwork(nn.Module):
    """A backbone for aligned faces: images (B, 3, S, S) to features (B, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self._recomputing = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations inside each unit in the backward pass; timm's name."""
        self._recomputing = enable

    def _through(self, units: Iterable[nn.Module], x: Tensor) -> Tensor:
        for unit in units:
            if self._recomputing and torch.is_grad_enabled():
                # With the generator's state of the first time, so that drop path drops the same.
                x = checkpoint(unit, x, use_reentrant=False)
            else:
                x = unit(x)
        return x


def conv3x3(inputs: int, outputs: int, stride: int = 1, *, groups: int = 1) -> nn.Conv2d:
    """Build a 3x3 convolution that gives ceil(H / stride)."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, groups=groups, bias=False)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Build the identity, or a projection where the shape changes (He et al., option B)."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def residual_stages(
    unit: Unit,
    inputs: int,
    *,
    depths: Sequence[int],
    widths: Sequence[int],
    strides: Sequence[int],
    drop_path_rate: float,
) -> list[nn.Sequential]:
    """Build stages of units, of which the first changes channels and side.

    Args:
        unit: makes a unit of (inputs, outputs, stride, drop-path rate).
        inputs: channels that come in.
        depths: units of each stage.
        widths: channels of each stage.
        strides: of the first unit of each stage.
        drop_path_rate: of the last unit of all.
    """
    rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
    stages = []
    for depth, outputs, stride in zip(depths, widths, strides, strict=True):
        first = unit(inputs, outputs, stride, next(rates))
        rest = [unit(outputs, outputs, 1, next(rates)) for _ in range(depth - 1)]
        stages.append(nn.Sequential(first, *rest))
        inputs = outputs
    return stages


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Let the rate grow linearly with depth up to `rate` (Huang et al., eq. 4)."""
    return [rate * (i + 1) / depth for i in range(depth)]


class DropPath(nn.Module):
    """Leave a residual branch out for a random share of the images, in training alone.

    Stochastic depth.  Huang et al., ECCV 2016 (arXiv:1603.09382), section 3.

    Departs from the paper: it is decided per image, not per batch, and branches that stay are
    divided by their probability in training, where the paper multiplies in inference.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Give the branch, (B, C, H, W), with zeros for the images that drop it."""
        if not self.training or self.rate == 0:
            return branch
        return branch * functional.dropout(branch.new_ones(len(branch), 1, 1, 1), self.rate)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate in (0, 1) that sees the means of all channels.

    Hu et al., CVPR 2018 (arXiv:1709.01507), eq. 2 to 4.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale a map (B, C, H, W)."""
        hidden = functional.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))
        gates: Tensor = self.fc2(hidden).sigmoid()
        return x * gates


def global_depthwise(channels: int, side: int) -> nn.Conv2d:
    """Build a mean over the whole map with learned weights, (B, C, H, H) to (B, C, 1, 1).

    The global depth-wise convolution of MobileFaceNets (arXiv:1804.07573), 3.1: the corners of
    an aligned face tell less than its centre. The batch norm that follows there is the one that
    the neck begins with.
    """
    return nn.Conv2d(channels, channels, side, groups=channels, bias=False)


def initialise(network: nn.Module) -> None:
    """Draw the convolutions' weights so that gradients keep their size on the way back.

    He et al. (arXiv:1502.01852), eq. 14, with the fan of one group.
    """
    for module in network.modules():
        # Those with a bias are gates, which torch's smaller weights let begin near one half.
        if isinstance(module, nn.Conv2d) and module.bias is None:
            fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
