"""`verify`, `identify`, `embed`: the commands for one's own photographs."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facever.cli.common import JsonFile, newest, tell

if TYPE_CHECKING:
    from facever.align import Detector

Encoder = Annotated[
    Path | None,
    typer.Option("--from", metavar="CKPT", help="Checkpoint, or a .safetensors by `export`."),
]

Fmr = Annotated[
    float | None,
    typer.Option(
        "--fmr", metavar="SHARE", help="FMR to keep to, e.g. 0.001; else the threshold is at EER."
    ),
]

DetectorFile = Annotated[
    Path | None,
    typer.Option(
        "--detector",
        metavar="YUNET.onnx",
        help="Find and align faces; else images are taken as aligned.",
    ),
]


class By(StrEnum):
    """What the score of an identity with several images is."""

    best = "best"
    mean = "mean"


def verify(
    left: Annotated[Path, typer.Argument(metavar="A")],
    right: Annotated[Path, typer.Argument(metavar="B")],
    source: Encoder = None,
    fmr: Fmr = None,
    detector: DetectorFile = None,
    json_file: JsonFile = None,
) -> None:
    """Tell whether two face images show the same person."""
    from facever import identify as photos

    answer = photos.verify(left, right, newest(source), fmr=fmr, detector=_detector(detector))
    tell(answer.to_json(), json_file, answer.to_text())


def identify(
    probe: Annotated[Path, typer.Argument(metavar="PROBE", help="An image, or a folder of them.")],
    gallery: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="A folder per identity, or files named by person; or an .npz by `embed`.",
        ),
    ],
    source: Encoder = None,
    fmr: Fmr = None,
    detector: DetectorFile = None,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Identities to list.")] = 5,
    by: Annotated[
        By, typer.Option(help="An identity's score: its best image's, or the mean of all.")
    ] = By.best,
    json_file: JsonFile = None,
) -> None:
    """Tell who of a gallery is on an image; nobody where all scores are below the threshold."""
    from facever import identify as photos

    answer = photos.identify(
        probe,
        gallery,
        newest(source),
        fmr=fmr,
        top=top,
        by=by.value,
        detector=_detector(detector),
    )
    tell(answer.to_json(), json_file, answer.to_text())


def embed(
    directory: Annotated[Path, typer.Argument(metavar="DIR")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="An .npz.")],
    source: Encoder = None,
    detector: DetectorFile = None,
) -> None:
    """Write the embeddings of every image in a folder: paths, embeddings, norms."""
    from facever.embed import embed_folder

    count = embed_folder(directory, output, newest(source), detector=_detector(detector))
    print(f"{output}: {count:,} embeddings")


def _detector(model: Path | None) -> "Detector | None":
    from facever.align import Detector

    return None if model is None else Detector(model)
