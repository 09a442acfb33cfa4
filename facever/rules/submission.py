"""Rules about a submission: its lines, the models that made it, and keys beside it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from facever import checkpoint
from facever.ask import Values
from facever.competition import Profile, profile
from facever.config import resolve
from facever.contest import test_images
from facever.data.lists import PairList
from facever.data_setup import read_data
from facever.errors import DataError, FaceverError
from facever.kaggle.log import read_log
from facever.naming import lint_combined_file, lint_names_file
from facever.people import possible_people
from facever.rules.models import Line
from facever.submit import lint_file


def side_car(csv: Path) -> Values:
    """Read what a submission was made of.

    Raises:
        DataError: there is no side-car, or none of `submit`.
    """
    try:
        values: Values = json.loads(csv.with_suffix(".json").read_text(encoding="utf-8"))
        return {
            "checkpoints": list(values["checkpoints"]),
            "pairs": dict(values.get("pairs", {})),
            "data": dict(values["config"]["data"]),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{csv}: no side-car {csv.with_suffix('.json').name} that says how it was made: {error}"
            "\n  expected a CSV that `facever submit` wrote"
        ) from None


def same_model(checkpoints: Sequence[Path], rules: Profile) -> Line:
    """Compare with the checkpoints of the best submission that was uploaded from here."""
    rule = "model of the best submission"
    if not rules.same_model:
        asked = "not asked for" if rules.same_model is False else "not known to be asked for"
        return Line(rule, "pass", asked)
    scored = [entry for entry in read_log() if isinstance(entry.get("score"), float)]
    if not scored:
        return Line(rule, "ask the staff", "no scored upload in submissions/log.jsonl")
    best = (max if rules.higher_is_better else min)(scored, key=lambda entry: entry["score"])
    own = sorted(checkpoint.file_digest(path) for path in checkpoints)
    try:
        its = sorted(member["sha256"] for member in side_car(Path(best["csv"]))["checkpoints"])
    except DataError as error:
        return Line(rule, "ask the staff", str(error).splitlines()[0])
    why = f"{best['csv']}, score {best['score']:g}"
    return Line(rule, "pass" if own == its else "fail", why)


def check_submission(csv: Path, rules: Profile) -> Line:
    """Lint a CSV by the pairs, or the images, that it answers."""
    if rules.task != "verification":
        problems, rows = _named_problems(csv, rules)
        return _linted(problems, rows, rules)
    about = side_car(csv)["pairs"]
    source = Path(about["file"] or "")
    if not source.is_file() or checkpoint.file_digest(source) != about["sha256"]:
        return Line("submission", "ask the staff", f"its pair file {source} is gone or changed")
    pairs = _pairs(source)
    return _linted(lint_file(csv, pairs, rules), len(pairs), rules)


def _linted(problems: Sequence[str], rows: int, rules: Profile) -> Line:
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Line("submission", "fail", problems[0] + more)
    return Line("submission", "pass", f"{rows:,} rows, as {rules.name} wants them")


def _named_problems(csv: Path, rules: Profile) -> tuple[list[str], int]:
    """Lint a CSV of names by the data that it answers; give how many rows are wanted too."""
    manifest = read_data(resolve([{"data": side_car(csv)["data"]}]).data)
    if rules.task == "identification":
        open_set = manifest.open_set
        if open_set is None or open_set.test is None:
            raise DataError(f"{manifest.root}: no known/ and unknown_test/ that {csv} answers")
        images = open_set.test.paths
        return lint_names_file(csv, images, possible_people(open_set), rules), len(images)
    if manifest.test_pairs is None or manifest.sample is None:
        raise DataError(f"{manifest.root}: no test pairs or no sample submission for {csv}")
    answered = profile(rules.name, manifest.sample)
    images, possible = test_images(manifest).paths, frozenset(manifest.identities)
    problems = lint_combined_file(csv, manifest.test_pairs, images, possible, answered)
    return problems, len(answered.sample_rows)


def _pairs(source: Path) -> PairList:
    """Read a pair file as the data set that it belongs to has it."""
    for root in (source.parent, *source.parent.parents[:2]):
        try:
            found = read_data(resolve([{"data": {"root": str(root)}}]).data).test_pairs
        except FaceverError:
            continue
        if found is not None and found.source and found.source.samefile(source):
            return found
    raise DataError(f"{source}: no data set with these pairs around it")


# Keys as Kaggle, W&B and Hugging Face write them. A bare row of 40 hexadecimal digits may be a
# commit, and 64 are a hash.
_SECRET = re.compile(
    rb"hf_[A-Za-z0-9]{30,}|KGAT_[A-Za-z0-9]{16,}|wandb_v1_[A-Za-z0-9_]{20,}"
    rb"|(?i:(?:api|kaggle|wandb)[_-]?key)[\"']?\s*[:=]\s*[\"']?[0-9a-f]{32,40}\b"
    rb"|[\"']key[\"']\s*:\s*[\"'][0-9a-f]{32}[\"']"
)


def holds_key(data: bytes) -> bool:
    """Whether there is what looks like a key of Kaggle, W&B or Hugging Face."""
    return _SECRET.search(data) is not None


def secrets(run: Path) -> Line:
    """Look for keys in everything that lies in the folder but checkpoints."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.suffix != ".pt"]
    guilty = [path for path in files if holds_key(path.read_bytes())]
    if guilty:
        return Line("no secrets", "fail", f"{guilty[0]} holds what looks like a key")
    return Line("no secrets", "pass", f"no key in {len(files)} files of {run}")
