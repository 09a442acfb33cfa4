"""What is checked of a hand-in besides the rules: its submission, keys in the zip, its size."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from facever.competition import Profile
from facever.environment import own_keys
from facever.errors import DataError
from facever.rules.models import Line
from facever.rules.submission import check_submission, holds_key, side_car


def newest_submission(digests: Sequence[str]) -> Path | None:
    """Find the newest submission that exactly these checkpoints made."""
    written = Path("submissions").glob("*.csv")
    made = [csv for csv in written if _makers(csv) == sorted(digests)]
    return max(made, key=lambda csv: csv.stat().st_mtime_ns, default=None)


def _makers(csv: Path) -> list[str]:
    """Give the SHA-256 of the checkpoints that made a submission; none where nobody knows."""
    try:
        return sorted(member["sha256"] for member in side_car(csv)["checkpoints"])
    except (DataError, KeyError, TypeError):
        return []


def submission_lines(csv: Path | None, digests: Sequence[str], rules: Profile) -> Iterator[Line]:
    """Compare what made a submission with the checkpoints that are handed in; lint it.

    Raises:
        DataError: it has no side-car.
    """
    rule = "model of the submission"
    if csv is None:
        yield Line(rule, "ask the staff", "no CSV in submissions/ was made by it; --submission")
        return
    makers = sorted(member["sha256"] for member in side_car(csv)["checkpoints"])
    if makers != sorted(digests):
        count = f"{len(makers)} checkpoints, " if len(makers) > 1 else ""
        why = f"{csv} was made by {count}SHA-256 {', '.join(sha[:12] for sha in makers)}"
        yield Line(rule, "fail", f"{why}; handed in: {', '.join(sha[:12] for sha in digests)}")
        return
    written = hashlib.sha256(csv.read_bytes()).hexdigest()
    stated = json.loads(csv.with_suffix(".json").read_text(encoding="utf-8")).get("sha256")
    if written != stated:
        yield Line(rule, "fail", f"{csv} has changed since it was written")
    else:
        yield Line(rule, "pass", f"{csv} was made by it")
    yield check_submission(csv, rules)


def keys_line(files: Mapping[str, bytes]) -> Line:
    """Look in the zip's files, by name, for this environment's keys and what looks like one."""
    own = [value.encode() for value in own_keys().values()]
    guilty = [
        name
        for name, data in files.items()
        if not name.endswith(".pt") and (holds_key(data) or any(value in data for value in own))
    ]
    if guilty:
        return Line("no secrets in the zip", "fail", f"{guilty[0]} holds what looks like a key")
    return Line("no secrets in the zip", "pass", f"no key in {len(files)} files")


def size_line(packed: bytes, largest: int) -> Line:
    """Compare the zip's size with the limit in MiB."""
    why = f"{len(packed):,} bytes; the limit is {largest:,} MiB"
    if len(packed) > largest << 20:
        return Line("size of the zip", "fail", f"{why}, --largest sets another")
    return Line("size of the zip", "pass", why)
