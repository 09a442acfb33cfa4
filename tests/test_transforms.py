"""From pixels on disk to the encoder's input."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facever.config import Config, operations
from facever.transforms import Augment, EvalTransform, fit

UInt8 = NDArray[np.uint8]
OPERATIONS = ("flip", "crop", "shift", "rescale", "photometric", "rotate", "blur", "erase")
DEFAULTS = operations(Config().augment)
NOTHING = {**DEFAULTS, **dict.fromkeys(OPERATIONS, 0.0)}
EVERYTHING = {**DEFAULTS, **dict.fromkeys(OPERATIONS, 0.5)}


def noise(*shape: int, low: int = 1) -> UInt8:
    """Noise without a black pixel."""
    return np.random.default_rng(0).integers(low, 256, shape, dtype=np.uint8)


def augment(**recipe: float) -> Augment:
    """Make a recipe in which only the operations given are on."""
    return Augment(**{**NOTHING, **recipe})


def test_an_image_of_the_right_size_is_returned_as_it_is() -> None:
    image = noise(24, 24, 3)
    assert fit(image, 24) is image


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (25, 40), (24, 25)])
def test_a_rectangle_loses_its_edges_and_keeps_its_scale(shape: tuple[int, int]) -> None:
    """A ramp along the long side shows which part is left: the middle, at the same slope."""
    long = int(np.argmax(shape))
    side, size = min(shape), 12
    ramp = np.moveaxis(np.broadcast_to(np.arange(max(shape)), (3, side, max(shape))), 0, 2)
    image = (ramp if long == 1 else ramp.swapaxes(0, 1)).astype(np.uint8)
    fitted = fit(np.ascontiguousarray(image), size).astype(float)
    assert fitted.shape == (size, size, 3)
    found = fitted.mean(axis=(2, 1 - long))
    centres = (max(shape) - side) / 2 + (np.arange(size) + 0.5) * side / size - 0.5
    np.testing.assert_allclose(found[1:-1], centres[1:-1], atol=1)


def test_shrinking_is_antialiased() -> None:
    """Without, a fine checkerboard becomes black or white instead of grey."""
    checkers = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    small = fit(np.repeat(checkers[..., None], 3, axis=2), 16)
    assert abs(small.astype(float) - 127.5).max() < 20


@pytest.mark.parametrize("size", [8, 20, 50])
def test_a_mirror_image_fits_as_the_mirror_image(size: int) -> None:
    image = noise(30, 41, 3)
    mirrored = fit(np.ascontiguousarray(image[:, ::-1]), size)
    difference = mirrored.astype(int) - fit(image, size)[:, ::-1]
    assert abs(difference).max() <= 1


def test_the_input_is_pixels_over_255_less_the_mean_over_the_deviation() -> None:
    transform = EvalTransform(10, mean=(0.1, 0.5, 0.9), std=(0.2, 0.5, 1.0))
    image = noise(10, 10, 3, low=0)
    expected = (image / 255 - np.array([0.1, 0.5, 0.9])) / np.array([0.2, 0.5, 1.0])
    found = transform(image)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected.transpose(2, 0, 1), atol=1e-6)


def test_a_batch_equals_its_images_one_by_one() -> None:
    transform = EvalTransform(16)
    images = noise(5, 16, 16, 3, low=0)
    batch = transform.batch(torch.from_numpy(images))
    assert batch.shape == (5, 3, 16, 16)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, torch.stack([transform(image) for image in images]))


def test_the_face_range_is_minus_one_to_one() -> None:
    ends = np.array([0, 255], dtype=np.uint8).reshape(1, 2, 1).repeat(3, 2).repeat(2, 0)
    found = EvalTransform(2)(ends)
    torch.testing.assert_close(found[:, :, 0], torch.full((3, 2), -1.0))
    torch.testing.assert_close(found[:, :, 1], torch.full((3, 2), 1.0))


def test_a_read_only_image_is_left_alone() -> None:
    image = noise(16, 16, 3)
    image.setflags(write=False)
    before = image.copy()
    EvalTransform(16)(image).zero_()
    assert np.array_equal(image, before)


def test_the_transform_survives_a_checkpoint() -> None:
    transform = EvalTransform(96, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert EvalTransform.from_dict(transform.to_dict()) == transform
    assert set(map(type, transform.to_dict().values())) == {int, list}


def test_the_configuration_gives_exactly_what_the_recipe_takes() -> None:
    assert Augment(**DEFAULTS).recipe == DEFAULTS


def test_without_operations_every_pixel_stays() -> None:
    images = noise(4, 20, 20, 3, low=0)
    assert np.array_equal(augment()(images, (0,)), images)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_is_off_at_probability_0_and_works_at_1(operation: str) -> None:
    images = noise(6, 20, 20, 3)
    before = images.copy()
    on = augment(**{operation: 1.0}, shift_limit=0.3)(images, (1, 2))
    assert on.shape == images.shape
    assert on.dtype == np.uint8
    assert (on != images).any(axis=(1, 2, 3)).sum() >= 4
    assert np.array_equal(images, before)


@pytest.mark.parametrize(
    "strength",
    [{"shift": 1.0, "shift_limit": 0.0}, {"rotate": 1.0, "rotate_degrees": 0.0},
     {"photometric": 1.0, "photometric_strength": 0.0}, {"rescale": 1.0, "rescale_to": 1.0}],
)  # fmt: skip
def test_an_operation_without_strength_changes_nothing(strength: dict[str, float]) -> None:
    images = noise(4, 20, 20, 3)
    assert np.array_equal(augment(**strength)(images, (0,)), images)


def test_one_seed_gives_the_same_pixels_and_others_give_others() -> None:
    images = noise(8, 20, 20, 3)
    recipe = Augment(**EVERYTHING)
    first = recipe(images, (0, 1, 2))
    assert np.array_equal(first, recipe(images, (0, 1, 2)))
    for seed in ((0, 1, 3), (0, 2, 2), (1, 1, 2)):
        assert not np.array_equal(first, recipe(images, seed))


def test_the_pixels_do_not_depend_on_what_ran_before_or_where() -> None:
    """A resumed epoch starts in a fresh process, in the middle."""
    images = noise(8, 20, 20, 3)
    fresh = Augment(**EVERYTHING)(images, (7, 3))
    used = Augment(**EVERYTHING)
    for seed in range(3):
        used(images[: seed + 1], (seed,))
    np.random.seed(5)  # noqa: NPY002 (albumentations must not draw from it)
    torch.manual_seed(5)
    assert np.array_equal(used(images, (7, 3)), fresh)
    travelled = pickle.loads(pickle.dumps(used))
    assert np.array_equal(travelled(images, (7, 3)), fresh)


def test_the_images_of_a_batch_get_decisions_of_their_own() -> None:
    images = np.repeat(noise(1, 20, 20, 3), 16, axis=0)
    augmented = Augment(**EVERYTHING)(images, (0,))
    assert len({image.tobytes() for image in augmented}) > 8


@pytest.mark.parametrize("p", [0.1, 0.7])
def test_an_operation_happens_as_often_as_its_probability_says(p: float) -> None:
    n = 1000
    images = np.repeat(noise(1, 8, 8, 3), n, axis=0)
    mirrored = augment(flip=p)(images, (0,))
    happened = (mirrored == images[:, :, ::-1]).all(axis=(1, 2, 3)).sum()
    untouched = (mirrored == images).all(axis=(1, 2, 3)).sum()
    assert happened + untouched == n
    assert abs(happened - p * n) < 5 * np.sqrt(p * (1 - p) * n)


def box(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Give height and width of the rectangle that is True, having checked that it is one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    assert mask[top:bottom, left:right].all()
    assert mask.sum() == (bottom - top) * (right - left)
    return int(bottom - top), int(right - left)


def test_the_crop_keeps_its_pixels_in_place_and_blackens_the_rest() -> None:
    images = noise(60, 40, 40, 3)
    cropped = augment(crop=1.0, crop_scale=0.3)(images, (0,))
    kept = (cropped != 0).all(3)
    assert np.array_equal(kept, (cropped != 0).any(3))
    assert np.array_equal(cropped[kept], images[kept])
    shares = []
    for mask in kept:
        height, width = box(mask)
        shares.append(height * width / 1600)
        assert 0.7 < height / width < 1.43
    # One pixel of rounding on each side.
    assert min(shares) > 0.3 - 0.04
    assert max(shares) > 0.8
    assert len({tuple(np.argwhere(mask)[0]) for mask in kept}) > 10


def test_an_erased_rectangle_has_one_colour_and_at_most_its_share_of_the_side() -> None:
    images = noise(40, 40, 40, 3)
    erased = augment(erase=1.0, erase_scale=0.35)(images, (0,))
    colours = []
    for before, after in zip(images, erased, strict=True):
        changed = (before != after).any(2)
        ys, xs = np.nonzero(changed)
        patch = after[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        assert (patch == patch[0, 0]).all()
        assert max(patch.shape[:2]) <= 0.35 * 40 + 1
        colours.append(tuple(patch[0, 0]))
    assert len(set(colours)) > 20


def test_shifts_reach_their_limit_and_no_further() -> None:
    image = np.zeros((1, 41, 41, 3), dtype=np.uint8)
    image[0, 20, 20] = 255
    shifted = augment(shift=1.0, shift_limit=0.1)(image.repeat(200, 0), (0,))
    found = [np.argwhere(one[..., 0] == one[..., 0].max())[0] - 20 for one in shifted]
    assert 3 <= np.abs(found).max() <= 5


def test_jitter_keeps_the_order_of_brightness_and_blur_the_mean() -> None:
    images: Any = noise(6, 32, 32, 3)
    blurred = augment(blur=1.0)(images, (0,))
    assert blurred.astype(float).std() < images.astype(float).std()
    np.testing.assert_allclose(blurred.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=2)
    grey = np.repeat(np.arange(0, 250, 10, dtype=np.uint8)[None, None, :, None], 3, axis=3)
    jittered = augment(photometric=1.0)(grey.repeat(8, 0), (0,)).astype(int)
    assert (np.diff(jittered, axis=2) >= 0).all()
