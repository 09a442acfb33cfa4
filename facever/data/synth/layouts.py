"""Where each layout keeps its pictures and how it writes its pairs: one table row each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from facever.errors import ConfigError

# Verification people keep their numbers, whatever the number of people to train on.
VERIFICATION_FROM = 1_000_000

Slot = tuple[int, int]  # identity, image
Pair = tuple[Slot, Slot, bool]
Folds = list[list[Pair]]
Dialect = Callable[[Folds, Callable[[Slot], str], bool], str]


@dataclass(frozen=True)
class PairFile:
    """A file of pairs: of which people (train, val, test), how written, whether labelled."""

    role: str
    path: str
    dialect: Dialect
    labelled: bool = True


@dataclass(frozen=True)
class Layout:
    """Where things lie. Templates know {split}, {person}, {ordinal}, {number} and {code}."""

    image: str
    person: Callable[[int], str]
    splits: Mapping[str, str] = field(
        default_factory=lambda: {"train": "train", "dev": "dev", "test": "test"}
    )
    labels: str = ""
    manifest: str = ""
    verification: str = ""  # its {split} is the layout's word for val and test
    ver_splits: Mapping[str, str] = field(default_factory=lambda: {"val": "val", "test": "test"})
    ver_root: str = ""  # what names in pair files are relative to
    pairs: tuple[PairFile, ...] = ()
    folds: int = 1


def _separated(separator: str, header: Sequence[str] = ()) -> Dialect:
    """Write `left right [mated]`, perhaps under a header."""

    def write(folds: Folds, name: Callable[[Slot], str], labelled: bool) -> str:
        rows = [list(header[: 2 + labelled])] if header else []
        for left, right, mated in (pair for fold in folds for pair in fold):
            rows.append([name(left), name(right), *([str(int(mated))] if labelled else [])])
        return "".join(separator.join(row) + "\n" for row in rows)

    return write


def _lfw(folds: Folds, name: Callable[[Slot], str], labelled: bool) -> str:
    """Write LFW's own lines: `Name 1 4` and `Name 1 Other 2`, the mated ones of a fold first."""

    def numbered(slot: Slot) -> tuple[str, int]:
        person, file = name(slot).split("/")
        return person, int(file[len(person) + 1 : -len(".jpg")])

    each = str(len(folds[0]) // 2)
    lines = ["\t".join([str(len(folds)), each] if len(folds) > 1 else [each])]
    for fold in folds:
        for left, right, mated in sorted(fold, key=lambda pair: not pair[2]):
            (person, first), (other, second) = numbered(left), numbered(right)
            lines.append("\t".join([person, str(first), *([] if mated else [other]), str(second)]))
    return "".join(line + "\n" for line in lines)


_SYLLABLES = (
    *("ba", "de", "fi", "ko", "lu", "ma", "ne", "pi"),
    *("ro", "su", "ta", "ve", "wi", "zo", "ha", "je"),
)


def _number_name(identity: int) -> str:
    return str(identity)


def _folder_name(identity: int) -> str:
    return f"n{identity:06d}"


def _full_name(identity: int) -> str:
    """Make up a first and a last name, others for every identity below 16 ** 6."""
    code = identity * 7_368_787 % 16**6  # odd, so that no two share a name
    letters = [_SYLLABLES[code >> shift & 15] for shift in range(0, 24, 4)]
    return "".join(letters[:3]).capitalize() + "_" + "".join(letters[3:]).capitalize()


_SPACE, COMMA = _separated(" "), _separated(",", ("left", "right", "mated"))
_HW2P2_PAIRS = (
    PairFile("val", "val_pairs.txt", _SPACE),
    PairFile("test", "test_pairs.txt", _SPACE, labelled=False),
)
_CSV_PAIRS = (
    PairFile("val", "val_pairs.csv", COMMA),
    PairFile("test", "test_pairs.csv", COMMA, labelled=False),
)
_S25 = Layout(
    image="cls_data/{split}/images/{split}_{number:06d}.jpg",
    person=_number_name,
    labels="cls_data/{split}/labels.txt",
    verification="ver_data/{code}.jpg",
    ver_root="ver_data/",
    pairs=_HW2P2_PAIRS,
)
_TRAIN_DEV = {"train": "train", "dev": "dev"}
LAYOUTS: dict[str, Layout] = {
    "S25": _S25,
    "S25-mirror": replace(
        _S25,
        splits={"train": "train", "dev": "val", "test": "test"},
        pairs=tuple(replace(file, path=f"ver_data/{file.path}") for file in _HW2P2_PAIRS),
    ),
    "F24": replace(
        _S25,
        image="cls_data/{split}/{person}/{person}_{ordinal:04d}.jpg",
        person=_folder_name,
        splits=_TRAIN_DEV,
        labels="",
        pairs=_HW2P2_PAIRS + _CSV_PAIRS,
    ),
    "F20": Layout(
        image="{split}_data/{person}/{person}_{ordinal:04d}.jpg",
        person=_folder_name,
        splits={"train": "train", "dev": "val", "test": "test"},
        verification="verification_data/{code}.jpg",
        pairs=(
            PairFile("val", "verification_pairs_val.txt", _SPACE),
            PairFile("test", "verification_pairs_test.txt", _SPACE, labelled=False),
        ),
    ),
    "S22": Layout(
        image="classification/{split}/{person}/{person}_{ordinal:04d}.jpg",
        person=_folder_name,
        verification="verification/{split}/{code}.jpg",
        ver_splits={"val": "dev", "test": "test"},
        ver_root="verification/",
        pairs=(
            PairFile(
                "val", "verification/verification_dev.csv", _separated(",", ("img1", "img2", "gt"))
            ),
            PairFile(
                "test",
                "verification/verification_test.csv",
                _separated(",", ("img1", "img2")),
                labelled=False,
            ),
        ),
    ),
    "folders": Layout(
        image="{split}/{person}/{person}_{ordinal:04d}.jpg",
        person=_folder_name,
        splits=_TRAIN_DEV,
    ),
    "tree": Layout(
        image="{person}/{person}_{ordinal:04d}.jpg",
        person=_folder_name,
        splits={"train": ""},
    ),
    "LFW": Layout(
        image="{person}/{person}_{ordinal:04d}.jpg",
        person=_full_name,
        splits={"train": ""},
        verification="{person}/{person}_{ordinal:04d}.jpg",
        pairs=(
            PairFile("train", "pairsDevTrain.txt", _lfw),
            PairFile("val", "pairsDevTest.txt", _lfw),
            PairFile("test", "pairs.txt", _lfw),
        ),
        folds=10,
    ),
    "csv": Layout(
        image="images/{person}_{split}_{ordinal:04d}.jpg",
        person=_folder_name,
        manifest="manifest.csv",
        verification="ver_data/{code}.jpg",
        pairs=_CSV_PAIRS,
    ),
}
_SAME_AS_S25 = ("F25", "S26", "F26")


def find_layout(name: str) -> Layout:
    """Look a layout up by name, in any case.

    Raises:
        ConfigError: no layout has that name; the message has the nearest one.
    """
    known = {key.casefold(): layout for key, layout in LAYOUTS.items()}
    known |= {key.casefold(): LAYOUTS["S25"] for key in _SAME_AS_S25}
    if name.casefold() in known:
        return known[name.casefold()]
    names = [*LAYOUTS, *_SAME_AS_S25]
    near = get_close_matches(name.casefold(), known, n=1, cutoff=0.3)
    hint = next((f"; nearest is {key}" for key in names if [key.casefold()] == near), "")
    raise ConfigError(f"layout: {name!r} is unknown{hint}\n  expected one of {', '.join(names)}")
