"""Where each layout keeps its pictures and how it writes its pairs: one table row each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from facever.competition import PROFILES
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
class ProbeFiles:
    """Where known people lie, and the images that show one of them or nobody."""

    known: str
    dev: str
    test: str
    labels: str


@dataclass(frozen=True)
class Layout:
    """Where things lie.

    Templates know {split}, {person}, {ordinal}, {number} and {code}, and {member}, one of three.

    Attributes:
        image: template of the images of splits.
        person: identity to its name.
        splits: split to the layout's word for it.
        labels: template of a split's label file.
        hidden: splits whose labels are not told.
        manifest: a file that lists all images.
        verification: template of images in pairs; its {split} is the word for val and test.
        ver_root: what names in pair files are relative to.
        aligned: whether the images in pairs are aligned and cut to one size.
        folds: of the pairs to submit.
        probes: of a layout that asks who somebody is.
        relations: a file of which members of a family are related; then people are families.
        sample: a sample submission for both tasks.
        size: of the competition's images, pixels a side.
    """

    image: str
    person: Callable[[int], str]
    splits: Mapping[str, str] = field(
        default_factory=lambda: {"train": "train", "dev": "dev", "test": "test"}
    )
    labels: str = ""
    hidden: tuple[str, ...] = ()
    manifest: str = ""
    verification: str = ""
    ver_splits: Mapping[str, str] = field(default_factory=lambda: {"val": "val", "test": "test"})
    ver_root: str = ""
    pairs: tuple[PairFile, ...] = ()
    aligned: bool = True
    folds: int = 1
    probes: ProbeFiles | None = None
    relations: str = ""
    sample: str = ""
    size: int = 112


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


def _dashed(folds: Folds, name: Callable[[Slot], str], labelled: bool) -> str:
    """Write a sample submission whose ids are the pairs, `a-b`, as kinship has it."""
    rows = (f"{name(left)}-{name(right)},0\n" for fold in folds for left, right, _ in fold)
    return "".join(["img_pair,is_related\n", *rows])


_SYLLABLES = (
    *("ba", "de", "fi", "ko", "lu", "ma", "ne", "pi"),
    *("ro", "su", "ta", "ve", "wi", "zo", "ha", "je"),
)


def _number_name(identity: int) -> str:
    return str(identity)


def _folder_name(identity: int) -> str:
    return f"n{identity:06d}"


def _known_name(identity: int) -> str:
    """Name people from n000001 on, for n000000 is nobody."""
    return f"n{identity % VERIFICATION_FROM + (identity // VERIFICATION_FROM) * 500_000 + 1:06d}"


def _family_name(identity: int) -> str:
    """Name families F0001 and on, and those to validate by F0900 and on."""
    if identity >= VERIFICATION_FROM:
        return f"F09{identity - VERIFICATION_FROM:02d}"
    return f"F{identity + 1 if identity < 899 else identity + 101:04d}"


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
        aligned=False,
    ),
    "F26": replace(_S25, hidden=("test",), sample="sample_submission.csv"),
    "F22": Layout(
        image="{split}/{person}/{person}_{ordinal:04d}.jpg",
        person=_known_name,
        probes=ProbeFiles(
            known="known/{person}/{person}_{ordinal:04d}.jpg",
            dev="unknown_dev/{number:06d}.jpg",
            test="unknown_test/{number:06d}.jpg",
            labels="verification_dev.csv",
        ),
        size=224,
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
        size=64,
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
    "S19": Layout(
        image="{split}/{person}/{person}_{ordinal:04d}.jpg",
        person=_folder_name,
        splits=_TRAIN_DEV,
        verification="test_verification/{code}.jpg",
        ver_root="test_verification/",
        pairs=(PairFile("test", "trials_test_new.txt", _SPACE, labelled=False),),
    ),
    "RFIW": Layout(
        image="train/{person}/MID{member}/P{ordinal:05d}_face0.jpg",
        person=_family_name,
        splits={"train": "train"},
        verification="test/face{code}.jpg",
        ver_root="test/",
        pairs=(PairFile("test", "sample_submission.csv", _dashed, labelled=False),),
        relations="train_relationships.csv",
        size=224,
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
# Terms of one profile are laid out alike, and S25 is how two later ones are.
_SAME_AS = {"F25": "S25", "S26": "S25"} | {
    term: name
    for name, rules in PROFILES.items()
    if name in LAYOUTS
    for term in rules.terms
    if term != name
}


def find_layout(name: str) -> Layout:
    """Look a layout up by its name or a term that it holds for, in any case.

    Raises:
        ConfigError: no layout has that name; the message has the nearest one.
    """
    names = {key.casefold(): key for key in (*LAYOUTS, *_SAME_AS)}
    found = names.get(name.casefold())
    if found is not None:
        return LAYOUTS[_SAME_AS.get(found, found)]
    near = get_close_matches(name.casefold(), names, n=1, cutoff=0.3)
    hint = f"; nearest is {names[near[0]]}" if near else ""
    listed = ", ".join(names.values())
    raise ConfigError(f"layout: {name!r} is unknown{hint}\n  expected one of {listed}")
