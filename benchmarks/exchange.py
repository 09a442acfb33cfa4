"""Bytes that processes send in a step, counted by the kernel, beside docs/scaling.md's model.

    unshare -rn bash -c "ip link set lo up && torchrun --nproc-per-node 4 benchmarks/exchange.py"

In a network namespace of its own the loopback interface carries nothing else. The processes speak
over gloo. Each part of a step is taken apart: the head with all prototypes in every process, the
head divided by identity, and the encoder's gradients. The kernel counts the headers of TCP too.

Letters: W processes, B images of a batch, D embedding dimension, C identities.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from facever import distributed
from facever.losses import build_loss

B, D, C = 512, 128, 4000
WARMUP, STEPS = 3, 20
FLOAT = 4  # bytes


def sent() -> int:
    """Bytes that left through the loopback interface so far."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    (loopback,) = (line for line in lines if line.strip().startswith("lo:"))
    return int(loopback.split()[9])


def each_sends(step: Callable[[], None]) -> float:
    """Bytes that a process sends in a step."""
    for _ in range(WARMUP):
        step()
    torch.distributed.barrier()
    before = sent()
    torch.distributed.barrier()
    for _ in range(STEPS):
        step()
    torch.distributed.barrier()
    after = sent()
    torch.distributed.barrier()
    return (after - before) / STEPS / distributed.world_size()


def head(sharded: bool) -> Callable[[], None]:
    """Forward and backward of a margin loss on gathered embeddings."""
    torch.manual_seed(0)
    loss = build_loss("arcface", dim=D, identities=C)
    if sharded:
        loss.shard()
    labels = torch.randint(C, (B,))
    own = torch.randn(B, D)[distributed.share(B)].requires_grad_()
    (shares,) = distributed.pieces(labels, 1)

    def step() -> None:
        everyone = distributed.gather(own, [len(share) for share in shares])
        loss(everyone, labels).backward()

    return step


def encoder() -> Callable[[], None]:
    """Forward and backward of D x D weights, whose gradients are averaged."""
    network, images = distributed.wrap(nn.Linear(D, D, bias=False)), torch.randn(8, D)
    return lambda: network(images).sum().backward()


def main() -> None:
    """Measure each part and print it beside the model."""
    with distributed.process_group(minutes=1):
        w = distributed.world_size()
        ring = 2 * (w - 1) / w  # of an all-reduce
        gathered = FLOAT * B * D * (w - 1) / w
        divided = gathered + ring * FLOAT * B * D + 4 * FLOAT * B * (w - 1)
        for name, step, model in (
            ("embeddings, all prototypes everywhere", head(sharded=False), gathered),
            ("embeddings, prototypes divided", head(sharded=True), divided),
            ("gradients of D x D weights", encoder(), ring * FLOAT * D * D),
        ):
            measured = each_sends(step)
            if distributed.is_leader():
                print(f"{name:<40} {measured:10,.0f} bytes, by the model {model:10,.0f}")


if __name__ == "__main__":
    main()
