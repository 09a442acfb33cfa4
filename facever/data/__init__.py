"""Images on disk -> manifest -> decoded pack -> batches; each name is imported when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facever.data.datasets import ImageDataset, ImagePairDataset
    from facever.data.manifest import read_manifest
    from facever.data.pairfiles import read_pairs

__all__ = ["ImageDataset", "ImagePairDataset", "read_manifest", "read_pairs"]

_HOMES = {
    "ImageDataset": "facever.data.datasets",
    "ImagePairDataset": "facever.data.datasets",
    "read_manifest": "facever.data.manifest",
    "read_pairs": "facever.data.pairfiles",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
