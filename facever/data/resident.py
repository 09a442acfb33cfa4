"""Training images that lie on the device: a batch of them is one index operation there."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facever.data.datasets import ImageDataset

_CHUNK = 4096
# Of the device's free memory; activations need the rest.
_SHARE = 0.25


class ResidentImages:
    """All images of a data set, (N, S, S, 3) uint8, copied to a device."""

    def __init__(self, images: ImageDataset, device: torch.device) -> None:
        self.labels = images.labels
        first = torch.from_numpy(images.gather(np.arange(1)))
        self.pixels = first.new_empty((len(images), *first.shape[1:]), device=device)
        for start in range(0, len(images), _CHUNK):
            stretch = np.arange(start, min(start + _CHUNK, len(images)))
            self.pixels[start : start + _CHUNK] = torch.from_numpy(images.gather(stretch))

    def gather(self, indices: NDArray[np.int64]) -> Tensor:
        """Fetch the images (B, S, S, 3) at these positions (B,), on the device."""
        return self.pixels[torch.from_numpy(indices).to(self.pixels.device)]


def has_room(images: ImageDataset, device: torch.device) -> bool:
    """Tell whether the images take little of what is free on a GPU."""
    free, _ = torch.cuda.mem_get_info(device)
    return images.nbytes <= _SHARE * free
