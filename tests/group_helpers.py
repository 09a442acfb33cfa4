"""Forked processes of one group that speak over gloo on this machine."""

import importlib
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from process_helpers import forked, outcome

from facever.distributed import process_group


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def begin(size: int, folder: Path, action: Callable[[], Any], *, minutes: float = 2.0) -> list[int]:
    """Start `size` processes of one group; each leaves what `action` gives in `folder`, or raises.

    What was raised lies in `<process>.error`, and the process exits with 1.
    """
    # What an optimiser imports when it is first made, 2 s in each process otherwise.
    importlib.import_module("torch._dynamo")
    port = free_port()

    def member(who: int) -> Callable[[], None]:
        def run() -> None:
            os.environ |= {
                "RANK": str(who), "LOCAL_RANK": str(who), "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
            try:
                with process_group(minutes):
                    torch.save(action(), folder / f"{who}.pt")
            except Exception:
                (folder / f"{who}.error").write_text(traceback.format_exc())
                raise

        return run

    return [forked(member(who)) for who in range(size)]


def together(size: int, folder: Path, action: Callable[[], Any]) -> list[Any]:
    """Run `action` in `size` processes of one group and give what each gave."""
    folder = folder / str(size)
    folder.mkdir()
    codes = [outcome(process) for process in begin(size, folder, action)]
    assert codes == [0] * size
    return [torch.load(folder / f"{who}.pt") for who in range(size)]
