"""What a training step is made of: a trace for a viewer, and the shares of its time in words.

The time is that of the operators themselves, on a GPU that of their kernels. What an operator calls
counts for what is called; backward passes count for what they belong to.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn
from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from facever.bench.faces import configured
from facever.bench.harness import Options
from facever.bench.step import training
from facever.step import train_step
from facever.storage import make_folder

STEPS, WARM_UP = 4, 2

_STEP, _LOADING, _HEAD, _OPTIMISER = "training step", "loading", "head", "Optimizer.step"
# Parts by what stands above an operator, then by words in its own name.
_ABOVE = {
    _LOADING: "loading and augmentation",
    _HEAD: "head and loss",
    _OPTIMISER: "optimiser",
}
_NAMED = {
    "convolution": ("conv",),
    "normalisation": ("norm",),
    "projection to the embedding": ("mm", "linear"),
    "activations, pooling, sums and copies": ("aten::",),
}
_REST = "Python and bookkeeping"
_IDLE = "waiting for the next kernel"


@dataclass(frozen=True)
class Trace:
    """Where the time of a step goes, largest part first."""

    file: Path
    conditions: dict[str, str | int]
    milliseconds: dict[str, float]
    """of each part, a step"""

    def to_json(self) -> dict[str, Any]:
        """Give everything as primitives."""
        return {"file": str(self.file), **self.conditions, "milliseconds": self.milliseconds}

    def to_text(self) -> str:
        """Give the parts as a table."""
        whole = sum(self.milliseconds.values())
        about = ", ".join(f"{name} {value}" for name, value in self.conditions.items())
        lines = [f"{about}: {whole:,.1f} ms a step"]
        lines += [
            f"{time / whole:>6.1%}  {time:>9,.2f} ms  {part}"
            for part, time in self.milliseconds.items()
        ]
        return "\n".join([*lines, f"trace: {self.file}, for chrome://tracing or ui.perfetto.dev"])


def trace(options: Options, file: Path, *, steps: int = STEPS) -> Trace:
    """Profile some training steps, on drawn faces where no `data.root` is given.

    Raises:
        StorageError: the folder of `file` cannot be made.
    """
    make_folder(file.parent)
    with configured("trace", options) as config:
        parts, stream = training(config)
        state, recipe, schedule = parts.state, parts.recipe, parts.schedule(parts.recipe.epochs)
        for batch in islice(stream, WARM_UP):
            train_step(state, recipe, batch, schedule)
        on_gpu = recipe.device.type == "cuda"
        # Or the profiler tells its start and stop on standard error.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        with _named(state.loss), profile(activities=activities) as record:
            for _ in range(steps):
                with record_function(_STEP):
                    with record_function(_LOADING):
                        batch = next(stream)
                    train_step(state, recipe, batch, schedule)
            state.settle()
        stream.close()
        record.export_chrome_trace(str(file))
    conditions: dict[str, str | int] = {
        "backbone": config.model.backbone,
        "batch": config.optim.batch_size,
        "precision": recipe.precision,
        "device": recipe.device.type,
    }
    return Trace(file, conditions, _parts(list(record.events() or ()), steps, on_gpu=on_gpu))


@contextmanager
def _named(loss: nn.Module) -> Iterator[None]:
    """Mark the operators of a loss in the trace."""
    mark = ExitStack()

    def begin(*_: object) -> None:
        mark.enter_context(record_function(_HEAD))

    def end(*_: object) -> None:
        mark.close()

    hooks = loss.register_forward_pre_hook(begin), loss.register_forward_hook(end)
    yield
    for hook in hooks:
        hook.remove()


def _parts(events: list[FunctionEvent], steps: int, *, on_gpu: bool) -> dict[str, float]:
    """Add up the operators' own times by part, in milliseconds a step."""
    # A backward pass has the number of the forward operator that it belongs to.
    heads = {e.sequence_nr for e in events if e.sequence_nr >= 0 and _HEAD in _names(e)}
    times: dict[str, float] = defaultdict(float)
    for event in events:
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if own and (on_gpu or _STEP in _names(event)):
            times[_part(event, heads)] += own / 1000 / steps
    if on_gpu:
        whole = sum(e.cpu_time_total for e in events if e.name == _STEP) / 1000 / steps
        times[_IDLE] = max(0.0, whole - sum(times.values()))
    return dict(sorted(times.items(), key=lambda item: -item[1]))


def _part(event: FunctionEvent, heads: set[int]) -> str:
    above = list(_lineage(event))
    if any(e.sequence_nr in heads for e in above):
        return _ABOVE[_HEAD]
    for e in above:
        for mark, part in _ABOVE.items():
            if e.name.startswith(mark):
                return part
    named = (part for part, words in _NAMED.items() if any(w in event.name for w in words))
    return next(named, _REST)


def _names(event: FunctionEvent) -> set[str]:
    return {e.name for e in _lineage(event)}


def _lineage(event: FunctionEvent | None) -> Iterator[FunctionEvent]:
    """Give an operator and those that called it."""
    while event is not None:
        yield event
        event = event.cpu_parent
