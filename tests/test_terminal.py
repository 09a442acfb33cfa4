"""What a person at a terminal sees: one line that stands still, and plain text elsewhere."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

COLUMNS = 60
WORK = """
import time
from facever.tracking import note, progress
with progress("train-1") as outer:
    for i in range(12):
        outer(10 * i, 120, "epoch 1/2, loss 2.345, best EER 12.50 %, and more that has no room")
        time.sleep(0.03)
        if i == 6:
            note("data: 3 images are left out")
            with progress("embedding") as inner:
                for k in range(9):
                    inner(k, 9)
                    outer(10 * i, 120)
                    time.sleep(0.03)
print("done")
"""


def at_a_terminal(code: str, **variables: str) -> str:
    """Run code in a terminal of some width, and give all that was written to it."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | variables
    command = [sys.executable, "-c", code]
    child = subprocess.Popen(command, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    written = b""
    try:
        while block := os.read(leader, 65536):
            written += block
    except OSError:  # how Linux tells that the other end is closed
        pass
    os.close(leader)
    assert child.wait() == 0, written.decode()
    return written.decode()


def screen(written: str) -> list[str]:
    """What is left on the screen, by a terminal that knows no more than it has to."""
    lines, column = [""], 0
    for token in re.findall(r"\r|\n|\x1b\[K|[^\r\n\x1b]+", written):
        if token == "\r":
            column = 0
        elif token == "\n":
            lines.append("")
        elif token == "\x1b[K":
            lines[-1] = lines[-1][:column]
        else:
            lines[-1] = lines[-1][:column] + token + lines[-1][column + len(token) :]
            column += len(token)
    return lines


@pytest.fixture(scope="module")
def written() -> str:
    return at_a_terminal(WORK)


def test_a_progress_line_leaves_notes_and_answers_alone_and_nothing_of_itself(written: str) -> None:
    assert screen(written) == ["data: 3 images are left out", "done", ""]


def test_each_redraw_is_one_line_of_the_terminal_that_overwrites_the_last(written: str) -> None:
    frames = re.findall(r"\r([^\r\n]+)\x1b\[K\r", written)
    assert len(frames) >= 4
    assert all(20 < len(frame) < COLUMNS for frame in frames)
    assert written.count("\n") == 2
    # A line that is erased and then drawn flickers: only at a note and at two ends is it erased.
    assert written.count("\r\x1b[K") == 3


def test_of_work_within_work_the_innermost_has_the_line(written: str) -> None:
    frames = re.findall(r"\r(\S+) [^\r\n]+\x1b\[K\r", written)
    inner = [i for i, name in enumerate(frames) if name == "embedding"]
    assert inner
    assert set(frames[inner[0] : inner[-1] + 1]) == {"embedding"}
    assert frames[0] == frames[-1] == "train-1"


def test_without_colour_there_is_nothing_but_text() -> None:
    written = at_a_terminal(WORK, NO_COLOR="1")
    assert written == "data: 3 images are left out\r\ndone\r\n"
