"""Images a second of the drawn faces: rendering alone, and with JPEG files written.

    python benchmarks/synth.py [--images 512] [--size 112] [--workers 2]

Each figure is the best of three, because other work on the machine only ever slows it down.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from facever.data.synth import render, synthesise


def best_rate(work: Callable[[int], int], repeats: int = 3) -> float:
    """Pictures a second by the clock; `work` returns how many it made."""
    rates = []
    for repeat in range(repeats):
        start = time.perf_counter()
        made = work(repeat)
        rates.append(made / (time.perf_counter() - start))
    return max(rates)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    people = max(2, options.images // 10)

    def draw(repeat: int) -> int:
        identities = [i for i in range(people) for _ in range(10)]
        images = [k for _ in range(people) for k in range(10)]
        return len(render(identities, images, size=options.size, seed=repeat).pixels)

    with tempfile.TemporaryDirectory() as folder:

        def write(repeat: int, workers: int) -> int:
            counts = synthesise(
                Path(folder) / f"{workers}-{repeat}",
                layout="tree",
                identities=people,
                images=10,
                size=options.size,
                seed=repeat,
                workers=workers,
            )
            return counts.train

        figures = {
            "rendered, one process": best_rate(draw),
            "written as JPEG, one process": best_rate(lambda repeat: write(repeat, 1)),
            f"written as JPEG, {options.workers} processes": best_rate(
                lambda repeat: write(repeat + 10, options.workers)
            ),
        }
    title = f"images/s at {options.size} pixels"
    lines = [f"{title:32} {'clock':>8}"]
    lines += [f"{name:32} {rate:8.0f}" for name, rate in figures.items()]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
