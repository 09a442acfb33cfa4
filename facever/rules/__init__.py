"""A competition's rules, checked on what would be handed in: `facever check`.

Every rule is a line with a verdict. What no file can prove is for the staff to say, and so is what
the course has not said; it is never called a pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from facever import checkpoint
from facever.ask import Values
from facever.competition import DEFAULT, profile
from facever.config import resolve
from facever.contest import choose
from facever.data_setup import read_data
from facever.detect import Competition
from facever.embed import encoder_of
from facever.errors import DataError, FaceverError
from facever.loss_setup import saved_loss
from facever.rules.models import Line, Model, model_lines
from facever.rules.submission import check_submission, same_model, secrets, side_car


@dataclass(frozen=True)
class Checked:
    """All rules of a competition, and the models that they were checked on."""

    paths: Sequence[Path]
    competition: Competition
    lines: Sequence[Line]
    models: Sequence[Model]

    @property
    def broken(self) -> list[Line]:
        """The rules that are not kept."""
        return [line for line in self.lines if line.verdict == "fail"]

    def to_json(self) -> Values:
        """Give all of it as primitives."""
        return {
            "paths": [str(path) for path in self.paths],
            "competition": self.competition.rules.name,
            "competition_why": self.competition.why,
            "kept": not self.broken,
            "rules": [vars(line) for line in self.lines],
        }

    def to_text(self) -> str:
        """Say it in lines for people."""
        width = max(len(line.rule) for line in self.lines)
        whose = f"{self.competition.rules.name}, {self.competition.why}"
        head = f"{', '.join(map(str, self.paths))}: rules of {whose}"
        return "\n".join(
            [head, *(f"  {ln.verdict:<13}  {ln.rule:<{width}}  {ln.why}" for ln in self.lines)]
        )


def check(
    paths: Sequence[Path], competition: str | None = None, sample: Path | None = None
) -> Checked:
    """Check checkpoints, several being an ensemble, or a run, or a submission with its models.

    Args:
        paths: checkpoints; or the folder of a run; or a CSV beside its side-car.
        competition: name of a profile; None: the one that the first model's data looks like.
        sample: the sample submission file, for `custom`.

    Raises:
        ConfigError: no such competition.
        DataError: a path is none of these.
        CheckpointError: a checkpoint cannot be read.
    """
    if competition is not None:
        # Refused before anything is read.
        profile(competition, sample)
    models = [_rebuilt(path) for path in _checkpoints(paths)]
    whose = _competition(models[0], competition, sample)
    rules = whose.rules
    lines = [*model_lines(models, rules), same_model([model.path for model in models], rules)]
    for path in paths:
        if path.suffix == ".csv":
            lines.append(check_submission(path, rules))
        elif path.is_dir():
            lines.append(secrets(path))
    return Checked(paths, whose, lines, models)


def _competition(model: Model, name: str | None, sample: Path | None) -> Competition:
    data, manifest = resolve([{"data": model.payload["config"]["data"]}]).data, None
    if name is None:
        with suppress(FaceverError):
            manifest = read_data(data)
    by_default = Competition(profile(DEFAULT), "by default: the data is not at hand")
    return choose(data, manifest, name, sample) or by_default


def _checkpoints(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield path / "best.pt"
        elif path.suffix == ".csv":
            yield from _members(path)
        else:
            yield path


def _members(csv: Path) -> Iterator[Path]:
    """Yield the checkpoints that a submission was made with."""
    for member in side_car(csv)["checkpoints"]:
        path = Path(member["path"])
        if path.exists() and checkpoint.file_digest(path) != member["sha256"]:
            raise DataError(
                f"{path}: is no longer the checkpoint that {csv} was made with\n"
                "  put that one back, or let `facever submit` write the CSV anew"
            )
        yield path


def _rebuilt(path: Path) -> Model:
    payload = checkpoint.load(path)
    return Model(path, payload, encoder_of(payload, str(path)), saved_loss(payload, str(path)))
