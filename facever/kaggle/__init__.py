"""The network to Kaggle, for `data fetch NAME` and `submit --upload` alone."""
