"""From whatever the user named to a ``Dataset``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_transfer.base import files
from keras_transfer.base.errors import DataError, ExampleError, UsageError, closest
from keras_transfer.base.quiet import quiet_stdio
from keras_transfer.base.types import SPLITS, Columns, Dataset, Finding, Origin, Size
from keras_transfer.datasets import archives, arrays, manifests, tables, tfds
from keras_transfer.datasets import splits as splitting
from keras_transfer.datasets.inspection import Inspection, untrainable
from keras_transfer.datasets.scan import scan
from keras_transfer.datasets.sources import (
    JOINT,
    Data,
    Item,
    Source,
    classes_of,
    folder_source,
    joined,
    parts,
    reason_of,
    with_task,
)
from keras_transfer.modalities import modality
from keras_transfer.recipe import reads_arguments

NO_LABEL = re.compile("[\0\n\r\v\f\x1c-\x1e\x85\u2028\u2029\ud800-\udfff]")
"""What a file of one label a line cannot hold: all that ends a line, NUL, and what is no UTF-8."""


def open_source(
    data: Data,
    *more: Data,
    class_names: Sequence[str] | None = None,
    group: str | None = None,
    columns: Columns | None = None,
    multi_label: Literal["auto", "on", "off"] = "auto",
) -> Source:
    """Finds the source that ``data`` stands for, ``more`` joined to it; see ``load_dataset``.

    Raises:
        DataError: there is no such thing, or nothing in it, or a class of an impossible name; a
            group is named, and there is no column of that name.
    """
    named = tables.named(group, columns)
    found = [_opened(part, named, class_names) for one in (data, *more) for part in parts(one)]
    source = found[0] if len(found) == 1 else joined(found, JOINT.join(one.name for one in found))
    if not source.items:
        what = modality(source.modality).NOUN
        raise DataError(
            f"{source.name} has no labelled {what}s.",
            remedy=f"Put the {what}s into one folder for each class (DATA/CLASS/{what}.EXTENSION), "
            "or give each its label.",
        )
    if group is not None and not any(item.group for item in source.items):
        problem = f"{source.name} has no column {group!r} with names of groups in it."
        remedy = "Leave group out, or name a column of a .csv, .tsv, .jsonl or DataFrame."
        raise DataError(problem, remedy=remedy)
    for item in source.items:
        if NO_LABEL.search(item.label):
            raise DataError(
                f"{source.name}: the class {item.label!r} (of {item.path!r}) has a line break or "
                "another character in its name that no file of labels can hold.",
                remedy="Rename the class to one line of text.",
            )
    return with_task(source, multi_label)


def _opened(data: Any, named: Mapping[str, str], class_names: Sequence[str] | None) -> Source:
    if isinstance(data, str):
        return _open_named(data, named)
    of_table = hasattr(data, "columns")
    if hasattr(data, "items") and hasattr(data, "read") and not of_table:
        fields = [field.name for field in dataclasses.fields(Source)]
        given = {name: getattr(data, name) for name in fields if hasattr(data, name)}
        return Source(**{"origin": "memory"} | given)
    source = (
        manifests.frame_source(data, named) if of_table else arrays.arrays_source(data, class_names)
    )
    kind: Origin = "texts" if source.modality == "text" else "memory"
    return dataclasses.replace(source, origin="files" if source.locate else kind)


def _open_named(name: str, named: Mapping[str, str]) -> Source:
    path = Path(os.path.expanduser(name))
    if name in arrays.BUILTIN:
        return arrays.BUILTIN[name]()
    if name.startswith("tfds:"):
        return tfds.tfds_source(name)
    if name and os.path.isdir(path):
        prepared = os.path.isfile(path / "dataset_info.json")
        return tfds.tfds_source(name, path) if prepared else folder_source(path, name)
    regular = os.path.isfile(path)  # a pipe would be waited for
    if regular and name.lower().endswith(manifests.SUFFIXES):
        return manifests.manifest_source(path, name, named)
    if regular and name.lower().endswith(archives.SUFFIXES):
        return archives.archive_source(path, name)
    problem = f"{name!r} is neither a folder nor a file that is a .csv or .jsonl, a .zip or a .tar."
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        beside = []
        with contextlib.suppress(OSError, ValueError):
            beside = os.listdir(path.parent)
        near = closest(path.name, [*arrays.BUILTIN, *beside])
        problem = f"{name}: {reason_of(error).replace('directory', 'folder')}.{near}"
    raise DataError(
        problem,
        remedy="Give a folder of class folders, a .csv or .jsonl table, a .zip or .tar of class "
        f"folders, tfds:NAME, {' or '.join(arrays.BUILTIN)}.",
    )


@reads_arguments
def inspect(
    data: Data,
    *,
    split: tuple[float, float, float] | str = (0.7, 0.15, 0.15),
    splits: str | os.PathLike[str] | None = None,
    seed: int = 0,
    image_size: Size | None = None,
    cache: bool = True,
    class_names: Sequence[str] | None = None,
    group: str | None = None,
    columns: Columns | None = None,
    fit: Literal["squash", "crop", "pad"] | None = None,
    multi_label: Literal["auto", "on", "off"] = "auto",
) -> Inspection:
    """Reads and checks every item of a set, and reports.

    Args:
        data: as for ``load_dataset``; so are ``split``, ``splits``, ``seed``, ``cache``,
            ``class_names``, ``group``, ``columns``, ``fit`` and ``multi_label``.
        image_size: None, unless the examples are wanted afterwards.

    Returns:
        The set as training would see it, and everything that was noticed.

    Raises:
        DataError: there is nothing to inspect. A set that can be read but not trained on raises
            nothing: see ``Inspection.problem``.
    """
    assert not isinstance(split, str)  # it has been read
    splitting.check_shares(split)
    source = open_source(data, class_names=class_names, group=group, columns=columns,
                         multi_label=multi_label)  # fmt: skip
    form = modality(source.modality)
    spec = None if image_size is None else form.spec(image_size).fitted(fit)
    records, verdict, examples = scan(source, spec, cache=cache)
    kept = verdict.kept
    items = [source.items[i] for i in kept.tolist()]
    given = [item.split for item in items]
    findings = [*source.findings, *_notes(source, items, verdict.groups)]
    findings += form.losses(
        records.table["extent"][kept].tolist(), int(records.table["unknown"][kept].sum()), spec,
        [records[i].extent for i in _spread(len(records)) if records[i].fault is None],
    )  # fmt: skip
    findings += verdict.findings  # last: a page shows the first so many
    present = classes_of(items, source.task)
    known = [name for name in source.class_names or sorted(present) if name in present]
    encoded = source.task.encode([item.label for item in items], known)
    strata = splitting.strata_of(encoded, known)
    digests, paths = tuple(records.digests(kept)), tuple(one.path for one in items)
    dataset = Dataset(
        name=source.name, paths=paths, labels=encoded, class_names=tuple(known),
        splits=splitting.complete(strata, verdict.groups, given, split=split, seed=seed),
        digests=digests, findings=tuple(findings), read=_reader(source, paths, digests),
        examples=examples, groups=verdict.groups, modality=source.modality,
        fit="" if spec is None else spec.fit, origin=source.origin,
    )  # fmt: skip
    if splits is not None:
        dataset, rows = splitting.apply(dataset, splits)
        kept = kept[rows]
    return Inspection(dataset, source, records, kept, untrainable(dataset))


@reads_arguments
def load_dataset(
    data: Data,
    *,
    image_size: Size | None = None,
    split: tuple[float, float, float] | str = (0.7, 0.15, 0.15),
    splits: str | os.PathLike[str] | None = None,
    fold: tuple[int, int] | str | None = None,
    seed: int = 0,
    cache: bool = True,
    per_class: int | None = None,
    class_names: Sequence[str] | None = None,
    group: str | None = None,
    columns: Columns | None = None,
    fit: Literal["squash", "crop", "pad"] | None = None,
    multi_label: Literal["auto", "on", "off"] = "auto",
    for_training: bool = True,
) -> Dataset:
    """Reads, checks, decodes and splits a labelled set.

    Args:
        data: a folder (``DATA/CLASS/*``, or ``DATA/{train,val,test}/CLASS/*``); a ``.csv``,
            ``.jsonl`` or pandas DataFrame (path or text, label, and optionally split and group; of
            recordings start and end, too); a ``.zip`` or ``.tar`` of class folders;
            ``tfds:NAME[:CONFIG]`` or a folder prepared by TFDS; one of ``arrays.BUILTIN``; arrays,
            texts, paths or a ``tf.data.Dataset``, see ``arrays.arrays_source``; or a source.
        image_size: what to decode to, see ``Modality.spec``, or None.
        split: shares of train, validation and test, where the source gives none.
        splits: a ``splits.csv`` as ``write_splits`` makes it, to repeat a split exactly;
            what it does not name is left out.
        fold: (i, k), to test on the i-th of k parts, whatever the splits; see ``splits.kfold``.
        seed: of the split, of the folds and of ``per_class``.
        cache: whether decoded examples are kept, so that a later run only reads and hashes.
        per_class: take at most so many training examples of each class; see ``splits.few``.
        class_names: the names of integer labels in arrays.
        group: the column of a table whose equal values stay in one split, such as a film or a
            speaker; by default ``group`` or ``group_id``, where there is one.
        columns: see the setting of that name, as for ``fit`` and ``multi_label``.
        for_training: whether to insist on what training needs, or accept any example at all.

    Returns:
        The set. ``findings`` says what was noticed, and which files were left out.

    Raises:
        DataError: what cannot be trained on; ``splits`` that do not fit.
        UsageError: shares, folds or ``per_class`` that make no sense.
    """
    inspection = inspect(
        data, split=split, splits=splits, seed=seed, image_size=image_size, cache=cache,
        class_names=class_names, group=group, columns=columns, fit=fit, multi_label=multi_label,
    )  # fmt: skip
    dataset = inspection.dataset
    if inspection.problem and (for_training or not len(dataset)):
        raise inspection.problem
    if fold is not None and not isinstance(fold, str):  # it has been read
        if splits is not None:
            raise UsageError("a fold and a file of splits were given.", remedy="Give one of them.")
        dataset = splitting.kfold(dataset, fold[1], seed=seed)[fold[0] - 1]
    if per_class is not None:
        dataset = splitting.take(dataset, splitting.few(dataset, per_class, seed=seed))
    return dataset


def _notes(source: Source, items: Sequence[Item], groups: Sequence[str]) -> Iterator[Finding]:
    """Splits that are missing, and by what the items are grouped."""
    given = {item.split for item in items}
    for name in SPLITS if given - {None} else ():
        if name not in given:
            action = f"taken from its training {modality(source.modality).NOUN}s"
            yield Finding("", "split_off", f"the source gives no split {name!r}", action)
    sizes = Counter(item.group for item in items)
    alone, named = sizes.pop(None, 0), len({name for name in groups if name.startswith("group ")})
    if sizes and source.group is not None:
        reason = f"{len(sizes):,} groups by the column {source.group!r}"
        reason += f", {named:,} where copies join some" if named < len(sizes) else ""
        reason += f"; rows without one: {alone:,}" if alone else ""
        action = "parted by given splits alone" if given - {None} else "each stays in one split"
        yield Finding("", "grouped", reason, action)


def natural_sizes(data: Any, at_most: int = 64) -> list[float]:
    """How large examples are by themselves, of some spread evenly over a set.

    Args:
        data: as for ``load_dataset``.
        at_most: how many are looked at. Only their headers are decoded.

    Returns:
        For each that could be read, the size to give a model so that nothing is lost: of images
        the shorter side in pixels, of texts the tokens, of sounds the seconds. May be empty.
    """
    source = open_source(data)
    peek = modality(source.modality).peek
    sizes = []
    with warnings.catch_warnings(action="ignore"), quiet_stdio():  # of what findings name
        for i in _spread(len(source.items), at_most):
            with contextlib.suppress(ExampleError, IndexError):
                sizes.append(peek(source.read(source.items[i].path)))
    return sizes


def _spread(count: int, at_most: int = 64) -> list[int]:
    """Some of so many positions, evenly."""
    return np.unique(np.linspace(0, count - 1, at_most).astype(int)).tolist()


def _reader(source: Source, paths: Sequence[str], digests: Sequence[str]) -> Callable[[int], bytes]:
    """Reads items again later, and notices when they are no longer what was checked."""

    def read(i: int) -> bytes:
        try:
            encoded = source.read(paths[i])
        except ExampleError as error:
            raise DataError(f"{paths[i]}: {error.message}", remedy="Open the set again.") from None
        if files.sha256(encoded) != digests[i]:
            raise DataError(
                f"{paths[i]} has changed since the set was opened.", remedy="Open the set again."
            )
        return encoded

    return read
