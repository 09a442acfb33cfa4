"""Whether a run on disk is whole, what a resume would do with it, and what can be mended.

Looking changes nothing; `repair` mends what another file of the run, or its content, proves.
Nothing that could still be of use is deleted: what is damaged gets another name.
"""

from dataclasses import dataclass
from pathlib import Path

from facever import runs
from facever.ask import Values
from facever.errors import DataError
from facever.fsck.findings import Finding, findings
from facever.fsck.found import CHECKPOINTS, Found, look
from facever.tracking import METRICS

__all__ = ["Finding", "Health", "examine", "repair"]


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
    found = look(run)
    return Health(run, _sound(found), list(findings(found)), [], _resume(found))


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


def _sound(found: Found) -> list[str]:
    """Say of each checkpoint that can be read where it stands."""
    lines = []
    for name, payload in found.payloads.items():
        best = payload["progress"]["best"].get("EER")
        lines.append(
            f"{name}: step {payload['step']:,}, {payload['epoch']} epochs"
            + (f", best validation EER {best:.2f} %" if best is not None else "")
        )
    lines.append(f"{METRICS}: {len(found.lines):,} lines")
    return lines


def _resume(found: Found) -> str:
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
