"""Every knob, and how layers of given values become one configuration.

A configuration is frozen, knows no other file, and says all that is wrong with it at once.
"""

from facever.config.layers import differences, flatten, known_keys, merge, nearest, resolve
from facever.config.sections import (
    FINETUNE,
    FREE_AT_RESUME,
    INHERITED,
    SWITCHES,
    Augment,
    Config,
    Data,
    Engine,
    Eval,
    Loss,
    Model,
    Optim,
    Track,
    finetune_params,
    operations,
)

__all__ = [
    "FINETUNE",
    "FREE_AT_RESUME",
    "INHERITED",
    "SWITCHES",
    "Augment",
    "Config",
    "Data",
    "Engine",
    "Eval",
    "Loss",
    "Model",
    "Optim",
    "Track",
    "differences",
    "finetune_params",
    "flatten",
    "known_keys",
    "merge",
    "nearest",
    "operations",
    "resolve",
]
