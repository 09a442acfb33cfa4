"""`report`, `check`, `handin`, `fsck`, `bench`, `config`: about runs, this machine and settings."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from facever.cli.common import CompetitionName, JsonFile, tell
from facever.errors import FaceverError


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Folders of runs; several are compared.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE",
            help="The page; RUN/report.html, or runs.html beside several runs, by default.",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Make the HTML page of a run, or one page of several runs."""
    from facever.report import write_report, write_reports

    several = len(folders) > 1
    print(write_reports(folders, output) if several else write_report(folders[0], output))


def fsck(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    mend: Annotated[
        bool, typer.Option("--repair", help="Mend what the run's own files suffice for.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Check that a run is whole, and tell what the same command would do with it now."""
    from facever.errors import CheckFailed
    from facever.fsck import examine, repair

    health = repair(run) if mend else examine(run)
    tell(health.to_json(), json_file, health.to_text())
    if health.findings:
        raise CheckFailed(f"{run}: problems, listed above: {len(health.findings)}")


def check(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="A run, a submission, or checkpoints.")
    ],
    competition: CompetitionName = None,
    sample: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Sample submission, for `custom`.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Check a run, a submission or an ensemble of checkpoints by a competition's rules."""
    from facever.errors import CheckFailed
    from facever.rules import check

    answer = check(paths, competition, sample)
    tell(answer.to_json(), json_file, answer.to_text())
    if answer.broken:
        whose = answer.competition.rules.name
        raise CheckFailed(f"rules of {whose} that are not kept: {len(answer.broken)}")


def handin(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Folder of a run; several: an ensemble.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="ZIP", help="The zip.")],
    competition: CompetitionName = None,
    submission: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="What was sent; the newest that RUN made by default."),
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option("--acknowledgement", metavar="FILE", help="Your own words, put first."),
    ] = None,
    with_checkpoint: Annotated[
        bool, typer.Option("--checkpoint", help="Put best.pt in, too.")
    ] = False,
    largest: Annotated[int, typer.Option(metavar="MIB", min=1, help="The zip's limit.")] = 100,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Write it although rules are not kept.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Write the zip that a course asks for: README, metadata, runs, code; checked by its rules."""
    from facever.errors import CheckFailed
    from facever.handin import hand_in

    answer = hand_in(
        runs,
        output,
        competition,
        submission=submission,
        words=words,
        with_checkpoint=with_checkpoint,
        largest=largest,
        anyway=anyway,
    )
    tell(answer.to_json(), json_file, answer.to_text())
    if not answer.bytes:
        broken = ", ".join(line.rule for line in answer.checked.broken)
        raise CheckFailed(f"{output}: not written: {broken}; --anyway writes it all the same")


def bench(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|key=value",
            help="eer, growth, heads, identify, load, save, start, step, submit or synth (all by "
            "default), and settings.",
        ),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(metavar="N", help="Times that each side is measured.")
    ] = None,
    identities: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Identities, of `heads` and `save`.")
    ] = None,
    losses: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Losses that `heads` measures.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a trace of training steps, and tell its parts."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure what this machine reaches, as ratios to bare limits in one run."""
    from facever import bench as benches

    names, options = benches.ask(
        arguments or [], repeats=repeats, identities=identities, losses=losses
    )
    answer = benches.trace(options, trace) if trace else benches.run(names, options)
    tell(answer.to_json(), json_file, answer.to_text())


def config(
    show: Annotated[
        bool, typer.Option("--show", help="List every setting, as without options.")
    ] = False,
    init: Annotated[
        Path | None, typer.Option("--init", metavar="FILE", help="Write a commented file.")
    ] = None,
) -> None:
    """List every setting with its default, bounds and meaning, or write a starting file."""
    from facever.settings import commented_yaml, describe
    from facever.storage import write_text

    if init is None:
        print(describe(shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
        return
    if show:
        raise typer.BadParameter("--show and --init exclude each other")
    if init.exists():
        raise FaceverError(f"{init}: exists; expected a new file")
    write_text(init, commented_yaml())
    print(f"{init}: every setting with its default\nnext: facever train -c {init}")
