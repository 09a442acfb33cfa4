"""The whole story on synthetic faces, through the same functions as real data."""

import contextlib
import time
from pathlib import Path
from typing import Any

from facever.ask import Ask
from facever.data.synth import synthesise
from facever.pipeline import evaluate, finetune, submit, train
from facever.tracking import duration, note, progress

# Small enough for two CPU cores: some three minutes, or one with `quick`.
SETTINGS = {
    "data": {"image_size": 96},
    "model": {"backbone": "resnet10t", "embedding_dim": 128},
    "optim": {"batch_size": 64},
    "eval": {"bootstrap": 500},
}

# A scale of 64 is meant for thousands of identities.
FINETUNING = {
    "loss": {"params": {"s": 32.0}},
    "optim": {"epochs": 5, "batch_size": 64},
    "eval": {"bootstrap": 500},
}


def run_demo(out: Path, *, quick: bool = False) -> str:
    """Make faces, train, finetune, evaluate and submit below `out`; say how it went.

    What was done before is not done again: data that is there is used, and runs that were
    finished stay.

    Args:
        out: a folder, made where it is absent.
        quick: fewer faces and epochs.

    Returns:
        The EER before and after, where everything is, and the next commands.
    """
    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    people, epochs = (60, 3) if quick else (120, 6)
    faces = Path(f"faces-{people}")
    given = {"data": {"root": str(faces)}, "optim": {"epochs": epochs}}
    with contextlib.chdir(out):
        if not faces.exists():
            make_faces(faces, identities=people, images=16)
        first = train(Ask([SETTINGS, given], run=f"train-{people}"))
        assert first.run is not None
        best = first.run / "best.pt"
        second = finetune(
            Ask([{"loss": {"name": "adaface"}}, FINETUNING], run=f"finetune-{people}", parent=best)
        )
        assert second.run is not None
        result = evaluate([second.run / "best.pt"], Ask())
        handed_in = submit([second.run / "best.pt"], Ask())
    return "\n".join(
        [
            f"validation EER  {first.best['EER']:.2f} % after train (cross-entropy)",
            f"                {100 * result.final.eer:.2f} % after finetune (AdaFace)",
            f"submission      {out / handed_in.csv}, {handed_in.pairs:,} pairs",
            f"report          {out / second.run / 'report.html'}",
            f"time            {duration(time.monotonic() - start)}",
            "next, on real data:",
            "  facever data inspect DIR",
            "  facever train data.root=DIR",
            "  facever finetune --loss adaface",
            "  facever evaluate",
            "  facever submit",
        ]
    )


def make_faces(out: Path, **options: Any) -> dict[str, int]:
    """Draw a data set with a progress line; options as of `synthesise`."""
    note(f"drawing faces into {out}")
    with progress("drawing") as report:
        counts = synthesise(out, progress=report, **options)
    return vars(counts)
