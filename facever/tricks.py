"""Which switches of the section `eval` pay: each alone, and the best of them together.

Every view of every image is embedded once; what a switch makes of that takes no network.

Letters: N images, V views, D dimensions, P pairs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facever.ask import Ask, inherited
from facever.config import Eval, resolve
from facever.embed import Embeddings, count_views, fuse_views
from facever.metrics import (
    PairedDifference,
    Verification,
    equal_error_rate,
    paired_bootstrap,
    verification,
)
from facever.scoring import (
    Look,
    Opened,
    Scorer,
    assignments,
    check_labelled,
    open_checkpoints,
    score_looks,
    switches,
)
from facever.tracking import progress

Floats = NDArray[np.float64]
Values = Mapping[str, Any]

# Without any switch.
PLAIN: Values = {
    "flip": False, "crops": False, "norm_power": 1.0, "centre": False, "as_norm": 0,
    "calibrate": False, "ensemble": "score", "transductive": False,
}  # fmt: skip
# Of AS-norm, where eval.as_norm says nothing: Matejka et al. take 200 to 400 of thousands.
TOP = 200


@dataclass(frozen=True)
class Trick:
    """A way to score, and what it gained; differences are to the plain score, below 0 is better.

    Attributes:
        name: of the switches.
        members: how many of the checkpoints it takes, the first ones.
        settings: that make it, as `key=value`, over the first checkpoint's own.
        result: on the labelled pairs.
        difference: of its EER; None for the plain score itself.
    """

    name: str
    members: int
    settings: str
    result: Verification
    difference: PairedDifference | None


@dataclass(frozen=True)
class Tried:
    """The table: the plain score, each switch alone, the best of them together."""

    checkpoints: Sequence[str]
    rows: Sequence[Trick]
    transductive: bool

    def to_json(self) -> dict[str, Any]:
        """Give the table as primitives."""
        rows = [
            {
                "trick": row.name,
                "checkpoints": row.members,
                "settings": row.settings,
                **row.result.to_json(),
                "difference": None if row.difference is None else asdict(row.difference),
            }
            for row in self.rows
        ]
        return {
            "checkpoints": list(self.checkpoints), "transductive": self.transductive, "tricks": rows
        }  # fmt: skip

    def to_text(self) -> str:
        """Say it in lines for people; rates in percent."""
        plain = self.rows[0].result
        width = max(len(row.name) for row in self.rows)
        lines = [
            f"{', '.join(self.checkpoints)}: {plain.n_mated:,} mated and {plain.n_non_mated:,} "
            "non-mated pairs",
            f"{'':<{width}}  EER % (95 %)            difference from plain, points (95 %), p",
        ]
        lines += [f"{row.name:<{width}}  {_line(row)}".rstrip() for row in self.rows]
        best = self.rows[-1]
        files = " ".join(self.checkpoints[: best.members])
        lines.append("the best was chosen on these very pairs, so its figure flatters; it is")
        lines.append(f"  facever submit {files} {best.settings}".rstrip())
        if self.transductive:
            lines.append("rows called transductive look at all images that are scored")
        return "\n".join(lines)


def _line(row: Trick) -> str:
    r, d = row.result, row.difference
    eer = f"{100 * r.eer:5.2f} ({100 * r.eer_low:.2f} to {100 * r.eer_high:.2f})"
    if d is None:
        return eer
    gained = f"{100 * d.difference:+.2f} ({100 * d.low:+.2f} to {100 * d.high:+.2f})"
    return f"{eer:<22}  {gained}, {d.p_value:.3f}"


def try_tricks(
    checkpoints: Sequence[Path], ask: Ask, *, pairs: Path | None = None, images: Path | None = None
) -> Tried:
    """Measure each switch alone, and the best of them together, on labelled pairs.

    The first checkpoint alone, by the cosine of single embeddings, is the plain score.

    Raises:
        DataError: there are no labelled pairs, or no training images for the cohort.
    """
    opened = open_checkpoints(checkpoints, ask, pairs, images, "val_pairs")
    check_labelled(opened.pairs)
    seen = _Seen(opened)
    plain = seen.score(PLAIN)
    tricks = dict(_tricks(opened.config.eval, len(checkpoints)))
    rows = [("plain", PLAIN), *((name, {**PLAIN, **tricks[name]}) for name in tricks)]
    chosen, settings = seen.best(tricks)
    rows.append((f"best: {' + '.join(chosen) or 'plain'}", settings))
    table = [seen.measure(name, given, plain) for name, given in rows]
    return Tried([str(path) for path in checkpoints], table, opened.config.eval.transductive)


def _tricks(settings: Eval, members: int) -> Iterator[tuple[str, Values]]:
    """Yield the switches by name, with what each sets beside `PLAIN`."""
    top = settings.as_norm or TOP
    yield "flip", {"flip": True}
    yield "flip (views alike)", {"flip": True, "norm_power": 0.0}
    yield "flip (norms squared)", {"flip": True, "norm_power": 2.0}
    yield "crops", {"crops": True}
    yield "centre", {"centre": True}
    yield "AS-norm", {"as_norm": top}
    yield "calibrate", {"calibrate": True}
    if members > 1:
        yield "ensemble of scores", {"members": members}
        yield "ensemble of embeddings", {"members": members, "ensemble": "embedding"}
    if settings.transductive:
        yield "centre (transductive)", {"centre": True, "transductive": True}
        yield "AS-norm (transductive)", {"as_norm": top, "transductive": True}


class _Seen:
    """Everything about labelled pairs that a network is needed for."""

    def __init__(self, opened: Opened) -> None:
        self._pairs, self._config = opened.pairs, opened.config
        self._own = resolve([inherited(opened.payloads[0])]).eval
        self._scorer = Scorer(opened)
        self._sharpness = self._scorer.sharpness(opened.pairs)
        self._cohorts = [self._scorer.cohort(*member) for member in self._scorer.members]
        self._views = [self._embed(index) for index in range(len(self._scorer.members))]

    def _embed(self, index: int) -> Embeddings:
        """Embed each view of each image with a checkpoint, (V, N, D)."""
        encoder, embed = self._scorer.members[index]
        scale, count = self._config.eval.crop_scale, len(self._pairs.images)
        images = self._scorer.open(self._pairs, encoder)
        with progress("embedding views") as report:
            table = embed(
                encoder, images, count, flip=True, crop_scale=scale, norm_power=None,
                names=self._pairs.images, report=report,
            )  # fmt: skip
        views = table.reshape(count, count_views(True, scale), encoder.embedding_dim)
        return np.ascontiguousarray(views.transpose(1, 0, 2))

    def settings(self, given: Values) -> Eval:
        """Give the section `eval` that makes a trick."""
        own = {name: value for name, value in given.items() if name != "members"}
        weights = self._config.eval.weights if "members" in given else ()
        return self._config.eval.model_copy(update={**own, "weights": weights})

    def score(self, given: Values) -> Floats:
        """Score the pairs, (P,)."""
        settings = self.settings(given)
        looks = [
            Look(_fused(views, settings), cohort)
            for views, cohort in zip(self._views, self._cohorts, strict=True)
        ]
        _, together = score_looks(settings, looks[: given.get("members", 1)], self._pairs)
        return self._scorer.labelled(together, self._pairs, self._sharpness, settings)

    def best(self, tricks: Mapping[str, Values]) -> tuple[list[str], Values]:
        """Add the switch that lowers the EER most, again and again, while one does."""
        mated = self._pairs.mated == 1
        chosen: list[str] = []
        settings, lowest = PLAIN, equal_error_rate(self.score(PLAIN), mated)
        while len(chosen) < len(tricks):
            errors = {
                name: equal_error_rate(self.score({**settings, **tricks[name]}), mated)
                for name in tricks
                if name not in chosen
            }
            name = min(errors, key=lambda each: errors[each])
            if errors[name] >= lowest:
                break
            chosen.append(name)
            settings, lowest = {**settings, **tricks[name]}, errors[name]
        return chosen, settings

    def measure(self, name: str, given: Values, plain: Floats) -> Trick:
        """Measure a way to score against the plain score."""
        scores, mated = self.score(given), self._pairs.mated == 1
        drawn: dict[str, Any] = {
            "left": self._pairs.units[0],
            "right": self._pairs.units[1],
            "repeats": self._config.eval.bootstrap,
            "seed": self._config.engine.seed,
        }
        return Trick(
            name,
            given.get("members", 1),
            assignments(switches(self.settings(given), self._own)),
            verification(scores, mated, **drawn),
            None if name == "plain" else paired_bootstrap(scores, plain, mated, **drawn),
        )


def _fused(views: Embeddings, settings: Eval) -> Embeddings:
    """Fuse those of the views (V, N, D) that the switches ask for, (N, D)."""
    half = len(views) // 2
    kept = [0, *(range(1, half) if settings.crops else ())]
    if settings.flip:
        kept += [half + view for view in kept]
    fused: Embeddings = fuse_views(torch.from_numpy(views[kept]), settings.norm_power).numpy()
    return fused
