"""Which competition a data set belongs to, from what it shows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from facever.competition import DEFAULT, PROFILES, Profile, answer_columns
from facever.errors import DataError

# `11-785-f24-hw2p2`, `hw2p2_S25`, `fall-2026`; not the `s1` of `part2s1`.
_TERM = re.compile(r"(?<![a-z0-9])(?:([sf])|(spring|fall)[-_ ]?(?:20)?)(\d\d)(?![a-z0-9])", re.I)


@dataclass(frozen=True)
class Facts:
    """What a data set shows.

    Attributes:
        layout: its name.
        folders: whether training images lie in a folder per identity.
        test_pairs: to submit; 0 where there are none.
        pair_files: names of its pair files.
        sample: header of its sample submission, empty where it has none.
        names: of its folder, and of what it was fetched as.
    """

    layout: str
    folders: bool = False
    test_pairs: int = 0
    pair_files: Sequence[str] = ()
    sample: tuple[str, ...] = ()
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Competition:
    """A profile, and why it is that one."""

    rules: Profile
    why: str

    def __str__(self) -> str:
        return f"{self.rules.title}, {self.why}"


def detect(facts: Facts) -> Competition:
    """Choose the profile that fits; of several that fit alike the first, which is then said."""
    fitting = [rules for rules in PROFILES.values() if _fits(rules, facts)]
    if not fitting:
        return Competition(
            PROFILES[DEFAULT], f"by default: a data set like this ({facts.layout}) has no profile"
        )
    folders = " with a folder per identity" if fitting[0].folders else ""
    clues = [f"the layout {facts.layout}{folders}"]
    for clue, narrower in (
        (f"its name {_named(facts.names)}", _by_name(fitting, facts.names)),
        (f"the sample submission's {','.join(facts.sample)}", _by_sample(fitting, facts.sample)),
        (f"{facts.test_pairs:,} test pairs", _by_count(fitting, facts.test_pairs)),
    ):
        if any(rules in fitting for rules in narrower) and len(narrower) < len(fitting):
            fitting = [rules for rules in fitting if rules in narrower]
            clues.append(clue)
    chosen, *others = sorted(fitting, key=lambda rules: rules.name != DEFAULT)
    said = f"detected from {' and '.join(clues)}"
    if others:
        names = ", ".join(rules.title for rules in others)
        said += f"; {names} would look alike: data.competition={others[0].name} says so"
    return Competition(chosen, said)


def _fits(rules: Profile, facts: Facts) -> bool:
    return (
        rules.layout == facts.layout
        and rules.folders in (None, facts.folders)
        and (not rules.pair_file or rules.pair_file in facts.pair_files)
    )


def _named(names: Sequence[str]) -> str:
    return next((name for name in names if _TERM.search(name)), "")


def _by_name(fitting: Sequence[Profile], names: Sequence[str]) -> list[Profile]:
    found = [
        (half or season[:1]).upper() + year
        for name in names
        for half, season, year in _TERM.findall(name)
    ]
    return [rules for rules in fitting if {*rules.terms} & {*found}]


def _by_sample(fitting: Sequence[Profile], sample: tuple[str, ...]) -> list[Profile]:
    if not sample:
        return []
    return [rules for rules in fitting if (rules.task == "both") == _answers_both(sample)]


def _answers_both(header: tuple[str, ...]) -> bool:
    try:
        return len(header) == 3 and bool(answer_columns(header))
    except DataError:
        return False


def _by_count(fitting: Sequence[Profile], test_pairs: int) -> list[Profile]:
    return [rules for rules in fitting if rules.test_pairs == test_pairs]
