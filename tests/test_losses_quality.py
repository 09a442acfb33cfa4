"""AdaFace by other proxies of quality than the norm, and the sharpness of images."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from loss_oracles import (
    DIM,
    AdaFaceByItsAuthors,
    assert_same,
    batch,
    build,
    cosine,
    head,
    images_of,
    look_and_compare,
    value_and_gradients,
)
from torch import Tensor
from torch.nn import functional

from facever.errors import ConfigError
from facever.losses import build_loss, loss_problems
from facever.losses.quality import sharpness

SIDE = 48


def probabilities(z: Tensor, y: Tensor, w: Tensor, s: float = 64.0) -> list[float]:
    """Of the true identity, by the softmax of s cos without a margin."""
    found = []
    for row, identity in zip(z, y.tolist(), strict=True):
        weights = [math.exp(s * cosine(row, prototype).item()) for prototype in w]
        found.append(weights[identity] / sum(weights))
    return found


def sharpness_by_pixels(image: Tensor) -> float:
    """log(1 + variance of the Laplacian) of an image (H, W, 3), pixel by pixel."""
    rows = [[0.299 * r + 0.587 * g + 0.114 * b for r, g, b in row] for row in image.tolist()]
    found = [
        rows[i - 1][j] + rows[i + 1][j] + rows[i][j - 1] + rows[i][j + 1] - 4 * rows[i][j]
        for i in range(1, len(rows) - 1)
        for j in range(1, len(rows[0]) - 1)
    ]
    average = sum(found) / len(found)
    return math.log(1 + sum((value - average) ** 2 for value in found) / len(found))


def by_image(z: Tensor, y: Tensor, w: Tensor) -> list[float]:
    return sharpness(images_of(z)).tolist()


INDICATORS: dict[str, Callable[[Tensor, Tensor, Tensor], list[float]]] = {
    "probability": probabilities,
    "image": by_image,
}
PROXIES = ["norm", *INDICATORS]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("proxy", INDICATORS)
def test_each_proxy_follows_a_loop_over_several_steps(proxy: str, smoothing: float) -> None:
    """The gradients of the loop know no proxy; with smoothing the whole matrix is made."""
    loss = head("adaface", proxy=proxy, ema=0.3, label_smoothing=smoothing, allow_smoothing=True)
    authors = AdaFaceByItsAuthors(0.3, INDICATORS[proxy], start=None, smoothing=smoothing)
    for step in range(4):
        z, y = batch(seed=step)
        with torch.no_grad():
            # Near enough to the identities that some images are certain and some are not.
            for identity in range(4):
                loss.prototypes[identity] = z[y == identity].mean(0) + torch.randn(DIM)
        assert_same(loss, authors, z, y)
        assert loss.histograms()["q"].std() > 0.05
    assert loss.margin.mu.item() == pytest.approx(authors.mean, rel=1e-12)
    assert loss.margin.sigma.item() == pytest.approx(authors.std, rel=1e-12)


@pytest.mark.parametrize("proxy", PROXIES)
def test_no_gradient_reaches_the_proxy(proxy: str) -> None:
    margin = head("adaface", proxy=proxy).margin
    indicator = torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert not margin.target(torch.rand(5, dtype=torch.float64), indicator).requires_grad


@pytest.mark.parametrize("proxy", PROXIES)
def test_the_whole_matrix_gives_what_the_fused_path_gives(proxy: str) -> None:
    """The value, both gradients, q and the state; some cosines are clamped."""
    z, y = batch()
    fused, dense = head("adaface", proxy=proxy), head("adaface", proxy=proxy)
    with torch.no_grad():
        for loss in (fused, dense):
            loss.prototypes[5] = z[0]
            loss.prototypes[4] = -z[1]

    def by_logits(z: Tensor) -> Tensor:
        dense.look(images_of(z))
        return functional.cross_entropy(dense.logits(z, y), y)

    ours = value_and_gradients(lambda z: look_and_compare(fused, z, y), z, fused.prototypes)
    theirs = value_and_gradients(by_logits, z, dense.prototypes)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(fused.histograms()["q"], dense.histograms()["q"], rtol=1e-12, atol=0)
    for one, other in zip(fused.buffers(), dense.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_the_probability_is_that_of_the_logits_without_a_margin() -> None:
    z, y = batch()
    loss = head("adaface", proxy="probability", s=8.0)
    loss(z, y)
    certain = loss.logits(z).softmax(1).gather(1, y[:, None]).squeeze(1)
    assert loss.margin.mu.item() == pytest.approx(certain.mean().item(), rel=1e-12)
    assert loss.margin.sigma.item() == pytest.approx(certain.std().item(), rel=1e-12)


@pytest.mark.parametrize("proxy", INDICATORS)
def test_the_norms_of_the_data_start_no_other_proxy(proxy: str) -> None:
    loss = head("adaface", proxy=proxy, ema_init="data")
    before = copy.deepcopy(loss.state_dict())
    loss.observe(torch.tensor([4.0, 6.0, 8.0]))
    assert all(torch.equal(before[key], value) for key, value in loss.state_dict().items())


def test_the_images_are_those_of_one_batch() -> None:
    z, y = batch()
    loss = head("adaface", proxy="image")
    for mode in (loss.train, loss.eval):
        mode()
        with pytest.raises(ValueError, match=r"0 images for 12 embeddings; .* loss\.look"):
            loss(z, y)
        look_and_compare(loss, z, y)
        with pytest.raises(ValueError, match="0 images for 12 embeddings"):
            loss(z, y)
        loss.look(images_of(z[:5]))
        with pytest.raises(ValueError, match="5 images for 12 embeddings"):
            loss.logits(z, y)


def test_accuracy_needs_no_images() -> None:
    z, _ = batch()
    assert head("adaface", proxy="image").eval().logits(z).shape == (12, 6)


def test_a_sum_shows_its_images_to_every_loss() -> None:
    z, y = batch()
    loss = build_loss("ce+adaface", dim=DIM, identities=6, adaface={"proxy": "image"})
    look_and_compare(loss, z.float(), y)
    wanted = sum(sharpness_by_pixels(image) for image in images_of(z)) / len(z)
    assert loss.stats()["adaface.mu"].item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"proxy": "brisque"}, "'brisque'; expected one of norm, probability, image"),
        ({"proxi": "image"}, r"no such parameter; did you mean 'proxy'\?"),
        ({"ema_init": "zero"}, "'zero'; expected one of authors, data"),
        ({"proxy": "image", "ema_init": "authors"}, "proxy image starts from the data"),
        ({"proxy": "probability", "ema_init": "authors"}, "leave ema_init out"),
    ],
)
def test_a_mistake_about_the_proxy_is_one_message(params: dict[str, object], message: str) -> None:
    assert len(loss_problems("adaface", params)) == 1
    with pytest.raises(ConfigError, match=message):
        build("adaface", **params)


def textured(count: int = 4) -> Tensor:
    """Images (B, S, S, 3) of coarse and fine coloured noise over a ramp."""
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(-40, 40, SIDE)[:, None, None]
    sizes = [SIDE // 8, SIDE // 2, SIDE]
    layers = [
        functional.interpolate(torch.randn(count, 3, size, size, generator=generator), SIDE)
        for size in sizes
    ]
    noise = torch.stack(layers).sum(0).movedim(1, 3)
    return (128 + ramp + 25 * noise).clamp(0, 255).to(torch.uint8)


def blurred(images: Tensor, width: float) -> Tensor:
    """Gaussian blur of standard deviation `width` in pixels."""
    reach = torch.arange(-8, 9, dtype=torch.float64)
    bell = torch.exp(-(reach**2) / (2 * width**2))
    bell /= bell.sum()
    x = functional.pad(images.double().movedim(3, 1).flatten(0, 1)[:, None], [8] * 4, "reflect")
    x = functional.conv2d(functional.conv2d(x, bell[None, None, None]), bell[None, None, :, None])
    return x.view(len(images), 3, SIDE, SIDE).movedim(1, 3).round().to(torch.uint8)


def test_sharpness_is_a_loop_over_pixels() -> None:
    images = textured()[:, :20, :30]
    wanted = torch.tensor([sharpness_by_pixels(image) for image in images])
    torch.testing.assert_close(sharpness(images), wanted)


def test_sharpness_falls_as_blur_grows() -> None:
    images = textured()
    found = [sharpness(images)]
    found += [sharpness(blurred(images, width)) for width in (0.5, 0.8, 1.2, 1.8, 2.7)]
    assert (torch.stack(found).diff(dim=0) < 0).all()


@pytest.mark.parametrize("axis", [1, 2])
def test_a_mirror_image_is_as_sharp(axis: int) -> None:
    images = textured()
    torch.testing.assert_close(sharpness(images.flip(axis)), sharpness(images))


def test_a_flat_image_has_a_finite_sharpness_below_all_others() -> None:
    flat = torch.full((2, SIDE, SIDE, 3), 200, dtype=torch.uint8)
    assert sharpness(flat).isfinite().all()
    assert sharpness(flat).max() < sharpness(blurred(textured(), 2.7)).min()


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 8, 8, 3), torch.zeros(8, 8, 3)],
    ids=["channels first", "normalised", "one image"],
)
def test_what_is_no_batch_of_8_bit_images_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, H, W, 3\), torch.uint8"):
        sharpness(images)
