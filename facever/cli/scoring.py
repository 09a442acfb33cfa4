"""`evaluate`, `submit`, `export`: the commands that use a trained encoder."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facever.cli.common import (
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
from facever.competition import profile
from facever.errors import ConfigError

if TYPE_CHECKING:
    from facever.validate import Evaluated


def evaluate(
    arguments: Mixed = None,
    config: ConfigFile = None,
    pairs: PairsFile = None,
    images: ImagesDir = None,
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measure a CSV with score,mated instead.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Paired test of two checkpoints.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Measure EER and its interval on labelled pairs, and accuracy on dev images."""
    from facever import pipeline

    if scores is not None:
        _tell_evaluated(pipeline.evaluate_scores(scores), json_file)
        return
    checkpoints, assignments = split_arguments(arguments)
    ask = make_ask(assignments, config)
    answer = pipeline.evaluate(checkpoints, ask, pairs=pairs, images=images, compare=compare)
    _tell_evaluated(answer, json_file)


def submit(
    arguments: Mixed = None,
    config: ConfigFile = None,
    pairs: PairsFile = None,
    images: ImagesDir = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The CSV.")
    ] = None,
    competition: Annotated[str, typer.Option(metavar="NAME", help="Whose rules.")] = "S25",
    sample: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Sample submission, for `custom`.")
    ] = None,
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
        make_ask(assignments, config),
        pairs=pairs,
        images=images,
        output=output,
        competition=competition,
        sample=sample,
    )
    eer = "" if answer.eer is None else f", validation EER {answer.eer:.2%}"
    facts: dict[str, Any] = {
        "csv": str(answer.csv),
        "pairs": answer.pairs,
        "validation_eer": answer.eer,
    }
    lines = [
        f"{answer.csv}: {answer.pairs:,} pairs, linted for {competition}{eer}",
        f"side-car: {answer.csv.with_suffix('.json')}",
    ]
    if upload:
        from facever.kaggle.upload import upload as upload_csv

        limit = profile(competition, sample).submissions_a_day
        uploaded = upload_csv(
            answer.csv, slug=slug, message=message, daily_limit=limit, wait=wait, anyway=anyway
        )
        facts["kaggle"] = asdict(uploaded)
        lines.append(uploaded.to_text())
    tell(facts, json_file, "\n".join(lines))


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


def _tell_evaluated(answer: "Evaluated", json_file: Path | None) -> None:
    tell(answer.to_json(), json_file, answer.to_text())
