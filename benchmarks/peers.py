"""Images a second of real training: facever beside the codes people use today, in one run.

    git clone https://github.com/mk-minchul/AdaFace /tmp/AdaFace
    git clone https://github.com/deepinsight/insightface /tmp/insightface
    python benchmarks/peers.py --data data/faces_hw2p2 \
        --adaface /tmp/AdaFace --insightface /tmp/insightface --json peers.json

Each side reads image files of the same folder, augments them by its own recipe, and takes
optimiser steps with its own IR-18, its own head, SGD with momentum and batches of one size. All
load in the training process: on a machine without idle cores a worker's work is taken from the
step. The peers' networks, heads, augmentation and data sets are imported from their checkouts,
unchanged; of their loops stands here what a step costs without Lightning, callbacks and DDP, in
their favour. AdaFace's and InsightFace's mixed precision is fp16 on CUDA; a CPU runs fp32.

facever's gains are told one by one: it is measured as a peer would run it - fp32, channels first,
from files - and then with its layout, precision and pack in turn.

Blocks of all sides alternate, so that a machine whose speed drifts drifts for all, and each side is
a process of its own, for facever tells the C library what to do with freed memory. The peers' code
is never part of facever.
"""

import argparse
import importlib
import json
import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined] # public, not listed
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from facever.config import resolve
from facever.data.manifest import read_manifest
from facever.data_setup import open_data
from facever.loss_setup import check_loss
from facever.prepare import batch_stream, build_parts
from facever.step import train_step

Step = Callable[[], object]

# As a peer runs; then one gain after the other.
LADDER = {
    "facever: fp32, channels first, files": (
        "engine.precision=fp32",
        "engine.channels_last=false",
        "data.pack=files",
    ),
    "+ channels last": ("engine.precision=fp32", "data.pack=files"),
    "+ bf16": ("engine.precision=bf16", "data.pack=files"),
    "+ pack (facever as it comes)": (),
}


@dataclass(frozen=True)
class Setting:
    """What all sides share."""

    data: Path
    folders: Path
    """the training images as a folder per identity"""
    identities: int
    batch: int


def facever_step(setting: Setting, assignments: tuple[str, ...]) -> Step:
    """Facever's whole step on its own IR-18 with AdaFace, as `facever train` takes it."""
    config = resolve(
        [],
        [
            f"data.root={setting.data}",
            "model.backbone=iresnet18",
            "loss.name=adaface",
            f"optim.batch_size={setting.batch}",
            *assignments,
        ],
        check=check_loss,
    )
    data = open_data(config.data)
    parts = build_parts(config, data, pretrained=False)
    batches = batch_stream(config, data, parts)
    schedule = parts.schedule(config.optim.epochs)
    stream = (batch for epoch in range(10**6) for batch in batches(epoch, 0))
    return lambda: train_step(parts.state, parts.recipe, next(stream), schedule)


def adaface_step(setting: Setting, checkout: Path) -> Step:
    """AdaFace's `ir_18`, head, folder data set and augmentation, by the loop of its Trainer."""
    with importing_from(checkout):
        net, head = importlib.import_module("net"), importlib.import_module("head")
        folder = importlib.import_module("dataset.image_folder_dataset")
    network = net.build_model("ir_18")
    classifier = head.build_head(
        "adaface",
        embedding_size=512,
        class_num=setting.identities,
        m=0.4,
        h=0.333,
        s=64.0,
        t_alpha=0.01,
    )
    # The probabilities of its published scripts.
    images = folder.CustomImageFolderDataset(
        str(setting.folders),
        transform=flip_and_normalise(),
        low_res_augmentation_prob=0.2,
        crop_augmentation_prob=0.2,
        photometric_augmentation_prob=0.2,
        output_dir=str(setting.folders.parent),
    )
    entropy = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(
        [*network.parameters(), *classifier.parameters()], lr=0.01, momentum=0.9, weight_decay=5e-4
    )
    batches = endless(images, setting.batch)

    def step() -> None:
        pictures, labels = next(batches)
        embeddings, norms = network(pictures)
        loss = entropy(classifier(embeddings, norms, labels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def insightface_step(setting: Setting, checkout: Path) -> Step:
    """arcface_torch's `r18`, margin loss and Partial FC at rate 1, by the loop of `train_v2.py`."""
    with importing_from(checkout / "recognition/arcface_torch"):
        backbones = importlib.import_module("backbones")
        losses = importlib.import_module("losses")
        partial_fc = importlib.import_module("partial_fc_v2")
    if not distributed.is_initialized():
        alone = TCPStore("localhost", 0, world_size=1, is_master=True)
        distributed.init_process_group("gloo", store=alone, rank=0, world_size=1)
    network = backbones.get_model("r18", dropout=0.0, fp16=False, num_features=512)
    classifier = partial_fc.PartialFC_V2(
        losses.CombinedMarginLoss(64, 1.0, 0.5, 0.0), 512, setting.identities
    )
    optimizer = torch.optim.SGD(
        [{"params": network.parameters()}, {"params": classifier.parameters()}],
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
    )
    batches = endless(
        datasets.ImageFolder(str(setting.folders), flip_and_normalise()), setting.batch
    )

    def step() -> None:
        pictures, labels = next(batches)
        with staying_on_the_cpu():
            loss = classifier(network(pictures), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def notebook_step(setting: Setting, checkout: Path) -> Step:
    """A notebook's loop: ImageFolder, albumentations and cross-entropy, on InsightFace's r18."""
    import albumentations as A  # noqa: N812 (the notebooks' name)
    import numpy as np

    with importing_from(checkout / "recognition/arcface_torch"):
        backbones = importlib.import_module("backbones")
    recipe = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.ShiftScaleRotate(shift_limit=0.05, scale_limit=0.05, rotate_limit=10, p=0.5),
            A.ColorJitter(p=0.3),
            A.CoarseDropout(p=0.3),
            A.Normalize(mean=(0.5,) * 3, std=(0.5,) * 3),
            A.ToTensorV2(),
        ]
    )
    images = datasets.ImageFolder(
        str(setting.folders), lambda picture: recipe(image=np.asarray(picture))["image"]
    )
    network = nn.Sequential(
        backbones.get_model("r18", dropout=0.0, fp16=False, num_features=512),
        nn.Linear(512, setting.identities),
    )
    entropy = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    batches = endless(images, setting.batch)

    def step() -> None:
        pictures, labels = next(batches)
        optimizer.zero_grad()
        loss = entropy(network(pictures), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def flip_and_normalise() -> transforms.Compose:
    """Give the transform that both AdaFace and InsightFace have."""
    return transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
        ]
    )


def endless(images: datasets.ImageFolder, batch: int) -> Iterator[Any]:
    """Shuffled batches, epoch after epoch."""
    loader = DataLoader(images, batch_size=batch, shuffle=True, drop_last=True)
    while True:
        yield from loader


@contextmanager
def importing_from(checkout: Path) -> Iterator[None]:
    """Import a peer's modules, whose names are `net` and `losses`, and let the next peer do so."""
    if not checkout.is_dir():
        sys.exit(f"peers: {checkout}: no such folder; give a checkout of the peer's repository")
    before = set(sys.modules)
    sys.path.insert(0, str(checkout))
    try:
        yield
    finally:
        sys.path.remove(str(checkout))
        for name in set(sys.modules) - before:
            where = getattr(sys.modules[name], "__file__", None)
            if where and Path(where).is_relative_to(checkout):
                del sys.modules[name]


@contextmanager
def staying_on_the_cpu() -> Iterator[None]:
    """Let `.cuda()`, which Partial FC calls without a choice, do nothing."""
    original = torch.Tensor.cuda
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.cuda = original  # type: ignore[method-assign]


def link_folders(data: Path, into: Path) -> tuple[Path, int]:
    """Show the training images as a folder per identity, by symbolic links."""
    manifest = read_manifest(data)
    for path, label in zip(manifest.train.paths, manifest.train.labels, strict=True):
        folder = into / manifest.identities[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / Path(path).name).symlink_to((manifest.train.root / path).resolve())
    return into, len(manifest.identities)


class Side:
    """A training in a process of its own, which takes steps when it is told to."""

    def __init__(self, make: Callable[..., Step], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.end, other = context.Pipe()
        self.process = context.Process(
            target=take_steps, args=(other, make, *arguments), daemon=True
        )
        self.process.start()

    def seconds(self, steps: int) -> float:
        """Take that many steps."""
        self.end.send(steps)
        taken: float = self.end.recv()
        return taken


def take_steps(told: Any, make: Callable[..., Step], *arguments: object) -> None:
    """Build a side, and take as many steps as is told, until the pipe is closed."""
    # Of peers' code for older versions of torch.
    warnings.simplefilter("ignore", FutureWarning)
    step = make(*arguments)
    with suppress(EOFError):
        while True:
            steps = told.recv()
            start = perf_counter()
            for _ in range(steps):
                step()
            told.send(perf_counter() - start)


def measure(
    sides: dict[str, Side], *, batch: int, steps: int, repeats: int
) -> dict[str, list[float]]:
    """Time blocks of steps of all sides in turn; the first round warms up and does not count.

    Returns:
        images a second by side, each round's.
    """
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            rate = steps * batch / side.seconds(steps)
            if turn:
                rates[name].append(rate)
            print(f"round {turn} of {repeats}: {name}: {rate:.1f} images/s", file=sys.stderr)
    return rates


def table(rates: dict[str, list[float]]) -> str:
    """Images a second and facever's multiple of them: medians over the rounds."""
    best = list(rates.values())[-1]
    lines = [f"{'':40}{'images/s':>10}{'facever is':>14}"]
    for name, values in rates.items():
        ratio = median(own / other for own, other in zip(best, values, strict=True))
        lines.append(f"{name:40}{median(values):10.1f}{ratio:13.2f}x")
    return "\n".join(lines)


def main() -> None:
    """Measure all sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a data set in any layout")
    parser.add_argument("--adaface", type=Path, required=True, help="its checkout")
    parser.add_argument("--insightface", type=Path, required=True, help="its checkout")
    parser.add_argument("--batch", type=int, default=32, help="a side holds 2.5 GB at 32")
    parser.add_argument("--steps", type=int, default=3, help="of a block")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with TemporaryDirectory() as scratch:
        folders, identities = link_folders(asked.data, Path(scratch) / "folders")
        setting = Setting(asked.data, folders, identities, asked.batch)
        sides = {
            "AdaFace, ir_18": Side(adaface_step, setting, asked.adaface),
            "InsightFace arcface_torch, r18": Side(insightface_step, setting, asked.insightface),
            "notebook: ImageFolder, albumentations": Side(
                notebook_step, setting, asked.insightface
            ),
            **{name: Side(facever_step, setting, own) for name, own in LADDER.items()},
        }
        rates = measure(sides, batch=asked.batch, steps=asked.steps, repeats=asked.repeats)
    print(table(rates))
    if asked.json:
        asked.json.write_text(json.dumps(rates, indent=2) + "\n")


if __name__ == "__main__":
    main()
