"""A whole training step - loading, augmentation, step, bookkeeping - against a resident batch.

The floor is forward, backward and optimiser step of the same network on one batch that is there
already. Blocks of both alternate, so that a machine whose speed drifts drifts for both.

Without `data.root` it trains on drawn faces.
"""

from collections.abc import Generator, Iterator
from itertools import repeat

from facever.bench.faces import configured
from facever.bench.harness import Options, compare
from facever.bench.rows import Row
from facever.config import Config
from facever.data.loader import Batch
from facever.data_setup import open_data
from facever.prepare import Parts, batch_stream, build_parts
from facever.step import train_step

STEPS = 4  # of a block

# 0.95 of the floor's images a second on a CPU; a GPU waits 0.10 of the time for its batches.
AIM, GPU_AIM = 1 / 0.95, 1 / 0.90


def measure(options: Options, *, steps: int = STEPS) -> Iterator[Row]:
    """One row, of blocks of `steps` training steps."""
    with configured("step", options) as config:
        parts, stream = training(config)
        schedule = parts.schedule(parts.recipe.epochs)
        resident = next(stream)

        def block(source: Iterator[Batch]) -> None:
            for _ in range(steps):
                train_step(parts.state, parts.recipe, next(source), schedule)
            parts.state.settle()

        timing = compare(
            lambda: block(stream), lambda: block(repeat(resident)), repeats=options.repeats
        )
        stream.close()
    recipe = parts.recipe
    yield Row(
        "step",
        config.model.backbone,
        "the same step on one resident batch",
        timing,
        AIM if recipe.device.type == "cpu" else GPU_AIM,
        {
            "batch": len(resident.labels),
            "precision": recipe.precision,
            "device": recipe.device.type,
        },
        images=steps * len(resident.labels),
    )


def training(config: Config) -> tuple[Parts, Generator[Batch, None, None]]:
    """Build what a training consists of, with batches that do not end."""
    data = open_data(config.data)
    parts = build_parts(config, data, pretrained=False)
    batches = batch_stream(config, data, parts)
    return parts, (batch for epoch in range(10**6) for batch in batches(epoch, 0))
