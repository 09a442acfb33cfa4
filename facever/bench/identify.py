"""Who of 100,000 images is it? A search against the bare product that gives their scores."""

from collections.abc import Iterator

import numpy as np

from facever.bench.harness import Options, compare
from facever.bench.rows import Row
from facever.identify import Floats, make_gallery

IMAGES = 100_000
DIM = 512

# Seconds to answer one probe, of a gallery that is in memory.
AIM = 0.1


def measure(options: Options, *, images: int = IMAGES, dim: int = DIM) -> Iterator[Row]:
    """One row: the five closest of galleries with ten images an identity."""
    rng = np.random.default_rng(0)
    table: Floats = rng.standard_normal((images, dim), dtype=np.float32)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    gallery = make_gallery([f"{i // 10:06}/{i % 10}.jpg" for i in range(images)], table)
    probe = table[:1]
    timing = compare(
        lambda: gallery.search(probe), lambda: probe @ table.T, repeats=options.repeats
    )
    verdict = "met" if timing.seconds < AIM else "missed"
    answer = f"{1e3 * timing.seconds:.0f} ms a probe (below {1e3 * AIM:.0f}: {verdict})"
    yield Row(
        "identify",
        f"{dim} dimensions",
        "the product with all embeddings",
        timing,
        conditions={"images": images, "answer": answer},
    )
