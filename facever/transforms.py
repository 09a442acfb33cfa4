"""The training and evaluation image pipelines, and nothing else.

Images are uint8 arrays (H, W, 3) until `EvalTransform` turns them into float tensors: the
decoded pack stores them so, augmentation works on them so, and one byte a channel is what
crosses process and bus borders. Every place that looks at an image for its embedding -
validation, `submit`, `verify`, export - goes through `fit` and `EvalTransform`.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import albumentations
    from torch import Tensor

UInt8 = NDArray[np.uint8]

# Pixels mapped to [-1, 1], as face recognition has done since ArcFace's code.
FACE_MEAN = (0.5, 0.5, 0.5)
FACE_STD = (0.5, 0.5, 0.5)


def fit(image: UInt8, size: int) -> UInt8:
    """Cut the centre square out of (H, W, 3) and resample it to (size, size, 3).

    Antialiased bilinear; an image that has that size already is returned as it is.
    """
    height, width = image.shape[:2]
    if height == width == size:
        return image
    from PIL import Image

    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


@dataclass(frozen=True)
class EvalTransform:
    """uint8 pixels to the encoder's input: `fit`, then `(pixel / 255 - mean) / std`.

    It travels with the encoder, in the checkpoint, so that training, validation and every
    later use see the same pixels.
    """

    image_size: int = 112
    mean: tuple[float, ...] = FACE_MEAN
    std: tuple[float, ...] = FACE_STD

    def __call__(self, image: UInt8) -> "Tensor":
        """Turn one image (H, W, 3) uint8 into (3, size, size) float32."""
        import torch

        fitted = torch.from_numpy(np.array(fit(image, self.image_size), copy=True))
        return self.batch(fitted[None])[0]

    def batch(self, images: "Tensor") -> "Tensor":
        """Turn (B, size, size, 3) uint8 into (B, 3, size, size) float32, on the same device.

        The result keeps the memory order of the input, which is channels-last.
        """
        import torch

        scale = torch.tensor([1 / (255 * s) for s in self.std], device=images.device)
        shift = torch.tensor(
            [-m / s for m, s in zip(self.mean, self.std, strict=True)], device=images.device
        )
        return torch.addcmul(shift, images.float(), scale).permute(0, 3, 1, 2)

    def to_dict(self) -> dict[str, Any]:
        """Describe it in primitives, for a checkpoint."""
        return {"image_size": self.image_size, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EvalTransform":
        """Rebuild it from `to_dict`.

        Raises:
            ValueError: there are not three means, finite, and three deviations above 0.
        """
        mean, std = (tuple(map(float, values[key])) for key in ("mean", "std"))
        usable = all(map(math.isfinite, mean)) and all(0 < s < math.inf for s in std)
        if not usable or len(mean) != 3 or len(std) != 3:
            raise ValueError(f"normalisation by mean {mean} and std {std}; expected 3 of each")
        return cls(int(values["image_size"]), mean, std)


class Augment:
    """The training recipe on uint8 images, each operation with its probability and strength.

    Args:
        flip: probability of a mirror image.
        crop, crop_scale: probability, and smallest share of the area kept, of AdaFace's crop:
            a random region stays at its place and the rest turns black.
        shift, shift_limit: probability, and largest share of the side, of a translation.
        rescale, rescale_to: probability, and smallest share of the side, of going down to a
            low resolution and back up.
        photometric, photometric_strength: probability and range of brightness, contrast,
            saturation jitter.
        rotate, rotate_degrees: probability and largest angle, in degrees.
        blur, blur_sigma: probability and largest standard deviation, in pixels.
        erase, erase_scale: probability and largest share of the side, of an erased rectangle.

    Crop, rescale and photometric jitter are AdaFace's three (arXiv:2204.00964, section 4.1),
    each with probability 0.2 there.
    """

    def __init__(
        self,
        *,
        flip: float,
        crop: float,
        crop_scale: float,
        shift: float,
        shift_limit: float,
        rescale: float,
        rescale_to: float,
        photometric: float,
        photometric_strength: float,
        rotate: float,
        rotate_degrees: float,
        blur: float,
        blur_sigma: float,
        erase: float,
        erase_scale: float,
    ) -> None:
        self.recipe: dict[str, float] = {k: v for k, v in locals().items() if k != "self"}
        self._compose: albumentations.Compose | None = None

    def __call__(self, images: UInt8, seed: Sequence[int]) -> UInt8:
        """Augment a batch (B, H, W, 3), one decision per image.

        The result is a function of the images and `seed` alone, whatever ran before it and in
        whichever process: that is what makes a resumed epoch equal an uninterrupted one.
        """
        if self._compose is None:
            self._compose = self._build()
        self._compose.set_random_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        return np.stack([self._compose(image=image)["image"] for image in images])

    def __getstate__(self) -> dict[str, Any]:
        """Travel to a loader worker as the recipe; the worker builds its own pipeline."""
        return {"recipe": self.recipe, "_compose": None}

    def _build(self) -> "albumentations.Compose":
        # Unset, importing albumentations asks a server for its newest version.
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
        import albumentations as A  # noqa: N812 (the library's own idiom)
        import cv2

        # One process per core decodes and augments; OpenCV's own threads would fight them.
        cv2.setNumThreads(0)
        r = self.recipe
        jitter = r["photometric_strength"]
        limit = r["shift_limit"]
        steps = [
            A.HorizontalFlip(p=r["flip"]),
            A.Affine(
                translate_percent=(-limit, limit),
                interpolation=cv2.INTER_LINEAR,
                border_mode=cv2.BORDER_CONSTANT,
                p=r["shift"],
            ),
            A.Rotate(
                limit=(-r["rotate_degrees"], r["rotate_degrees"]),
                interpolation=cv2.INTER_LINEAR,
                border_mode=cv2.BORDER_REFLECT_101,
                p=r["rotate"],
            ),
            _crop_in_place(r["crop_scale"], r["crop"]),
            A.Downscale(
                scale_range=(r["rescale_to"], 1.0),
                interpolation_pair={"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR},
                p=r["rescale"],
            ),
            A.ColorJitter(
                brightness=(1 - jitter, 1 + jitter),
                contrast=(1 - jitter, 1 + jitter),
                saturation=(1 - jitter, 1 + jitter),
                hue=(0.0, 0.0),
                p=r["photometric"],
            ),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, r["blur_sigma"]), p=r["blur"]),
            A.CoarseDropout(
                num_holes_range=(1, 1),
                hole_height_range=(0.05, r["erase_scale"]),
                hole_width_range=(0.05, r["erase_scale"]),
                fill="random_uniform",
                p=r["erase"],
            ),
        ]
        return A.Compose([step for step in steps if step.p > 0])


def _crop_in_place(smallest: float, p: float) -> "albumentations.ImageOnlyTransform":
    """Make AdaFace's crop: keep a random region where it is and blacken the rest.

    The share of the area is uniform in [smallest, 1] and the aspect ratio log-uniform in
    [3/4, 4/3], as in torchvision's RandomResizedCrop, which AdaFace's code draws from.
    """
    import albumentations as A  # noqa: N812 (the library's own idiom)

    class CropInPlace(A.ImageOnlyTransform):  # type: ignore[misc] # albumentations has no types
        def get_params_dependent_on_data(
            self, params: dict[str, Any], data: dict[str, Any]
        ) -> dict[str, Any]:
            rng, (height, width) = self.random_generator, params["shape"][:2]
            area = rng.uniform(smallest, 1.0) * height * width
            aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            h = min(height, round(float(np.sqrt(area / aspect))))
            w = min(width, round(float(np.sqrt(area * aspect))))
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return {"region": (slice(top, top + h), slice(left, left + w))}

        def apply(self, img: UInt8, region: tuple[slice, slice], **_: Any) -> UInt8:
            kept = np.zeros_like(img)
            kept[region] = img[region]
            return kept

    return CropInPlace(p=p)
