"""The facts of a data set as a page for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_WIDTH = 15
_BAR = 40
_MOST = 4

Facts = Mapping[str, Any]


def page(facts: Facts, problems: Sequence[str]) -> str:
    """Write the facts of `inspect` in lines, what is long in short; JSON has all of it."""
    found = [*(_data_set(facts) if facts["layout"] else _unknown(facts["folders"]))]
    found += [f"problem: {text}" for text in problems] or ["no problems"]
    return "\n".join(found)


def _unknown(folders: Facts) -> Iterator[str]:
    yield _line("layout", "none that is known")
    for folder, suffixes in folders.items():
        kinds = ", ".join(f"{count:,} {suffix or 'other'}" for suffix, count in suffixes.items())
        if kinds:
            yield _line("", f"{folder}: {kinds}")


def _data_set(facts: Facts) -> Iterator[str]:
    yield _line("data", facts["root"])
    yield _line("layout", f"{facts['layout']}: {facts['layout_reason']}")
    yield from _people(facts)
    for name, pairs in facts["pairs"].items():
        yield _line(f"{name} pairs", _pairs(pairs))
    yield from _images(facts)
    yield from _copies("duplicates", facts["duplicates"], "the same bytes")
    yield from _copies("near-duplicates", facts["near_duplicates"], "nearly the same picture")
    for text in facts["notes"]:
        yield _line("note", text)
    if "sheet" in facts:
        yield _line("contact sheet", facts["sheet"])
    if "fixed" in facts:
        yield from _fixed(facts["fixed"])


def _people(facts: Facts) -> Iterator[str]:
    by_split = facts["identities_by_split"]
    for split, count in facts["images"].items():
        yield _line(split, f"{count:,} images of {by_split[split]:,} identities")
    if facts["images_per_identity"]:
        yield from _histogram(facts["images_per_identity"])
    if facts["label_gaps"]:
        yield _line("label gaps", _some([str(label) for label in facts["label_gaps"]]))


def _line(name: str, text: str) -> str:
    return f"{name:<{_WIDTH}}  {text}".rstrip()


def _some(items: Sequence[str]) -> str:
    more = ", ..." if len(items) > _MOST else ""
    return f"{len(items):,}: {', '.join(items[:_MOST])}{more}"


def _histogram(spread: Facts) -> Iterator[str]:
    yield _line("of each", f"{spread['min']:,} to {spread['max']:,}, median {spread['median']:g}")
    bars = spread["histogram"]
    longest, width = max(bars.values()), max(map(len, bars))
    for label, count in bars.items():
        bar = "#" * max(round(_BAR * count / longest), 1)
        yield _line("", f"{label:>{width}}  {bar} {count:,}")


def _pairs(pairs: Facts) -> str:
    labelled = pairs["mated"] + pairs["non_mated"]
    shares = f"{pairs['mated']:,} mated ({pairs['mated'] / labelled:.1%})" if labelled else ""
    parts = [
        f"{pairs['pairs']:,} of {pairs['images']:,} images",
        shares or "no labels",
        f"{pairs['folds']} folds" if pairs["folds"] else "",
        f"{pairs['repeated']:,} repeated" if pairs["repeated"] else "",
        pairs["file"] or "made here",
    ]
    return ", ".join(part for part in parts if part)


def _images(facts: Facts) -> Iterator[str]:
    sizes = facts["sizes"]
    shown = [f"{size} {count:,}" for size, count in list(sizes.items())[:_MOST]]
    more = f", ... {len(sizes):,} sizes" if len(sizes) > _MOST else ""
    yield _line("sizes", ", ".join(shown) + more)
    if facts["pixels"]:
        mean, std = (
            " ".join(f"{value:.4f}" for value in facts["pixels"][key]) for key in ("mean", "std")
        )
        yield _line("train pixels", f"mean {mean}, deviation {std} (red, green, blue in [0, 1])")
    unreadable = [f"{path} ({reason})" for path, reason in facts["unreadable"].items()]
    yield _line("unreadable", _some(unreadable) if unreadable else "none")
    for name, key in (("one colour", "blank"), ("in no pair", "images_in_no_pair")):
        if facts[key]:
            yield _line(name, _some(facts[key]))


def _copies(name: str, groups: Sequence[Facts], what: str) -> Iterator[str]:
    if not groups:
        yield _line(name, "none")
        return
    files = sum(len(group["paths"]) for group in groups)
    people = sum(len(group["identities"]) > 1 for group in groups)
    splits = sum(len(group["splits"]) > 1 for group in groups)
    yield _line(
        name,
        f"{files:,} files in {len(groups):,} groups with {what}; of several identities {people:,}, "
        f"in several splits {splits:,}",
    )
    worst = sorted(groups, key=lambda group: (-len(group["identities"]), -len(group["splits"])))
    yield _line("", " = ".join(worst[0]["paths"][:_MOST]))


def _fixed(fixed: Facts) -> Iterator[str]:
    kept = ", ".join(f"{count:,} {split}" for split, count in fixed["images"].items())
    yield _line("cleaned", f"{fixed['file']}: {kept}; {len(fixed['dropped']):,} left out")
    for conflict in fixed["conflicts"][:_MOST]:
        who = " or ".join(conflict["identities"])
        yield _line("", f"{who}? {' = '.join(conflict['paths'])}")
    if "pairs_file" in fixed:
        lost = f", {fixed['pairs_dropped']:,} left out" if fixed["pairs_dropped"] else ""
        yield _line("", f"{fixed['pairs_file']}: {fixed['pairs']:,} pairs{lost}")
    yield _line("next", f"facever train data.root={fixed['file']}")
