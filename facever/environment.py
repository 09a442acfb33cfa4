"""What a run is run with: versions, device, data, parameters; on disk and in the banner."""

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import facever
from facever import checkpoint
from facever.competition import METRICS
from facever.config import Config
from facever.contest import choose
from facever.data_setup import OpenData
from facever.errors import ConfigError
from facever.prepare import Parts, budget

Values = dict[str, Any]

# Where W&B, Kaggle and Hugging Face look for a key, and how short no key is.
KEYS = ("WANDB_API_KEY", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_KEY_LENGTH = 16


def describe(
    verb: str, config: Config, data: OpenData, parts: Parts, parent: Path | None
) -> Values:
    """Gather what `environment.json` records: versions, device, data, parameters, command.

    Raises:
        ConfigError: a key of the environment is on the command line or in the configuration.
    """
    _refuse_keys(sys.argv, config)
    device = parts.recipe.device
    return {
        "verb": verb,
        "command": sys.argv,
        "facever": facever.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "timm": version("timm"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "precision": parts.recipe.precision,
        "commit": _commit(),
        "competition": _competition(config, data),
        "data": data.describe(),
        "parameters": budget(parts),
        "steps_per_epoch": parts.steps_per_epoch,
        "steps": parts.steps_per_epoch * config.optim.epochs,
        "parent": str(parent) if parent else None,
        "parent_sha256": checkpoint.file_digest(parent) if parent else None,
    }


def _competition(config: Config, data: OpenData) -> Values:
    """Tell whose data this is, and what the banner says about it."""
    found = choose(config.data, data.manifest)
    assert found is not None
    rules = found.rules
    return {
        "name": rules.name,
        "detected": str(found),
        "metric": rules.metric,
        "parameter_cap": rules.parameter_cap,
    }


def own_keys() -> dict[str, str]:
    """Give the keys that this process was started with, by variable; they belong in no file."""
    values = {name: os.environ.get(name, "") for name in KEYS}
    return {name: value for name, value in values.items() if len(value) >= _KEY_LENGTH}


def _refuse_keys(command: list[str], config: Config) -> None:
    """Stop before a key is written down: a run's files are shown, handed on and uploaded."""
    recorded = json.dumps([command, config.to_dict()])
    for name, value in own_keys().items():
        if value in recorded:
            raise ConfigError(
                f"{name}: its value stands on the command line or in the configuration, which a "
                "run's files would repeat\n  expected in the environment alone; leave it out"
            )


def _commit() -> str | None:
    """Give the commit of facever's own checkout, or None outside one."""
    head = Path(facever.__file__).parents[1] / ".git" / "HEAD"
    try:
        text = head.read_text().strip()
        return (head.parent / text[5:]).read_text().strip() if text.startswith("ref: ") else text
    except OSError:
        return None


def banner(config: Config, environment: Values) -> str:
    """Say in six lines what is about to run."""
    data, parameters = environment["data"], environment["parameters"]
    competition = environment["competition"]
    cap = competition["parameter_cap"]
    within = "within" if cap is None or parameters["total"] <= cap else "ABOVE"
    limit = "no cap is known" if cap is None else f"{within} the {cap / 1e6:.0f} M cap"
    return (
        f"facever {facever.__version__} {environment['verb']}: {config.model.backbone}, "
        f"{config.model.embedding_dim}-d, loss {config.loss.name}\n"
        f"  competition {competition['detected']}; ranked by {METRICS[competition['metric']]}\n"
        f"  data       {data['layout']}: {data['train']:,} images of {data['identities']:,} "
        f"identities ({data['tier']}), {data['dev']:,} dev, "
        f"{data['val_pairs']:,} validation pairs\n"
        f"  parameters {parameters['total'] / 1e6:.2f} M = encoder "
        f"{parameters['encoder'] / 1e6:.2f} M + classifier {parameters['classifier'] / 1e6:.2f} M"
        f" ({limit})\n"
        f"  run        {config.optim.epochs} epochs of {environment['steps_per_epoch']:,} steps, "
        f"batch {config.optim.batch_size}, {environment['device']} "
        f"({environment['threads']} threads), {environment['precision']}"
    )
