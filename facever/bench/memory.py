"""The most memory that a step and its backward pass hold at once, from the allocator itself.

Counting the tensors that Python sees would miss what kernels hold for themselves: `logsumexp`
has a buffer as large as its input that no Python object stands for.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from facever.data.workers import free_memory


def peak_bytes(step: Callable[[], Tensor], leaves: Sequence[Tensor]) -> int | None:
    """Most bytes alive at once in `step()` and its backward pass, beyond what has to be there.

    What has to be there is all that was there before, and the gradients of the leaves at the
    end. On a GPU the gradients are taken off the whole backward pass, so that a peak before
    they exist counts too little by their size.

    Args:
        step: gives the scalar that is differentiated.
        leaves: tensors on one device that gather a gradient; theirs are cleared first.

    Returns:
        bytes; None on a device that does not tell.
    """
    _clear(leaves)
    device = leaves[0].device
    if device.type == "cuda":
        return _peak_on_gpu(step, leaves, device)
    return _peak_on_cpu(step, leaves) if device.type == "cpu" else None


def free_bytes(device: torch.device) -> int | None:
    """Bytes of a device's memory that can be had; None where it does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory() if device.type == "cpu" else None


def _clear(leaves: Sequence[Tensor]) -> None:
    for leaf in leaves:
        leaf.grad = None


def _peak_on_gpu(step: Callable[[], Tensor], leaves: Sequence[Tensor], device: torch.device) -> int:
    # Once unmeasured: the workspace of the matrix products stays where it is made.
    torch.autograd.backward(step())
    _clear(leaves)
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    value = step()
    forward = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    torch.autograd.backward(value)
    backward = torch.cuda.max_memory_allocated(device)
    gradients = sum(leaf.grad.nbytes for leaf in leaves if leaf.grad is not None)
    return max(forward, backward - gradients) - before


def _peak_on_cpu(step: Callable[[], Tensor], leaves: Sequence[Tensor]) -> int:
    # Or its start and stop, and the GPU that is not there, are told on standard error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        torch.autograd.backward(step())
    events = list(_allocations(record))
    # An address may have served before: the last that was put there is the gradient.
    last = {address: index for index, (address, _) in enumerate(events)}
    gradients = {
        last.get(leaf.grad.untyped_storage().data_ptr()) for leaf in leaves if leaf.grad is not None
    }
    live = peak = 0
    for index, (_, size) in enumerate(events):
        if index not in gradients:
            live += size
            peak = max(peak, live)
    return peak


def _allocations(record: profile) -> Iterator[tuple[int, int]]:
    """Address and size of every allocation, in order; a size below 0 is given back."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        trace = json.loads(path.read_bytes())["traceEvents"]
    events = (event for event in trace if event.get("name") == "[memory]")
    for event in sorted(events, key=lambda event: float(event["ts"])):
        yield event["args"]["Addr"], event["args"]["Bytes"]
