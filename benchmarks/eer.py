"""EER of ten million scores against numpy.sort of the same array: at most 3 times its time.

Run: python benchmarks/eer.py [--scores 10000000] [--repeats 5]
Both sides alternate within each repeat, so that a busy machine slows both; medians are compared.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from facever.metrics import equal_error_rate


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(count: int, dtype: str, repeats: int) -> tuple[float, float]:
    """Median seconds of numpy.sort and of the EER of `count` scores, half of them mated."""
    rng = np.random.default_rng(0)
    mated = rng.random(count) < 0.5
    scores = (0.1 * rng.standard_normal(count) + 0.4 * mated).astype(dtype)
    sides = [
        (seconds(lambda: np.sort(scores)), seconds(lambda: equal_error_rate(scores, mated)))
        for _ in range(repeats + 1)
    ]
    sort, eer = zip(*sides[1:], strict=True)  # the first round pays for fresh memory
    return statistics.median(sort), statistics.median(eer)


def main() -> None:
    """Print one line for each type of score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for dtype in ("float32", "float64"):
        sort, eer = measure(options.scores, dtype, options.repeats)
        line = f"{dtype}: sort {sort:.3f} s, EER {eer:.3f} s, ratio {eer / sort:.2f} (aim 3)\n"
        sys.stdout.write(line)


if __name__ == "__main__":
    main()
