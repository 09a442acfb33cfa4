"""A whole training step - loading, augmentation, step, bookkeeping - against a resident batch.

The floor is forward, backward and optimiser step of the same network on one batch that is there
already. Blocks of both alternate, so that a machine whose speed drifts drifts for both.

    python benchmarks/step.py [data.root=DIR] [key=value ...]
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from facever.config import resolve
from facever.demo import make_faces
from facever.engine import train_step
from facever.prepare import batch_stream, build_parts, open_data

BLOCKS, STEPS = 5, 4


def main() -> None:
    assignments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        if not any(text.startswith("data.root=") for text in assignments):
            root = Path(folder) / "faces"
            make_faces(root, identities=100, images=20)
            assignments = [f"data.root={root}", *assignments]
        measure(assignments)


def measure(assignments: list[str]) -> None:
    config = resolve([], assignments)
    data = open_data(config.data)
    parts = build_parts(config, data, pretrained=False)
    state, recipe = parts.state, parts.recipe
    batches = batch_stream(config, data, parts)
    stream = (batch for epoch in range(10**6) for batch in batches(epoch, 0))
    resident = next(stream)
    size = len(resident.labels)
    times: dict[str, list[float]] = {"whole": [], "resident": []}
    for block in range(BLOCKS + 1):
        for kind in times:
            start = time.perf_counter()
            for _ in range(STEPS):
                batch = resident if kind == "resident" else next(stream)
                train_step(state, recipe, batch, parts.schedule)
            if block:  # the first of each kind warms up
                times[kind].append((time.perf_counter() - start) / STEPS)
    ratios = [r / w for r, w in zip(times["resident"], times["whole"], strict=True)]
    print(f"{config.model.backbone}, batch {size}, {recipe.precision}, {recipe.device}")
    for kind, seconds in times.items():
        print(f"{kind:9} {size / statistics.median(seconds):8.1f} images/s")
    print(
        f"ratio     {statistics.median(ratios):8.3f}  "
        f"({min(ratios):.3f} to {max(ratios):.3f} over {BLOCKS} blocks of {STEPS} steps)"
    )


if __name__ == "__main__":
    main()
