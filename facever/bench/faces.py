"""Data for benches that need images: the user's, or drawn faces."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from facever.bench.harness import Options
from facever.config import Config, resolve
from facever.data.synth import synthesise
from facever.loss_setup import check_loss
from facever.tracking import note

# Without a pair file some identities would be held out of training to make one.
_PAIRS = 200


@contextmanager
def configured(bench: str, options: Options, *, test_pairs: int = _PAIRS) -> Iterator[Config]:
    """Resolve the settings, with faces to train on where no `data.root` is given."""
    with TemporaryDirectory() as folder:
        layers = []
        if not any(text.startswith("data.root=") for text in options.assignments):
            note(f"{bench}: no data.root given; drawing faces")
            faces = Path(folder) / "faces"
            synthesise(faces, identities=100, images=20, val_pairs=_PAIRS, test_pairs=test_pairs)
            layers = [{"data": {"root": str(faces)}}]
        yield resolve(layers, options.assignments, check=check_loss)
