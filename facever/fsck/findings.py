"""What is wrong with a run, and what mends it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from facever import checkpoint, runs
from facever.ask import Values
from facever.config import FREE_AT_RESUME, differences
from facever.fsck.found import CHECKPOINTS, Found
from facever.plainyaml import dump_yaml, load_yaml
from facever.storage import write_text
from facever.tracking import METRICS


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a run.

    Attributes:
        where: the file or folder.
        problem: what is wrong.
        remedy: what `repair` does about it, or what its owner can do.
        mend: does it; None where the run's files do not suffice.
    """

    where: str
    problem: str
    remedy: str
    mend: Callable[[], object] | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}\n  {self.remedy}"


def findings(found: Found) -> Iterator[Finding]:
    """Yield all that is wrong, what others are mended from first."""
    yield from _temporaries(found.run)
    yield from _settings(found)
    yield from _damaged(found)
    yield from _best(found)
    yield from _hashes(found)
    yield from _figures(found)
    yield from _end(found)
    if found.data:
        yield Finding("data", found.data, "put it back, or start anew with `--fresh`")


def _temporaries(run: Path) -> Iterator[Finding]:
    names = runs.temporaries(run)
    if names:
        shown = ", ".join(path.name for path in names)
        yield Finding(
            shown, "left by a process that was killed", "removed, as the next start would",
            lambda: runs.remove_temporaries(run),
        )  # fmt: skip


def _settings(found: Found) -> Iterator[Finding]:
    run, path = found.run, found.run / "config.yaml"
    newest = found.newest
    saved = found.payloads[newest]["config"] if newest else None
    if found.config is None:
        problem = found.damage["config.yaml"] if path.exists() else "missing"
        yield Finding(
            "config.yaml", problem,
            f"written again from {newest}" if newest else "the command that began the run has it",
            (lambda: write_text(path, dump_yaml(saved))) if saved else None,
        )  # fmt: skip
    elif saved and (changed := differences(saved, load_yaml(path), FREE_AT_RESUME)):
        yield Finding(
            "config.yaml", f"is not what {newest} was trained with: {changed[0]}",
            f"written again from {newest}", lambda: write_text(path, dump_yaml(saved)),
        )  # fmt: skip
    if "verb" not in runs.read_environment(run):
        yield Finding(
            "environment.json", "missing or damaged",
            f"`--run {run.name}` finds the run; without, no command does",
        )  # fmt: skip


def _damaged(found: Found) -> Iterator[Finding]:
    """Yield what is damaged among `last.pt` and `previous.pt`."""
    run = found.run
    for name in CHECKPOINTS[:2]:
        if name not in found.damage:
            continue
        whole = name == "last.pt" and "previous.pt" in found.payloads

        def mend(name: str = name, whole: bool = whole) -> None:
            checkpoint.set_aside(run / name)
            if whole:
                checkpoint.link(run / "previous.pt", run / "last.pt")

        remedy = f"renamed to damaged-{name}" + (", previous.pt takes its place" if whole else "")
        yield Finding(name, found.damage[name], remedy, mend)
    if "previous.pt" in found.payloads and not (run / "last.pt").exists():
        yield Finding(
            "last.pt", "missing", "previous.pt takes its place",
            lambda: checkpoint.link(run / "previous.pt", run / "last.pt"),
        )  # fmt: skip


def _best(found: Found) -> Iterator[Finding]:
    """Yield what is wrong with `best.pt`: damaged, missing, or not the best."""
    best = found.payloads[found.newest]["progress"]["best"] if found.newest else {}
    present = found.payloads.get("best.pt")
    if "best.pt" in found.damage:
        problem = found.damage["best.pt"]
    elif best and present is None:
        problem = f"missing; epoch {best['epoch']:.0f} was the best"
    elif best and present and present["progress"]["best"].get("epoch", 0) < best["epoch"]:
        problem = f"is of another epoch than {best['epoch']:.0f}, which was the best"
    else:
        return
    path = found.run / "best.pt"
    for name in CHECKPOINTS[:2]:
        if best and name in found.payloads and _is_of(found.payloads[name], best["epoch"]):

            def mend(source: Path = found.run / name) -> None:
                checkpoint.set_aside(path)
                checkpoint.link(source, path)

            yield Finding(
                "best.pt", problem, f"{name}, which is that epoch's, takes its place", mend
            )
            return
    remedy = "no other file holds that epoch's weights; a later and better epoch replaces it"
    yield Finding("best.pt", problem, remedy)


def _is_of(payload: Values, epoch: float) -> bool:
    """Whether a checkpoint was written at the end of an epoch."""
    return bool(payload["epoch"] == epoch and payload["sampler"]["position"] == 0)


def _hashes(found: Found) -> Iterator[Finding]:
    for name in found.payloads:
        path = found.run / name
        if not checkpoint.side_car(path).exists():
            yield Finding(
                name, "has no SHA-256 beside it, by which damage would be found",
                "computed from the file, which can be read",
                partial(checkpoint.write_side_car, path),
            )  # fmt: skip


def _figures(found: Found) -> Iterator[Finding]:
    """Yield what is wrong with metrics.jsonl up to the step of the newest checkpoint."""
    path, lines = found.run / METRICS, found.lines
    kept = "".join(json.dumps(line) + "\n" for line in lines)
    written = path.read_bytes() if path.exists() else b""
    if written.count(b"\n") != len(lines) or written[-1:] not in (b"", b"\n"):
        yield Finding(
            METRICS, "lines are cut off or damaged", "they are left out",
            lambda: write_text(path, kept),
        )  # fmt: skip
    if found.config is None or found.newest is None:
        return
    payload = found.payloads[found.newest]
    validated = {line["epoch"] for line in lines if "EER" in line}
    every, last = found.config.eval.every, found.epochs
    due = {e for e in range(1, payload["epoch"] + 1) if e % every == 0 or e == last}
    if missing := sorted(due - validated):
        yield Finding(
            METRICS, f"no validation of epoch {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            "lost; the weights do not depend on it",
        )  # fmt: skip


def _end(found: Found) -> Iterator[Finding]:
    marker = found.run / runs.FINISHED
    if not marker.exists():
        return
    if found.newest and not found.complete:
        epoch = found.payloads[found.newest]["epoch"]
        yield Finding(
            runs.FINISHED, f"says so after {epoch} epochs of fewer than asked for",
            "removed, so that the run goes on", marker.unlink,
        )  # fmt: skip
    elif not (found.run / "report.html").exists():
        yield Finding("report.html", "missing", f"`facever report {found.run}` makes it")
