"""Device and precision follow rules."""

import platform
import subprocess
import sys

import pytest
import torch
from training_helpers import tiny_encoder

from facever.device import autocast, compile_encoder, resolve_device, resolve_precision
from facever.encoder import build_encoder
from facever.errors import ConfigError
from facever.training import compiling_late

CPU = torch.device("cpu")


def test_fp16_on_a_cpu_is_refused_and_bf16_named() -> None:
    with pytest.raises(ConfigError, match=r"engine\.precision: fp16 .* cpu; expected bf16") as e:
        resolve_precision("fp16", CPU, tiny_encoder())
    assert e.value.exit_code == 2


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"engine\.device: '{name}' .*\n.*expected auto, cpu"):
        resolve_device(name)


KEEPING = """
import resource

import torch

from facever.device import keep_memory


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


assert min(faults() for _ in range(8)) > 100
keep_memory()
# The heap has grown to its size after some of them.
assert min(faults() for _ in range(8)) < 100
"""


def test_freed_memory_is_kept_for_the_next_step() -> None:
    """Without it each of these tensors costs 16,384 pages, every time."""
    if "glibc" not in platform.libc_ver():
        pytest.skip("another C library")
    # In a process of its own, for a training in this one would have asked for it before.
    subprocess.run([sys.executable, "-c", KEEPING], check=True)


def test_cpu_is_found_and_auto_gives_a_device_that_works() -> None:
    assert resolve_device("cpu") == CPU
    assert torch.ones(2, device=resolve_device("auto")).sum() == 2


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_what_is_asked_for_is_given(name: str) -> None:
    assert resolve_precision(name, CPU, tiny_encoder()) == name


@pytest.mark.parametrize("has_bf16", [True, False])
def test_auto_on_a_cpu_is_a_rule(monkeypatch: pytest.MonkeyPatch, has_bf16: bool) -> None:
    """bf16 where the processor multiplies in it, but never for depth-wise mobile nets."""
    for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, check, lambda: has_bf16, raising=False)
    mobile = build_encoder(
        backbone="mobilenetv3_small_050", embedding_dim=8, neck="gap-linear", image_size=32
    )
    assert resolve_precision("auto", CPU, tiny_encoder()) == ("bf16" if has_bf16 else "fp32")
    assert resolve_precision("auto", CPU, mobile) == "fp32"


def test_the_context_computes_in_the_precision_it_is_named_after() -> None:
    layer = torch.nn.Linear(4, 4)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(CPU, precision):
            assert layer(torch.ones(1, 4)).dtype == dtype


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_in_bf16_or_fp16() -> None:
    cuda = resolve_device("cuda")
    has_bf16 = torch.cuda.get_device_capability()[0] >= 8
    assert resolve_precision("auto", cuda, tiny_encoder()) == ("bf16" if has_bf16 else "fp16")
    assert resolve_precision("fp16", cuda, tiny_encoder()) == "fp16"


@pytest.mark.parametrize(
    ("how", "device", "left", "compiled"),
    [
        ("auto", "cuda", [60, 300], 0),
        ("auto", "cuda", [60, 3000, 2900], 1),
        ("auto", "cpu", [1e6], 0),
        ("off", "cuda", [1e6], 0),
        ("on", "cuda", [1e6], 0),
    ],
)
def test_auto_compiles_once_and_only_where_a_gpu_trains_on_for_long(
    how: str, device: str, left: list[float], compiled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, calls = tiny_encoder(), []
    monkeypatch.setattr(encoder, "compile", lambda **options: calls.append(options))
    look = compiling_late(encoder, how, torch.device(device))
    for seconds in left:
        look(seconds)
    assert len(calls) == compiled


def test_cuda_graphs_need_a_gpu_of_that_kind() -> None:
    with pytest.raises(ConfigError, match=r"engine\.compile: CUDA graphs do not work on cpu"):
        compile_encoder(tiny_encoder(), "graphs", CPU)
