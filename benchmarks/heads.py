"""Time of the margin heads, forward and backward, against the naive floor.

The floor is normalise + matrix product + cross-entropy, all through autograd. Both sides run
in turn on the same embeddings and prototypes; a figure is the median over repeats of
head / floor, with the quartiles beside it, so that a busy machine shows.

    python benchmarks/heads.py --identities 8631 100000 --losses arcface adaface --repeats 7
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from facever.losses import build_loss

BATCH, DIM = 256, 512


def naive_floor(z: Tensor, prototypes: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy on 64 cos(theta), every step of it differentiated by autograd."""
    cosines = functional.normalize(z) @ functional.normalize(prototypes).t()
    return functional.cross_entropy(64 * cosines, y)


def seconds(step: Callable[[], Tensor], leaves: list[Tensor]) -> float:
    """Time of one forward and backward pass."""
    for leaf in leaves:
        leaf.grad = None
    _wait(leaves[0])
    start = time.perf_counter()
    step().backward()  # type: ignore[no-untyped-call]
    _wait(leaves[0])
    return time.perf_counter() - start


def ratios(name: str, identities: int, repeats: int, device: str) -> tuple[list[float], float]:
    """Head / floor of each repeat, and the floor's median time in seconds."""
    torch.manual_seed(0)
    loss = build_loss(name, dim=DIM, identities=identities).to(device)
    y = torch.randint(identities, (BATCH,), device=device)
    z = (20 * torch.randn(BATCH, DIM, device=device) / DIM**0.5).requires_grad_()
    leaves = [z, loss.prototypes]
    heads, floors = [], []
    for repeat in range(repeats + 1):
        floor = seconds(lambda: naive_floor(z, loss.prototypes.flatten(0, -2), y), leaves)
        head = seconds(lambda: loss(z, y), leaves)
        if repeat:  # the first pays for memory and kernels
            floors.append(floor)
            heads.append(head)
    each = [head / floor for head, floor in zip(heads, floors, strict=True)]
    return each, statistics.median(floors)


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    """Print a line for each loss and number of identities."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--identities", type=int, nargs="+", default=[8631, 100_000])
    parser.add_argument("--losses", nargs="+", default=["normface", "arcface", "adaface"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    sys.stdout.write(
        f"B {BATCH}, D {DIM}, {options.device}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}\n"
        f"{'loss':<18}{'identities':>10}  {'floor ms':>8}  {'ratio':>5}  quartiles\n"
    )
    for identities in options.identities:
        for name in options.losses:
            each, floor = ratios(name, identities, options.repeats, options.device)
            low, median, high = statistics.quantiles(each, n=4, method="inclusive")
            sys.stdout.write(
                f"{name:<18}{identities:>10}  {1e3 * floor:>8.1f}  {median:>5.2f}  "
                f"{low:.2f} to {high:.2f}\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
