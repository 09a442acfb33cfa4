"""What saving costs: the time that a training waits, against the bare writing of the bytes.

And as a share of the training time between two saves, which is what a run pays for it. The
checkpoint itself - hashed, fsynced, renamed and linked - is written beside the training.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from facever import checkpoint
from facever.bench.harness import Options, compare
from facever.bench.rows import Row
from facever.config import Config, resolve
from facever.encoder import build_encoder
from facever.loss_setup import check_loss, make_loss
from facever.optim import build_optimizer, parameter_groups
from facever.saver import Saver
from facever.state import TrainState

# Of the time between two saves.
AIM = 0.01


def measure(options: Options) -> Iterator[Row]:
    """One row a size of classifier."""
    config = resolve([], options.assignments, check=check_loss)
    minutes = config.engine.checkpoint_minutes
    for identities in options.identities:
        state = trained(config, identities)
        payload = {name: kind() for name, kind in checkpoint.KEYS.items()} | state.state_dict()
        with TemporaryDirectory(dir=".") as folder:
            run, saver = Path(folder), Saver(Path(folder))
            timing = compare(
                partial(saver, payload, best=True),
                partial(torch.save, payload, run / "bare.pt"),
                repeats=options.repeats,
                before=saver.wait,
            )
            saver.wait()
            size = (run / "last.pt").stat().st_size
        share = timing.seconds / (60 * minutes)
        verdict = "met" if share < AIM else "missed"
        yield Row(
            "save",
            f"{config.model.backbone}, {identities:,} identities",
            "torch.save of the same state",
            timing,
            conditions={
                "megabytes": size // 10**6,
                "written": f"on the disk {saver.seconds:.1f} s later",
                "share": f"{share:.2%} of {minutes:g} minutes (below {AIM:.0%}: {verdict})",
            },
        )


def trained(config: Config, identities: int) -> TrainState:
    """Give a training after its first step, when the optimiser holds all that it ever will."""
    encoder = build_encoder(
        **config.model.model_dump() | {"pretrained": False}, image_size=config.data.image_size
    )
    loss = make_loss(config.loss, config.model.embedding_dim, identities)
    groups = parameter_groups(encoder, loss, lr=config.optim.lr)
    optimizer = build_optimizer(config.optim.name, groups, momentum=config.optim.momentum)
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return TrainState(encoder, loss, optimizer)
