"""Which device and which precision carry out the arithmetic.

Precision follows a rule, never a timing, so that a resumed run is the same run.
"""

import ctypes
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

import torch
from torch import nn

from facever.errors import ConfigError
from facever.tracking import note

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """Find the device: `auto` takes a GPU where there is one.

    Raises:
        ConfigError: the name is none of torch's, or this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    # A torch that was built without CUDA asserts that it has it.
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"engine.device: {name!r} cannot be used here: {first}\n  expected auto, cpu or cuda"
        ) from None
    return device


# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_memory() -> None:
    """Let the C library keep freed memory for the next step, which asks for the same sizes.

    glibc gives large blocks back at once, and a step on a CPU then spends a tenth of its time on
    pages that the system fills with zeros. Other libraries stay as they are.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def set_determinism(wanted: bool) -> None:
    """Let torch take deterministic kernels alone, cuDNN's included, or whichever it likes.

    cuBLAS is deterministic with a workspace of fixed size, which it reads from the environment at
    its first product.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Not when it is so already: torch imports its compiler to say so there too, for two seconds.
    if torch.are_deterministic_algorithms_enabled() != wanted:
        torch.use_deterministic_algorithms(wanted)


def resolve_precision(name: str, device: torch.device, encoder: nn.Module) -> str:
    """Turn `auto` into `bf16`, `fp16` or `fp32`.

    bf16 where the device computes in it - a CPU with AVX512-BF16 or AMX too, unless the backbone
    is of the MobileNet kind, whose depth-wise backward pass is slow in bf16 there - else fp16
    on a GPU, else fp32.

    Raises:
        ConfigError: fp16 was asked for on a CPU, where it is hundreds of times slower than bf16.
    """
    if device.type == "cuda":
        has_bf16 = torch.cuda.get_device_capability(device)[0] >= 8
        if name == "bf16" and not has_bf16:
            note("warning: engine.precision: this GPU has no bf16; using fp16 with loss scaling")
            return "fp16"
        return ("bf16" if has_bf16 else "fp16") if name == "auto" else name
    if name == "fp16":
        raise ConfigError(
            f"engine.precision: fp16 does not work on {device.type}; expected bf16, fp32 or auto"
        )
    if name == "auto":
        from facever.encoder import is_depthwise_mobile

        fast = device.type == "cpu" and _cpu_has_bf16() and not is_depthwise_mobile(encoder)
        return "bf16" if fast else "fp32"
    return name


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Tell whether that is what an error means; the CPU's allocator has no exception of its own."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "DefaultCPUAllocator" in str(error)


def first_line(error: RuntimeError | MemoryError) -> str:
    """Say in a line what memory ran out."""
    return str(error).partition("\n")[0] or type(error).__name__


def free_cached_memory() -> None:
    """Let other sizes of tensors have what a GPU's allocator keeps of the old ones."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def to_host(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Start to copy a tensor to the host; give a function that waits for it, and for it alone."""
    if not tensor.is_cuda:
        return tensor.cpu
    # Into pinned memory, behind what the stream has to do already.
    copy = tensor.to("cpu", non_blocking=True)
    arrived = torch.cuda.current_stream(tensor.device).record_event()

    def wait() -> torch.Tensor:
        arrived.synchronize()
        return copy

    return wait


# What compiling a network takes, and the share of a training's time that it saves on a GPU.
_COMPILING_SECONDS, _COMPILING_SAVES = 90, 0.2


def compile_encoder(encoder: nn.Module, how: str, device: torch.device) -> None:
    """Have torch compile the encoder at its next call, in place: weights and names stay.

    Args:
        encoder: on `device`.
        how: `on`, or `graphs` for CUDA graphs too, which replay a pass without its launches;
            `auto` and `off` leave it as it is.
        device: where it runs.

    Raises:
        ConfigError: graphs were asked for on another device than a CUDA GPU.
    """
    if how == "graphs" and device.type != "cuda":
        raise ConfigError(
            f"engine.compile: CUDA graphs do not work on {device.type}; expected off, on or auto"
        )
    if how in ("on", "graphs"):
        encoder.compile(mode="reduce-overhead" if how == "graphs" else None)


def compiling_pays(seconds: float, device: torch.device) -> bool:
    """Tell whether a training that will take `seconds` is shorter with a compiled encoder.

    On a CPU compiling gains nothing.
    """
    return device.type == "cuda" and _COMPILING_SAVES * seconds > _COMPILING_SECONDS


def _cpu_has_bf16() -> bool:
    """Tell whether the CPU multiplies in bf16 (AVX512-BF16 or AMX)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, lambda: False)()) for check in checks)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Make the context in which an encoder runs with `precision`."""
    dtype = _DTYPES.get(precision, torch.float32)
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")
