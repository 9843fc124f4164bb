"""A data set of labels and splits alone, for whatever asks the features of its examples."""

import numpy as np

from keras_transfer.base.types import Dataset


def labelled(labels, splits="train", class_names=None) -> Dataset:
    """Examples named by their numbers, of classes named by theirs unless others are given."""
    count = len(labels)
    return Dataset(
        name="labelled",
        paths=tuple(map(str, range(count))),
        labels=np.asarray(labels, np.int64 if np.ndim(labels) == 1 else np.uint8),
        class_names=tuple(class_names or map(str, range(int(max(labels)) + 1))),
        splits=np.broadcast_to(splits, count),
        digests=("",) * count,
        findings=(),
        read=lambda i: b"",
    )
