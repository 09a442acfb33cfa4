"""How long `facever --help` takes, against a bare start of Python."""

import subprocess
import sys
from collections.abc import Iterator

from facever.bench.harness import Options, compare
from facever.bench.rows import Row

# Seconds.
AIM = 0.5


def measure(options: Options) -> Iterator[Row]:
    """One row."""

    def python(*arguments: str) -> None:
        command = [sys.executable, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 (this Python and words of this file)

    timing = compare(
        lambda: python("-m", "facever", "--help"),
        lambda: python("-c", "pass"),
        repeats=options.repeats,
    )
    verdict = "met" if timing.seconds < AIM else "missed"
    answer = f"{timing.seconds:.2f} s (below {AIM}: {verdict})"
    yield Row("start", "facever --help", "python -c pass", timing, conditions={"answer": answer})
