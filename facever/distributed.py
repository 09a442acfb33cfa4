"""Several processes that train one encoder: who they are and what they exchange.

Started by `torchrun`, one process for each device. All have the same plan of batches, and each
takes its share of every batch; the embeddings are gathered, and every process computes the whole
loss on all of them. So averages and margins are the same everywhere without a word, and so are
prototypes, unless each process keeps those of its share of the identities alone (`losses.sharded`).
A run may be resumed by another number of processes.

Letters: W processes, B images of a batch, b those of this process, D embedding dimension.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from facever.errors import TrainingError

T = TypeVar("T")

# Bytes that a process sends at once of a matrix that is collected.
PIECE = 2**26


@contextmanager
def process_group(minutes: float) -> Iterator[None]:
    """Join the processes that `torchrun` started; alone, do nothing.

    Args:
        minutes: longest wait for another process.

    Raises:
        TrainingError: another one did not come within that time.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(minutes=minutes))
    try:
        yield
    except RuntimeError as error:
        # gloo has two messages for it and no exception. NCCL may end the process before.
        if not re.search("timed out|timeout", str(error).lower()):
            raise
        raise TrainingError(
            f"process {rank()} of {world_size()}: waited {minutes:g} min for another one, which "
            "hangs or is very slow\n  expected within engine.timeout_minutes; the last checkpoint "
            "is intact, and the same command goes on from it"
        ) from error
    finally:
        distributed.destroy_process_group()


def world_size() -> int:
    """Number of processes W."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0 on."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_leader() -> bool:
    """Whether this process writes the files and speaks to the user."""
    return rank() == 0


def from_leader(make: Callable[[], T]) -> T:
    """Give to all what `make` gives to the leader; what it raises there is raised by all."""
    if world_size() == 1:
        return make()
    told: list[Any] = [None, None]
    if is_leader():
        try:
            told[0] = make()
        except Exception as error:
            told[1] = error
    distributed.broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    made: T = told[0]
    return made


def largest(value: int) -> int:
    """Give the largest of what the processes say, to all of them."""
    if world_size() == 1:
        return value
    told = torch.tensor(value, device=_device())
    distributed.all_reduce(told, distributed.ReduceOp.MAX)
    return int(told)


def _device() -> torch.device:
    on_gpu = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def share_of(count: int, who: int, processes: int) -> slice:
    """Give the part of process `who` of `count` things in a row."""
    return slice(count * who // processes, count * (who + 1) // processes)


def share(count: int) -> slice:
    """Give this process's part of `count` things in a row."""
    return share_of(count, rank(), world_size())


def pieces(labels: Tensor, count: int) -> list[tuple[Tensor, ...]]:
    """Cut labels (B,) into those of `count` micro-batches, as all processes cut their images.

    Returns:
        for each micro-batch the labels of every process's images, in the order of the processes.
    """
    parts = [share_of(len(labels), who, world_size()) for who in range(world_size())]
    shares = [labels[part].tensor_split(count) for part in parts]
    return list(zip(*shares, strict=True))


def gather(z: Tensor, sizes: list[int]) -> Tensor:
    """Give the embeddings (B, D) of all processes, in their order; each has `z` (b, D).

    The gradient that comes back to `z` is W times that of the loss, which every process computes
    alike: `DistributedDataParallel` takes the mean of the encoder's gradients over the processes,
    and each has that of its own images only.
    """
    if world_size() == 1:
        return z
    gathered: Tensor = _Gather.apply(z, sizes)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, sizes: list[int]) -> Tensor:
        ctx.begin, ctx.count = sum(sizes[: rank()]), len(z)
        return gather_rows(z, sizes)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        return world_size() * grad[ctx.begin : ctx.begin + ctx.count], None


def gather_table(own: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Give the table (count, D) of which each process has the rows of its `share`."""
    if world_size() == 1:
        return own
    parts = [share_of(count, who, world_size()) for who in range(world_size())]
    rows = torch.from_numpy(own).to(_device())
    table: NDArray[np.float32] = gather_rows(rows, [p.stop - p.start for p in parts]).cpu().numpy()
    return table


def gather_rows(rows: Tensor, sizes: list[int]) -> Tensor:
    """Give the rows of all processes, of which each has `sizes[rank]`, without a gradient."""
    if world_size() == 1:
        return rows
    # All must be of one size for the exchange.
    padded = functional.pad(rows.detach(), (0, 0) * (rows.dim() - 1) + (0, max(sizes) - len(rows)))
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded.contiguous())
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def stack(own: Tensor) -> Tensor:
    """Give what all processes have `own` of, (W, ...), in their order.

    Where all go on with it alike, each has the whole gradient of it, and its own is a row.
    """
    stacked: Tensor = _Stack.apply(own)
    return stacked


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return gather_rows(own[None], [1] * world_size())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0][rank()]


def joint(value: Tensor) -> Tensor:
    """Give `value`, which all processes have, to what each does a part of: gradients add up."""
    same: Tensor = _Joint.apply(value)
    return same


class _Joint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


def collect(rows: Tensor, count: int) -> Tensor | None:
    """Give the leader the rows (count, ...) of which each process has its `share`, on its CPU.

    All are to call it. Piece by piece, so that no device holds a second matrix of that size.
    """
    parts = [share_of(count, who, world_size()) for who in range(world_size())]
    whole = rows.new_empty((count, *rows.shape[1:]), device="cpu") if is_leader() else None
    step = max(1, PIECE // (rows[0].numel() * rows.element_size()))
    for start in range(0, -(-count // world_size()), step):
        pieces = [range(count)[part][start : start + step] for part in parts]
        sizes = [len(piece) for piece in pieces]
        found = torch.split(gather_rows(rows[start : start + step], sizes), sizes)
        if whole is not None:
            for piece, values in zip(pieces, found, strict=True):
                whole[piece.start : piece.stop] = values
    return whole


def wrap(encoder: nn.Module) -> nn.Module:
    """Let the encoder's gradients be averaged over the processes; alone, it stays as it is."""
    if world_size() == 1:
        return encoder
    return nn.parallel.DistributedDataParallel(encoder)


def averaging(network: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """Make the context of a pass whose gradients are averaged, or only added up for a later one."""
    if wanted or not isinstance(network, nn.parallel.DistributedDataParallel):
        return nullcontext()
    return network.no_sync()


def share_buffers(module: nn.Module) -> None:
    """Give every process the leader's buffers, such as batch norms' statistics."""
    if world_size() > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, 0)


class SynchronisedBatchNorm(TorchFunctionMode):
    """Within this context batch norms in training take the statistics of all processes' images.

    torch's own `SyncBatchNorm` refuses CPUs. Whatever calls `functional.batch_norm` is reached,
    timm's norms with an activation too, and no module is replaced.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take the place of `functional.batch_norm` in training; leave the rest alone."""
        kwargs = kwargs or {}
        if func is functional.batch_norm and world_size() > 1:
            return _batch_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`functional.batch_norm` on (b, D, ...) with the statistics of all B images."""
    if not training:
        return functional.batch_norm(
            x, running_mean, running_var, weight, bias, False, momentum, eps
        )
    axes = [axis for axis in range(x.dim()) if axis != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    wide = x if x.dtype == torch.float64 else x.float()
    count = torch.full((1,), x.numel() / x.shape[1], dtype=wide.dtype, device=x.device)
    total = _add_up(torch.cat([wide.sum(axes), count]))
    mean, n = total[:-1] / total[-1], total[-1].detach()
    centred = wide - mean.view(shape)
    # The sum of squares about the common mean, in a second exchange: E[x^2] - E[x]^2 would cancel.
    variance = _add_up(centred.square().sum(axes)) / n
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * (n / (n - 1).clamp(min=1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
    normalised = centred * scale.view(shape)
    if bias is not None:
        normalised = normalised + bias.view(shape)
    return normalised.to(x.dtype)


def _add_up(value: Tensor) -> Tensor:
    total: Tensor = _AddUp.apply(value)
    return total


class _AddUp(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        total = grads[0].clone()
        distributed.all_reduce(total)
        return total
