"""Known people, and images that show one of them or nobody: open-set identification."""

import posixpath

import numpy as np

from facever.competition import NOBODY
from facever.data.files import Problem, Source
from facever.data.lists import ImageList, OpenSet
from facever.data.tables import Table, is_whole, read_table
from facever.errors import DataError

_LABEL_FILES = ("verification_dev.csv", "dev_identities.csv")
_COLUMNS = {"id": ("id",), "label": ("label", "identity", "true_label")}
_EXPECTED = f"id,label: the place among the sorted names of unknown_dev/, and a name or {NOBODY}"


def read_open_set(source: Source, known: str) -> OpenSet:
    """Read `known/<id>/`, and beside it `unknown_dev/` with its labels and `unknown_test/`.

    Raises:
        DataError: labels that do not belong to the images, or a row that cannot be read.
    """
    people = source.listing(known).folders
    labelled = [
        (path, label)
        for label, person in enumerate(people)
        for path in sorted(source.images(posixpath.join(known, person)))
    ]
    if not labelled:
        raise DataError(f"{known}/: no images of known people\n  expected {known}/<identity>/*.jpg")
    base = posixpath.dirname(known)
    dev = _sorted_images(source, posixpath.join(base, "unknown_dev"))
    test = _sorted_images(source, posixpath.join(base, "unknown_test"))
    labels = source.first_file(tuple(posixpath.join(base, name) for name in _LABEL_FILES))
    return OpenSet(
        identities=tuple(people),
        known=_images(source, [path for path, _ in labelled], [label for _, label in labelled]),
        dev=_images(source, dev, _dev_labels(source, labels, people, dev)) if labels else None,
        test=_images(source, test, [-1] * len(test)) if test else None,
    )


def _images(source: Source, paths: list[str], labels: list[int]) -> ImageList:
    return ImageList(source.root, tuple(paths), np.array(labels, dtype=np.int64))


def _sorted_images(source: Source, folder: str) -> list[str]:
    """Images in the order that ids count: by name, as text."""
    return sorted(source.images(folder))


def _dev_labels(source: Source, file: str, people: list[str], images: list[str]) -> list[int]:
    """Label of each image, -1 for nobody."""
    table = read_table(source.root / file, file).split_header(("id", "label"))
    columns = table.columns(_COLUMNS)
    if "label" not in columns:
        raise DataError(f"{file}: columns {table.header or table.rows[0]}\n  expected {_EXPECTED}")
    table.check_width(_EXPECTED)
    if len(table.rows) != len(images):
        raise DataError(
            f"{file}: {len(table.rows)} rows for {len(images)} images of unknown_dev/\n"
            f"  expected a row for each; {_EXPECTED}"
        )
    label_of = {person: i for i, person in enumerate(people)} | {NOBODY: -1}
    labels = [0] * len(images)
    strangers: dict[str, int] = {}
    for i, place in enumerate(_places(table, columns)):
        name = table.rows[i][columns["label"]].strip()
        if name not in label_of:
            strangers.setdefault(name, table.lines[i])
        labels[place] = label_of.get(name, -1)
    if strangers:
        name, line = next(iter(strangers.items()))
        source.report(
            Problem(
                f"{file}: {len(strangers)} names are not among the known people\n  first: {name!r} "
                f"(line {line})\n  expected folders of known/, or {NOBODY}",
                tuple(strangers),
            )
        )
    return labels


def _places(table: Table, columns: dict[str, int]) -> list[int]:
    """Which image each row is about: its id, or its own place where there are no ids."""
    if "id" not in columns:
        return [*range(len(table.rows))]
    places: dict[int, int] = {}
    for i, row in enumerate(table.rows):
        written = row[columns["id"]].strip()
        place = int(written) if is_whole(written) else -1
        if not 0 <= place < len(table.rows) or place in places:
            again = f", as in line {table.lines[places[place]]}" if place in places else ""
            raise table.error(i, f"id {written!r}{again}", "each number from 0 once")
        places[place] = i
    return [*places]
