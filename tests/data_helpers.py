"""Small data sets on disk, in the layouts people have."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

People = Mapping[str, Iterable[str]]


def save_image(path: Path, seed: int = 0, size: tuple[int, int] = (8, 8)) -> Path:
    """Save a noise image (width, height) that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def people(identities: int, images: int) -> dict[str, list[str]]:
    """Name identities and their files; file names do not follow the order of identities."""
    return {
        f"id{i:02d}": [f"{(7 * i + 3 * k) % 10}_{i}_{k}.png" for k in range(images)]
        for i in range(identities)
    }


def make_folders(root: Path, who: People, seed: int = 0) -> Path:
    """Write `<identity>/<file>`."""
    files = [(identity, file) for identity in who for file in who[identity]]
    for i, (identity, file) in enumerate(files):
        save_image(root / identity / file, seed + i)
    return root


def make_labelled(root: Path, who: People, seed: int = 0, *, labels: bool = True) -> Path:
    """Write `images/<file>` and `labels.txt`, which is in no order."""
    files = [(identity, file) for identity in who for file in who[identity]]
    for i, (_, file) in enumerate(files):
        save_image(root / "images" / file, seed + i)
    order = np.random.default_rng(seed).permutation(len(files))
    if labels:
        lines = [f"{files[i][1]} {files[i][0]}\n" for i in order]
        (root / "labels.txt").write_text("".join(lines))
    return root


def make_hw2p2(root: Path, *, dev: str = "dev", pairs_in: str = "") -> Path:
    """Write a small competition: 5 identities, 4 verification images, 3 + 2 pairs."""
    make_labelled(root / "cls_data" / "train", people(5, 4))
    held_out = {identity: [f"d_{identity}.png"] for identity in people(5, 1)}
    make_labelled(root / "cls_data" / dev, held_out, seed=100)
    for i, name in enumerate("ABCD"):
        save_image(root / "ver_data" / f"{name}.png", 200 + i)
    folder = root / pairs_in
    (folder / "val_pairs.txt").write_text("A.png B.png 1\nA.png C.png 0\nD.png B.png 0\n")
    (folder / "test_pairs.txt").write_text("C.png D.png\nA.png D.png\n")
    return root
