"""`evaluate`, `submit`, `average`, `export`: the commands that use a trained encoder."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from facever.cli.common import (
    CompetitionName,
    ConfigFile,
    ImagesDir,
    JsonFile,
    Mixed,
    PairsFile,
    make_ask,
    newest,
    split_arguments,
    tell,
)
from facever.errors import ConfigError

Transductive = Annotated[
    bool,
    typer.Option(
        "--transductive",
        help="eval.centre and eval.as_norm may look at all images that are scored.",
    ),
]


def evaluate(
    arguments: Mixed = None,
    config: ConfigFile = None,
    pairs: PairsFile = None,
    images: ImagesDir = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Measure a CSV with score,mated; repeat it for several."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Paired test of two checkpoints or score files.")
    ] = False,
    tricks: Annotated[
        bool, typer.Option("--tricks", help="Try each switch of the section `eval`, and the best.")
    ] = False,
    transductive: Transductive = False,
    competition: CompetitionName = None,
    slices: Annotated[
        bool, typer.Option("--slices", help="Errors by sharpness, norm, column and identity.")
    ] = False,
    hardest: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="List the N hardest pairs of each kind, and suspect labels."
        ),
    ] = 0,
    fmr: Annotated[
        float | None, typer.Option("--fmr", metavar="SHARE", help="Threshold for this FMR.")
    ] = None,
    det: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write fmr,fnmr,threshold as CSV.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure EER and its interval on labelled pairs, and accuracy on dev images."""
    from facever import pipeline
    from facever.measure import Wanted

    wanted = Wanted(fmr=fmr, slices=slices, hardest=hardest, det=det)
    if scores:
        _only(
            "--scores", arguments=arguments, config=config, pairs=pairs, images=images,
            tricks=tricks, transductive=transductive, competition=competition,
        )  # fmt: skip
        answer = pipeline.evaluate_scores(scores, compare=compare, wanted=wanted)
        tell(answer.to_json(), json_file, answer.to_text())
        return
    checkpoints, assignments = split_arguments(arguments)
    ask = make_ask(_switched(assignments, transductive), config)
    if tricks:
        from facever.tricks import try_tricks

        _only(
            "--tricks", compare=compare, competition=competition, slices=slices, hardest=hardest,
            fmr=fmr, det=det,
        )  # fmt: skip
        tried = try_tricks(checkpoints, ask, pairs=pairs, images=images)
        tell(tried.to_json(), json_file, tried.to_text())
        return
    answer = pipeline.evaluate(
        checkpoints,
        ask,
        pairs=pairs,
        images=images,
        compare=compare,
        competition=competition,
        wanted=wanted,
    )
    tell(answer.to_json(), json_file, answer.to_text())


def _switched(assignments: list[str], transductive: bool) -> list[str]:
    return [*assignments, "eval.transductive=true"] if transductive else assignments


def _only(option: str, **others: object) -> None:
    """Refuse options that have no meaning beside another one.

    Raises:
        ConfigError: with the first that was given.
    """
    given = [name for name, value in others.items() if value]
    if given:
        what = "checkpoints and settings" if given[0] == "arguments" else f"--{given[0]}"
        raise ConfigError(f"evaluate {option}: {what} have no effect with it; leave them out")


def submit(
    arguments: Mixed = None,
    config: ConfigFile = None,
    pairs: PairsFile = None,
    images: ImagesDir = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The CSV.")
    ] = None,
    competition: CompetitionName = None,
    sample: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Sample submission, for `custom` and F26."),
    ] = None,
    transductive: Transductive = False,
    upload: Annotated[
        bool, typer.Option("--upload", help="Send it to Kaggle and wait for its score.")
    ] = False,
    slug: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="kaggle.com/competitions/NAME, unless `data fetch` got the data."
        ),
    ] = None,
    message: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Shown at Kaggle beside the submission.")
    ] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long to wait for the score.")
    ] = 120,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also when an earlier upload was as good or better.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Score the test pairs and write the competition's CSV; several CKPT are an ensemble."""
    from facever import pipeline

    if upload:
        from facever.kaggle.api import check_key

        # Better known before the scoring than after it.
        check_key()
    elif slug or message or anyway:
        raise ConfigError("submit: --slug, --message and --anyway need --upload; add it")
    checkpoints, assignments = split_arguments(arguments)
    answer = pipeline.submit(
        checkpoints,
        make_ask(_switched(assignments, transductive), config),
        pairs=pairs,
        images=images,
        output=output,
        competition=competition,
        sample=sample,
    )
    facts: dict[str, Any] = {
        "csv": str(answer.csv),
        "competition": answer.competition.rules.name,
        "pairs": answer.pairs,
        "images": answer.images,
        "validation_eer": answer.eer,
    }
    lines = [answer.to_text()]
    if upload:
        from facever.kaggle.upload import upload as upload_csv

        uploaded = upload_csv(
            answer.csv,
            slug=slug,
            message=message,
            daily_limit=answer.competition.rules.submissions_a_day,
            wait=wait,
            anyway=anyway,
        )
        facts["kaggle"] = asdict(uploaded)
        lines.append(uploaded.to_text())
    tell(facts, json_file, "\n".join(lines))


def average(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The new checkpoint.")
    ],
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="CKPT|RUN|key=value", help="Checkpoints, runs (all of theirs), and settings."
        ),
    ],
    config: ConfigFile = None,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Leave out what raises the validation EER.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Average the weights of checkpoints into one ordinary checkpoint."""
    from facever import soup

    checkpoints, assignments = split_arguments(arguments)
    answer = soup.average(checkpoints, output, make_ask(assignments, config), greedy=greedy)
    tell(answer.to_json(), json_file, answer.to_text())


class Form(StrEnum):
    """What an encoder is exported as."""

    ONNX = "onnx"
    SAFETENSORS = "safetensors"
    HUB_FOLDER = "hub-folder"


def export(
    to: Annotated[Form, typer.Option("--to", help="What to write.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="PATH", help="The file, or the folder.")
    ],
    checkpoint: Annotated[
        Path | None, typer.Argument(metavar="CKPT", help="The newest best.pt where none.")
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip", help="ONNX: average with mirror images, or not. [as evaluated]"
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="ONNX: faces to check the file on too.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Write the encoder for other tools: ONNX, safetensors, or a folder for a model hub."""
    from facever import export as exporting

    answer = exporting.export(newest(checkpoint), output, to.value, flip=flip, images=images)
    tell(answer.to_json(), json_file, answer.to_text())
