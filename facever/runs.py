"""Runs on disk: `checkpoints/<run>/`, their names, and which one a command goes on with.

Configurations are plain dicts here; what may differ at a resume is the caller's to say.
"""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from facever import checkpoint
from facever.config import differences
from facever.errors import CheckpointError, ConfigError, StorageError
from facever.plainyaml import dump_yaml, load_yaml
from facever.storage import write_json, write_text
from facever.tracking import note

CHECKPOINTS = Path("checkpoints")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def find_run(
    verb: str,
    name: str | None,
    config: Mapping[str, Any],
    *,
    free: Iterable[str] = (),
    parent: Path | None = None,
    root: Path = CHECKPOINTS,
) -> Path | None:
    """Find the run that this command goes on with, or None where it begins one.

    With a name it is that run; without, the verb's newest unfinished run with an equal
    configuration and parent.

    Args:
        verb: `train` or `finetune`.
        name: of the run, or None.
        config: the resolved configuration, as primitives.
        free: dotted keys that may differ.
        parent: the checkpoint that it starts from.
        root: folder of all runs.

    Raises:
        ConfigError: the name cannot be a folder's, or the run has another configuration.
    """
    if name is None:
        for run in reversed(list_runs(verb, root)):
            # Another run's damaged configuration is no concern of this command.
            with contextlib.suppress(ConfigError):
                if not is_finished(run) and not changes(run, config, free, parent):
                    return run
        return None
    run = root / _checked_name(name)
    if not (run / "config.yaml").exists():
        return None
    changed = changes(run, config, free, parent)
    if changed:
        raise ConfigError(
            f"{run}: exists with another configuration:\n  "
            + "\n  ".join(changed)
            + "\n  `--fresh` starts anew beside it; `--run` names another"
        )
    return run


def changes(
    run: Path, config: Mapping[str, Any], free: Iterable[str], parent: Path | None
) -> list[str]:
    """List what a run was made with and a command asks for otherwise, `key: old -> new`."""
    changed = differences(load_yaml(run / "config.yaml"), config, free)
    recorded = parent_of(run)
    if recorded != parent:
        changed.append(f"parent: {recorded} -> {parent}")
    return changed


def create_run(
    verb: str,
    name: str | None,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    *,
    root: Path = CHECKPOINTS,
) -> Path:
    """Make the folder of a new run with its `config.yaml` and `environment.json`.

    Without a name, or with one that is taken, the next free number is appended.

    Raises:
        ConfigError: the name cannot be a folder's.
        StorageError: the folder cannot be made or written.
    """
    stem = verb if name is None else _checked_name(name)
    draft = root / f".new-{os.getpid()}"
    write_json(draft / "environment.json", environment)
    write_text(draft / "config.yaml", dump_yaml(config))
    for number in itertools.count(1):
        run = root / (stem if name and number == 1 else f"{stem}-{number}")
        # A rename onto a folder with anything in it fails, so of two processes one goes on to
        # the next number; and a run that is there has its configuration.
        try:
            draft.rename(run)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise StorageError(f"{run}: cannot be made: {error.strerror}") from None
        else:
            return run
    raise AssertionError("numbers do not end")


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--run: {name!r} cannot name a run; expected letters, digits, dots, dashes and "
            "underscores, at most 100, beginning with a letter or digit"
        )
    return name


def read_environment(run: Path) -> dict[str, Any]:
    """Read a run's `environment.json`; empty where there is none that can be read."""
    try:
        values = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def parent_of(run: Path) -> Path | None:
    """Give the checkpoint that a run started from, as recorded when it began."""
    parent = read_environment(run).get("parent")
    return Path(parent) if parent and isinstance(parent, str) else None


def list_runs(verb: str | None = None, root: Path = CHECKPOINTS) -> list[Path]:
    """List the runs, oldest first; of one verb, whatever they are called."""
    runs = [path.parent for path in root.glob("[!.]*/config.yaml")]
    if verb is not None:
        runs = [run for run in runs if read_environment(run).get("verb") == verb]
    return sorted(runs, key=lambda run: ((run / "config.yaml").stat().st_mtime_ns, _number(run)))


def _number(run: Path) -> int:
    digits = run.name.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0


FINISHED = "finished"


def is_finished(run: Path) -> bool:
    """Tell whether a run has come to its end."""
    return (run / FINISHED).exists()


def mark_finished(run: Path) -> None:
    """Note that a run has come to its end."""
    (run / FINISHED).touch()


def newest_best(
    root: Path = CHECKPOINTS, *, verb: str | None = None, finished: bool = False
) -> Path:
    """Find the newest `best.pt`, of any run, or of a verb's (finished) runs.

    Raises:
        CheckpointError: there is none, with the command that makes one.
    """
    bests = [
        run / "best.pt"
        for run in list_runs(verb, root)
        if (run / "best.pt").exists() and (is_finished(run) or not finished)
    ]
    if not bests:
        what = f"finished `{verb}` run with a " if finished else ""
        raise CheckpointError(
            f"{root}/: no {what}best.pt\n  `facever train data.root=DIR` makes one, or name a "
            "checkpoint"
        )
    return max(bests, key=lambda path: path.stat().st_mtime_ns)


def load_newest(run: Path) -> dict[str, Any] | None:
    """Read the checkpoint from which a run goes on, or None where nothing was saved yet.

    A damaged `last.pt` falls back on `previous.pt`, with a warning.

    Raises:
        CheckpointError: both are damaged.
    """
    candidates = [run / name for name in ("last.pt", "previous.pt") if (run / name).exists()]
    for path in candidates:
        try:
            return checkpoint.load(path)
        except CheckpointError as error:
            if path == candidates[-1]:
                raise
            note(f"warning: {error}\n  going on from previous.pt")
    return None


_LOCK = ".lock"


@contextmanager
def locked(run: Path, *, sweep: bool = True) -> Iterator[None]:
    """Hold a run for this process alone.

    Args:
        run: its folder.
        sweep: remove what a killed process left behind.

    Raises:
        StorageError: another process works on it, or the folder cannot be written.
    """
    try:
        file = (run / _LOCK).open("w")
    except OSError as error:
        raise StorageError(f"{run}: cannot be written: {error.strerror}") from None
    with file:
        _take(file, run, fcntl.LOCK_EX)
        if sweep:
            remove_temporaries(run)
        yield


def check_idle(run: Path) -> None:
    """Make sure that no process works on a run, without writing to it.

    Raises:
        StorageError: one does.
    """
    with contextlib.suppress(FileNotFoundError), (run / _LOCK).open() as file:
        _take(file, run, fcntl.LOCK_SH)


def _take(file: IO[str], run: Path, kind: int) -> None:
    # Of this process alone: a lock by `flock` would live on in the loader's workers, which
    # outlive a killed training by seconds.
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB)
    except OSError:
        raise StorageError(
            f"{run}: another process works on this run; `--run NAME` starts one of its own"
        ) from None


def temporaries(run: Path) -> list[Path]:
    """List what a process killed in the middle of a save left behind."""
    return sorted(path for path in run.glob(".*") if path.name != _LOCK)


def remove_temporaries(run: Path) -> None:
    """Remove `temporaries`."""
    for path in temporaries(run):
        with contextlib.suppress(OSError):
            path.unlink()
