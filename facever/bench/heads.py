"""Time and memory of every loss, forward and backward.

A loss with prototypes is measured against the naive floor: normalise, product and cross-entropy,
every step of it differentiated by autograd. Both sides run in turn on the same embeddings and
prototypes. Sub-centres have k prototypes an identity, and so has their floor. A loss that
compares embeddings is measured against the bare cosines of all pairs.

Memory is counted in buffers as large as the floor's logits, or as the matrix of all pairs.

Letters: B batch, C prototypes, D embedding dimension.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from facever.bench.harness import Options, Timing, compare
from facever.bench.memory import peak_bytes
from facever.bench.rows import Memory, Row
from facever.config import resolve
from facever.device import resolve_device
from facever.losses import LOSSES, build_loss

BATCH, DIM = 256, 512
EMBEDDINGS, IMAGES_EACH = 1024, 4  # of a batch for the losses that compare: 256 x 4

FLOAT = 4  # bytes

# The losses that touch B entries of the matrix of logits only.
LEAN = ("cosface", "arcface", "magface", "adaface")
LEAN_TIME, TIME = 0.8, 1.2
LEAN_BUFFERS = 2.0  # the logits, and one more
# A cube of triplets would be B of them.
PAIR_BUFFERS = 32.0

Step = Callable[[], Tensor]
Measured = tuple[Timing, int | None, int | None]


def measure(
    options: Options, *, batch: int = BATCH, dim: int = DIM, embeddings: int = EMBEDDINGS
) -> Iterator[Row]:
    """A row for each loss: with prototypes at each number of identities, then the others."""
    device = resolve_device(resolve([], options.assignments).engine.device)
    chosen = [name for name in LOSSES if name in (options.losses or LOSSES)]
    for identities in options.identities:
        for name in chosen:
            if LOSSES[name].classifies:
                yield _head(name, identities, batch, dim, options.repeats, device)
    for name in chosen:
        if not LOSSES[name].classifies:
            yield _pairs(name, embeddings, dim, options.repeats, device)


def naive_floor(z: Tensor, prototypes: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy on 64 cos(theta) of z (B, D) to prototypes (C, D), by autograd alone."""
    cosines = functional.normalize(z) @ functional.normalize(prototypes).t()
    return functional.cross_entropy(64 * cosines, y)


def bare_cosines(z: Tensor) -> Tensor:
    """Mean cosine of all pairs of z (B, D), by autograd alone."""
    unit = functional.normalize(z)
    return (unit @ unit.t()).mean()


def _head(
    name: str, identities: int, batch: int, dim: int, repeats: int, device: torch.device
) -> Row:
    torch.manual_seed(0)
    loss = build_loss(name, dim=dim, identities=identities).to(device)
    z = _embeddings(batch, dim, device)
    y = torch.randint(identities, (batch,), device=device)
    rows = loss.prototypes.numel() // dim
    lean = name in LEAN
    measured = _measured(
        lambda: loss(z, y),
        lambda: naive_floor(z, loss.prototypes.flatten(0, -2), y),
        [z, *loss.parameters()],
        repeats,
    )
    return _row(
        name,
        "normalise + product + cross-entropy through autograd",
        measured,
        {"B": batch, "C": rows, "D": dim, "device": device.type},
        buffer=("B x C", batch * rows),
        aims=(LEAN_TIME, LEAN_BUFFERS) if lean else (TIME, None),
    )


def _pairs(name: str, embeddings: int, dim: int, repeats: int, device: torch.device) -> Row:
    torch.manual_seed(0)
    loss = build_loss(name, dim=dim, identities=embeddings).to(device)
    z = _embeddings(embeddings, dim, device)
    y = torch.arange(embeddings, device=device) // IMAGES_EACH
    return _row(
        name,
        "the bare cosines of all pairs through autograd",
        _measured(lambda: loss(z, y), lambda: bare_cosines(z), [z], repeats),
        {"B": embeddings, "D": dim, "device": device.type},
        buffer=("B x B", embeddings**2),
        aims=(None, PAIR_BUFFERS),
    )


def _embeddings(count: int, dim: int, device: torch.device) -> Tensor:
    """Embeddings (count, dim) with norms of about 20, as trained encoders give them."""
    return (20 * torch.randn(count, dim, device=device) / math.sqrt(dim)).requires_grad_()


def _measured(subject: Step, floor: Step, leaves: list[Tensor], repeats: int) -> Measured:
    """Timing, then the peak bytes of the subject and of the floor."""

    def settle() -> None:
        if leaves[0].device.type != "cpu":
            torch.accelerator.synchronize()

    def clear() -> None:
        for leaf in leaves:
            leaf.grad = None
        settle()

    # Memory first, while no state of an earlier step lies about to be given back.
    peak, floor_peak = peak_bytes(subject, leaves), peak_bytes(floor, leaves)
    timing = compare(
        lambda: torch.autograd.backward(subject()),
        lambda: torch.autograd.backward(floor()),
        repeats=repeats,
        before=clear,
        after=settle,
    )
    return timing, peak, floor_peak


def _row(
    name: str,
    floor: str,
    measured: Measured,
    conditions: dict[str, int | str],
    *,
    buffer: tuple[str, int],
    aims: tuple[float | None, float | None],
) -> Row:
    """A row; `buffer` is what a buffer is called and its floats, `aims` of time and memory."""
    timing, peak, floor_peak = measured
    (unit, floats), (aim, most) = buffer, aims
    memory = None
    if peak is not None and floor_peak is not None:
        size = FLOAT * floats
        memory = Memory(peak / size, floor_peak / size, unit, most)
    return Row("heads", name, floor, timing, aim, conditions, memory=memory)
