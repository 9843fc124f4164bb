"""Labelled examples from wherever they are, checked, decoded once, and split without leaks."""

# ruff: noqa: F401

from keras_transfer.datasets.inspection import Inspection, left_out, notes, what_is_left_out
from keras_transfer.datasets.loading import inspect, load_dataset, natural_sizes, open_source
from keras_transfer.datasets.manifests import table_of
from keras_transfer.datasets.sources import Source
from keras_transfer.datasets.splits import few, kfold, read_splits, take, write_splits
