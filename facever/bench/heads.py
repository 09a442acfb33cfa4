"""Time and memory of every loss, forward and backward.

A loss with prototypes is measured against the naive floor: normalise, product and cross-entropy,
every step of it differentiated by autograd. Both sides run in turn on the same embeddings and
prototypes. Sub-centres have k prototypes an identity, and so has their floor. A loss that
compares embeddings is measured against the bare cosines of all pairs.

Heads for very many identities, by slices or on a tenth of them, have rows beside the dense ones,
and at sizes above `DENSE` a second floor: the same head, dense, at that size. A side that would
not fit into the memory that is free is left out, and said so.

Memory is counted in buffers as large as the floor's logits, or as the matrix of all pairs.

Letters: B batch, C prototypes, D embedding dimension.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from facever.bench.harness import Options, Timing, compare
from facever.bench.memory import free_bytes, peak_bytes
from facever.bench.rows import Memory, Row
from facever.config import resolve
from facever.device import resolve_device
from facever.losses import LOSSES, Loss, build_loss
from facever.losses.parameters import keyword_parameters
from facever.tracking import note

BATCH, DIM = 256, 512
EMBEDDINGS, IMAGES_EACH = 1024, 4  # of a batch for the losses that compare: 256 x 4

FLOAT = 4  # bytes

# The losses that touch B entries of the matrix of logits only.
LEAN = ("cosface", "arcface", "magface", "adaface")
LEAN_TIME, TIME = 0.8, 1.2
LEAN_BUFFERS = 2.0  # the logits, and one more
# A cube of triplets would be B of them.
PAIR_BUFFERS = 32.0

# Heads at scale, of this loss where none is asked for, and from what size on they have aims.
AT_SCALE = "arcface"
SCALED: dict[str, dict[str, Any]] = {
    "chunked": {"chunked": True},
    "a tenth sampled": {"sample_rate": 0.1},
}
DENSE, MILLION = 100_000, 1_000_000
CHUNKED_TIME, CHUNKED_BUFFERS = 1.3, 0.1

NAIVE = "normalise + product + cross-entropy through autograd"

Step = Callable[[], Tensor]
Measured = tuple[Timing, int | None, int | None]
Aims = tuple[float | None, float | None]


@dataclass(frozen=True)
class _Sizes:
    """What the heads of a row have in common."""

    name: str
    batch: int
    dim: int
    repeats: int
    device: torch.device


def measure(
    options: Options, *, batch: int = BATCH, dim: int = DIM, embeddings: int = EMBEDDINGS
) -> Iterator[Row]:
    """A row for each loss: with prototypes at each number of identities, then the others."""
    device = resolve_device(resolve([], options.assignments).engine.device)
    chosen = [name for name in LOSSES if name in (options.losses or LOSSES)]
    for identities in options.identities:
        for name in chosen:
            if LOSSES[name].classifies:
                sizes = _Sizes(name, batch, dim, options.repeats, device)
                scaled = name in (options.losses or (AT_SCALE,))
                yield from _heads(sizes, identities, SCALED if scaled else {})
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


def _heads(
    sizes: _Sizes, identities: int, scaled: Mapping[str, Mapping[str, Any]]
) -> Iterator[Row]:
    """Rows of the dense head and of those for very many identities, floor by floor."""
    if _floor_fits(sizes, identities):
        lean = sizes.name in LEAN
        yield _against_naive(sizes, identities, (LEAN_TIME, LEAN_BUFFERS) if lean else (TIME, None))
        for way, params in scaled.items():
            aims = _aims(way, identities)
            yield _against_naive(sizes, identities, aims, way, params)
    if identities > DENSE:
        for way, params in scaled.items():
            yield _against_dense(sizes, identities, _aims(way, identities)[1], way, params)


def _aims(way: str, identities: int) -> Aims:
    if way == "chunked" and identities >= MILLION:
        return CHUNKED_TIME, CHUNKED_BUFFERS
    return None, None


def _floor_fits(sizes: _Sizes, identities: int) -> bool:
    subcentres = keyword_parameters(LOSSES[sizes.name]).get("k")
    rows = identities * (subcentres.default if subcentres else 1)
    # Measured: four matrices of logits and, with the prototypes, six of their size.
    needed = FLOAT * rows * (4 * sizes.batch + 6 * sizes.dim)
    free = free_bytes(sizes.device)
    if free is None or needed < free:
        return True
    note(
        f"heads: {sizes.name}, {identities:,} identities: no room for the naive floor, which "
        f"takes {needed / 1e9:.0f} GB; {free / 1e9:.0f} GB are free"
    )
    return False


def _against_naive(
    sizes: _Sizes,
    identities: int,
    aims: Aims,
    way: str = "",
    params: Mapping[str, Any] | None = None,
) -> Row:
    loss, z, y = _head(sizes, identities, params or {})
    rows = loss.prototypes.numel() // sizes.dim
    return _row(
        f"{sizes.name} {way}".rstrip(),
        NAIVE,
        _measured(
            lambda: loss(z, y),
            lambda: naive_floor(z, loss.prototypes.flatten(0, -2), y),
            [z, *loss.parameters()],
            sizes.repeats,
        ),
        _conditions(sizes, rows),
        buffer=("B x C", sizes.batch * rows),
        aims=aims,
    )


def _against_dense(
    sizes: _Sizes, identities: int, most: float | None, way: str, params: Mapping[str, Any]
) -> Row:
    loss, z, y = _head(sizes, identities, params)
    dense, dense_z, dense_y = _head(sizes, DENSE, {})
    rows = loss.prototypes.numel() // sizes.dim
    return _row(
        f"{sizes.name} {way}",
        f"the same loss, dense, over {DENSE:,} identities",
        _measured(
            lambda: loss(z, y),
            lambda: dense(dense_z, dense_y),
            [z, *loss.parameters(), dense_z, *dense.parameters()],
            sizes.repeats,
        ),
        _conditions(sizes, rows),
        buffer=("B x C", sizes.batch * rows),
        aims=(None, most),
    )


def _head(sizes: _Sizes, identities: int, params: Mapping[str, Any]) -> tuple[Loss, Tensor, Tensor]:
    """A loss, embeddings (B, D) and identities (B,)."""
    torch.manual_seed(0)
    loss = build_loss(sizes.name, dim=sizes.dim, identities=identities, **params).to(sizes.device)
    z = _embeddings(sizes.batch, sizes.dim, sizes.device)
    return loss, z, torch.randint(identities, (sizes.batch,), device=sizes.device)


def _conditions(sizes: _Sizes, rows: int) -> dict[str, int | str]:
    return {"B": sizes.batch, "C": rows, "D": sizes.dim, "device": sizes.device.type}


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
    aims: Aims,
) -> Row:
    """A row; `buffer` is what a buffer is called and its floats, `aims` of time and memory."""
    timing, peak, floor_peak = measured
    (unit, floats), (aim, most) = buffer, aims
    memory = None
    if peak is not None and floor_peak is not None:
        size = FLOAT * floats
        memory = Memory(peak / size, floor_peak / size, unit, most)
    return Row("heads", name, floor, timing, aim, conditions, memory=memory)
