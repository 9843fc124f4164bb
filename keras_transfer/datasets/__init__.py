"""Labelled images from wherever they are, checked, decoded once, and split without leaks."""

from keras_transfer.datasets.inspection import Inspection, inspect
from keras_transfer.datasets.loading import left_out, load_dataset, open_source
from keras_transfer.datasets.peek import image_sides
from keras_transfer.datasets.splits import few, kfold, read_splits, take, write_splits

__all__ = [
    "Inspection",
    "few",
    "image_sides",
    "inspect",
    "kfold",
    "left_out",
    "load_dataset",
    "open_source",
    "read_splits",
    "take",
    "write_splits",
]
