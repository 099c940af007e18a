"""From a table to a model and back: folds, where a model holds, predictions."""
