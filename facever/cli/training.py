"""`train`, `finetune`, `compare`, `demo`: the commands that train."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facever.cli.common import (
    Assignments,
    ConfigFile,
    DryRun,
    From,
    JsonFile,
    Resume,
    RunName,
    make_ask,
    tell,
)

if TYPE_CHECKING:
    from facever.pipeline import Trained


def train(
    assignments: Assignments = None,
    config: ConfigFile = None,
    loss: Annotated[str | None, typer.Option(metavar="NAME", help="Loss; default ce.")] = None,
    run: RunName = None,
    resume: Resume = True,
    dry_run: DryRun = False,
    json_file: JsonFile = None,
) -> None:
    """Stage 1: train an encoder from scratch, with cross-entropy on identities."""
    from facever import pipeline

    ask = make_ask(assignments, config, loss=loss, run=run, fresh=not resume, dry_run=dry_run)
    _tell_trained(pipeline.train(ask), json_file, following="facever finetune --loss adaface")


def finetune(
    loss: Annotated[str, typer.Option(metavar="NAME", help="Loss, or a sum of losses.")],
    assignments: Assignments = None,
    config: ConfigFile = None,
    parent: From = None,
    run: RunName = None,
    resume: Resume = True,
    dry_run: DryRun = False,
    json_file: JsonFile = None,
) -> None:
    """Stage 2: go on from the newest trained encoder, with a margin or metric loss."""
    from facever import pipeline

    ask = make_ask(
        assignments, config, loss=loss, run=run, fresh=not resume, dry_run=dry_run, parent=parent
    )
    _tell_trained(pipeline.finetune(ask), json_file, following="facever evaluate")


def compare(
    data: Annotated[str, typer.Option(metavar="mnist|cifar10|DIR", help="What to train on.")],
    losses: Annotated[str, typer.Option(metavar="A,B,...", help="Losses, or sums of losses.")],
    assignments: Assignments = None,
    config: ConfigFile = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Runs of each, seeds 0 to N - 1.")] = 1,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=v1,v2", help="Values to try, e.g. loss.params.m=0.3,0.5."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Short for model.backbone=NAME.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Short for optim.epochs=N.")
    ] = None,
    parent: From = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the comparison.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """The loss laboratory: the same data, encoder, budget and seeds for every loss."""
    from facever import compare as laboratory
    from facever.plainyaml import load_yaml

    short = {"model.backbone": backbone, "optim.epochs": epochs}
    answer = laboratory.compare(
        laboratory.Request(
            data,
            [name.strip() for name in losses.split(",") if name.strip()],
            seeds=seeds,
            sweeps=sweep or [],
            layers=[load_yaml(config)] if config else [],
            assignments=[f"{key}={value}" for key, value in short.items() if value is not None]
            + (assignments or []),
            parent=parent,
            out=out,
        )
    )
    tell(
        answer.to_json(),
        json_file,
        f"{laboratory.markdown(answer.rows)}\n"
        f"table: {answer.folder / 'table.csv'}\nreport: {answer.folder / 'report.html'}",
    )


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the demo.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="A minute instead of five.")] = False,
) -> None:
    """The whole story on synthetic faces, in a few minutes on a laptop CPU."""
    from facever.demo import run_demo

    print(run_demo(out, quick=quick))


def _tell_trained(answer: "Trained", json_file: Path | None, following: str) -> None:
    facts = {"config": answer.config.to_dict(), **answer.facts}
    if answer.run is None:
        from facever.plainyaml import dump_yaml

        tell(facts, json_file, dump_yaml(facts))
        return
    best = answer.best
    line = f"{answer.run}: best EER {best['EER']:.2f} %"
    if "EER_low" in best:
        line += f" (95 %: {best['EER_low']:.2f} to {best['EER_high']:.2f})"
    tell(
        {"run": str(answer.run), "best": dict(best), **facts},
        json_file,
        f"{line}, epoch {best['epoch']:.0f}\n"
        f"report: {answer.run / 'report.html'}\nnext: {following}",
    )
