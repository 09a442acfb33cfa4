"""Accuracy by size: facever's own backbones for faces, each trained alike on the same images.

    python benchmarks/backbones.py --data data/faces_hw2p2 --identities 100 \
        --pairs val_pairs.txt --pairs more_val_pairs.txt \
        data.image_size=48 optim.epochs=6 optim.batch_size=64 optim.lr=0.05

All have the same images, epochs, augmentation and seed; ConvNeXt alone has AdamW. Runs that were
finished are not repeated. Parameters and operations are those of the competition: 112 pixels, 512
dimensions, and a classifier of 8,631 identities.
"""

import argparse
import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from facever.ask import Ask
from facever.data.manifest import read_manifest
from facever.encoder import build_encoder, flop_count, parameter_count
from facever.metrics import Verification
from facever.pipeline import evaluate, train

# Each with a neck that keeps it within the competition's 30 M parameters.
BACKBONES = {
    "mobilefacenet": "gdc",
    "baseline5": "bn-linear-bn",
    "resnet18-face": "bn-linear-bn",
    "iresnet18": "bn-linear-bn",
    "resnet34-face": "gdc",
    "seresnet34": "gdc",
    "iresnet34_gdc": "gdc",
    "resnet50-face": "gdc",
    "convnext_face": "bn-linear-bn",
}
CONVNEXT = (
    "optim.name=adamw", "optim.lr=0.001", "optim.weight_decay=0.05", "model.drop_path_rate=0.1",
)  # fmt: skip
SIDE, DIM, IDENTITIES = 112, 512, 8631


@dataclass(frozen=True)
class Row:
    """What one backbone takes and reaches."""

    name: str
    parameters: int
    operations: int
    """of a forward pass of one image, a multiplication and an addition being two"""
    accuracy: float
    """on dev images"""
    results: Sequence[Verification]
    """on each list of pairs"""
    images_per_s: float

    def __str__(self) -> str:
        """Write it as a line of a Markdown table."""
        errors = [
            f"{100 * r.eer:.2f} ({100 * r.eer_low:.2f} to {100 * r.eer_high:.2f})"
            for r in self.results
        ]
        cells = [
            self.name, f"{self.parameters / 1e6:.2f}", f"{self.operations / 1e9:.2f}",
            f"{100 * self.accuracy:.2f}", *errors, f"{self.images_per_s:.0f}",
        ]  # fmt: skip
        return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train each and print its line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of a small competition")
    parser.add_argument("--identities", type=int, help="train on so many with the most images")
    parser.add_argument("--pairs", action="append", required=True, help="pair file in the folder")
    parser.add_argument("--only", action="append", choices=BACKBONES, help="of these; all")
    given, settings = parser.parse_known_args()
    errors = [f"EER on {name}, %" for name in given.pairs]
    columns = ["backbone", "parameters, M", "GFLOP", "dev accuracy, %", *errors, "images/s"]
    print(f"| {' | '.join(columns)} |")
    print("| --- " * len(columns) + "|", flush=True)
    chosen = deepest(given.data, given.identities) if given.identities else given.data
    for name in given.only or BACKBONES:
        print(train_one(name, chosen, given, settings), flush=True)


def deepest(data: Path, count: int) -> Path:
    """List the images of the identities with the most of them."""
    manifest = read_manifest(data)
    images = Counter(manifest.train.labels.tolist())
    kept = {label for label, _ in images.most_common(count)}
    file = Path("checkpoints") / f"{data.name}-{count}.csv"
    file.parent.mkdir(exist_ok=True)
    with file.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "identity", "split"])
        for split, listed in (("train", manifest.train), ("dev", manifest.dev)):
            assert listed is not None
            for path, label in zip(listed.paths, listed.labels.tolist(), strict=True):
                if label in kept:
                    where = (listed.root / path).resolve()
                    rows.writerow([where, manifest.identities[label], split])
    return file


def train_one(name: str, data: Path, given: argparse.Namespace, settings: Sequence[str]) -> Row:
    """Train a backbone, or take the run that is there, and measure its best epoch."""
    own = (f"model.backbone={name}", f"model.neck={BACKBONES[name]}")
    recipe = CONVNEXT if name == "convnext_face" else ()
    assignments = [f"data.root={data}", *settings, *own, *recipe]
    trained = train(Ask(assignments=assignments, run=f"backbone-{name}"))
    assert trained.run is not None
    images = given.data / "ver_data"
    measured = [
        evaluate([trained.run / "best.pt"], Ask(), pairs=given.data / pairs, images=images)
        for pairs in given.pairs
    ]
    rates = [line["images_per_s"] for line in metrics(trained.run) if "images_per_s" in line]
    return Row(
        name,
        *size(name),
        accuracy=trained.best["dev_accuracy_ce"],
        results=[each.final for each in measured],
        images_per_s=median(rates),
    )


def metrics(run: Path) -> Iterator[dict[str, float]]:
    """Yield the lines of a run's log."""
    yield from map(json.loads, (run / "metrics.jsonl").read_text().splitlines())


def size(name: str) -> tuple[int, int]:
    """Count parameters and operations at the competition's size, without memory for weights."""
    with torch.device("meta"):
        encoder = build_encoder(
            backbone=name, embedding_dim=DIM, neck=BACKBONES[name], image_size=SIDE
        )
    return parameter_count(encoder) + DIM * IDENTITIES, flop_count(encoder, SIDE)


if __name__ == "__main__":
    main()
