"""What a user can mend: one message that says where, what, what was expected and what to do.

`cli` prints the message behind `error:` and leaves with `exit_code`; everything else that
escapes is a bug and keeps its traceback.
"""


class FaceverError(ValueError):
    """What was given cannot be used as it is."""

    exit_code = 2


class ConfigError(FaceverError):
    """A setting that is unknown, out of bounds, or contradicts another or a checkpoint."""


class DataError(FaceverError):
    """Images, labels, pairs or scores that are absent, damaged or contradict each other."""


class CheckpointError(FaceverError):
    """A checkpoint that is damaged, hostile, of another version or does not fit."""


class StorageError(FaceverError):
    """A file that could not be written: no space, no permission, no folder."""


class TrainingError(FaceverError):
    """A training that cannot go on: losses stay non-finite, memory is short, a process hangs."""


class CheckFailed(FaceverError):
    """A check found what would be rejected later."""

    exit_code = 3
