"""The grid search over tile sizes and resolutions, by iterated k-fold cross-validation."""
