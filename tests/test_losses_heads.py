"""State, logits, starts and precision of the classifier losses."""

import copy
import math
import warnings

import pytest
import torch
from loss_oracles import (
    CLASSIFIERS,
    DIM,
    IDENTITIES,
    MARGINS,
    STATEFUL,
    batch,
    head,
    images_of,
    look_and_compare,
    value_and_gradients,
)
from torch import Tensor
from torch.nn import functional

from facever.losses import LOSSES, build_loss


@pytest.mark.parametrize("name", STATEFUL)
def test_state_moves_only_in_training_and_not_for_a_batch_of_one(name: str) -> None:
    loss = head(name)
    z, y = batch()
    start = {key: value.clone() for key, value in loss.named_buffers()}
    loss.eval()
    look_and_compare(loss, z, y)
    loss.look(images_of(z))
    loss.logits(z, y)
    loss.train()
    look_and_compare(loss, z[:1], y[:1])
    loss.logits(z)
    assert all(torch.equal(start[key], value) for key, value in loss.named_buffers())
    look_and_compare(loss, z, y)
    assert not all(torch.equal(start[key], value) for key, value in loss.named_buffers())


@pytest.mark.parametrize("name", STATEFUL)
def test_state_is_saved_and_restored(name: str) -> None:
    loss, resumed = head(name), head(name)
    for step in range(3):
        look_and_compare(loss, *batch(seed=step))
    resumed.load_state_dict(loss.state_dict())
    z, y = batch(seed=9)
    assert torch.equal(look_and_compare(resumed, z, y), look_and_compare(loss, z, y))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_loss_is_the_cross_entropy_of_its_logits_and_both_move_the_state_alike(
    name: str,
) -> None:
    z, y = batch(length=30.0)
    loss = head(name)
    twin = copy.deepcopy(loss)
    torch.manual_seed(5)
    value = loss(z, y)
    torch.manual_seed(5)
    logits = twin.logits(z, y)
    penalty = twin.margin.penalty(z.norm(dim=1)).mean() if name != "ce" else 0
    smoothing = twin.label_smoothing
    wanted = functional.cross_entropy(logits, y, label_smoothing=smoothing) + penalty
    torch.testing.assert_close(value, wanted, rtol=1e-9, atol=0)
    for ours, theirs in zip(loss.buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", [name for name in MARGINS if name != "elasticface"])
def test_the_logits_function_has_the_gradients_of_the_loss(name: str) -> None:
    """The loss never makes a matrix of logits for autograd; `logits` does."""
    z, y = batch()
    loss = head(name).eval()
    w = loss.prototypes
    fused = value_and_gradients(lambda z: loss(z, y), z, w)
    penalty = loss.margin.penalty
    dense = value_and_gradients(
        lambda z: functional.cross_entropy(loss.logits(z, y), y) + penalty(z.norm(dim=1)).mean(),
        z,
        w,
    )
    for ours, theirs in zip(fused, dense, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "ce"])
def test_logits_without_labels_are_scaled_cosines(name: str) -> None:
    z, _ = batch()
    loss = head(name)
    w = functional.normalize(loss.prototypes.detach(), dim=-1)
    cosines = torch.einsum("bd,ckd->bck", functional.normalize(z), w.view(IDENTITIES, -1, DIM))
    torch.testing.assert_close(loss.logits(z), loss.s * cosines.amax(2))


def test_adaface_may_start_from_the_norms_of_the_data() -> None:
    loss = head("adaface", ema_init="data")
    norms = torch.tensor([4.0, 6.0, 8.0, 200.0])
    loss.observe(norms)
    assert loss.margin.mu.item() == pytest.approx((4 + 6 + 8 + 100) / 4)
    assert loss.margin.sigma.item() == pytest.approx(norms.clamp(max=100).std().item())
    z, y = batch()
    loss(z, y)
    moved = 0.99 * 29.5 + 0.01 * z.norm(dim=1).mean().item()
    assert loss.margin.mu.item() == pytest.approx(moved)


def test_adaface_that_was_shown_no_norms_starts_from_the_first_batch() -> None:
    loss = head("adaface", ema_init="data")
    z, y = batch()
    loss(z[:1], y[:1])
    assert loss.margin.mu.item() == 20
    loss(z, y)
    assert loss.margin.mu.item() == pytest.approx(z.norm(dim=1).mean().item())
    assert loss.margin.sigma.item() == pytest.approx(z.norm(dim=1).std().item())
    loss(2 * z, y)
    assert loss.margin.mu.item() == pytest.approx(1.01 * z.norm(dim=1).mean().item())


def test_adaface_as_its_authors_start_it_ignores_the_data() -> None:
    loss = head("adaface")
    loss.observe(torch.tensor([4.0, 6.0]))
    assert (loss.margin.mu.item(), loss.margin.sigma.item()) == (20, 100)


def test_adaface_reports_its_state_and_the_quality_of_the_batch() -> None:
    loss = head("adaface", ema_init="data")
    z, y = batch()
    loss(z, y)
    stats, quality = loss.stats(), loss.histograms()["q"]
    assert stats["mu"].item() == pytest.approx(z.norm(dim=1).mean().item())
    assert not any(value.requires_grad for value in stats.values())
    assert quality.shape == (len(z),)
    assert abs(quality.mean().item()) < 1e-6


@pytest.mark.parametrize(("base", "m"), [("arc", 0.5), ("cos", 0.35)])
def test_elasticface_draws_margins_in_training_and_uses_the_mean_otherwise(
    base: str, m: float
) -> None:
    margin = head("elasticface", base=base).margin
    torch.manual_seed(0)
    cos = torch.zeros(20000, dtype=torch.float64)
    psi = margin.target(cos, cos)
    drawn = psi.acos() - math.pi / 2 if base == "arc" else -psi
    assert drawn.mean().item() == pytest.approx(m, abs=2e-3)
    assert drawn.std().item() == pytest.approx(0.05, abs=2e-3)
    margin.eval()
    fixed = margin.target(cos, cos)
    assert torch.equal(fixed, fixed[:1].expand_as(fixed))


def test_elasticface_plus_gives_the_largest_margin_to_the_smallest_cosine() -> None:
    margin = head("elasticface", base="cos", plus=True).margin
    cos = torch.rand(50, dtype=torch.float64)
    drawn = cos - margin.target(cos, cos)
    assert torch.equal(drawn.argsort(descending=True), cos.argsort())
    assert drawn.std().item() < 0.04


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "ce"])
def test_cosine_prototypes_start_along_the_means_at_length_one(name: str) -> None:
    loss = head(name)
    means = 30 * torch.randn(IDENTITIES, DIM, dtype=torch.float64)
    means[2] = 0  # an identity that the sample of the data did not hold
    before = loss.prototypes.detach().clone()
    loss.initialise(means)
    rows = loss.prototypes.detach()
    assert torch.equal(rows[2], before[2])
    rows = rows.view(IDENTITIES, -1, DIM)[[0, 1, 3, 4, 5]]
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones_like(rows[..., 0]))
    seen = functional.normalize(means[[0, 1, 3, 4, 5]])
    torch.testing.assert_close(rows[:, 0], seen)
    assert ((rows * seen[:, None]).sum(-1) > 0.95).all()


def test_subcentres_that_start_at_one_mean_can_part() -> None:
    loss = head("subcenter_arcface")
    loss.initialise(torch.randn(IDENTITIES, DIM).double())
    assert (loss.prototypes[:, 0] - loss.prototypes[:, 1]).norm(dim=1).min() > 1e-3


@pytest.mark.parametrize("length", [0.5, 20.0, 400.0])
def test_cross_entropy_started_at_the_means_is_confident_at_any_length(length: float) -> None:
    """Orthogonal means: each must have probability 0.9, whatever the embeddings' norms."""
    means = length * torch.eye(IDENTITIES, DIM, dtype=torch.float64)
    loss = head("ce")
    loss.initialise(means)
    probability = loss.logits(means).softmax(1).diagonal()
    torch.testing.assert_close(probability, torch.full_like(probability, 0.9))


def test_means_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(6, 8\)"):
        head("arcface").initialise(torch.zeros(5, DIM))


def test_float32_gradients_are_as_exact_as_those_of_autograd() -> None:
    """Columns are divided by the prototypes' norms; autograd would normalise the prototypes."""
    torch.manual_seed(0)
    loss = build_loss("normface", dim=128, identities=500)
    z, y = 5 * torch.randn(64, 128), torch.randint(500, (64,))

    def naive(z: Tensor, w: Tensor) -> Tensor:
        cosines = functional.normalize(z) @ functional.normalize(w).t()
        return functional.cross_entropy(64 * cosines, y)

    w = loss.prototypes.detach()
    exact_w = w.double().requires_grad_()
    exact = value_and_gradients(lambda z: naive(z, exact_w), z.double(), exact_w)
    floor_w = w.clone().requires_grad_()
    floor = value_and_gradients(lambda z: naive(z, floor_w), z, floor_w)
    ours = value_and_gradients(lambda z: loss(z, y), z, loss.prototypes)
    for truth, by_autograd, by_us in zip(exact, floor, ours, strict=True):
        assert (by_us - truth).norm() < 2 * (by_autograd - truth).norm() + 1e-7 * truth.norm()


@pytest.mark.parametrize("name", ["arcface", "adaface", "normface"])
def test_one_matrix_of_similarities_is_kept_for_the_backward_pass(name: str) -> None:
    z, y = batch()
    loss = head(name)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor.numel()) or tensor,  # type: ignore[func-returns-value]
        lambda tensor: tensor,
    ):
        loss(z.requires_grad_(), y)
    assert saved.count(len(z) * IDENTITIES) == 1


@pytest.mark.parametrize("name", ["cosface", "curricularface"])
@pytest.mark.parametrize("product", ["bfloat16", "float16"])
def test_a_low_precision_product_stays_within_its_rounding(name: str, product: str) -> None:
    z, y = batch()
    z, y = z.float(), y
    full, low = head(name, s=16).float(), head(name, s=16, product=product).float()
    w, v = full.prototypes, low.prototypes
    value, d_z, d_w = value_and_gradients(lambda z: full(z, y), z, w)
    got, low_z, low_w = value_and_gradients(lambda z: low(z, y), z, v)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(value.item(), rel=0.02)
    for ours, theirs in ((low_z, d_z), (low_w, d_w)):
        assert (ours - theirs).norm() < 0.05 * theirs.norm()


def test_no_loss_warns_at_its_own_defaults() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in LOSSES:
            head(name)
