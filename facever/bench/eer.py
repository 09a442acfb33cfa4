"""EER of ten million scores against `numpy.sort` of the same array: at most 3 times its time."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from facever.bench.harness import Options, compare
from facever.bench.rows import Row
from facever.metrics import equal_error_rate

SCORES = 10_000_000
AIM = 3.0


def measure(options: Options, *, scores: int = SCORES) -> Iterator[Row]:
    """A row for each type of score; half of the pairs are mated."""
    rng = np.random.default_rng(0)
    mated = rng.random(scores) < 0.5
    drawn = 0.1 * rng.standard_normal(scores) + 0.4 * mated
    for dtype in ("float32", "float64"):
        given = drawn.astype(dtype)
        timing = compare(
            partial(equal_error_rate, given, mated),
            partial(np.sort, given),
            repeats=options.repeats,
        )
        yield Row("eer", dtype, "numpy.sort of the scores", timing, AIM, {"scores": scores})
