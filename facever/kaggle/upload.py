"""`submit --upload`: a linted CSV to Kaggle, once, and its score back.

A submission is worth something: few are allowed a day. So what would waste one is refused first,
and when nobody knows whether one was made, the list of submissions is asked, never the request
repeated. To be found there, each carries the first digits of its file's SHA-256 in its description.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from facever.errors import CheckFailed, ConfigError, DataError
from facever.kaggle.api import Kaggle, Submission, as_slug
from facever.kaggle.faults import WEB, Busy, KaggleError, Unavailable
from facever.kaggle.fetch import recorded_slug
from facever.kaggle.log import Entry, read_log, write_log
from facever.tracking import duration, note

# Seconds between two looks for a score.
POLL = 5.0
# Looks, before a submission that nobody confirmed counts as not made.
LOOKS = 3
# Characters; what Kaggle would cut is not known, and the tag at the end must stay.
LONGEST_MESSAGE = 300


@dataclass(frozen=True)
class Uploaded:
    """A submission that Kaggle accepted.

    Attributes:
        slug: the competition's name at Kaggle.
        reference: Kaggle's number of it, 0 where it told none.
        status: `complete`, or `pending` when it was not scored while we waited.
        score: on the public leaderboard, where there is one.
    """

    slug: str
    reference: int
    status: str
    score: float | None

    def to_text(self) -> str:
        """Tell it in one line."""
        where = f"{self.slug}: accepted as {self.reference}"
        if self.status == "pending":
            return f"{where}, not scored yet; its score will be at {page(self.slug)}"
        if self.score is None:
            return f"{where} and scored; the score is hidden"
        return f"{where}, public score {self.score:g}"


@dataclass(frozen=True)
class _File:
    """A submission on disk, with what its side-car says."""

    path: Path
    content: bytes
    sha256: str
    root: str | None
    runs: str
    eer: float | None

    @property
    def tag(self) -> str:
        return f"[sha256 {self.sha256[:12]}]"


def upload(
    csv: Path,
    *,
    slug: str | None = None,
    message: str | None = None,
    daily_limit: int | None = None,
    wait: float,
    anyway: bool = False,
) -> Uploaded:
    """Upload a CSV that `write_submission` wrote, wait for its score, and log both.

    Args:
        csv: the file; its side-car lies beside it.
        slug: the competition's name at Kaggle, by default the one that the data was fetched from.
        message: what Kaggle shows beside it, by default the runs and their validation EER.
        daily_limit: submissions a day that the competition's profile knows of.
        wait: seconds to wait for the score.
        anyway: also where an earlier upload was better, or has the same bytes.

    Raises:
        CheckFailed: it would waste a submission; nothing was sent.
        ConfigError: nobody said which competition.
        DataError: the file and its side-car do not belong together.
        KaggleError: Kaggle refused, cannot be reached, or could not score it.
        StorageError: the log cannot be written.
    """
    file = _read(csv)
    slug = as_slug(slug) if slug else _recorded_slug(file)
    with Kaggle() as kaggle:
        earlier = kaggle.submissions(slug)
        limits = [limit for limit in (daily_limit, kaggle.daily_limit(slug)) if limit]
        problems = _quota_problems(earlier, min(limits, default=None))
        problems += [] if anyway else _waste_problems(file, slug, earlier)
        if problems:
            raise CheckFailed(f"{csv}: written, not uploaded\n  " + "\n  ".join(problems))
        note(f"{csv}: uploading to {slug}")
        ours = _Ours(kaggle, slug, file.tag, frozenset(item.reference for item in earlier))
        description = f"{(message or _default_message(file))[:LONGEST_MESSAGE]} {file.tag}"
        reference = _submit(ours, csv.name, file.content, description)
        entry = _entry(file, slug, description, reference)
        write_log(entry)
        found = _wait(ours, reference, wait)
    if found is None:
        return Uploaded(slug, reference, "pending", None)
    outcome = {"reference": found.reference, "status": found.status, "score": found.score}
    write_log({**entry, **outcome})
    if found.status == "error":
        raise KaggleError(
            f"{csv}: Kaggle took it and could not score it: {found.error or 'without a reason'}\n"
            f"  its pages may say more: {page(slug)}"
        )
    return Uploaded(slug, found.reference, found.status, found.score)


def page(slug: str) -> str:
    """Address at which Kaggle lists the submissions of a competition."""
    return f"{WEB}/competitions/{slug}/submissions"


def _read(csv: Path) -> _File:
    """Read a submission and its side-car, which must be of these very bytes."""
    side_car = csv.with_suffix(".json")
    try:
        content = csv.read_bytes()
        about = json.loads(side_car.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{csv}: cannot be read with its side-car {side_car.name}: {error}"
        ) from error
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != about.get("sha256"):
        raise DataError(
            f"{csv}: is not the file that {side_car.name} describes; something changed it\n"
            "  `facever submit --upload` writes it anew"
        )
    runs = dict.fromkeys(Path(item["path"]).resolve().parent.name for item in about["checkpoints"])
    return _File(
        csv,
        content,
        sha256,
        about["config"].get("data", {}).get("root"),
        " + ".join(runs),
        (about.get("validation") or {}).get("eer"),
    )


def _recorded_slug(file: _File) -> str:
    slug = recorded_slug(Path(file.root)) if file.root else None
    if slug is None:
        raise ConfigError(
            f"{file.path}: written, not uploaded: to which competition is not known\n"
            "  `--slug NAME` gives the last part of its address, kaggle.com/competitions/NAME;\n"
            f"  `facever data fetch NAME` would have recorded it in the data, {file.root}"
        )
    return slug


def _entry(file: _File, slug: str, description: str, reference: int) -> Entry:
    """Give the log's line of a submission that was just accepted."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "csv": str(file.path),
        "sha256": file.sha256,
        "slug": slug,
        "message": description,
        "validation_eer": file.eer,
        "reference": reference,
        "status": "pending",
        "score": None,
    }


def _default_message(file: _File) -> str:
    return file.runs if file.eer is None else f"{file.runs}: validation EER {file.eer:.2%}"


def _quota_problems(earlier: Sequence[Submission], limit: int | None) -> list[str]:
    """Tell whether today's submissions are used up; Kaggle counts by UTC, those it could score."""
    now = datetime.now(UTC)
    used = sum(item.time.date() == now.date() and item.status != "error" for item in earlier)
    if limit is None or used < limit:
        return []
    midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
    left = duration((midnight - now).total_seconds())
    return [f"quota: {used} of {limit} submissions of today (UTC) are made; the next in {left} h"]


def _waste_problems(file: _File, slug: str, earlier: Sequence[Submission]) -> list[str]:
    """Tell whether an earlier upload has the same bytes, or was better on the labelled pairs."""
    problems = []
    same = [item for item in earlier if file.tag in item.description and item.status != "error"]
    if same:
        score = "no score yet" if same[0].score is None else f"score {same[0].score:g}"
        problems.append(
            f"same bytes: uploaded on {same[0].time:%Y-%m-%d %H:%M} UTC as {same[0].reference}, "
            f"{score}"
        )
    rivals = [
        entry
        for entry in read_log()
        if entry["slug"] == slug
        and entry["status"] != "error"
        and isinstance(entry["validation_eer"], float)
    ]
    best = min(rivals, key=lambda entry: entry["validation_eer"], default=None)
    if best and file.eer is not None and best["validation_eer"] < file.eer:
        problems.append(
            f"worse: validation EER {file.eer:.2%}; {best['csv']}, uploaded on "
            f"{best['time'][:10]}, has {best['validation_eer']:.2%}"
        )
    return [f"{problem}; --anyway uploads it" for problem in problems]


@dataclass(frozen=True)
class _Ours:
    """How to find the submission that is being made among those of the team.

    Attributes:
        tag: in its description, made of its bytes.
        before: references of those that were there before it.
    """

    kaggle: Kaggle
    slug: str
    tag: str
    before: frozenset[int]

    def find(self, reference: int = 0) -> Submission | None:
        for item in self.kaggle.submissions(self.slug, pages=1):
            new = self.tag in item.description and item.reference not in self.before
            if new or (reference and item.reference == reference):
                return item
        return None


def _submit(ours: _Ours, name: str, content: bytes, description: str) -> int:
    """Store the bytes and make the submission of them, once; Kaggle's number of it."""
    token = ours.kaggle.store(ours.slug, name, content)
    try:
        return ours.kaggle.create(ours.slug, token, description)
    except Busy:
        raise
    except Unavailable as error:
        note(f"{str(error).splitlines()[0]}; looking whether the submission was made")
        for _ in range(LOOKS):
            time.sleep(POLL)
            if found := ours.find():
                return found.reference
        raise KaggleError(
            f"{error}\n  Kaggle lists no such submission; should it appear, the same command will "
            "notice"
        ) from error


def _wait(ours: _Ours, reference: int, wait: float) -> Submission | None:
    """Look until it is scored or `wait` seconds are over; what Kaggle last said of it, if any."""
    end = time.monotonic() + wait
    found = None
    try:
        while True:
            found = ours.find(reference)
            left = end - time.monotonic()
            if left <= 0 or (found and found.status != "pending"):
                break
            time.sleep(min(POLL, left))
    except KaggleError as error:
        # It was accepted, whoever answers now.
        note(f"warning: {error}")
    if found is None:
        note(f"warning: Kaggle took the file and does not list it; is it at {page(ours.slug)}?")
    return found
