"""Checkpoints that leave by a copy and a thread: the training waits for the copy alone.

At most one is under way. What goes wrong with it is raised at the next save, or at the end, as
if it had been written at once.
"""

import copy
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from facever.checkpoint import save_last
from facever.data.workers import free_memory


class Saver:
    """Writes the checkpoints of a run; leaving its `with` block waits for the last one.

    Attributes:
        seconds: that the last checkpoint took until it was on the disk.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.seconds = 0.0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        # Copies of tensors by their place, kept for the next save: fresh memory costs more
        # than the copying.
        self._kept: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, payload: Mapping[str, Any], *, best: bool) -> None:
        """Begin to write a checkpoint, of which the caller may then change every part.

        Raises:
            StorageError: the one before could not be written.
        """
        self.wait()
        if not self._kept and not _has_room(payload):
            self._write(payload, best)
            self.wait()
            return
        copied = self._copied(payload, ())
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        # A daemon: a second Ctrl-C leaves at once, and the checkpoint before is intact.
        self._thread = threading.Thread(target=self._write, args=(copied, best), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until all is written.

        Raises:
            StorageError: it could not be.
        """
        if self._thread is not None:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error

    def _write(self, payload: Mapping[str, Any], best: bool) -> None:
        began = time.monotonic()
        try:
            save_last(self.run, payload, best=best)
        except BaseException as error:
            self._error = error
        self.seconds = time.monotonic() - began

    def _copied(self, value: Any, place: tuple[Any, ...]) -> Any:
        """Copy nested values; a tensor into main memory, without waiting for a GPU."""
        if isinstance(value, Tensor):
            return self._copied_tensor(value, place)
        if isinstance(value, dict):
            # With the version numbers that a state dict carries as an attribute.
            same = copy.copy(value)
            same.update({key: self._copied(item, (*place, key)) for key, item in value.items()})
            return same
        if isinstance(value, list):
            return [self._copied(item, (*place, i)) for i, item in enumerate(value)]
        return value

    def _copied_tensor(self, value: Tensor, place: tuple[Any, ...]) -> Tensor:
        kept = self._kept.get(place)
        if kept is None or _form(kept) != _form(value):
            kept = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
            self._kept[place] = kept
        return kept.copy_(value.detach(), non_blocking=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self.wait()


def _form(value: Tensor) -> tuple[object, ...]:
    return value.shape, value.stride(), value.dtype


def _has_room(payload: Mapping[str, Any]) -> bool:
    """Tell whether main memory has room for a copy, and for as much again."""
    free = free_memory()
    return free is None or 2 * _size(payload) <= free


def _size(value: Any) -> int:
    """Bytes of the tensors in nested values."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 0
