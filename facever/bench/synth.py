"""Images a second of the drawn faces: in memory, as JPEG files, and by several processes."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from facever.bench.harness import Options, compare
from facever.bench.rows import Row
from facever.config import resolve
from facever.data.synth import render, synthesise
from facever.data.workers import usable_cores

IMAGES = 2048  # enough that starting the processes, about a second, does not decide
EACH = 10  # of a person


def measure(options: Options, *, images: int = IMAGES) -> Iterator[Row]:
    """Writing against drawing alone, and writing by several processes against one.

    `data.image_size` and `data.workers` are heeded.
    """
    data = resolve([], options.assignments).data
    size, workers = data.image_size, data.workers or usable_cores()
    people = max(2, images // EACH)
    made = people * EACH
    # A new seed draws other faces, so that nothing is warm but the machine.
    seeds = count()

    def draw() -> None:
        identities = [identity for identity in range(people) for _ in range(EACH)]
        render(identities, list(range(EACH)) * people, size=size, seed=next(seeds))

    with TemporaryDirectory() as folder:

        def write(workers: int) -> None:
            seed = next(seeds)
            synthesise(
                Path(folder) / str(seed),
                layout="tree",
                identities=people,
                images=EACH,
                size=size,
                seed=seed,
                workers=workers,
            )

        conditions: dict[str, int | str] = {"images": made, "pixels": size}
        alone = compare(lambda: write(1), draw, repeats=options.repeats)
        yield Row(
            "synth",
            "written as JPEG, one process",
            "rendered in memory by one process",
            alone,
            conditions=conditions,
            images=made,
        )
        shared = compare(lambda: write(workers), lambda: write(1), repeats=options.repeats)
        yield Row(
            "synth",
            f"written as JPEG, {workers} processes",
            "written as JPEG by one process",
            shared,
            conditions=conditions,
            images=made,
        )
