"""Whether a run on disk is whole, what a resume would do with it, and what can be mended.

Looking changes nothing; `repair` mends what another file of the run, or its content, proves.
Nothing that could still be of use is deleted: what is damaged gets another name.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from facever import checkpoint, runs
from facever.ask import Values
from facever.config import FREE_AT_RESUME, Config, differences, resolve
from facever.encoder import build_encoder
from facever.errors import CheckpointError, DataError, FaceverError
from facever.loss_setup import check_loss, saved_loss
from facever.plainyaml import dump_yaml, load_yaml
from facever.prepare import data_fingerprint, read_data
from facever.storage import write_text
from facever.tracking import METRICS, read_metrics

CHECKPOINTS = ("last.pt", "previous.pt", "best.pt")


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


@dataclass(frozen=True)
class Health:
    """What was found.

    Attributes:
        run: its folder.
        checked: what is in order, a line each.
        findings: what is not.
        mended: what was, and no longer is.
        resume: what the same command would do now.
    """

    run: Path
    checked: list[str]
    findings: list[Finding]
    mended: list[Finding]
    resume: str

    def to_json(self) -> Values:
        """Give all of it as primitives."""
        return {
            "run": str(self.run),
            "sound": not self.findings,
            "checked": self.checked,
            "problems": [str(finding) for finding in self.findings],
            "mended": [str(finding) for finding in self.mended],
            "resume": self.resume,
        }

    def to_text(self) -> str:
        """Say it in lines for people."""
        lines = [f"{self.run}", *(f"  sound    {line}" for line in self.checked)]
        lines += [f"  mended   {f.where}: {f.problem}\n           {f.remedy}" for f in self.mended]
        for f in self.findings:
            mendable = "`--repair`: " if f.mend else ""
            lines.append(f"  problem  {f.where}: {f.problem}\n           {mendable}{f.remedy}")
        return "\n".join([*lines, f"at a resume: {self.resume}"])


def examine(run: Path) -> Health:
    """Look at a run without changing anything.

    Raises:
        DataError: there is no such run.
        StorageError: a process works on it.
    """
    if not run.is_dir():
        raise DataError(f"{run}: no such run; expected a folder such as checkpoints/train-1")
    runs.check_idle(run)
    found = _look(run)
    return Health(run, _sound(found), list(_findings(found)), [], _resume(found))


def repair(run: Path) -> Health:
    """Mend what can be mended, and look again.

    Raises:
        DataError: there is no such run.
        StorageError: a process works on it, or it cannot be written.
    """
    health, mended = examine(run), list[Finding]()
    # One at a time: a mended `last.pt` may be what `best.pt` is mended from.
    while mendable := [finding for finding in health.findings if finding.mend]:
        with runs.locked(run, sweep=False):
            assert mendable[0].mend
            mendable[0].mend()
        mended.append(mendable[0])
        health = examine(run)
    return Health(run, health.checked, health.findings, mended, health.resume)


@dataclass(frozen=True)
class _Found:
    """What lies in the folder: what can be read, and why the rest cannot."""

    run: Path
    config: Config | None
    payloads: dict[str, Values]
    damage: dict[str, str]
    data: str
    """why a resume has not the data that it needs; empty where it has, or needs none"""

    @property
    def newest(self) -> str | None:
        """The checkpoint that a resume goes on from."""
        return next((name for name in CHECKPOINTS[:2] if name in self.payloads), None)

    @property
    def complete(self) -> bool:
        """Whether every epoch was trained."""
        if self.config is None or self.newest is None:
            return False
        return bool(self.payloads[self.newest]["epoch"] >= self.epochs)

    @property
    def epochs(self) -> int:
        """Of the whole run, which a wall-clock limit may have shortened."""
        assert self.config is not None
        assert self.newest is not None
        return self.payloads[self.newest]["progress"]["epochs"] or self.config.optim.epochs


def _look(run: Path) -> _Found:
    damage: dict[str, str] = {}
    config = _attempt("config.yaml", damage, lambda: _read_config(run / "config.yaml"))
    payloads = {}
    for name in CHECKPOINTS:
        if (run / name).exists():
            payload = _attempt(name, damage, partial(_read_checkpoint, run / name))
            if payload is not None:
                payloads[name] = payload
    found = _Found(run, config, payloads, damage, "")
    if config is None or runs.is_finished(run):
        return found
    return _Found(run, config, payloads, damage, _data_problem(found, config))


def _attempt(name: str, damage: dict[str, str], read: Callable[[], Any]) -> Any:
    """Read something, or note why it cannot be read."""
    try:
        return read()
    except FaceverError as error:
        damage[name] = str(error).splitlines()[0]
    except OSError as error:
        damage[name] = f"cannot be read: {error.strerror}"
    return None


def _read_config(path: Path) -> Config:
    return resolve([load_yaml(path)], check=check_loss)


def _read_checkpoint(path: Path) -> Values:
    """Load a checkpoint and try its weights on the encoder and the loss that it describes."""
    payload = checkpoint.load(path)
    try:
        config = resolve([payload["config"]])
        encoder = build_encoder(
            **config.model.model_dump() | {"pretrained": False}, image_size=config.data.image_size
        )
        checkpoint.load_weights(encoder, payload["encoder"], str(path))
        saved_loss(payload, str(path))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: does not fit itself: {error}") from None
    return payload


def _data_problem(found: _Found, config: Config) -> str:
    """Say why the data is not what a resume needs; empty where it is."""
    try:
        manifest = read_data(config.data)
    except FaceverError as error:
        return str(error).splitlines()[0]
    newest = found.newest
    if newest and found.payloads[newest]["lineage"]["data"] != data_fingerprint(manifest):
        return f"{config.data.root}: not the data that the run began with"
    return ""


def _findings(found: _Found) -> Iterator[Finding]:
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


def _settings(found: _Found) -> Iterator[Finding]:
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


def _damaged(found: _Found) -> Iterator[Finding]:
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


def _best(found: _Found) -> Iterator[Finding]:
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


def _hashes(found: _Found) -> Iterator[Finding]:
    for name in found.payloads:
        path = found.run / name
        if not checkpoint.side_car(path).exists():
            yield Finding(
                name, "has no SHA-256 beside it, by which damage would be found",
                "computed from the file, which can be read",
                partial(checkpoint.write_side_car, path),
            )  # fmt: skip


def _figures(found: _Found) -> Iterator[Finding]:
    """Yield what is wrong with metrics.jsonl up to the step of the newest checkpoint."""
    path = found.run / METRICS
    lines = read_metrics(found.run)
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


def _end(found: _Found) -> Iterator[Finding]:
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


def _sound(found: _Found) -> list[str]:
    """Say of each checkpoint that can be read where it stands."""
    lines = []
    for name, payload in found.payloads.items():
        best = payload["progress"]["best"].get("EER")
        lines.append(
            f"{name}: step {payload['step']:,}, {payload['epoch']} epochs"
            + (f", best validation EER {best:.2f} %" if best is not None else "")
        )
    lines.append(f"{METRICS}: {len(read_metrics(found.run)):,} lines")
    return lines


def _resume(found: _Found) -> str:
    """Say what the command that began the run would do now."""
    run, newest = found.run, found.newest
    if found.config is None:
        return "no command finds the run: it has no configuration"
    if runs.is_finished(run) and (found.complete or newest is None):
        return "nothing, the run is finished"
    if newest is None and any(name in found.damage for name in CHECKPOINTS[:2]):
        return "refused: no checkpoint can be read"
    if found.data:
        return f"refused: {found.data}"
    parent = runs.parent_of(run)
    if newest is None:
        if parent and not parent.exists():
            return f"refused: its parent {parent} is gone"
        return "begins at its first step; nothing was saved yet"
    payload = found.payloads[newest]
    if found.complete:
        return f"every epoch is trained ({newest}); scores the validation pairs and reports"
    fallback = "" if newest == "last.pt" else ", with a warning"
    return (
        f"goes on from step {payload['step']:,} in epoch {payload['epoch'] + 1} of "
        f"{found.epochs} ({newest}){fallback}"
    )
