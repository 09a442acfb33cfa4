"""Competition profiles as data: how a term lays its data out, what it wants, ranks and allows.

Gathered from public course material and students' repositories. `detect` tells which profile a
data set belongs to.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from facever.errors import ConfigError, DataError

Task = Literal["verification", "identification", "both"]
IdRule = Literal["index", "pair line", "dashed pair", "sample"]
Metric = Literal["EER", "AUC", "accuracy", "combined"]
Verdict = Literal["allowed", "forbidden", "advised against", "unknown"]

# The name of somebody who is not among the known people.
NOBODY = "n000000"

# What each metric is, as people say it; all but the EER rise with quality.
METRICS: Mapping[Metric, str] = {
    "EER": "EER",
    "AUC": "AUC",
    "accuracy": "accuracy",
    "combined": "(accuracy + 1 - EER) / 2",
}


@dataclass(frozen=True)
class Profile:
    """One competition.

    Attributes:
        name: as `--competition` takes it.
        terms: semesters, S = spring, F = fall, that share this profile; names of it too.
        layout: of its data, as `data.layout` has it.
        pairs: how its pair files are written, or what takes their place.
        header: column names, which the Kaggle parser wants exactly; empty until a sample
            submission tells them.
        id_rule: `index`: 0-based line of the pair file, or place among the sorted file names;
            `pair line`: both names as written, with a blank; `dashed pair`: both names with a
            dash; `sample`: those of a sample file.
        task: what is answered: scores of pairs, names of identities, or both.
        value: what is submitted for each.
        metric: by which submissions are ranked; see `METRICS`.
        parameter_cap: classifier included; None where no cap is known.
        pretrained: whether pretrained weights may be used.
        imported_architectures: whether backbones such as timm's may be used.
        attention: whether anything but convolutions may be used.
        external_data: whether further images may be used.
        smoothing_with_margin: label smoothing, CutMix or Mixup together with a margin loss.
        same_model: whether the model handed in must be the one of the best submission.
        submissions_a_day: None where no limit is known.
        test_pairs: how many; None where it is not known, or tells nothing.
        folders: whether training images lie in a folder per identity; None where that tells it
            from no other term.
        pair_file: a file of pairs that only it has.
        sample_rows: of the sample file, where there is one.
        notes: what else to know, a line each.
    """

    name: str
    terms: tuple[str, ...]
    layout: str
    pairs: str
    header: tuple[str, ...]
    id_rule: IdRule
    task: Task = "verification"
    value: str = "cosine"
    metric: Metric = "EER"
    parameter_cap: int | None = None
    pretrained: Verdict = "unknown"
    imported_architectures: Verdict = "unknown"
    attention: Verdict = "unknown"
    external_data: Verdict = "unknown"
    smoothing_with_margin: Verdict = "unknown"
    same_model: bool | None = None
    submissions_a_day: int | None = None
    test_pairs: int | None = None
    folders: bool | None = None
    pair_file: str = ""
    sample_rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def higher_is_better(self) -> bool:
        """Direction of the metric, not of the scores, which always rise with likeness."""
        return self.metric != "EER"

    @property
    def title(self) -> str:
        """All terms that it holds for."""
        return "/".join(self.terms) or self.name

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """Ids of the sample file, in its order."""
        return tuple(row[0] for row in self.sample_rows)


DEFAULT = "S25"

_S25 = Profile(
    name="S25",
    terms=("S25",),
    layout="hw2p2",
    pairs="val_pairs.txt, test_pairs.txt: `left right [0|1]`",
    header=("ID", "Label"),
    id_rule="index",
    parameter_cap=30_000_000,
    attention="allowed",
    smoothing_with_margin="allowed",
    same_model=False,
    test_pairs=6000,
    folders=False,
    notes=("an EER of 2.5 % was the `high` cutoff",),
)
_S26 = replace(
    _S25,
    name="S26",
    terms=("S26",),
    pretrained="forbidden",
    imported_architectures="forbidden",
    attention="unknown",
    external_data="forbidden",
    same_model=True,
    test_pairs=5000,
    notes=(
        "the hand-in asks for acknowledgement.txt, README.txt, model_metadata_<date>.json "
        "and the ten best W&B runs by `EER`",
    ),
)

PROFILES: Mapping[str, Profile] = {
    "F24": Profile(
        name="F24",
        terms=("F24",),
        layout="hw2p2",
        pairs="val_pairs and test_pairs, .txt `left right [0|1]` and .csv",
        header=("ID", "Label"),
        id_rule="index",
        test_pairs=6000,
        folders=True,
        notes=("verification images are neither aligned nor 112x112",),
    ),
    "S25": _S25,
    "F25": replace(
        _S25,
        name="F25",
        terms=("F25",),
        pretrained="forbidden",
        imported_architectures="forbidden",
        external_data="forbidden",
        same_model=True,
        notes=(),
    ),
    "S26": _S26,
    "F26": replace(
        _S26,
        name="F26",
        terms=("F26",),
        header=(),
        id_rule="sample",
        task="both",
        value="class and cosine",
        metric="combined",
        attention="forbidden",
        external_data="unknown",
        smoothing_with_margin="advised against",
        submissions_a_day=10,
        notes=(
            "one CSV answers both tasks, with the columns of the sample submission",
            "an ensemble counts as one model",
        ),
    ),
    "F22": Profile(
        name="F22",
        terms=("F22", "S23", "F23", "S24"),
        layout="f22",
        pairs="`known/<id>/`; `unknown_dev/`, verification_dev.csv: `id,label`; `unknown_test/`",
        header=("id", "label"),
        id_rule="index",
        task="identification",
        value="identity name",
        metric="accuracy",
        notes=(f"{NOBODY} stands for somebody who is not known",),
    ),
    "S22": Profile(
        name="S22",
        terms=("S22",),
        layout="s22",
        pairs="verification_dev.csv with header `img1,img2,gt`",
        header=("id", "match"),
        id_rule="index",
        metric="AUC",
    ),
    "F20": Profile(
        name="F20",
        terms=("S20", "F20", "S21", "F21"),
        layout="f20",
        pairs="verification_pairs_val.txt: `verification_data/A.jpg verification_data/B.jpg 1`",
        header=("Id", "Category"),
        id_rule="pair line",
        value="score",
        metric="AUC",
    ),
    "S19": Profile(
        name="S19",
        terms=("S19",),
        layout="folders",
        pairs="trials_test_new.txt: `imgA imgB`",
        header=("trial", "score"),
        id_rule="pair line",
        value="score",
        pair_file="trials_test_new.txt",
    ),
    "RFIW": Profile(
        name="RFIW",
        terms=(),
        layout="rfiw",
        pairs="train_relationships.csv: `p1,p2`; pairs to submit in sample_submission.csv: `a-b`",
        header=("img_pair", "is_related"),
        id_rule="dashed pair",
        value="score",
        metric="AUC",
        notes=("kinship: `mated` means related",),
    ),
}


def profile(name: str, sample: Path | None = None) -> Profile:
    """Profile of a competition by its name or a term, in any case.

    Args:
        name: of a profile in `PROFILES`, or `custom`.
        sample: the sample submission file, for those whose columns it tells.

    Raises:
        ConfigError: no such profile; or `custom` and no sample file.
        DataError: the sample file is not a header of two columns, or of three where both tasks
            are answered, with rows below.
    """
    if name.casefold() == "custom":
        if sample is None:
            raise ConfigError("competition: custom needs the sample submission file; give its path")
        return _with_sample(_CUSTOM, sample)
    names = {term.casefold(): p for p in PROFILES.values() for term in (p.name, *p.terms)}
    found = names.get(name.casefold())
    if found is None:
        nearest = get_close_matches(name.casefold(), [*names, "custom"], n=1, cutoff=0.0)[0]
        hint = nearest if nearest == "custom" else nearest.upper()
        raise ConfigError(
            f"competition: no profile {name!r}; did you mean {hint}?\n"
            f"  expected one of {', '.join(PROFILES)}, custom"
        )
    return _with_sample(found, sample) if found.id_rule == "sample" and sample else found


_CUSTOM = Profile("custom", (), "auto", "any that is read", (), "sample", value="score")


def _with_sample(rules: Profile, path: Path) -> Profile:
    """Take header and rows from a sample submission, exactly as they are written."""
    header, *rows = read_csv_rows(path)
    lengths = {len(row) for row in (header, *rows)}
    widths = (2, 3) if rules.task == "both" else (2,)
    if len(lengths) != 1 or not lengths <= {*widths} or not rows:
        raise DataError(
            f"{path.name}: {len(rows)} rows with {sorted(lengths)} columns; expected a header and "
            f"one row for each answer, of {' or '.join(map(str, widths))} columns: id and value"
            + (", or id, class and score" if rules.task == "both" else "")
        )
    return replace(rules, header=tuple(header), sample_rows=tuple(map(tuple, rows)))


def read_csv_rows(path: Path, encoding: str = "utf-8-sig") -> list[list[str]]:
    """Rows of a CSV that are not empty; one that is, where there are none.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open(encoding=encoding, newline="") as file:
            return [row for row in csv.reader(file) if row] or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a readable CSV ({error})") from error


_CLASS_WORDS = ("class", "label", "identity", "prediction", "predicted_class", "cls")
_SCORE_WORDS = ("score", "similarity", "cosine", "match", "similarity_score", "ver")


def answer_columns(header: tuple[str, ...]) -> tuple[int, int]:
    """Columns of the class and of the score in a CSV for both tasks; one for both if it is one.

    Raises:
        DataError: a header of three columns that does not name them.
    """
    if len(header) == 2:
        return 1, 1
    titles = [title.strip().casefold() for title in header]
    found = [
        next((i for i, title in enumerate(titles) if i and title in words), 0)
        for words in (_CLASS_WORDS, _SCORE_WORDS)
    ]
    if not all(found):
        raise DataError(
            f"sample submission: columns {','.join(header)}; expected an id, and columns that are "
            f"called like {_CLASS_WORDS[0]} and {_SCORE_WORDS[0]}"
        )
    return found[0], found[1]
