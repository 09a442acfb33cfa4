"""A plan -> a data set on disk: pictures as JPEG, text files, and the quality of every picture."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facever.data.synth.layouts import VERIFICATION_FROM, find_layout
from facever.data.synth.people import PLAN
from facever.data.synth.pictures import MEASURED, check_size_and_seed, render
from facever.data.synth.plan import Counts, Plan, Shot, plan
from facever.data.workers import Progress, run_all, usable_cores
from facever.errors import ConfigError, StorageError
from facever.storage import appearing

if TYPE_CHECKING:
    from PIL.Image import Image as PictureFile

_CHUNK = 32  # pictures between two calls of progress
# Starting processes takes about a second, in which one process draws some 250 pictures.
_POOL_SHOTS = 500


def synthesise(
    out: str | os.PathLike[str],
    *,
    layout: str = "S25",
    identities: int = 200,
    images: int = 20,
    size: int | None = None,
    seed: int = 0,
    val_pairs: int = 1000,
    test_pairs: int = 1000,
    ver_identities: int = 100,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Counts:
    """Write a data set of drawn faces; `out` appears at the end, whole, or not at all.

    The same arguments give the same bytes, whatever `workers` is. Beside what the layout asks
    for lie `quality.csv` (every picture, with what was done to it) and, where the layout hides
    the truth of its test pairs, `test_truth.csv`.

    Args:
        out: a folder that does not exist or is empty.
        layout: a name in `LAYOUTS`, or another term of the same layout.
        identities: people to train on.
        images: training pictures of each; dev and test get a tenth of that each, at least one.
        size: pixels a side; None takes the competition's.
        seed: of people, pictures and pairs.
        val_pairs: labelled pairs, half of them mated; an odd one is left out.
        test_pairs: pairs to submit, the same; LFW's ten folds take a multiple of 20.
        ver_identities: people in the pairs, half of them in val and half in test.
        workers: processes; None takes one per core.
        progress: called with (pictures done, pictures in all).

    Raises:
        ConfigError: an argument is out of bounds, or the layout unknown.
        DataError: `out` is not empty, or so few people do not give so many pairs.
        StorageError: the disk refuses.
    """
    _check(identities=(identities, 2), images=(images, 1), ver_identities=(ver_identities, 4))
    workers = usable_cores() if workers is None else workers
    _check(val_pairs=(val_pairs, 2), test_pairs=(test_pairs, 2), workers=(workers, 1))
    arrangement = find_layout(layout)
    size = arrangement.size if size is None else size
    check_size_and_seed(size, seed)
    planned = plan(
        arrangement,
        identities=identities,
        images=images,
        val_pairs=val_pairs,
        test_pairs=test_pairs,
        ver_identities=ver_identities,
        seed=seed,
    )
    target = Path(out)
    try:
        with appearing(target) as folder:
            _write(folder, planned, size, seed, workers, progress)
    except OSError as error:
        raise StorageError(f"{target}: not written: {error}\n  give another folder") from error
    return planned.counts


def _check(**arguments: tuple[int, int]) -> None:
    for name, (value, least) in arguments.items():
        if not least <= value < VERIFICATION_FROM:
            raise ConfigError(f"synth {name}: {value}; expected at least {least}, below a million")


def _write(
    folder: Path, planned: Plan, size: int, seed: int, workers: int, progress: Progress | None
) -> None:
    shots = planned.shots
    for name in {*(shot.path for shot in shots), *planned.texts}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    chunks = [shots[i : i + _CHUNK] for i in range(0, len(shots), _CHUNK)]
    lines = [",".join(["path", "identity", *MEASURED]) + "\n"]
    write = partial(_write_chunk, folder, size=size, seed=seed)
    for rows in run_all(write, chunks, workers=workers if len(shots) >= _POOL_SHOTS else 1):
        lines += rows
        if progress:
            progress(len(lines) - 1, len(shots))
    for name, text in {**planned.texts, "quality.csv": "".join(lines)}.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def _write_chunk(folder: Path, shots: Sequence[Shot], *, size: int, seed: int) -> list[str]:
    """Draw and save some pictures; return their lines of `quality.csv`."""
    from PIL import Image

    pictures = render(
        [shot.identity for shot in shots], [shot.image for shot in shots], size=size, seed=seed
    )
    lines = []
    for i, shot in enumerate(shots):
        known = {name: float(values[i]) for name, values in pictures.known.items()}
        image = Image.fromarray(pictures.pixels[i])
        if not shot.aligned:
            image = _as_found(image, np.random.default_rng([seed, PLAN, shot.identity, shot.image]))
        image.save(folder / shot.path, quality=round(known["jpeg"]))
        numbers = (f"{known[name]:.6g}" for name in MEASURED)
        lines.append(",".join([shot.path, shot.person, *numbers]) + "\n")
    return lines


def _as_found(image: "PictureFile", rng: np.random.Generator) -> "PictureFile":
    """Turn and enlarge a face, and put it somewhere on a larger, oblong picture."""
    from PIL import Image

    side = round(image.width * rng.uniform(1.0, 1.8))
    around = image.resize((1, 1)).getpixel((0, 0))
    turned = image.resize((side, side)).rotate(
        rng.uniform(-20, 20), Image.Resampling.BICUBIC, fillcolor=around
    )
    width, height = (side + int(room) for room in rng.integers(4, 4 + side // 2, size=2))
    picture = Image.new("RGB", (width, height + (width == height)), around)
    picture.paste(turned, (int(rng.integers(width - side)), int(rng.integers(height - side))))
    return picture
