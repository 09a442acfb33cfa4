"""Scores x mated -> FMR, FNMR, EER, AUC, TAR@FAR, their intervals, paired tests. NumPy only."""

from facever.metrics.intervals import (
    PairedDifference,
    bootstrap_eer,
    bootstrap_fmr_threshold,
    paired_bootstrap,
)
from facever.metrics.rates import (
    accuracy,
    det_curve,
    eer_threshold,
    equal_error_rate,
    error_counts,
    fmr_threshold,
    fold_accuracy,
    hardest_pairs,
    roc_auc,
    tar_at_far,
)
from facever.metrics.summary import DEFINITION, Verification, verification

__all__ = [
    "DEFINITION",
    "PairedDifference",
    "Verification",
    "accuracy",
    "bootstrap_eer",
    "bootstrap_fmr_threshold",
    "det_curve",
    "eer_threshold",
    "equal_error_rate",
    "error_counts",
    "fmr_threshold",
    "fold_accuracy",
    "hardest_pairs",
    "paired_bootstrap",
    "roc_auc",
    "tar_at_far",
    "verification",
]
