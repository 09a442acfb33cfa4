"""Pictures of drawn people: drawn in batches, then damaged as cameras and the web do."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt

from facever.data.synth.draw import draw
from facever.data.synth.people import (
    Traits,
    identity_traits,
    noise_generator,
    quality,
    shot_traits,
)
from facever.errors import ConfigError, DataError

# What is known of every picture; angles in radians, shares as in `people`.
MEASURED = (
    "quality", "yaw", "pitch", "roll", "blur", "resolution", "noise", "occlusion", "harshness",
    "jpeg",
)  # fmt: skip

# Few enough that a batch's arrays stay in the processor's cache.
_BATCH_PIXELS = 4 * 112 * 112


@dataclass(frozen=True)
class Pictures:
    """Drawn pictures and what is known of them."""

    pixels: npt.NDArray[np.uint8]  # (N, size, size, 3) RGB, before JPEG
    known: dict[str, npt.NDArray[np.float64]]  # name in MEASURED -> (N,)

    @property
    def quality(self) -> npt.NDArray[np.float64]:
        """How much of the identity each picture still shows, in (0, 1]; shape (N,)."""
        return self.known["quality"]


def render(
    identity_ids: Sequence[int], image_ids: Sequence[int], *, size: int = 112, seed: int = 0
) -> Pictures:
    """Draw picture `image_ids[i]` of person `identity_ids[i]`, for every i.

    A picture depends on (seed, identity, image, size) alone, not on what is drawn with it.

    Args:
        identity_ids: any numbers from 0; shape (N,).
        image_ids: any numbers from 0; shape (N,).
        size: pixels a side, at least 32.
        seed: which world the people live in, from 0.

    Raises:
        ConfigError: `size` or `seed` out of bounds.
        DataError: the two lists differ in length, or a number is negative.
    """
    check_size_and_seed(size, seed)
    if len(identity_ids) != len(image_ids):
        raise DataError(
            f"render: {len(identity_ids)} identity_ids but {len(image_ids)} image_ids\n"
            "  expected one of each per picture"
        )
    keys = [(int(i), int(k)) for i, k in zip(identity_ids, image_ids, strict=True)]
    if any(min(key) < 0 for key in keys):
        raise DataError("render: a negative identity or image; expected numbers from 0")
    pixels = np.empty((len(keys), size, size, 3), np.uint8)
    known = {name: np.empty(len(keys)) for name in MEASURED}
    people = {identity: identity_traits(seed, identity) for identity, _ in keys}
    step = max(1, _BATCH_PIXELS // size**2)
    for start in range(0, len(keys), step):
        batch = [_traits(seed, *key, people[key[0]]) for key in keys[start : start + step]]
        clean = draw(_stack(batch), size)
        for i, traits in enumerate(batch):
            noise = noise_generator(seed, *keys[start + i])
            pixels[start + i] = _damage(clean[:, i], traits, noise)
            for name in MEASURED:
                known[name][start + i] = traits[name]
    return Pictures(pixels, known)


def check_size_and_seed(size: int, seed: int) -> None:
    """Refuse what no picture can be drawn with.

    Raises:
        ConfigError: `size` below 32 or beyond 1024 pixels, or a negative seed.
    """
    if not 32 <= size <= 1024:
        raise ConfigError(f"synth size: {size}; expected 32 to 1024 pixels")
    if seed < 0:
        raise ConfigError(f"synth seed: {seed}; expected 0 or more")


def _traits(seed: int, identity: int, image: int, who: Traits) -> Traits:
    shot = shot_traits(seed, identity, image, who)
    return who | shot | {"quality": quality(shot)}


def _stack(batch: Sequence[Traits]) -> SimpleNamespace:
    """Traits of a batch as arrays that fit pixels (B, S, S) and canvases (3, B, S, S)."""
    stacked = {}
    for name in batch[0]:
        values = np.array([traits[name] for traits in batch], np.float32)
        if values.ndim < 4:  # all but grids of colours, which bring their own rows and columns
            values = values.reshape(*values.shape, 1, 1)
        if values.ndim > 3:
            values = np.ascontiguousarray(np.moveaxis(values, 0, -3))
        stacked[name] = values
    return SimpleNamespace(**stacked)


def _damage(
    clean: npt.NDArray[np.float32], traits: Traits, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Lose resolution, focus and light: (3, S, S) in [0, 1] -> (S, S, 3)."""
    from PIL import Image, ImageFilter

    size = clean.shape[-1]
    share, blur = float(traits["resolution"]), float(traits["blur"])
    image = Image.fromarray((clean.transpose(1, 2, 0) * 255.0 + 0.5).astype(np.uint8))
    if share < 1.0:
        few = max(4, round(size * share))
        small = image.resize((few, few), Image.Resampling.BOX)
        image = small.resize((size, size), Image.Resampling.BILINEAR)
    if blur > 0.0:
        image = image.filter(ImageFilter.GaussianBlur(blur * size / 112))
    grainy = rng.standard_normal((size, size, 3), np.float32)
    grainy *= np.float32(255.0 * float(traits["noise"]))
    grainy += np.asarray(image)
    return np.clip(np.rint(grainy), 0.0, 255.0).astype(np.uint8)
