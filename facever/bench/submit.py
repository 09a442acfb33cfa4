"""A submission of 6,000 pairs, from a checkpoint to a linted CSV, against embedding their images.

The floor is a bare loop of the same encoder over the images that the pairs show, each once with
its mirror image. Without `data.root` the pairs are of drawn faces.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from facever import checkpoint
from facever.ask import Ask
from facever.bench.faces import configured
from facever.bench.harness import Options, compare
from facever.bench.rows import Row
from facever.bench.save import trained
from facever.config import Config
from facever.data.datasets import ImagePairDataset
from facever.data.lists import PairList
from facever.data.manifest import read_manifest
from facever.device import autocast, resolve_precision
from facever.embed import images_at_once
from facever.errors import DataError
from facever.pipeline import submit
from facever.validate import scorer

PAIRS = 6000

AIM = 1.05


def measure(options: Options, *, pairs: int = PAIRS) -> Iterator[Row]:
    """One row."""
    with configured("submit", options, test_pairs=pairs) as config, TemporaryDirectory() as folder:
        test = read_manifest(config.data.root).test_pairs
        if test is None or test.source is None:
            raise DataError(f"{config.data.root}: no pairs to submit, which this bench measures")
        path, output = Path(folder) / "bench.pt", Path(folder) / "bench.csv"
        checkpoint.save(path, _payload(config))
        ask = Ask([config.to_dict()])

        def subject() -> None:
            submit([path], ask, output=output)

        timing = compare(subject, lambda: _embed(config, path, test), repeats=options.repeats)
    yield Row(
        "submit",
        config.model.backbone,
        "a bare loop that embeds the distinct images",
        timing,
        AIM,
        {"pairs": len(test)},
        images=len(test.images),
    )


def _payload(config: Config) -> dict[str, object]:
    """Give a checkpoint that knows its validation, as that of a run does."""
    state = trained(config, 2)
    figures = {"EER": 40.0, "EER_low": 40.0, "EER_high": 40.0, "epoch": 0.0}
    return {
        **{name: kind() for name, kind in checkpoint.KEYS.items()},
        **state.state_dict(),
        "format": checkpoint.FORMAT,
        "config": config.to_dict(),
        "preprocess": state.encoder.transform.to_dict(),
        "lineage": {"parents": [], "data": "", "train_images": 0, "precision": "auto"},
        "metrics": figures,
    }


@torch.inference_mode()
def _embed(config: Config, path: Path, pairs: PairList) -> None:
    encoder, _ = scorer(config, path, checkpoint.load(path))
    device = next(encoder.parameters()).device
    precision = resolve_precision(config.engine.precision, device, encoder)
    images = ImagePairDataset(pairs, image_size=config.data.image_size, pack=config.data.pack)
    positions, count = np.arange(len(images.images)), images_at_once(device)
    for start in range(0, len(positions), count):
        indices = positions[start : start + count]
        pixels = torch.from_numpy(images.gather(indices)).to(device)
        batch = encoder.transform.batch(pixels)
        with autocast(device, precision):
            (encoder(batch) + encoder(batch.flip(3))).float().cpu()
