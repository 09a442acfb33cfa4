"""facever: a folder of face images in, a leaderboard score out.

The names below are imported when they are first used, so that `import facever` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from facever.embed import load_encoder
    from facever.losses import LOSSES, build_loss
    from facever.metrics import det_curve, equal_error_rate, tar_at_far

__all__ = [
    "LOSSES",
    "__version__",
    "build_loss",
    "det_curve",
    "equal_error_rate",
    "load_encoder",
    "tar_at_far",
]

_HOMES = {
    "LOSSES": "facever.losses",
    "build_loss": "facever.losses",
    "det_curve": "facever.metrics",
    "equal_error_rate": "facever.metrics",
    "load_encoder": "facever.embed",
    "tar_at_far": "facever.metrics",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
