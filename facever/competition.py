"""Competition profiles as data: what a submission looks like, how it is scored, what is allowed.

Only terms whose submission `submit` can write are here; `REFUSED` says why others are not.
Gathered from public course material and students' repositories.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from facever.errors import ConfigError, DataError

IdRule = Literal["index", "pair line", "dashed pair", "sample"]
Verdict = Literal["allowed", "forbidden", "advised against", "unknown"]


@dataclass(frozen=True)
class Profile:
    """One competition.

    Attributes:
        name: as `--competition` takes it.
        terms: semesters, S = spring, F = fall, that share this profile.
        header: the two column names, which the Kaggle parser wants exactly.
        id_rule: `index`: 0-based line of the pair file; `pair line`: both names as written, with
            a blank; `dashed pair`: both names with a dash; `sample`: those of a sample file.
        value: what the second column holds.
        metric: by which submissions are ranked.
        higher_is_better: direction of the metric, not of the scores, which always rise with
            likeness.
        parameter_cap: classifier included; None where no cap is known.
        pretrained: whether pretrained weights may be used.
        imported_architectures: whether backbones such as timm's may be used.
        attention: whether anything but convolutions may be used.
        external_data: whether further images may be used.
        smoothing_with_margin: label smoothing, CutMix or Mixup together with a margin loss.
        same_model: whether the model handed in must be the one of the best submission.
        submissions_a_day: None where no limit is known.
        sample_ids: ids of the sample file, where `id_rule` is `sample`.
        notes: what else to know, a line each.
    """

    name: str
    terms: tuple[str, ...]
    header: tuple[str, str]
    id_rule: IdRule
    value: str = "cosine"
    metric: str = "EER"
    higher_is_better: bool = False
    parameter_cap: int | None = None
    pretrained: Verdict = "unknown"
    imported_architectures: Verdict = "unknown"
    attention: Verdict = "unknown"
    external_data: Verdict = "unknown"
    smoothing_with_margin: Verdict = "unknown"
    same_model: bool | None = None
    submissions_a_day: int | None = None
    sample_ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


DEFAULT = "S25"

PROFILES: Mapping[str, Profile] = {
    "F24": Profile(
        name="F24",
        terms=("F24",),
        header=("ID", "Label"),
        id_rule="index",
        notes=("verification images are neither aligned nor 112x112", "6,000 test pairs"),
    ),
    "S25": Profile(
        name="S25",
        terms=("S25",),
        header=("ID", "Label"),
        id_rule="index",
        parameter_cap=30_000_000,
        attention="allowed",
        smoothing_with_margin="allowed",
        same_model=False,
        notes=("6,000 test pairs", "an EER of 2.5 % was the `high` cutoff"),
    ),
    "F25": Profile(
        name="F25",
        terms=("F25",),
        header=("ID", "Label"),
        id_rule="index",
        parameter_cap=30_000_000,
        pretrained="forbidden",
        imported_architectures="forbidden",
        attention="allowed",
        external_data="forbidden",
        smoothing_with_margin="allowed",
        same_model=True,
        notes=("6,000 test pairs",),
    ),
    "S26": Profile(
        name="S26",
        terms=("S26",),
        header=("ID", "Label"),
        id_rule="index",
        parameter_cap=30_000_000,
        pretrained="forbidden",
        imported_architectures="forbidden",
        external_data="forbidden",
        smoothing_with_margin="allowed",
        same_model=True,
        notes=(
            "5,000 test pairs",
            "the hand-in asks for acknowledgement.txt, README.txt, model_metadata_<date>.json "
            "and the ten best W&B runs by `EER`",
        ),
    ),
    "S22": Profile(
        name="S22",
        terms=("S22",),
        header=("id", "match"),
        id_rule="index",
        metric="AUC",
        higher_is_better=True,
    ),
    "F20": Profile(
        name="F20",
        terms=("F20",),
        header=("Id", "Category"),
        id_rule="pair line",
        value="score",
        metric="AUC",
        higher_is_better=True,
    ),
    "S21": Profile(
        name="S21",
        terms=("S21",),
        header=("Id", "Category"),
        id_rule="pair line",
        value="score",
        metric="AUC",
        higher_is_better=True,
    ),
    "S19": Profile(
        name="S19",
        terms=("S19",),
        header=("trial", "score"),
        id_rule="pair line",
        value="score",
    ),
    "RFIW": Profile(
        name="RFIW",
        terms=(),
        header=("img_pair", "is_related"),
        id_rule="dashed pair",
        value="score",
        metric="AUC",
        higher_is_better=True,
        notes=("kinship: `mated` means related",),
    ),
}

REFUSED: Mapping[str, str] = {
    "F26": "one CSV holds classification and verification; give the sample file's verification "
    "part as a custom profile",
    "F23": "identification: it asks for identity names, not for scores of pairs",
    "S23": "identification: it asks for identity names, not for scores of pairs",
    "S24": "identification: it asks for identity names, not for scores of pairs",
    "F22": "identification: it asks for identity names, not for scores of pairs",
}


def profile(name: str, sample: Path | None = None) -> Profile:
    """Profile of a competition by name, in any case.

    Args:
        name: a key of `PROFILES`, or `custom`.
        sample: the sample submission file, for `custom` alone.

    Raises:
        ConfigError: no such profile; or `custom` and no sample file.
        DataError: the sample file is not a header of two columns with rows below.
    """
    if name.casefold() == "custom":
        if sample is None:
            raise ConfigError("competition: custom needs the sample submission file; give its path")
        return _from_sample(sample)
    names = {known.casefold(): known for known in (*PROFILES, *REFUSED)}
    known = names.get(name.casefold(), "")
    if known in PROFILES:
        return PROFILES[known]
    if known:
        raise ConfigError(f"competition: {known} cannot be written\n  {REFUSED[known]}")
    nearest = get_close_matches(name.casefold(), [*names, "custom"], n=1, cutoff=0.0)[0]
    raise ConfigError(
        f"competition: no profile {name!r}; did you mean {names.get(nearest, nearest)}?\n"
        f"  expected one of {', '.join(PROFILES)}, custom"
    )


def _from_sample(path: Path) -> Profile:
    """Header and ids of a sample submission, exactly as they are written."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = [row for row in csv.reader(file) if row] or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a readable CSV ({error})") from error
    lengths = {len(row) for row in (header, *rows)}
    if lengths != {2} or not rows:
        raise DataError(
            f"{path.name}: {len(rows)} rows with {sorted(lengths)} columns; expected a header and "
            "one row for each pair, of two columns: id and value"
        )
    custom = Profile("custom", (), (header[0], header[1]), "sample")
    return replace(custom, sample_ids=tuple(row[0] for row in rows))
