"""`report`, `check`, `fsck`, `bench`, `config`: about runs, this machine and settings."""

from pathlib import Path
from typing import Annotated

import typer

from facever.cli.common import JsonFile, tell
from facever.errors import FaceverError


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The page.")
    ] = None,
) -> None:
    """Make the HTML page of a run."""
    from facever.report import write_report

    print(write_report(run, output))


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
    competition: Annotated[str, typer.Option(metavar="NAME", help="Whose rules.")] = "S25",
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
        raise CheckFailed(f"rules of {answer.competition} that are not kept: {len(answer.broken)}")


def bench(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|key=value",
            help="eer, heads, identify, save, step or synth (all by default), and settings.",
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
    json_file: JsonFile = None,
) -> None:
    """Measure what this machine reaches, as ratios to bare limits in one run."""
    from facever import bench as benches

    names, options = benches.ask(
        arguments or [], repeats=repeats, identities=identities, losses=losses
    )
    answer = benches.run(names, options)
    tell(answer.to_json(), json_file, answer.to_text())


def config(
    show: Annotated[bool, typer.Option("--show", help="List every setting.")] = False,
    init: Annotated[
        Path | None, typer.Option("--init", metavar="FILE", help="Write a commented file.")
    ] = None,
) -> None:
    """List every setting with its default, bounds and meaning, or write a starting file."""
    from facever.settings import commented_yaml, describe
    from facever.storage import write_text

    if init is not None:
        if init.exists():
            raise FaceverError(f"{init}: exists; expected a new file")
        write_text(init, commented_yaml())
        print(f"{init}: every setting with its default\nnext: facever train -c {init}")
    elif show:
        print(describe())
    else:
        raise typer.BadParameter("expected --show or --init FILE")
