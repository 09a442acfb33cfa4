"""The batched augmentation against albumentations: one recipe, two realisations."""

import numpy as np
import pytest
import torch

from facever.batch_augment import BatchAugment
from facever.config import Config, operations
from facever.transforms import Augment

SIDE, IMAGES = 48, 1200
NAMES = ("flip", "shift", "rotate", "crop", "rescale", "photometric", "blur", "erase")
DEFAULTS = operations(Config().augment)
SEED = (3, 1, 4)


def only(name: str, probability: float = 1.0) -> dict[str, float]:
    return {**DEFAULTS, **dict.fromkeys(NAMES, 0.0), name: probability}


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Smooth pictures of large blots with some grain, far from black and white."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(40, 210, (IMAGES, 3, 6, 6)))
    smooth = torch.nn.functional.interpolate(coarse, SIDE, mode="bicubic").clamp(20, 235)
    grain = rng.normal(0, 6, (IMAGES, SIDE, SIDE, 3))
    return (smooth.permute(0, 2, 3, 1).numpy() + grain).clip(0, 255).astype(np.uint8)


def batched(recipe: dict[str, float], pictures: np.ndarray, seed=SEED) -> np.ndarray:
    return BatchAugment(**recipe)(torch.from_numpy(pictures), seed).numpy()


def statistics(pictures: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Mean, contrast, black share, detail and change of each picture, (N, 5)."""
    x = pictures.astype(np.float64)
    steps = np.abs(np.diff(x, axis=1)).mean((1, 2, 3))
    return np.stack(
        [
            x.mean((1, 2, 3)),
            x.std((1, 2, 3)),
            100 * (x == 0).all(3).mean((1, 2)),
            steps,
            np.abs(x - before).mean((1, 2, 3)),
        ],
        axis=1,
    )


@pytest.mark.parametrize("name", [name for name in NAMES if name != "rescale"])
def test_each_operation_leaves_pictures_like_albumentations(pictures, name):
    """Means and spreads over 1,200 pictures, as far as chance lets them agree."""
    recipe = only(name)
    ours = statistics(batched(recipe, pictures), pictures)
    theirs = statistics(Augment(**recipe)(pictures, SEED), pictures)
    error = np.sqrt(ours.var(0) / IMAGES + theirs.var(0) / IMAGES)
    # Four standard errors, and what rounding and the kernels' edges make: half a level.
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * error + 0.5).all()
    assert np.allclose(ours.std(0), theirs.std(0), rtol=0.2, atol=0.4)


def test_rescaling_is_what_opencv_makes_of_whole_numbers_of_pixels(pictures):
    """albumentations gives OpenCV the factor, which then moves the content by up to a pixel."""
    import cv2

    from facever.batch_augment import _along_both_axes, _round_trips

    for size in (12, 17, 30, SIDE):
        small = cv2.resize(pictures[0], (size, size), interpolation=cv2.INTER_AREA)
        expected = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        x = torch.from_numpy(pictures[:1]).permute(0, 3, 1, 2).float()
        ours = _along_both_axes(x, _round_trips(SIDE)[size - 1][None])[0].permute(1, 2, 0)
        assert np.abs(ours.numpy() - expected).max() < 2.5


def test_a_marked_pixel_lands_where_the_geometry_says():
    """Shifts move a dot by up to the limit, rotations turn it about the centre."""
    dots = np.zeros((500, SIDE, SIDE, 3), np.uint8)
    dots[:, 12, 30] = 255
    centre = (SIDE - 1) / 2

    def places(images):
        weights = images[..., 0].astype(np.float64)
        rows, columns = np.mgrid[:SIDE, :SIDE]
        total = weights.sum((1, 2))
        return np.stack([(weights * rows).sum((1, 2)), (weights * columns).sum((1, 2))]) / total

    rows, columns = places(batched(only("shift"), dots))
    limit = DEFAULTS["shift_limit"] * SIDE
    # Whole pixels, as albumentations: the fraction is dropped.
    drawn = np.trunc(np.linspace(-limit, limit, 10_001))
    for moved in (rows - 12, columns - 30):
        assert set(moved.round(3)) == set(drawn)
        assert moved.std() == pytest.approx(drawn.std(), rel=0.1)
    rows, columns = places(batched(only("rotate"), dots))
    start = np.arctan2(12 - centre, 30 - centre)
    turned = np.rad2deg(np.arctan2(rows - centre, columns - centre) - start)
    assert np.abs(turned).max() <= DEFAULTS["rotate_degrees"] + 1.5
    assert turned.std() == pytest.approx(DEFAULTS["rotate_degrees"] / np.sqrt(3), rel=0.1)
    assert np.hypot(rows - centre, columns - centre) == pytest.approx(
        np.hypot(12 - centre, 30 - centre), abs=0.5
    )


@pytest.mark.parametrize("name", NAMES)
def test_an_operation_falls_on_the_asked_share_of_images(pictures, name):
    seen = batched(only(name, 0.3), pictures)
    share = (seen != pictures).any((1, 2, 3)).mean()
    # Three standard errors; a blur next to nothing changes no pixel, nor do many shifts.
    assert (0.1 if name == "shift" else 0.22) < share < 0.34


def test_a_recipe_of_nothing_changes_nothing(pictures):
    assert np.array_equal(batched(only("flip", 0.0), pictures), pictures)


def test_the_result_is_a_function_of_images_and_seed(pictures):
    recipe = {**DEFAULTS, **dict.fromkeys(NAMES, 0.5)}
    first = batched(recipe, pictures[:64])
    torch.rand(7)
    assert np.array_equal(batched(recipe, pictures[:64]), first)
    assert not np.array_equal(batched(recipe, pictures[:64], (3, 1, 5)), first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_augments_as_the_processor_does(pictures):
    recipe = {**DEFAULTS, **dict.fromkeys(NAMES, 0.5)}
    images = torch.from_numpy(pictures[:64])
    here, there = (BatchAugment(**recipe)(x, SEED).cpu() for x in (images, images.cuda()))
    assert (here.int() - there.int()).abs().float().mean() < 0.05


def test_a_training_on_batches_is_repeated_bit_by_bit(facever, faces):
    """The step draws the augmentation from (seed, epoch, position), as the loader does."""
    from conftest import TINY

    given = (*TINY, f"data.root={faces}", "augment.backend=batch", "optim.accumulate=2")
    assert facever("train", *given, "--run", "a").code == 0
    assert facever("train", *given, "--run", "b", "engine.log_every=3").code == 0
    weights = [
        torch.load(f"checkpoints/{run}/last.pt", weights_only=True)["encoder"] for run in "ab"
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
