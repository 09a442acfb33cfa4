"""What a command was asked for, what it therefore runs with, and which run it goes on with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facever import checkpoint, runs
from facever.config import (
    FINETUNE,
    FREE_AT_RESUME,
    INHERITED,
    Config,
    differences,
    finetune_params,
    resolve,
)
from facever.errors import ConfigError
from facever.loss_setup import check_loss
from facever.prepare import check_batches

Values = dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """What the user asked for, before defaults and checkpoints fill in the rest.

    Attributes:
        layers: given values, each over the one before: a file's, then `--loss`.
        assignments: `key=value`, over all layers.
        run: name of the run.
        fresh: never go on with an old run.
        dry_run: stop before the first step.
        parent: checkpoint to finetune from.
        root: folder of the runs.
    """

    layers: Sequence[Values] = ()
    assignments: Sequence[str] = ()
    run: str | None = None
    fresh: bool = False
    dry_run: bool = False
    parent: Path | None = None
    root: Path = runs.CHECKPOINTS


def configuration(ask: Ask) -> Config:
    """Resolve what `train`, or with a parent `finetune`, would run with.

    Raises:
        ConfigError: with every problem found.
    """
    if ask.parent:
        return finetune_config(ask, ask.parent)
    config = resolve(ask.layers, ask.assignments, check=check_loss)
    check_batches(config)
    return config


def find_run(verb: str, ask: Ask, config: Config, parent: Path | None) -> Path | None:
    """Find the run that a command goes on with, or None where it begins one."""
    return runs.find_run(
        verb, ask.run, config.to_dict(), free=FREE_AT_RESUME, parent=parent, root=ask.root
    )


def parents(ask: Ask) -> Iterator[Path]:
    """Yield the checkpoints that a finetune may go on from, likeliest first."""
    if ask.parent:
        yield ask.parent
        return
    if not ask.fresh:
        named = ask.root / ask.run if ask.run else None
        begun = [named] if named else runs.list_runs("finetune", ask.root)[::-1]
        unfinished = [run for run in begun if run == named or not runs.is_finished(run)]
        recorded = [parent for run in unfinished if (parent := runs.parent_of(run))]
        if named and recorded:
            yield recorded[0]
            return
        yield from (parent for parent in recorded if parent.exists())
    yield runs.newest_best(ask.root, verb="train", finished=True)


def finetune_config(ask: Ask, parent: Path) -> Config:
    """Resolve over what the parent passes on; its model and preprocessing are kept.

    Raises:
        ConfigError: a value given contradicts the parent's model or image size.
    """
    passed_on = inherited(checkpoint.load(parent))
    given = resolve([passed_on, FINETUNE, *ask.layers], ask.assignments, check=check_loss)
    name = given.loss.name
    own = {"loss": {"name": name, "params": finetune_params(name)}}
    config = resolve([passed_on, FINETUNE, own, *ask.layers], ask.assignments, check=check_loss)
    kept = Config.model_validate(passed_on)
    changed = differences(kept.model.model_dump(), config.model.model_dump(), ("pretrained",))
    changed += differences(
        {"image_size": kept.data.image_size}, {"image_size": config.data.image_size}
    )
    if changed:
        raise ConfigError(
            f"finetune keeps the model and the preprocessing of {parent}:\n  "
            + "\n  ".join(changed)
            + "\n  leave these keys out, or `facever train` an encoder with them"
        )
    check_batches(config)
    return config


def inherited(payload: Values) -> Values:
    """Give the sections of a checkpoint's configuration that later commands start from."""
    return {section: payload["config"][section] for section in INHERITED}
