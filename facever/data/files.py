"""Names as people write them -> files below a root, and never outside it.

Each folder is listed once: half a million existence checks are then set look-ups instead of
as many system calls.
"""

import os
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from facever.data.bundles import bundled_names
from facever.data.images import is_image_name
from facever.errors import DataError


@dataclass(frozen=True)
class Problem:
    """A contradiction between files: one message, and every name concerned."""

    message: str
    items: tuple[str, ...]


Report = Callable[[Problem], None]


def leads_somewhere(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is anything but a link to nowhere or in a circle, of which asking fails."""
    return not entry.is_symlink() or Path(entry.path).exists()


def refuse(problem: Problem) -> None:
    """Stop at the first contradiction; the `Report` of everything but `inspect`."""
    raise DataError(problem.message)


@dataclass
class Listing:
    """Names in one folder, links out of the root left out."""

    files: set[str] = field(default_factory=set)
    folders: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


class Source:
    """The files below `root`; `report` hears of contradictions, `notes` gathers facts."""

    def __init__(self, root: Path, report: Report = refuse) -> None:
        self.root = root.resolve()
        self.report = report
        self.notes: list[str] = []
        self._listings: dict[str, Listing] = {}

    def listing(self, folder: str) -> Listing:
        """List a folder, given relative to the root ("" is the root); absent ones are empty."""
        if folder not in self._listings:
            self._listings[folder] = listing = self._list(folder)
            if listing.outside:
                self._report_links(folder, listing.outside)
        return self._listings[folder]

    def images(self, folder: str) -> list[str]:
        """Paths, relative to the root and in no order, of a folder's files called like images."""
        prefix = posixpath.join(folder, "")
        return [prefix + name for name in self.listing(folder).files if is_image_name(name)]

    def has_file(self, path: str) -> bool:
        """Whether a path, relative to the root, is a file."""
        folder, name = posixpath.split(path)
        return name in self.listing(folder).files

    def first_file(self, candidates: tuple[str, ...]) -> str | None:
        """Return the first of several paths that is a file."""
        return next((path for path in candidates if self.has_file(path)), None)

    def first_folder(self, candidates: tuple[str, ...]) -> str | None:
        """Return the first of several paths that is a folder."""
        return next((path for path in candidates if (self.root / path).is_dir()), None)

    def _list(self, folder: str) -> Listing:
        listing = Listing()
        path = self.root / folder
        # An absolute folder was given on purpose: see `Finder`.
        absolute = posixpath.isabs(folder)
        try:
            if not absolute and not self._holds(path):
                return Listing(outside=["."] if path.is_dir() else [])
            with os.scandir(path) as entries:
                for entry in filter(leads_somewhere, entries):
                    self._sort_in(entry, listing, absolute)
            listing.files.update(bundled_names(path))
        except PermissionError as error:
            raise DataError(f"{path}: not readable: {error.strerror}") from error
        except (OSError, ValueError):
            # Absent, no folder, or a name that no file can have (too long, a null byte).
            return Listing()
        listing.folders.sort()
        return listing

    def _sort_in(self, entry: os.DirEntry[str], listing: Listing, absolute: bool) -> None:
        if entry.is_symlink() and not absolute and not self._holds(Path(entry.path)):
            if entry.is_dir() or is_image_name(entry.name):
                listing.outside.append(entry.name)
        elif entry.is_file():
            listing.files.add(entry.name)
        elif entry.is_dir() and entry.name[0] != "." and entry.name != "__MACOSX":
            listing.folders.append(entry.name)

    def _holds(self, path: Path) -> bool:
        # `resolve` raises where links lead in a circle.
        return Path(os.path.realpath(path)).is_relative_to(self.root)

    def _report_links(self, folder: str, names: list[str]) -> None:
        paths = tuple(posixpath.normpath(posixpath.join(folder, name)) for name in sorted(names))
        target = os.path.realpath(self.root / paths[0])
        self.report(
            Problem(
                f"{paths[0]}: links out of the data folder to {target} ({len(paths)} in all)\n"
                f"  expected everything below {self.root}; give data.root=... as the folder that "
                "holds the files themselves",
                paths,
            )
        )


class Finder:
    """Names in a table -> paths relative to the root.

    A name is relative to `folder`, and may repeat the end of that folder's path in front
    (`ver_data/A.jpg` or `A.jpg` for `ver_data/A.jpg`).

    Args:
        source: the files.
        folder: where the images lie, relative to the root ("" is the root).
        absolute: whether absolute paths are taken; only for a list the user gave as such.
    """

    def __init__(self, source: Source, folder: str, *, absolute: bool = False) -> None:
        self.source = source
        self.folder = folder
        self.absolute = absolute
        self.shown = (folder or source.root.name) + "/"
        self._names = source.listing(folder).files
        self._prefix = f"{folder}/" if folder else ""
        self._tail = (source.root / folder).parts

    def problem(self, name: str) -> str | None:
        """Say why a name is refused, whether or not there is such a file; None if it is not."""
        if not name:
            return "empty name"
        if name[0] == "/" and not self.absolute:
            return f"absolute path {name!r}"
        if ".." in name and ".." in name.split("/"):
            return f"path {name!r} with '..'"
        return None

    def __call__(self, name: str) -> str | None:
        """Return the path relative to the root, or None where there is no such file."""
        if name in self._names:
            return self._prefix + name
        if "/" not in name:
            return None
        name = posixpath.normpath(name)
        candidates = [posixpath.join(self.folder, name), *self._without_tail(name)]
        return next((path for path in candidates if self.source.has_file(path)), None)

    def _without_tail(self, name: str) -> list[str]:
        parts = tuple(name.split("/"))
        return [
            posixpath.join(self.folder, *parts[n:])
            for n in range(1, len(parts))
            if self._tail[-n:] == parts[:n]
        ]
