"""Which picture goes to which file, and what the text files beside them say.

Pure planning: nothing is drawn and nothing is written here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import ceil, comb

import numpy as np

from facever.competition import NOBODY
from facever.data.synth.layouts import (
    COMMA,
    VERIFICATION_FROM,
    Folds,
    Layout,
    Pair,
    ProbeFiles,
    Slot,
)
from facever.data.synth.people import PLAN
from facever.errors import DataError


@dataclass(frozen=True)
class Shot:
    """A picture to draw: of whom, which, and where it goes below the root."""

    identity: int
    image: int
    path: str
    person: str  # what the layout calls the identity
    aligned: bool = True


@dataclass(frozen=True)
class Counts:
    """How much a plan holds."""

    identities: int
    train: int
    dev: int
    test: int
    verification: int
    val_pairs: int
    test_pairs: int
    val_probes: int = 0
    test_probes: int = 0


@dataclass(frozen=True)
class Plan:
    """All pictures and all text files of a data set."""

    shots: tuple[Shot, ...]
    texts: dict[str, str]
    counts: Counts


def plan(
    layout: Layout,
    *,
    identities: int,
    images: int,
    val_pairs: int,
    test_pairs: int,
    ver_identities: int,
    seed: int,
) -> Plan:
    """Lay a data set out; `images` are for training, dev and test get a tenth of them each.

    Val and test pairs show different people, and neither shows one that is trained on. A layout
    that asks who somebody is gets as many images to tell as pairs were asked for.

    Raises:
        DataError: so few people or pictures do not give so many pairs.
    """
    rng = np.random.default_rng([seed, PLAN, 0, 0])
    splits = _split(layout, identities, images, ver_identities)
    roles = {
        "train": (range(identities), images, val_pairs),
        "val": _half(ver_identities, 0, val_pairs),
        "test": _half(ver_identities, 1, test_pairs),
    }
    folds = {
        role: _choose_folds(rng, *roles[role], layout.folds if role == "test" else 1)
        for role in dict.fromkeys(file.role for file in layout.pairs)
    }
    shots = _shots(rng, layout, splits, folds)
    texts = _texts(rng, layout, splits, folds, shots)
    probes: dict[str, list[Shot]] = {}
    if layout.probes:
        probes = _probes(rng, layout, layout.probes, ver_identities, val_pairs, test_pairs)
        texts |= _probe_texts(layout.probes, probes)
    of_probes = [shot for found in probes.values() for shot in found]
    return Plan(
        shots=(*shots.values(), *of_probes),
        texts=texts,
        counts=Counts(
            identities=identities,
            verification=len(shots) - sum(map(len, splits.values())) + len(of_probes),
            **{split: len(splits.get(split, ())) for split in ("train", "dev", "test")},
            **{f"{role}_pairs": sum(map(len, folds.get(role, ()))) for role in ("val", "test")},
            val_probes=len(probes.get("dev", ())),
            test_probes=len(probes.get("test", ())),
        ),
    )


def _split(
    layout: Layout, identities: int, images: int, ver_identities: int
) -> dict[str, list[Slot]]:
    if layout.relations:
        held_out_families = range(VERIFICATION_FROM, VERIFICATION_FROM + ver_identities // 2)
        families = [*range(identities), *held_out_families]
        return {"train": [(family, k) for family in families for k in range(max(3, images))]}
    held_out = max(1, images // 10)
    ends = {"train": images, "dev": images + held_out, "test": images + 2 * held_out}
    starts = {"train": 0, "dev": images, "test": images + held_out}
    return {
        split: [(i, k) for i in range(identities) for k in range(starts[split], ends[split])]
        for split in layout.splits
    }


def _half(ver_identities: int, half: int, pairs: int) -> tuple[range, int, int]:
    """People, pictures of each and pairs of one half of the verification people."""
    middle = VERIFICATION_FROM + ver_identities // 2
    people = (
        range(middle, VERIFICATION_FROM + ver_identities)
        if half
        else range(VERIFICATION_FROM, middle)
    )
    return people, max(2, ceil(pairs / len(people))), pairs


def _choose_folds(
    rng: np.random.Generator, people: range, images: int, pairs: int, folds: int
) -> Folds:
    """Cut people into folds and choose distinct pairs of each, half of them mated."""
    each, pairs_each = len(people) // folds, pairs // folds
    possible = each * comb(images, 2)
    if each < 2 or pairs_each < 2 or possible < pairs_each // 2:
        raise DataError(
            f"synth: {len(people)} people with {images} images give no {pairs} pairs in "
            f"{folds} fold(s)\n  expected 2 people and 2 pairs a fold at least; "
            "give more identities, ver_identities or images"
        )
    return [
        _choose_pairs(rng, people[i * each : (i + 1) * each], images, pairs_each)
        for i in range(folds)
    ]


def _choose_pairs(rng: np.random.Generator, people: range, images: int, count: int) -> list[Pair]:
    within = list(combinations(range(images), 2))
    chosen: dict[frozenset[Slot], Pair] = {}
    for index in rng.choice(len(people) * len(within), count // 2, replace=False).tolist():
        person, (one, other) = people[index // len(within)], within[index % len(within)]
        pair = ((person, one), (person, other))
        chosen[frozenset(pair)] = (*pair, True)
    while len(chosen) < count // 2 * 2:
        (one, other), (k, m) = rng.choice(people, 2, replace=False), rng.integers(images, size=2)
        pair = ((int(one), int(k)), (int(other), int(m)))
        chosen[frozenset(pair)] = (*pair, False)
    pairs = list(chosen.values())
    return [pairs[i] for i in rng.permutation(len(pairs)).tolist()]


def _shots(
    rng: np.random.Generator, layout: Layout, splits: dict[str, list[Slot]], folds: dict[str, Folds]
) -> dict[Slot, Shot]:
    """Name every picture that a split or a pair needs."""
    shots: dict[Slot, Shot] = {}
    seen: dict[int, int] = {}

    def add(slot: Slot, template: str, **names: object) -> None:
        identity, image = slot
        seen[identity] = seen.get(identity, 0) + 1
        person = layout.person(identity)
        ordinal = seen[identity]
        member = (ordinal - 1) % 3 + 1
        path = template.format(person=person, ordinal=ordinal, member=member, **names)
        aligned = layout.aligned or template != layout.verification
        shots[slot] = Shot(identity, image, path, person, aligned)

    for split, slots in splits.items():
        # Shuffled numbers: neighbouring files show different people.
        for slot, number in zip(slots, rng.permutation(len(slots)).tolist(), strict=True):
            add(slot, layout.image, split=layout.splits[split], number=number)
    shown = {
        role: sorted({slot for fold in of for pair in fold for slot in pair[:2]})
        for role, of in folds.items()
        if role != "train"
    }
    codes = _codes(rng, sum(map(len, shown.values())))
    for role, slots in shown.items():
        for slot in slots:
            add(slot, layout.verification, split=layout.ver_splits[role], code=next(codes))
    return shots


def _codes(rng: np.random.Generator, count: int) -> Iterator[str]:
    """Distinct opaque names of eight letters and digits."""
    letters = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"))
    codes: dict[str, None] = {}
    while len(codes) < count:
        codes["".join(rng.choice(letters, 8))] = None
    return iter(codes)


def _texts(
    rng: np.random.Generator,
    layout: Layout,
    splits: dict[str, list[Slot]],
    folds: dict[str, Folds],
    shots: dict[Slot, Shot],
) -> dict[str, str]:
    texts: dict[str, str] = {}
    for split, slots in splits.items():
        if layout.labels and split not in layout.hidden:
            of_split = [shots[slots[i]] for i in rng.permutation(len(slots)).tolist()]
            lines = (f"{shot.path.rpartition('/')[2]} {shot.person}\n" for shot in of_split)
            texts[layout.labels.format(split=layout.splits[split])] = "".join(lines)
    if layout.manifest:
        rows = [
            f"{shots[slot].path},{shots[slot].person},{layout.splits[split]}\n"
            for split, slots in splits.items()
            for slot in slots
        ]
        texts[layout.manifest] = "".join(["path,identity,split\n", *rows])

    def name(slot: Slot) -> str:
        return shots[slot].path.removeprefix(layout.ver_root)

    for file in layout.pairs:
        texts[file.path] = file.dialect(folds[file.role], name, file.labelled)
        if not file.labelled:
            texts["test_truth.csv"] = COMMA(folds[file.role], name, True)
    return texts | _further_texts(layout, splits, folds, shots)


def _further_texts(
    layout: Layout, splits: dict[str, list[Slot]], folds: dict[str, Folds], shots: dict[Slot, Shot]
) -> dict[str, str]:
    texts: dict[str, str] = {}
    if layout.sample:
        answers = len(splits["test"]) + sum(map(len, folds["test"]))
        rows = [f"{i},0,0\n" for i in range(answers)]
        texts[layout.sample] = "".join(["ID,Class,Score\n", *rows])
    if layout.relations:
        texts[layout.relations] = _relations(shots[slot] for slot in splits["train"])
    return texts


def _relations(shots: Iterable[Shot]) -> str:
    """Tell that all members of a family are related."""
    members = sorted({shot.path.split("/", 1)[1].rpartition("/")[0] for shot in shots})
    related = [
        f"{one},{other}\n"
        for one, other in pairwise(members)
        if one.split("/")[0] == other.split("/")[0]
    ]
    return "".join(["p1,p2\n", *related])


def _probes(
    rng: np.random.Generator,
    layout: Layout,
    files: ProbeFiles,
    ver_identities: int,
    dev: int,
    test: int,
) -> dict[str, list[Shot]]:
    """Name an image of each known person, and images to tell, of which a quarter show nobody.

    Half of the verification people are known; a quarter are strangers in dev, a quarter in test.
    """
    ends = [VERIFICATION_FROM + ver_identities * part // 4 for part in (0, 2, 3, 4)]
    known, *strangers = (range(a, b) for a, b in pairwise(ends))
    images = dict.fromkeys(range(ends[0], ends[-1]), 0)

    def shot(identity: int, template: str, number: int) -> Shot:
        images[identity] += 1
        person = layout.person(identity) if identity in known else NOBODY
        path = template.format(person=person, ordinal=images[identity], number=number)
        return Shot(identity, images[identity] - 1, path, person)

    found = {"known": [shot(identity, files.known, 0) for identity in known]}
    for split, template, count, others in (
        ("dev", files.dev, dev, strangers[0]),
        ("test", files.test, test, strangers[1]),
    ):
        shown = [int(rng.choice(others if i % 4 == 3 else known)) for i in range(count)]
        order = rng.permutation(count).tolist()
        found[split] = [shot(shown[i], template, number) for number, i in enumerate(order)]
    return found


def _probe_texts(files: ProbeFiles, probes: dict[str, list[Shot]]) -> dict[str, str]:
    def answers(shots: list[Shot]) -> str:
        return "".join(["id,label\n", *(f"{i},{shot.person}\n" for i, shot in enumerate(shots))])

    return {files.labels: answers(probes["dev"]), "test_truth.csv": answers(probes["test"])}
