"""Averages of checkpoints' weights: one network instead of an ensemble, an ordinary checkpoint.

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
without increasing inference time", ICML 2022 (arXiv:2203.05482), recipe 1: in the order of their
validation, a checkpoint goes into the soup where that does not make it worse.

The statistics of batch norms are not averaged but re-estimated on training images, without which a
mean of networks that were trained apart has the spread of none of them (Jordan et al., REPAIR, ICLR
2023, arXiv:2211.08403).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from facever import checkpoint
from facever.ask import Ask, Values, inherited
from facever.config import Config, differences, resolve
from facever.data.datasets import ImageDataset
from facever.data_setup import OpenData, open_data
from facever.encoder import Encoder
from facever.errors import CheckpointError, ConfigError
from facever.loss_setup import saved_loss
from facever.tracking import note
from facever.validate import make_validate, scorer

Weights = Mapping[str, Tensor]
Measure = Callable[[Sequence[int]], float]

STATISTICS_IMAGES = 4096  # of the training set, drawn by seed, for the statistics of batch norms
BATCH = 256


@dataclass(frozen=True)
class Averaged:
    """What was averaged, and what came of it; EERs are in percent, of the validation pairs.

    Attributes:
        output: the new checkpoint.
        candidates: what was given.
        used: those that are in the average.
        eer: of the average, `eer_low` and `eer_high` its 95 % interval.
    """

    output: Path
    candidates: Sequence[str]
    used: Sequence[str]
    eer: float
    eer_low: float
    eer_high: float

    def to_json(self) -> dict[str, Any]:
        """Give all of it as primitives."""
        return {**asdict(self), "output": str(self.output)}

    def to_text(self) -> str:
        """Say it in lines for people."""
        estimated = "\n  statistics of batch norms: re-estimated on training images"
        return (
            f"{self.output}: the mean of {len(self.used)} of {len(self.candidates)} checkpoints, "
            f"EER {self.eer:.2f} % (95 %: {self.eer_low:.2f} to {self.eer_high:.2f})\n"
            + "\n".join(f"  {path}" for path in self.used)
            + (estimated if len(self.used) > 1 else "")
        )


def average(paths: Sequence[Path], output: Path, ask: Ask, *, greedy: bool) -> Averaged:
    """Write the mean of checkpoints' weights as a checkpoint of its own.

    Args:
        paths: checkpoints, or folders of runs, which stand for all of their checkpoints.
        output: the new checkpoint.
        ask: for `data.root` and the like, over the first checkpoint's configuration.
        greedy: leave out what makes the validation EER worse.

    Raises:
        ConfigError: fewer than two checkpoints, or `output` is one of them.
        CheckpointError: they have different networks, preprocessing or identities.
        DataError: no data, or no labelled pairs.
    """
    found = _distinct(paths)
    if len(found) < 2:
        raise ConfigError(f"average: {len(found)} different checkpoints; expected at least 2")
    if output.exists():
        raise ConfigError(f"{output}: exists; name another file")
    payloads = [checkpoint.load(path) for path in found.values()]
    names = [str(path) for path in found.values()]
    for name, payload in zip(names[1:], payloads[1:], strict=True):
        _check_alike(names[0], payloads[0], name, payload)
    config = resolve([inherited(payloads[0]), *ask.layers], ask.assignments)
    averages = _Averages(config, next(iter(found.values())), payloads, open_data(config.data))
    every = range(len(names))
    used = (
        greedy_choice(every, lambda rows: averages.measure(rows)["EER"]) if greedy else list(every)
    )
    figures = averages.measure(used)
    digests = list(found)
    checkpoint.save(output, averages.payload(used, figures, [digests[i] for i in used]))
    return Averaged(
        output, names, [names[i] for i in used],
        figures["EER"], figures["EER_low"], figures["EER_high"],
    )  # fmt: skip


def greedy_choice(candidates: Sequence[int], error: Measure) -> list[int]:
    """Choose from candidates by a greedy soup: from the best on, what does not raise the error."""
    alone = {candidate: error([candidate]) for candidate in candidates}
    first, *others = sorted(candidates, key=lambda candidate: alone[candidate])
    chosen, lowest = [first], alone[first]
    for candidate in others:
        tried = error([*chosen, candidate])
        if tried <= lowest:
            chosen, lowest = [*chosen, candidate], tried
    return chosen


def mean_weights(members: Sequence[Weights]) -> dict[str, Tensor]:
    """Average tensors by name; whole numbers, such as counts, are the first member's."""
    return {
        name: torch.stack([each[name] for each in members]).mean(0)
        if first.is_floating_point()
        else first
        for name, first in members[0].items()
    }


def _distinct(paths: Sequence[Path]) -> dict[str, Path]:
    """Give the checkpoints by their SHA-256; a run's folder stands for its own."""
    names = ("best.pt", "last.pt", "previous.pt")
    files = [
        file
        for path in paths
        for file in ([path / name for name in names] if path.is_dir() else [path])
        if file.exists() or not path.is_dir()
    ]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: no such checkpoint")
    found: dict[str, Path] = {}
    for file in files:
        found.setdefault(checkpoint.file_digest(file), file)
    return found


def _check_alike(first_name: str, first: Values, name: str, other: Values) -> None:
    changed = differences(
        {"model": first["config"]["model"], "preprocess": first["preprocess"]},
        {"model": other["config"]["model"], "preprocess": other["preprocess"]},
        free=("model.pretrained",),
    )
    if first["identities"] != other["identities"]:
        changed.append(
            f"identities: {len(first['identities'])} -> {len(other['identities'])}, or other ones"
        )
    if changed:
        raise CheckpointError(
            f"{name}: cannot be averaged with {first_name}:\n  "
            + "\n  ".join(changed)
            + "\n  `facever evaluate A B` measures them as an ensemble of scores"
        )


class _Averages:
    """Checkpoints whose means are made and measured."""

    def __init__(
        self, config: Config, path: Path, payloads: Sequence[Values], data: OpenData
    ) -> None:
        self._config, self._payloads, self._data = config, payloads, data
        self._encoder, self._embed = scorer(config, path, payloads[0])
        self._where = str(path)
        # The weights that validation looked at: the average, where one was kept.
        self._weights = [p["ema"]["encoder"] if p["ema"] else p["encoder"] for p in payloads]
        shapes = [{k: tuple(v.shape) for k, v in p["loss"].items()} for p in payloads]
        self._same_loss = all(each == shapes[0] for each in shapes)
        if not self._same_loss:
            note("average: the losses differ, so the classifier is that of one checkpoint alone")

    def measure(self, rows: Sequence[int]) -> dict[str, float]:
        """Measure the mean of some checkpoints; EER in percent. The encoder then has its weights.

        A single checkpoint keeps its own statistics of batch norms.
        """
        weights = mean_weights([self._weights[row] for row in rows])
        checkpoint.load_weights(self._encoder, weights, self._where)
        if len(rows) > 1:
            train, seed = self._data.train, self._config.engine.seed
            count = min(STATISTICS_IMAGES, len(train))
            chosen = np.random.default_rng(seed).permutation(len(train))[:count]
            re_estimate(self._encoder, train, np.sort(chosen))
        loss = saved_loss({**self._payloads[rows[0]], "loss": self._loss(rows)}, self._where).to(
            next(self._encoder.parameters()).device
        )
        validate = make_validate(
            self._config, self._embed, self._data.labelled_pairs(), self._data.dev, loss
        )
        return validate(self._encoder)

    def _loss(self, rows: Sequence[int]) -> Values:
        if not self._same_loss:
            return dict(self._payloads[rows[0]]["loss"])
        return mean_weights([self._payloads[row]["loss"] for row in rows])

    def payload(
        self, rows: Sequence[int], figures: Mapping[str, float], parents: Sequence[str]
    ) -> Values:
        """Give the checkpoint of the mean that was measured last, of checkpoints `rows`.

        It is where a finetune may begin, and no state from which a training could go on.
        """
        first = self._payloads[rows[0]]
        metrics = {**figures, "epoch": float(first["epoch"])}
        state = {name: value.cpu() for name, value in self._encoder.state_dict().items()}
        return {
            **first,
            "encoder": {name: value.contiguous() for name, value in state.items()},
            "loss": self._loss(rows),
            "optimizer": {}, "schedule": {}, "scaler": {}, "ema": {},
            "metrics": metrics,
            "progress": {**first["progress"], "best": metrics},
            "lineage": {**first["lineage"], "parents": list(parents)},
        }  # fmt: skip


@torch.no_grad()
def re_estimate(encoder: Encoder, images: ImageDataset, rows: np.ndarray[Any, Any]) -> None:
    """Set the statistics of batch norms to those of these images, as evaluation shows them."""
    norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    device = next(encoder.parameters()).device
    # Equal batches, for each counts alike.
    for batch in np.array_split(rows, -(-len(rows) // BATCH)):
        encoder(encoder.transform.batch(torch.from_numpy(images.gather(batch)).to(device)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
