"""The zip that a course asks for, made of a run, checked before it is written.

The same run gives the same bytes: members are in the order of their names, and their time is that
of the run's last line of metrics.jsonl.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import facever
from facever import checkpoint, runs
from facever.ask import Values
from facever.errors import DataError
from facever.handin.checks import keys_line, newest_submission, size_line, submission_lines
from facever.handin.readme import Told, acknowledgement, readme, requirements
from facever.report.record import Record, read_record
from facever.rules import Checked, check
from facever.rules.models import Model, count_parameters
from facever.score import csv_text
from facever.storage import make_folder, replacing

# The course asks for the ten best runs by the metric called EER.
_BEST = 10
_COLUMNS = (
    "run", "EER", "EER_low", "EER_high", "AUC", "epoch", "verb", "backbone", "loss", "lr", "epochs",
    "batch_size", "parameters", "finished", "handed_in",
)  # fmt: skip
# Of a run's folder: what it was asked for, what it ran with, and its figures.
_RECORDS = ("config.yaml", "environment.json", "metrics.jsonl", "scores_val.csv")
# What the times of a zip's members can be.
_ZIP_YEARS = (datetime(1980, 1, 1, tzinfo=UTC), datetime(2107, 1, 1, tzinfo=UTC))
_CODE = (".py", ".html", ".js", ".typed")


@dataclass(frozen=True)
class HandedIn:
    """A zip, or what speaks against it.

    Attributes:
        output: the zip.
        checked: the rules, those about the zip among them.
        files: names and sizes in bytes of its members.
        bytes: of the zip; 0 where it was not written.
    """

    output: Path
    checked: Checked
    files: Mapping[str, int]
    bytes: int

    def to_json(self) -> Values:
        """Give all of it as primitives."""
        about = {"output": str(self.output), "bytes": self.bytes, "files": dict(self.files)}
        return {**self.checked.to_json(), **about}

    def to_text(self) -> str:
        """Say it in lines for people."""
        if not self.bytes:
            return f"{self.checked.to_text()}\n{self.output}: not written"
        own = [f"  {size:>11,}  {name}" for name, size in self.files.items()
               if not name.startswith("code/")]  # fmt: skip
        code = [size for name, size in self.files.items() if name.startswith("code/")]
        own.append(f"  {sum(code):>11,}  code/ ({len(code)} files)")
        head = f"{self.output}: {len(self.files)} files, {self.bytes:,} bytes"
        return "\n".join([self.checked.to_text(), head, *own])


def hand_in(
    folders: Sequence[Path],
    output: Path,
    competition: str | None = None,
    *,
    submission: Path | None = None,
    words: Path | None = None,
    with_checkpoint: bool = False,
    largest: int = 100,
    anyway: bool = False,
) -> HandedIn:
    """Gather what a course asks for of a run, check it, and write the zip.

    Args:
        folders: of the run; of several where they are an ensemble.
        output: the zip, written whole or not at all.
        competition: name of a profile; None: the one that the data looks like.
        submission: the CSV that was sent; by default the newest in `submissions/` that these
            checkpoints made.
        words: a text of one's own for acknowledgement.txt, put before what the run knows.
        with_checkpoint: put the checkpoints in, too.
        largest: MiB that the zip may have.
        anyway: write it although rules are not kept.

    Raises:
        DataError: a folder is no run, or `words` or the submission cannot be read.
        CheckpointError: a run has no `best.pt`, or a damaged one.
        ConfigError: no such competition.
        StorageError: the zip cannot be written.
    """
    checked = check(list(folders), competition)
    rules = checked.competition.rules
    digests = [checkpoint.file_digest(model.path) for model in checked.models]
    csv = submission or newest_submission(digests)
    told = Told(
        rules=rules,
        chains=[_chain(folder) for folder in folders],
        models=checked.models,
        digests=digests,
        parameters=count_parameters(checked.models),
        submission=csv,
    )
    files = dict(sorted(_members(told, folders, words, with_checkpoint).items()))
    packed = _zip(files, _finished_at(told.chains))
    lines = [
        *checked.lines,
        *submission_lines(csv, digests, rules),
        keys_line(files),
        size_line(packed, largest),
    ]
    checked = Checked(checked.paths, checked.competition, lines, checked.models)
    if anyway or not checked.broken:
        make_folder(output.parent)
        with replacing(output) as file:
            file.write(packed)
    else:
        packed = b""
    sizes = {name: len(data) for name, data in files.items()}
    return HandedIn(output, checked, sizes, len(packed))


def _chain(folder: Path) -> list[tuple[Path, Record]]:
    """Give a run and those that it started from, the first of them first."""
    chain: list[tuple[Path, Record]] = []
    current: Path | None = folder
    while current is not None and all(current != run for run, _ in chain):
        record = read_record(current)
        chain.insert(0, (current, record))
        parent = runs.parent_of(current)
        current = parent.parent if parent and _began_with(parent, record) else None
    return chain


def _began_with(parent: Path, record: Record) -> bool:
    """Tell whether a run's checkpoint is still the one that another began with.

    Its path is relative to the folder in which that was; here it may be another's.
    """
    if not (parent.is_file() and (parent.parent / "config.yaml").exists()):
        return False
    return checkpoint.file_digest(parent) == record.environment.get("parent_sha256")


def _members(
    told: Told, folders: Sequence[Path], words: Path | None, with_checkpoint: bool
) -> dict[str, bytes]:
    """Give the name and the bytes of each file of the zip."""
    date = _finished_at(told.chains).date().isoformat()
    metadata = {
        "parameter_count": told.parameters[1],
        "model_architecture": _architecture(told.models),
    }
    texts = {
        "README.txt": readme(told),
        "acknowledgement.txt": acknowledgement(told, _words(words)),
        f"model_metadata_{date}.json": json.dumps(metadata, indent=2) + "\n",
        "runs.csv": csv_text(_COLUMNS, list(_table(folders))),
        "code/requirements.txt": requirements(),
    }
    files = {name: text.encode("utf-8", "backslashreplace") for name, text in texts.items()}
    for folder in {folder for chain in told.chains for folder, _ in chain}:
        for name in (*_RECORDS, *(["best.pt"] if with_checkpoint and folder in folders else [])):
            if (folder / name).is_file():
                files[f"runs/{folder.resolve().name}/{name}"] = _read(folder / name)
    if told.submission is not None:
        for file in (told.submission, told.submission.with_suffix(".json")):
            files[f"submission/{file.name}"] = _read(file)
    package = Path(facever.__file__).parent
    for file in sorted(package.rglob("*")):
        if file.suffix in _CODE:
            files[f"code/{file.relative_to(package.parent).as_posix()}"] = _read(file)
    return files


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: not readable: {error.strerror}") from error


def _words(file: Path | None) -> str:
    return _read(file).decode("utf-8", "replace") if file else ""


def _architecture(models: Sequence[Model]) -> str:
    """Say how the modules are built, as torch prints them."""
    return "\n".join(f"{module}" for model in models for module in (model.encoder, model.loss))


def _table(folders: Sequence[Path]) -> Iterator[list[object]]:
    """Give the rows of the best runs that lie beside these, by their validation EER in percent."""
    own = {folder.resolve() for folder in folders}
    found = {run.resolve() for folder in own for run in runs.list_runs(root=folder.parent)} | own
    best = []
    for run in sorted(found):
        record = read_record(run)
        scored = [line for line in record.validation if line["EER"] is not None]
        if scored:
            best.append((min(scored, key=lambda line: line["EER"]), run, record))
    for line, run, record in sorted(best, key=lambda row: row[0]["EER"])[:_BEST]:
        config, environment = record.config, record.environment
        optim = config.get("optim", {})
        yield [
            run.name,
            *(line.get(name, "") for name in _COLUMNS[1:6]),
            environment.get("verb", ""),
            config.get("model", {}).get("backbone", ""),
            config.get("loss", {}).get("name", ""),
            *(optim.get(name, "") for name in ("lr", "epochs", "batch_size")),
            environment.get("parameters", {}).get("total", ""),
            "yes" if runs.is_finished(run) else "no",
            "yes" if run in own else "no",
        ]


def _finished_at(chains: Sequence[Sequence[tuple[Path, Record]]]) -> datetime:
    """Give the time of the last figure of any of the runs, UTC."""
    records = [record for chain in chains for _, record in chain]
    times = [line.get("time") or 0 for r in records for line in (*r.train, *r.validation)]
    first, last = (year.timestamp() for year in _ZIP_YEARS)
    return datetime.fromtimestamp(min(max([first, *times]), last), UTC)


def _zip(files: Mapping[str, bytes], time: datetime) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo(name, time.timetuple()[:6])
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            archive.writestr(member, data)
    return stream.getvalue()
