"""What the pixels alone say about the quality of an image.

B: batch, H, W: height and width of the images.
"""

import torch
from torch import Tensor

# Luma of 8-bit RGB, ITU-R BT.601.
RED, GREEN, BLUE = 0.299, 0.587, 0.114


@torch.no_grad()
def sharpness(images: Tensor) -> Tensor:
    """log(1 + variance of the Laplacian) of the luma, (B,); higher is sharper.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000. The
    Laplacian is that of the four neighbours, in grey levels, over the pixels that have them.

    Departs from the paper: the logarithm, without which the sharpest few images would make
    the mean and the standard deviation of a batch. The 1 is about what rounding to whole grey
    levels leaves of a smooth image; it makes a flat one 0.

    Args:
        images: 8-bit RGB, uint8; shape (B, H, W, 3), H and W at least 3.

    Raises:
        ValueError: the images are of another dtype or shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(
            f"sharpness: images of shape {tuple(images.shape)}, {images.dtype}; expected "
            "(B, H, W, 3), torch.uint8, as they are before they are normalised"
        )
    red, green, blue = images.unbind(3)
    luma = RED * red + GREEN * green + BLUE * blue
    centre = luma[:, 1:-1, 1:-1]
    vertical = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1]
    horizontal = luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    laplacian = vertical + horizontal - 4 * centre
    return laplacian.flatten(1).var(1, correction=0).log1p()
