"""ConvNeXt for aligned faces of 112 pixels.

Liu et al., CVPR 2022 (arXiv:2201.03545), figure 4 and section 2: depth-wise 7x7 convolutions,
layer norm, GELU; convolutions only. Channels come last inside a unit, where its norm and its two
1x1 convolutions are a layer norm and two products.

Departs from the paper: the stem's patches have 2 pixels a side in place of 4, so that 112 pixels
become the 56x56 that 224 become there. The last map is weighted by a global depth-wise
convolution, not averaged. A fixed share of the images drops a branch, see `DropPath`.

Letters: B images of side S, C channels of the feature map of side H x W.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from facever.backbones.blocks import DropPath, FaceNetwork, drop_path_rates, global_depthwise


def convnext_face(*, image_size: int = 112, drop_path_rate: float = 0.0) -> FaceNetwork:
    """Build ConvNeXt-T with 88 channels in place of 96: C = 704, H = 1.

    With ConvNeXt-T's own width 512 dimensions and 8,631 prototypes would be 32.7 M parameters.
    The paper trains with AdamW, 4e-3 for batches of 4,096, and a drop-path rate of 0.1.
    """
    return ConvNeXt(
        image_size // 16, (3, 3, 9, 3), (88, 176, 352, 704), drop_path_rate=drop_path_rate
    )


class ConvNeXt(FaceNetwork):
    """Patches, four stages of units, norm and global depth-wise convolution.

    Args:
        side: of the last map, S / 16.
        depths: units of each stage.
        widths: channels of each stage.
        drop_path_rate: of the last unit; see `DropPath`.
    """

    def __init__(
        self,
        side: int,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        *,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 2, stride=2), _LayerNorm2d(widths[0]))
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        stages = [
            nn.Sequential(*(_Unit(width, next(rates)) for _ in range(depth)))
            for depth, width in zip(depths, widths, strict=True)
        ]
        for stage, (inputs, outputs) in zip(stages[1:], itertools.pairwise(widths), strict=True):
            stage.insert(0, _halving(inputs, outputs))
        self.stages = nn.Sequential(*stages)
        self.norm = _LayerNorm2d(widths[-1])
        self.gdc = global_depthwise(widths[-1], side)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, S, S) into features (B, C, H, W)."""
        units = [unit for stage in self.stages for unit in stage.children()]
        features: Tensor = self.gdc(self.norm(self._through(units, self.stem(images))))
        return features


class _Unit(nn.Module):
    """Depth-wise 7x7 - LN - 1x1 to four times the channels - GELU - 1x1, and the shortcut.

    `gamma` scales the branch, which begins as nearly nothing: LayerScale, Touvron et al.
    (arXiv:2103.17239), eq. 4.
    """

    def __init__(self, channels: int, drop: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.depthwise(x).permute(0, 2, 3, 1)
        branch = self.fc2(functional.gelu(self.fc1(self.norm(branch))))
        # A float32 factor would make the sum, and all that follows, float32 under autocast.
        branch = branch * self.gamma.to(branch.dtype)
        total: Tensor = x + self.drop_path(branch.permute(0, 3, 1, 2))
        return total


class _LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each position, (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _halving(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_LayerNorm2d(inputs), nn.Conv2d(inputs, outputs, 2, stride=2))


def _initialise(network: nn.Module) -> None:
    """Draw weights as the paper's appendix A does: truncated at two of 0.02, biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
