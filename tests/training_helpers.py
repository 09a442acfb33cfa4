"""A tiny training that stands at some step, its checkpoint, and the lines that a run wrote."""

import json
from pathlib import Path
from typing import Any

import torch

import facever
from facever import checkpoint
from facever.config import Config, resolve
from facever.data.loader import Batch
from facever.encoder import Encoder, build_encoder
from facever.losses import build_loss
from facever.optim import WeightAverage, build_optimizer, build_schedule, parameter_groups
from facever.state import TrainState
from facever.step import Recipe, train_step

SIZE = 32
IDENTITIES = 4

# timm's own test network: 0.4 million parameters.
GIVEN = {
    "model": {"backbone": "test_resnet", "embedding_dim": 8, "neck": "gap-linear"},
    "data": {"image_size": SIZE, "workers": 0},
    "optim": {"epochs": 1, "batch_size": 4},
}


def tiny_config(**sections: Any) -> Config:
    """Resolve a configuration that trains in no time."""
    return resolve([GIVEN, sections])


def tiny_encoder(seed: int = 0) -> Encoder:
    """Build a small encoder whose weights are a function of `seed`."""
    torch.manual_seed(seed)
    return build_encoder(**tiny_config().model.model_dump(), image_size=SIZE)


def tiny_state(seed: int = 0, *, ema: float = 0.0, steps: int = 0) -> TrainState:
    """Stand at the beginning of a training, or after some steps on noise."""
    encoder = tiny_encoder(seed)
    loss = build_loss("ce", dim=8, identities=IDENTITIES)
    optimizer = build_optimizer("sgd", parameter_groups(encoder, loss, lr=0.05))
    average = WeightAverage(encoder, ema) if ema else None
    state = TrainState(encoder, loss, optimizer, average=average)
    for step in range(steps):
        train_step(state, RECIPE, noise_batch(step), build_schedule("constant", total=9, warmup=0))
    return state


RECIPE = Recipe(epochs=1, device=torch.device("cpu"), precision="fp32", seed=0, images=8)


def noise_batch(seed: int, images: int = 4) -> Batch:
    """Make a batch of noise that no other seed gives."""
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (images, SIZE, SIZE, 3), dtype=torch.uint8, generator=rng)
    return Batch(pixels, torch.arange(images) % IDENTITIES, torch.arange(images))


def tiny_payload(state: TrainState | None = None, **changes: Any) -> dict[str, Any]:
    """Give all that a checkpoint holds."""
    state = state or tiny_state()
    return {
        "format": checkpoint.FORMAT,
        "facever": facever.__version__,
        "config": tiny_config().to_dict(),
        "identities": [f"id{i}" for i in range(IDENTITIES)],
        "preprocess": state.encoder.transform.to_dict(),
        "rng": {"seed": 0},
        "lineage": {"parents": [], "data": "0" * 64, "train_images": 8, "precision": "fp32"},
        **state.state_dict(),
        **changes,
    }


def tiny_checkpoint(path: Path, state: TrainState | None = None, **changes: Any) -> Path:
    """Write a checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, tiny_payload(state, **changes))
    return path


def timeless(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what the clock decides."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in ln.items() if k not in ("time", "images_per_s")} for ln in lines]
