"""Cross-validation: folds, out-of-fold scores and ensembles."""
