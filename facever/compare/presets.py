"""What `facever compare` trains with on MNIST and CIFAR-10, below everything the user gives.

The recipe is the same for every loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from facever.ask import Values


@dataclass(frozen=True)
class Preset:
    """Settings for a benchmark, and parameters for the losses that have them."""

    layer: Values = field(default_factory=dict)
    params: Mapping[str, float] = field(default_factory=dict)

    @property
    def assignments(self) -> list[str]:
        """The parameters as `key=value`."""
        return [f"loss.params.{name}={value}" for name, value in self.params.items()]


# Operations of the recipe for faces that make digits and small pictures no easier to tell apart.
_NO_FACE = {"crop": 0.0, "rescale": 0.0, "photometric": 0.0, "blur": 0.0, "rotate": 0.0}

PRESETS: dict[str, Preset] = {
    "mnist": Preset(
        {
            "data": {"image_size": 28},
            "augment": {
                **_NO_FACE,
                "backend": "batch",
                "flip": 0.0,
                "erase": 0.0,
                "shift": 1.0,
                "shift_limit": 0.08,
                "rotate": 0.7,
                "rotate_degrees": 12.0,
            },
            "model": {"backbone": "airbench-mnist", "embedding_dim": 128},
            "loss": {"margin_warmup": 1.0},
            "optim": {"epochs": 7, "lr": 0.2, "batch_size": 256, "ema": 0.99},
            "eval": {"flip": False, "batch_size": 1000, "every": 2},
        },
    ),
    "cifar10": Preset(
        {
            "data": {"image_size": 32},
            "augment": {
                **_NO_FACE,
                "backend": "batch",
                "shift": 1.0,
                "shift_limit": 0.125,
                "photometric": 0.5,
                "rotate": 0.3,
                "erase": 1.0,
                "erase_scale": 0.5,
            },
            "model": {"backbone": "airbench-cifar", "embedding_dim": 256},
            "loss": {"margin_warmup": 2.0},
            "optim": {"epochs": 22, "lr": 0.25, "batch_size": 256, "ema": 0.99},
            "eval": {"batch_size": 500, "every": 2},
        },
        # A scale of 64 is meant for thousands of identities.
        params={"s": 16.0},
    ),
}
NONE = Preset()
