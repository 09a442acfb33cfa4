"""The training recipe of `transforms.Augment` on whole batches of tensors, on any device.

One random decision per image and operation, from a generator seeded by the caller; the same
operations in the same order, with the same distributions of their parameters. Resampling is in
float and rounded once an operation, so single pixels differ from albumentations by a level or two.

Letters: B images, S side, n images that an operation falls on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# Luma of 8-bit RGB (ITU-R BT.601), as OpenCV's grey.
LUMA = (0.299, 0.587, 0.114)
# What `Augment` draws the sides of an erased rectangle and the width of a blur from, at least.
SMALLEST_HOLE = 0.05
SMALLEST_SIGMA = 0.1
ASPECT = math.log(4 / 3)

Operation = Callable[[Tensor, "_Draw"], Tensor]
"""Images (n, 3, S, S) in [0, 255] to images."""


class BatchAugment:
    """Augment batches (B, S, S, 3) of uint8; see `transforms.Augment` for the recipe."""

    def __init__(self, **recipe: float) -> None:
        self.recipe: Mapping[str, float] = recipe

    def __call__(self, images: Tensor, seed: Sequence[int]) -> Tensor:
        """Augment images (B, S, S, 3) uint8, one decision per image, on their device.

        The result is a function of the images and `seed`, whatever the device draws itself.
        """
        state = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
        draw = _Draw(torch.Generator().manual_seed(int(state) >> 1), len(images), images.device)
        # Contiguous by channel: what is chosen is copied out of it and back into it.
        pixels = images.permute(0, 3, 1, 2).contiguous().float()
        for name, operation in self._operations():
            # Drawn for every image, so that one probability does not shift the others' draws.
            chosen = draw.uniform(0, 1) < self.recipe[name]
            if self.recipe[name] > 0:
                _on_chosen(pixels, chosen, draw, operation)
        return pixels.clamp_(0, 255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _operations(self) -> list[tuple[str, Operation]]:
        r = self.recipe
        jitter = r["photometric_strength"]
        return [
            ("flip", lambda x, _: x.flip(3)),
            ("shift", lambda x, draw: _shift(x, draw, r["shift_limit"])),
            ("rotate", lambda x, draw: _rotate(x, draw, math.radians(r["rotate_degrees"]))),
            ("crop", lambda x, draw: _crop(x, draw, r["crop_scale"])),
            ("rescale", lambda x, draw: _rescale(x, draw, r["rescale_to"])),
            ("photometric", lambda x, draw: _photometric(x, draw, jitter)),
            ("blur", lambda x, draw: _blur(x, draw, r["blur_sigma"])),
            ("erase", lambda x, draw: _erase(x, draw, r["erase_scale"])),
        ]


class _Draw:
    """Random numbers for n images, drawn on the CPU, so that every device has the same."""

    def __init__(self, generator: torch.Generator, count: int, device: torch.device) -> None:
        self.generator, self.count, self.device = generator, count, device

    def uniform(self, low: float, high: float, columns: int | None = None) -> Tensor:
        """Uniform numbers (n,), or (n, columns)."""
        shape = (self.count,) if columns is None else (self.count, columns)
        numbers = low + (high - low) * torch.rand(shape, generator=self.generator)
        return numbers.to(self.device, non_blocking=True)


def _on_chosen(pixels: Tensor, chosen: Tensor, draw: _Draw, operation: Operation) -> None:
    """Replace some images by what an operation makes of them, rounded."""
    where = chosen.nonzero().squeeze(1)
    if len(where):
        some = _Draw(draw.generator, len(where), draw.device)
        pixels[where] = operation(pixels[where], some).clamp_(0, 255).round_()


def _shift(x: Tensor, draw: _Draw, limit: float) -> Tensor:
    """Translate by up to `limit` of the side along each axis, in whole pixels; black moves in."""
    moved = (draw.uniform(-limit, limit, 2) * x.shape[3]).trunc()
    return _resample(x, torch.zeros(len(x), device=x.device), moved, "zeros")


def _rotate(x: Tensor, draw: _Draw, limit: float) -> Tensor:
    """Turn about the centre by up to `limit` radians; the image is mirrored at its edges."""
    angle = draw.uniform(-limit, limit)
    return _resample(x, angle, torch.zeros(len(x), 2, device=x.device), "reflection")


def _resample(x: Tensor, angle: Tensor, moved: Tensor, outside: str) -> Tensor:
    """Turn (n,) about the centre, then move by (n, 2) pixels to the right and down; bilinear."""
    side = x.shape[3]
    cos, sin = angle.cos(), angle.sin()
    # Where each pixel comes from, in units of half the distance between the outermost centres.
    back = -2 * moved / (side - 1)
    matrix = torch.stack(
        [cos, -sin, cos * back[:, 0] - sin * back[:, 1],
         sin, cos, sin * back[:, 0] + cos * back[:, 1]], dim=1,
    ).view(-1, 2, 3)  # fmt: skip
    grid = functional.affine_grid(matrix, list(x.shape), align_corners=True)
    return functional.grid_sample(x, grid, padding_mode=outside, align_corners=True)


def _crop(x: Tensor, draw: _Draw, smallest: float) -> Tensor:
    """Keep a random region where it is and blacken the rest (AdaFace)."""
    side = x.shape[3]
    area = draw.uniform(smallest, 1) * side * side
    aspect = draw.uniform(-ASPECT, ASPECT).exp()
    sides = torch.stack([(area / aspect).sqrt(), (area * aspect).sqrt()], 1).round()
    return x * _rectangles(draw, sides.clamp(max=side), side)


def _erase(x: Tensor, draw: _Draw, largest: float) -> Tensor:
    """Paint a random rectangle in one random colour."""
    side = x.shape[3]
    sides = (draw.uniform(SMALLEST_HOLE, largest, 2) * side).floor()
    hole = _rectangles(draw, sides, side)
    colour = draw.uniform(0, 256, 3).floor()[:, :, None, None]
    return torch.where(hole, colour, x)


def _rectangles(draw: _Draw, sides: Tensor, side: int) -> Tensor:
    """Masks (n, 1, S, S) of rectangles of (n, 2) height and width at random places."""
    corner = (draw.uniform(0, 1, 2) * (side - sides + 1)).floor()
    place = torch.arange(side, device=sides.device)
    inside = (place >= corner[..., None]) & (place < (corner + sides)[..., None])
    return (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]


def _rescale(x: Tensor, draw: _Draw, smallest: float) -> Tensor:
    """Down to a low resolution and up again, as one product along each axis."""
    side = x.shape[3]
    target = (draw.uniform(smallest, 1) * side).floor().clamp(min=1).long()
    table = _round_trips(side).to(x.device)
    return _along_both_axes(x, table[target - 1])


@cache
def _round_trips(side: int) -> Tensor:
    """Matrices (S, S, S) that take S pixels to 1, ..., S (by area) and back (bilinear)."""
    return torch.stack([_enlarge(size, side) @ _average(side, size) for size in range(1, side + 1)])


def _average(side: int, size: int) -> Tensor:
    """The means (size, S) over `size` equal stretches of S pixels."""
    edges = torch.arange(size + 1, dtype=torch.float64) * side / size
    pixels = torch.arange(side, dtype=torch.float64)
    start = torch.maximum(edges[:-1, None], pixels)
    end = torch.minimum(edges[1:, None], pixels + 1)
    return ((end - start).clamp(min=0) * size / side).float()


def _enlarge(size: int, side: int) -> Tensor:
    """Bilinear interpolation (S, size) from `size` pixels."""
    rows = torch.eye(size)[None]
    return functional.interpolate(rows, side, mode="linear", align_corners=False)[0].t()


def _blur(x: Tensor, draw: _Draw, largest: float) -> Tensor:
    """Gaussian blur, the image mirrored at its edges, as one product along each axis."""
    side = x.shape[3]
    sigma = draw.uniform(SMALLEST_SIGMA, largest)[:, None, None]
    place = torch.arange(side, device=x.device, dtype=torch.float32)
    period = 2 * (side - 1)
    weights = torch.zeros(len(x), side, side, device=x.device)
    # A pixel beyond an edge is the one as far inside it.
    for mirrored in (place, -place, period - place):
        distance = place[:, None] - mirrored
        weight = torch.exp(-(distance**2) / (2 * sigma**2))
        weights += weight
    once = torch.ones(side, device=x.device)
    once[0] = once[-1] = 0.5
    weights = weights * once
    return _along_both_axes(x, weights / weights.sum(2, keepdim=True))


def _along_both_axes(x: Tensor, matrix: Tensor) -> Tensor:
    """Multiply rows and columns of images (n, 3, S, S) by their own matrix (n, S, S)."""
    return matrix[:, None] @ x @ matrix.transpose(1, 2)[:, None]


def _photometric(x: Tensor, draw: _Draw, strength: float) -> Tensor:
    """Scale brightness, contrast and saturation, in an order of each image's own."""
    factors = draw.uniform(1 - strength, 1 + strength, 3)
    order = draw.uniform(0, 1, 3).argsort(1)
    for turn in range(3):
        which = order[:, turn]
        factor = factors.gather(1, which[:, None])[:, :, None, None]
        grey = _grey(x)
        # Each blends the image with what it would be without that quality.
        none = torch.where(
            (which == 0)[:, None, None, None],
            torch.zeros_like(grey),
            torch.where(
                (which == 1)[:, None, None, None],
                grey.mean((2, 3), keepdim=True).expand_as(grey),
                grey,
            ),
        )
        x = (none + factor * (x - none)).clamp(0, 255)
    return x


def _grey(x: Tensor) -> Tensor:
    """Luma (n, 1, S, S)."""
    weights = torch.tensor(LUMA, device=x.device)[:, None, None]
    return (x * weights).sum(1, keepdim=True)
