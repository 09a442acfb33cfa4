"""Files that appear whole or not at all (B2, B6, B13 of reliability.md)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_helpers import file_size_limit, forked, outcome

from facever.errors import DataError, StorageError
from facever.storage import appearing, replacing, write_json, write_text


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run Python code that imports no torch in a process of its own."""
    head = "import os, resource, signal, sys\nfrom pathlib import Path\n"
    head += "from facever.storage import replacing\npath = Path(sys.argv[1])\n"
    command = [sys.executable, "-c", head + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_file_holds_what_was_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with replacing(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    with replacing(path) as file:
        file.write(b"2")
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"2"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_a_folder_deleted_meanwhile_is_not_made_again(tmp_path: Path) -> None:
    """A run whose folder was deleted must stop, not go on in a new one that lacks its past."""
    with (
        pytest.raises(StorageError, match=r"a\.bin: could not be written"),
        replacing(tmp_path / "gone" / "a.bin"),
    ):
        pass
    assert not (tmp_path / "gone").exists()


def test_killed_between_write_and_rename_the_old_file_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = """
with replacing(path) as file:
    file.write(b"new" * 100_000)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = start(code, path)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert {p.name for p in tmp_path.iterdir() if p.name[0] != "."} == {"a.bin"}


def test_killed_at_any_moment_the_file_is_one_of_those_written(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    code = """
first = int(sys.argv[2])
for i in range(10**9):
    with replacing(path) as file:
        for _ in range(8):
            file.write(bytes([first + i % 50]) * 8192)
    if i == 2:
        print("ready", flush=True)
"""
    for first, delay in ((0, 0.001), (50, 0.011), (100, 0.023), (150, 0.037)):
        process = start(code, path, first)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.kill()
        process.communicate(timeout=60)
        content = path.read_bytes()
        assert len(content) == 8 * 8192
        assert set(content) == {content[0]}
        assert first <= content[0] < first + 50


def test_a_full_disk_is_an_error_with_path_and_bytes_and_the_old_file_stays(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fill() -> None:
        with replacing(path) as file:
            for _ in range(100):
                file.write(b"x" * 10_000)

    with file_size_limit(100_000), pytest.raises(StorageError) as caught:
        fill()
    message = str(caught.value)
    assert message.startswith(f"{path}: could not be written after ")
    assert 0 < int(message.split()[6].replace(",", "")) <= 100_000
    assert "too large" in message.splitlines()[0]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_full_disk_in_another_process_ends_it_with_the_error(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
with replacing(path) as file:
    file.write(b"x" * 200_000)
"""
    process = start(code, path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"StorageError: {path}: could not be written after" in errors
    assert path.read_bytes() == b"old"


def test_a_folder_that_cannot_be_made_is_an_error_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"file: could not be made: File exists"):
        write_text(tmp_path / "file" / "a.txt", "text")


def test_a_failing_writer_leaves_the_old_file_and_no_half_of_the_new(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(error: BaseException) -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    for error in (KeyboardInterrupt(), ValueError("mine"), SystemExit(3)):
        with pytest.raises(type(error)):
            fail(error)
        assert path.read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_text_is_utf_8_with_its_line_ends_as_given(tmp_path: Path) -> None:
    assert write_text(tmp_path / "a.txt", "é😀\r\n\n") == tmp_path / "a.txt"
    assert (tmp_path / "a.txt").read_bytes() == "é😀\r\n\n".encode()
    values = {"a": [1, 2.5, None, "é"], "b": {"c": True}}
    assert json.loads(write_json(str(tmp_path / "a.json"), values).read_text()) == values


def test_the_longest_file_name_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="could not be written"):
        write_text(tmp_path / ("x" * 255), "the temporary's name is longer")


@pytest.mark.parametrize("there", ["nothing", "an empty folder"])
def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path, there: str) -> None:
    target = tmp_path / "new" / "data"
    if there == "an empty folder":
        target.mkdir(parents=True)

    def stopped() -> None:
        with appearing(target) as hidden:
            (hidden / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not any((tmp_path / "new").rglob("half"))
    with appearing(target) as hidden:
        (hidden / "whole").touch()
        assert not (target / "whole").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["data"]
    assert (target / "whole").exists()
    with pytest.raises(DataError, match="not empty"), appearing(target):
        raise AssertionError("entered")


def test_a_folder_left_by_a_killed_process_is_removed_and_one_in_the_making_is_not(
    tmp_path: Path,
) -> None:
    def kill() -> None:
        with appearing(tmp_path / "data") as hidden:
            (hidden / "half").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def alongside() -> None:
        with appearing(tmp_path / "data"):
            pass

    assert outcome(forked(kill)) == -signal.SIGKILL
    (left_over,) = tmp_path.iterdir()
    with appearing(tmp_path / "data") as hidden:
        assert not left_over.exists()
        assert outcome(forked(alongside)) == 0
        assert hidden.exists()
        (tmp_path / "data").rmdir()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
