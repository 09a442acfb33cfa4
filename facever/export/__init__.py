"""A trained encoder for other people's tools: ONNX, safetensors, a folder for a model hub."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from facever.embed import Embedder, images_below, load_encoder
from facever.errors import ConfigError
from facever.export.facts import facts_of
from facever.export.hub import write_hub_folder
from facever.export.onnx_file import Agreement, write_onnx
from facever.export.weights import write_safetensors

__all__ = [
    "Agreement",
    "Exported",
    "export",
    "facts_of",
    "write_hub_folder",
    "write_onnx",
    "write_safetensors",
]

# Forms of weights alone; `onnx` is a form too, and takes more than an encoder and a path.
WEIGHTS: Mapping[str, Callable[[Embedder, Path], None]] = {
    "safetensors": write_safetensors,
    "hub-folder": write_hub_folder,
}
# What each form needs besides facever's own dependencies.
PACKAGES: Mapping[str, Sequence[str]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "safetensors": ("safetensors",),
    "hub-folder": ("safetensors",),
}

# So many of the given images are enough to check a file on.
_GIVEN = 64


@dataclass(frozen=True)
class Exported:
    """What was written from which checkpoint.

    Attributes:
        path: the file or the folder.
        form: a key of `PACKAGES`.
        checkpoint: where the encoder comes from.
        facts: what is said of the encoder in the file.
        agreement: of an ONNX file with its encoder; None for other forms.
    """

    path: Path
    form: str
    checkpoint: Path
    facts: Mapping[str, Any]
    agreement: Agreement | None = None

    def to_json(self) -> dict[str, Any]:
        """Give it as primitives."""
        checked = {"checked": asdict(self.agreement)} if self.agreement else {}
        told = {"path": str(self.path), "to": self.form, "checkpoint": str(self.checkpoint)}
        return {**told, "bytes": self._bytes(), **self.facts, **checked}

    def to_text(self) -> str:
        """Say it in two lines, the second with what comes next."""
        following = {
            "onnx": "docs/export.md has a script that needs only onnxruntime and Pillow",
            "safetensors": f"facever verify A B --from {self.path}",
            "hub-folder": f"state a licence in {self.path / 'README.md'}, then publish the folder",
        }
        line = f"{self.path}: {self._bytes() / 1e6:,.1f} MB"
        if self.agreement:
            line += (
                f", as onnxruntime and torch agree on {self.agreement.images} images: "
                f"lowest cosine {self.agreement.cosine:.7f}"
            )
        return f"{line}\nnext: {following[self.form]}"

    def _bytes(self) -> int:
        files = self.path.iterdir() if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files)


def export(
    checkpoint: Path,
    output: Path,
    form: str,
    *,
    flip: bool | None = None,
    images: Path | None = None,
) -> Exported:
    """Write a checkpoint's encoder in one of the forms of `PACKAGES`, whole or not at all.

    Args:
        checkpoint: the encoder's.
        output: the file; for `hub-folder` a folder that is absent or empty.
        form: a key of `PACKAGES`.
        flip: for `onnx`: give the mean of an image's embedding and its mirror image's; None
            does as the run did, and with it `evaluate`.
        images: for `onnx`: a folder, whose first 64 images join the drawn faces that the file is
            checked on.

    Raises:
        ConfigError: a package is not installed, or an argument has no effect.
        CheckpointError: the checkpoint cannot be read, or its encoder not be exported.
        CheckFailed: the ONNX file would not agree with the encoder.
        DataError: no images to check on, or the folder to write is not empty.
        StorageError: the disk refuses.
    """
    if form in WEIGHTS and (flip is not None or images is not None):
        raise ConfigError(f"export: --flip and --images have no effect on {form}; leave them out")
    _require(PACKAGES[form])
    given = images_below(images)[:_GIVEN] if images else []
    embedder = load_encoder(checkpoint)
    agreement = None
    if form in WEIGHTS:
        WEIGHTS[form](embedder, output)
    else:
        agreement = write_onnx(embedder, output, flip=flip, images=given)
    return Exported(output, form, checkpoint, facts_of(embedder, flip), agreement)


def _require(packages: Sequence[str]) -> None:
    """Refuse to begin without the packages that will be needed."""
    if absent := [name for name in packages if find_spec(name) is None]:
        raise ConfigError(
            f"export: not installed: {', '.join(absent)}\n"
            f"  `{shlex.quote(sys.executable)} -m pip install {' '.join(absent)}`"
        )
