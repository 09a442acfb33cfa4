"""A classifier divided over processes is the classifier of one (D3), and what it costs.

Processes are forked and speak over gloo; all is in float64 but where it says otherwise.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from group_helpers import together
from loss_oracles import CHUNKED, DIM, batch, build, look_and_compare, loss_and_gradients
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from facever import distributed
from facever.distributed import share_of
from facever.losses import Loss, build_loss
from facever.losses.sampled import draw

# No number of processes below divides it.
IDENTITIES = 11
NAMES = [*CHUNKED, "ce+0.5*triplet+magface"]


def divided(name: str, **params: Any) -> Loss:
    """A loss that is shown the embeddings of all, divided where there are several processes."""
    loss = build(name, IDENTITIES, **params).double()
    loss.expect_all()
    if distributed.world_size() > 1:
        loss.shard()
    return loss


def whole(rows: Tensor) -> Tensor:
    """All rows of what has one for each identity."""
    processes = distributed.world_size()
    parts = [range(IDENTITIES)[share_of(IDENTITIES, who, processes)] for who in range(processes)]
    return distributed.gather_rows(rows, [len(part) for part in parts])


def value_and_gradients(loss: Loss, z: Tensor, y: Tensor) -> list[Tensor]:
    """Of the embeddings, and of the parameters, which all have a row for each identity."""
    value, d_z, *gradients = loss_and_gradients(loss, z, y)
    return [value, d_z, *map(whole, gradients)]


def two_passes(loss: Loss) -> dict[str, Any]:
    """What two training passes give, their margins drawn alike, and how all is classified then."""
    z, y = batch(p=IDENTITIES, k=2, length=15.0)
    found = []
    for number, embeddings in enumerate((z, z.roll(1, 0))):
        torch.manual_seed(number)
        found += value_and_gradients(loss, embeddings, y)
    state = {key: value.clone() for key, value in loss.named_buffers()}
    return {"passes": found, "state": state, "classes": loss.eval().classify(z)}


@pytest.mark.parametrize("size", [2, 4])
def test_a_divided_classifier_is_the_whole_one(tmp_path: Path, size: int) -> None:
    """Loss, gradients, what moves with the batches and guesses; whole shares and slices of them."""

    def action() -> dict[str, Any]:
        return {name: two_passes(divided(name, **chunk)) for name, chunk in wanted}

    wanted: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in NAMES]
    expected = action()
    if size == 4:
        wanted = [(name, {"chunked": True, "chunk": 2}) for name in CHUNKED[::4]]
    for found in together(size, tmp_path, action):
        for name in found:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["ce", "elasticface", "subcenter_arcface", "adaface smoothed"])
def test_each_process_samples_its_own_share(tmp_path: Path, name: str) -> None:
    """The loss is the dense one of all that were drawn, and no other row has a gradient."""
    z, y = batch(p=3, k=1, length=15.0)

    def action() -> list[Tensor]:
        loss = divided(name, sample_rate=0.6)
        torch.manual_seed(4)
        return value_and_gradients(loss, z, y)

    drawn = []
    for who in range(2):
        part = share_of(IDENTITIES, who, 2)
        inside = (y >= part.start) & (y < part.stop)
        torch.manual_seed(4)
        chosen = draw(torch.where(inside, y - part.start, -1), IDENTITIES, 0.6, part)
        assert len(chosen) == 3 + who
        drawn.append(part.start + chosen)
    rows = torch.cat(drawn)
    few = build(name, len(rows)).double()
    with torch.no_grad():
        for ours, theirs in zip(few.parameters(), divided(name).parameters(), strict=True):
            ours.copy_(theirs[rows])
    # The margins come after the draw of the identities.
    torch.manual_seed(4)
    draw(y, IDENTITIES, 0.6)
    z.requires_grad_()
    value = look_and_compare(few, z, torch.searchsorted(rows, y))
    d_z, *gradients = torch.autograd.grad(value, [z, *few.parameters()])
    for found in together(2, tmp_path, action):
        torch.testing.assert_close(found[:2], [value.detach(), d_z], rtol=1e-11, atol=1e-11)
        for ours, small in zip(found[2:], gradients, strict=True):
            large = torch.zeros_like(ours).index_copy(0, rows, small)
            torch.testing.assert_close(ours, large, rtol=1e-11, atol=1e-11)


def test_shares_start_at_the_means_that_the_whole_starts_at(tmp_path: Path) -> None:
    means = torch.randn(IDENTITIES, DIM, dtype=torch.float64)
    means[4] = 0

    def action() -> list[Tensor]:
        started = []
        for name in ("ce", "arcface", "subcenter_arcface", "ce+magface"):
            loss = divided(name)
            torch.manual_seed(2)
            loss.initialise(means)
            started += [whole(parameter) for parameter in loss.parameters()]
        return started

    expected = [parameter.detach() for parameter in action()]
    for found in together(2, tmp_path, action):
        torch.testing.assert_close(found, expected)


def test_autocast_does_not_reach_into_a_share(tmp_path: Path) -> None:
    z, y = batch(p=IDENTITIES, k=2)

    def action() -> list[Tensor]:
        loss = divided("adaface").float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return value_and_gradients(loss, z.bfloat16(), y)

    expected = value_and_gradients(divided("adaface").float(), z.bfloat16().float(), y)
    for value, d_z, d_prototypes in together(2, tmp_path, action):
        assert value.dtype == d_prototypes.dtype == torch.float32
        torch.testing.assert_close(value, expected[0], rtol=1e-5, atol=0)
        torch.testing.assert_close(d_z, expected[1].bfloat16(), rtol=1e-2, atol=1e-4)
        torch.testing.assert_close(d_prototypes, expected[2], rtol=1e-4, atol=1e-5)


def test_the_logits_of_a_share_are_columns_of_all(tmp_path: Path) -> None:
    z, y = batch()

    def action() -> Tensor:
        loss = divided("arcface")
        with pytest.raises(AssertionError, match="elsewhere"):
            loss.logits(z, y)
        return loss.logits(z).detach()

    columns = torch.cat(together(2, tmp_path, action), 1)
    torch.testing.assert_close(columns, divided("arcface").logits(z).detach())


def test_a_matrix_is_collected_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two rows a process, where the three have three, four and four."""
    matrix = torch.randn(IDENTITIES, 3, dtype=torch.float64)
    monkeypatch.setattr(distributed, "PIECE", 2 * 3 * 8)
    leader, *rest = together(
        3, tmp_path, lambda: distributed.collect(matrix[distributed.share(IDENTITIES)], IDENTITIES)
    )
    assert torch.equal(leader, matrix)
    assert rest == [None, None]


def test_a_step_exchanges_and_computes_what_the_cost_model_says(tmp_path: Path) -> None:
    """docs/scaling.md, "What it costs": bytes that a process receives, and FLOP."""
    b, c, d, w = 24, 4_000, 32, 2
    z, y = torch.randn(b, d), torch.randint(c, (b,))

    def action() -> tuple[int, int]:
        loss = build_loss("arcface", dim=d, identities=c)
        loss.shard()
        received = []
        spy(received)
        embeddings = distributed.gather(z[distributed.share(b)].requires_grad_(), [b // w] * w)
        with FlopCounterMode(display=False) as flop:
            loss(embeddings, y).backward()
        return sum(received), flop.get_total_flops()

    for received, flop in together(w, tmp_path, action):
        assert received == 4 * b * d + 4 * 4 * w * b + 4 * b * d
        assert flop == pytest.approx(8 * b * c * d / w, rel=0.01)


def spy(received: list[int]) -> None:
    """Note the bytes of each result of an exchange, in this process until its end."""
    exchanges = torch.distributed
    gather, reduce = exchanges.all_gather, exchanges.all_reduce

    def all_gather(parts: list[Tensor], own: Tensor) -> None:
        received.append(sum(part.nbytes for part in parts))
        gather(parts, own)

    def all_reduce(total: Tensor) -> None:
        received.append(total.nbytes)
        reduce(total)

    exchanges.all_gather, exchanges.all_reduce = all_gather, all_reduce
