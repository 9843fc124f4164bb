"""Examples that are already in memory or in our packages: arrays, texts, tf.data, small sets."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_transfer.base.errors import DataError
from keras_transfer.datasets import manifests, tables
from keras_transfer.datasets.archives import archive_source
from keras_transfer.datasets.sources import SPLIT_NAMES, Item, Source
from keras_transfer.modalities import (
    MODALITIES,
    Modality,
    modality,
    modality_of_files,
    modality_of_value,
)

SUBPACKAGES = ("linalg", "ndimage", "optimize", "signal", "special", "stats")


def digits_source() -> Source:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, levels 0..16 stretched to 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return arrays_source((images, digits.target.astype(str)), name="builtin:digits")


def scipy_source() -> Source:
    """What SciPy's functions do, in the words of its documentation; the label is the subpackage.

    Summary and extended summary of the public functions of six subpackages, without what several
    of them say, signatures and formulas; of equal texts the first. Read from the installed SciPy
    (BSD-3-Clause), on whose version they depend.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for package in SUBPACKAGES:
        module = importlib.import_module(f"scipy.{package}")
        for name in sorted(module.__all__):
            function = getattr(module, name)
            if inspect.isroutine(function) or isinstance(function, np.ufunc):
                said = re.split(r"\n.+\n-{3,}", inspect.getdoc(function) or "")[0].split("\n\n")
                prose = [" ".join(p.split()) for p in said if not re.match(r"\s|\.\.|\w+\(", p)]
                found[f"scipy.{package}.{name}"] = package, prose
    often = Counter(paragraph for _, prose in found.values() for paragraph in set(prose))
    texts: dict[str, str] = {}
    for path, (_, prose) in found.items():
        texts.setdefault(" ".join(p for p in prose if often[p] == 1), path)
    values = {path: text for text, path in texts.items() if text}
    items = [Item(path, found[path][0]) for path in sorted(values)]
    return Source("builtin:scipy", items, lambda path: values[path].encode(), modality="text")


def spoken_source() -> Source:
    """Spoken digits, five takes of each by six speakers, at 8 kHz; the groups are the speakers.

    Takes 0 to 4 of the Free Spoken Digit Dataset (Z. Jackson and others), CC BY-SA 4.0, as FLAC.
    """
    held = archive_source(Path(__file__).with_name("spoken.zip"), "builtin:spoken")
    items = [item._replace(group=re.split("[/_]", item.path)[1]) for item in held.items]
    return dataclasses.replace(held, items=items, group="speaker")


BUILTIN: dict[str, Callable[[], Source]] = {
    "builtin:digits": digits_source,
    "builtin:scipy": scipy_source,
    "builtin:spoken": spoken_source,
}


def arrays_source(
    data: Any,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
    kind: str | None = None,
) -> Source:
    """Examples and labels in memory.

    Args:
        data: ``(examples, labels)``, or a ``tf.data.Dataset`` of such pairs (batched or not), or a
            mapping from ``train``, ``val``, ``test`` to either. Images are uint8, or floating
            point in 0..255, ``[images, height, width, 1, 3 or 4]`` or a list of single ones.
            Texts are ``str``, or ``bytes`` in UTF-8. Sounds are int16, or floating point in -1..1,
            ``[samples]`` at 16 kHz, or pairs of one and its rate. Paths stand for files, and so do
            strings that all end like one. Labels are integers, strings or one-hot rows; several of
            an example a list of strings, or a row of 0 and 1 in a matrix.
        class_names: the names of integer labels, in order.
        name: what the set is called.
        kind: the modality of the examples; by default told by their type.

    Raises:
        DataError: shapes, levels or labels that are none of these.
    """
    parts = _parts(data)
    if not isinstance(class_names, (Sequence, np.ndarray, type(None))):
        raise DataError(f"class_names are {class_names!r:.40}.", remedy="Give a list of str.")
    paths = _paths(parts.values())
    kind = kind or (modality_of_files(paths) if paths else _kind(parts.values()))
    form = modality(kind)
    values: dict[str, Any] = {}
    items, rows = [], []
    listed: bool | None = None
    for key, part in parts.items():
        split = SPLIT_NAMES.get(str(key).lower())
        if key and split is None:
            raise DataError(f"there is no split {key!r}.", remedy="Use train, val and test.")
        rank, is_tf_data = len(form.preview(None).shape), hasattr(part, "element_spec")
        examples, labels = _from_tf_data(part, rank) if is_tf_data else part
        if len(examples) != len(labels):
            problem = f"{len(examples)} {form.NOUN}s come with {len(labels)} labels."
            raise DataError(problem, remedy=f"Give one label for each {form.NOUN}.")
        known = class_names or getattr(part, "class_names", None)
        lists = _of_lists(labels, known)
        listed = listed or (lists is not None) or None
        names = lists or _as_names(labels, known, form.NOUN)
        if paths:
            rows += [[os.fspath(e), n, split or ""] for e, n in zip(examples, names, strict=True)]
            continue
        for i, (value, label) in enumerate(zip(form.from_memory(examples), names, strict=True)):
            place = f"{label.strip(tables.MARK) or 'none' if lists else label}/{i:06d}{form.SUFFIX}"
            path = f"{split}/{place}" if split else place
            values[path] = value
            items.append(Item(path, label, split))
    items.sort(key=lambda item: item.path)
    source = Source(name, items, lambda path: form.encode(values[path]), modality=kind)
    if paths:
        table = tables.Table("the list", ("path", "label", "split"), list(enumerate(rows)), {})
        source = manifests.table_source(table, "paths", Path())
    return dataclasses.replace(source, class_names=tuple(class_names or ()), listed=listed)


def _parts(data: Any) -> Mapping[str, Any]:
    """Pairs of examples and labels, or ``tf.data`` sets, by the name of their split, if any."""
    parts = data if isinstance(data, Mapping) else {"": data}
    for part in parts.values():
        is_pair = isinstance(part, (tuple, list)) and len(part) == 2
        if not (is_pair and all(map(np.iterable, part))) and not hasattr(part, "element_spec"):
            problem = f"{type(part).__name__} is no data: neither a name nor examples with labels."
            raise DataError(problem, remedy="Give (examples, labels), a DataFrame or a path.")
    return parts


def _paths(parts: Iterable[Any]) -> list[str]:
    """What is meant by names of files: paths, or words that all end like one of ours; else []."""
    held = [one for part in parts if not hasattr(part, "element_spec") for one in part[0]]
    known = {end for form in MODALITIES.values() for end, kind in form.SUFFIXES.items() if kind}
    named = [one for one in held if isinstance(one, (str, os.PathLike))]
    words = [one for one in named if isinstance(one, str)]
    if not named or not all(os.path.splitext(word)[1].lower() in known for word in words):
        return []
    for i, one in enumerate(held):
        if not isinstance(one, (str, os.PathLike)):
            raise DataError(f"path {i} is {one!r:.40}.", remedy="Give the name of a file for each.")
    return [os.fspath(one) for one in named]


def names(items: Any, form: Modality) -> tuple[str, list[str]]:
    """Whether items without labels are names of files (``path``) or texts (``text``), and these.

    Raises:
        DataError: they are neither.
    """
    held = list(items) if np.iterable(items) else [items]
    if paths := _paths([(held,)]):
        return "path", paths
    if not (form.LITERAL and all(isinstance(one, str) for one in held)):
        problem = f"What is in a {type(items).__name__} here are no names of {form.NOUN} files."
        raise DataError(problem, remedy="Give a list of files, or a folder of them.")
    return "text", held


def _kind(parts: Iterable[Any]) -> str:
    """The modality of the first example in memory."""
    held = (part[0] for part in parts if not hasattr(part, "element_spec"))
    return modality_of_value(next((example for examples in held for example in examples), None))


def _from_tf_data(dataset: Any, rank: int) -> tuple[list[np.ndarray], list[Any]]:
    """Takes a ``tf.data.Dataset`` of (example, label), or of batches of them, into memory."""
    try:
        example_spec, _ = dataset.element_spec
        batched = example_spec.shape.rank > rank
    except (TypeError, ValueError, AttributeError):
        problem = f"the tf.data set yields {dataset.element_spec}."
        raise DataError(problem, remedy="Make it yield pairs of an example and a label.") from None
    if int(dataset.cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
        problem = "the tf.data set has no end."
        raise DataError(problem, remedy="Give it without repeat(), or with take(N).")
    pairs = list((dataset.unbatch() if batched else dataset).as_numpy_iterator())
    return [example for example, _ in pairs], [label for _, label in pairs]


def _of_lists(labels: Any, class_names: Sequence[str] | None) -> list[str] | None:
    """Several labels an example as cells: of lists of names, or of rows of 0 and 1; else None.

    Rows of which each has a single 1 are one label each.
    """
    lists = len(labels) > 0 and all(isinstance(one, tables.LISTS) for one in labels)
    if lists and all(isinstance(name, str) for one in labels for name in one):
        return [tables.of_list(sorted(one), f"label {i}") for i, one in enumerate(labels)]
    alike = hasattr(labels, "dtype") or len({np.size(one) for one in labels}) == 1
    values: Any = np.asarray(labels if alike else [])
    if values.ndim != 2 or values.shape[1] < 2 or values.dtype.kind not in "biuf":
        return None
    if not np.isin(values, (0, 1)).all() or (values.sum(axis=1) == 1).all():
        return None
    width = len(str(values.shape[1] - 1))
    names = class_names or [str(i).zfill(width) for i in range(values.shape[1])]
    if len(names) != values.shape[1]:
        problem = f"labels have {values.shape[1]} columns, for {len(names)} names."
        raise DataError(problem, remedy="Give a name for each column.")
    return [
        tables.of_list([names[i] for i in np.flatnonzero(row).tolist()], f"label {number}")
        for number, row in enumerate(values)
    ]


def _as_names(labels: Any, class_names: Sequence[str] | None, what: str) -> list[str]:
    """Labels as class names. Integers without names are padded, so that they sort as numbers."""
    values = np.asarray(labels)
    if values.ndim == 2 and values.shape[1] > 1 and ((values == 1).sum(1) == 1).all():
        values = values.argmax(axis=1) if np.isin(values, (0, 1)).all() else values  # one-hot
    values = values.ravel()
    if values.dtype.kind in "SO":  # bytes, or what pandas makes of strings
        for i, value in enumerate(values):
            if not isinstance(value, (str, bytes, int, np.integer)):
                problem = f"label {i} is {value!r}, a {type(value).__name__}."
                raise DataError(problem, remedy=f"Give one integer or one string for each {what}.")
        values = np.array([v.decode() if isinstance(v, bytes) else v for v in values.tolist()])
    if len(values) != len(labels) or (values.dtype.kind not in "biuU" and len(values)):
        shape = np.shape(labels[0]) if len(labels) else ()
        problem = f"labels are {values.dtype} of shape {shape} each."
        remedy = f"Give one integer, one string or one one-hot row for each {what}."
        raise DataError(problem, remedy=remedy)
    if values.dtype.kind == "U" or not len(values):
        return values.tolist()
    if class_names is None:
        width = len(str(values.max()))
        return [str(value).zfill(width) for value in values.astype(int)]
    if not 0 <= values.min() <= values.max() < len(class_names):
        problem = f"labels run from {values.min()} to {values.max()}, for {len(class_names)} names."
        raise DataError(problem, remedy="Give a name for each label, from 0.")
    return [class_names[value] for value in values]
