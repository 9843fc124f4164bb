"""Next week's examples: a finished run's recipe on more data, held against the run itself."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_transfer import datasets
from keras_transfer.base import files, intervals
from keras_transfer.base.errors import DataError, UsageError, closest
from keras_transfer.base.progress import Progress, telling
from keras_transfer.base.types import Dataset, Split
from keras_transfer.datasets import splits
from keras_transfer.datasets.inspection_page import printable
from keras_transfer.datasets.sources import JOINT, Data, Source, parts, parts_of, prefix
from keras_transfer.evaluation.comparison import Pair, compare_predictions
from keras_transfer.frozen.engine import predict_probabilities
from keras_transfer.recipe import Recipe, read_file, reads_arguments
from keras_transfer.runs import folder as runs
from keras_transfer.runs import report, summary
from keras_transfer.runs.finished import Finished, Folder
from keras_transfer.training import train


@dataclasses.dataclass(frozen=True, repr=False)
class Update:
    """A run that was trained again with more data, beside the run that it began with.

    Attributes:
        run: the new run.
        added: new examples that it has, in all its splits.
        left_out: new files that it has not: unreadable, copies of what was there, or near copies of
            validation or test examples.
        old_test: the old model and the new one on the old test split.
        new_test: the same on new test examples of classes that the old model knows; None if none.
        new_classes: of each class that it did not know: name, test ``images``, ``recall`` of the
            new model and its 95 % ``interval``, both None where no image is tested.
    """

    run: runs.Run
    added: int
    left_out: int
    old_test: Pair
    new_test: Pair | None
    new_classes: Sequence[Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the verdicts."""
        held = {name: getattr(self, name) for name in ("added", "left_out", "new_classes")}
        pairs = {"old_test": self.old_test, "new_test": self.new_test}
        told = {n: p and dataclasses.asdict(p) | {"verdict": p.verdict} for n, p in pairs.items()}
        return {"run": str(self.run.path), **held, **told}

    def render(self) -> str:
        """What it brought, for a terminal."""
        pairs = (("Old test split", self.old_test), ("New test examples", self.new_test))
        metrics, form = self.run.metrics, self.run.modality
        reused, computed = (metrics["cache"][key] for key in ("hits", "misses"))
        lines = [
            f"{self.added:,} new examples; left out: {self.left_out:,}. "
            f"{reused:,} of {reused + computed:,} rows came from the cache.",
            summary.verdict(metrics, form.NOUN)[0],
        ]
        lines += [f"{where} ({pair.images:,}): {pair.verdict}" for where, pair in pairs if pair]
        for row in self.new_classes:
            of, told = row["images"], "none of it is tested"
            if of:
                right = f"{round(of * row['recall'])} of {of} test examples"
                told = f"{right} found (95 %: {summary.interval(row['interval'], 0)})"
            lines.append(f"New class {printable(row['name'])}: {told}.")
        return "\n".join([*lines, f"Report: {self.run.path / runs.PAGE}"])

    def __repr__(self) -> str:
        verdict = self.old_test.verdict
        return f"Update({self.added:,} new examples, in {str(self.run.path)!r}: {verdict})"


@reads_arguments
def update(
    run: Finished | Folder,
    data: Data,
    *,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | bool | None = None,
) -> Update:
    """Trains a run's recipe again on its data and more, into another run folder.

    Each old example stays in its split. New ones are split by the run's shares and seed among
    themselves, copies and groups staying with what they belong to; what is a near copy of an old
    validation or test example is left out. Activations of old examples come from the store: the
    engine is that for as many examples as the run had with which updates began.

    Args:
        run: a finished run, or its folder; it stays as it is.
        data: more examples, of known classes or of new ones, as ``train`` takes them; not arrays,
            which no later process could find.
        output: the new run folder; by default that of the run with ``-updated`` behind it.
        resume: go on with a killed update in ``output``.
        overwrite: replace a run in ``output``.
        cache: where frozen work is kept, as the setting of that name.
        progress: whether, or where, to tell of the work, as for ``train``.

    Returns:
        The new run, and how it stands beside the old one.

    Raises:
        DataError: the run's data is gone or has changed, ``data`` is of another modality, holds
            nothing new, or labels an old example otherwise.
        UsageError: the run cannot be opened, or ``output`` be written to.
    """
    run = runs.in_folder(run)
    target = Path(output) if output is not None else runs.beside(run.path, "updated")
    of = str(run.path.resolve())
    _check_joinable(run.data, data)
    writes: dict[str, Any] = {"resume": resume, "overwrite": overwrite}
    runs.check_output(target, **writes, data=data, update_of=of)
    dataset, fresh, left_out = _merged(run, data)
    first = run.config.get("of_first_run", len(dataset) - len(fresh))
    dataset = dataclasses.replace(dataset, update_of=of, of_first_run=first)
    settings = read_file(run.path / runs.CONFIG) | ({} if cache is None else {"cache": cache})
    with telling(progress) as told:
        told.note(f"{len(fresh)} new examples, {left_out} left out; each old one keeps its split.")
        if classes := _new_classes(run, dataset, fresh):
            told.note(classes)
        if not (resume and runs.only_trained(target)):
            kept: dict[str, Any] = {"backbone": run.backbone, "recipe": Recipe(**settings)}
            train(dataset, output=target, **kept, **writes, progress=told)
    new = runs.open_run(target)
    if (had := new.config["data"]) != (given := runs.data_name(dataset, target)):
        problem = f"The run in {target} had data={had!r}; received {given!r}."
        raise UsageError(problem, remedy="Give the same data to resume it, or --overwrite.")
    found = _judged(run, new, dataset, fresh, left_out)
    new = runs.add_to_metrics(new, {"update": {"of": str(run.path)} | found.to_json()})
    report.write_report(new)
    return dataclasses.replace(found, run=new)


def _check_joinable(*given: Data) -> None:
    for name in given:
        if isinstance(name, (str, os.PathLike)) and JOINT in str(name) and os.path.exists(name):
            problem = f"{name!r} has {JOINT!r} in its name, which joins the names of data."
            raise UsageError(problem, remedy="Rename it.")


def _new_classes(run: runs.Run, dataset: Dataset, fresh: np.ndarray) -> str:
    """The classes that the run did not know, with their examples; and those that may be slips."""
    counts = run.task.counts(dataset.labels[fresh], len(dataset.class_names))
    number = dict(zip(dataset.class_names, counts.tolist(), strict=True))
    new = [name for name in number if name not in run.class_names]

    def slip(name: str) -> str:
        """A likely name of which ``name`` is misspelt; one with other digits is another thing."""
        others = [n for n in number if n in run.class_names or number[n] > number[name]]
        alike = [n for n in others if re.findall(r"\d+", n) == re.findall(r"\d+", name)]
        return closest(name, alike, cutoff=0.8)

    listed = ", ".join(f"{printable(name)} ({number[name]})" for name in new)
    asked = "".join(f" {printable(name)}:{slip(name)}" for name in new if slip(name))
    silent = "" if run.task.exclusive else " What the run has counts as having none of them."
    return f"New classes: {listed}.{silent}{asked}" if new else ""


def _merged(run: runs.Run, data: Data) -> tuple[Dataset, np.ndarray, int]:
    """The old examples in their splits and the new ones, the rows of these, and how many were left
    out."""
    runs.check_data(run)
    how = {"group": run.config.get("group"), **run.how}
    how = {one: how[one] for one in ("group", "columns", "multi_label")}
    source, of_old = datasets.open_source(run.data, data, **how), len(parts_of(run.data))
    more = JOINT.join(source.name.split(JOINT)[of_old:])
    if source.origin == "memory":
        problem = f"The {more} given are in memory, where no later process could find them."
        raise DataError(problem, remedy="Write them to files, and give these.")
    mine = tuple(prefix(of_old + number) for number in range(len(parts(data))))
    placed = splits.read_splits(run.file(runs.SPLITS))
    inspected = datasets.inspect(_with_splits(source, mine, placed), **run.how)
    dataset = inspected.dataset
    _check_old(run, dataset, placed, more)
    old = np.array([path in placed for path in dataset.paths])
    known = {digest for digest, is_old in zip(dataset.digests, old, strict=True) if is_old}
    kept = old | np.array([digest not in known for digest in dataset.digests])
    offered = sum(item.path.startswith(mine) for item in source.items)
    left_out = offered - int((kept & ~old).sum())
    if left_out == offered:
        given_again = zip(inspected.source.items, inspected.records, strict=True)
        copies = sum(i.path.startswith(mine) and one.digest in known for i, one in given_again)
        problem = f"{more} holds nothing new: {copies} of {offered} are copies of what the run has."
        remedy = "Give examples that the run has not"
        if copies < offered:
            remedy += "; keras-transfer inspect says what is wrong with the others"
        raise DataError(problem, remedy=f"{remedy}.")
    given = {item.path: item.split for item in source.items}
    dataset = splits.take(dataset, np.flatnonzero(kept))
    fresh = np.flatnonzero(~old[kept])
    return _placed(run, dataset, fresh, given), fresh, left_out


def _with_splits(
    source: Source, mine: tuple[str, ...], placed: Mapping[str, tuple[str, Split]]
) -> Source:
    """A source whose old items are those of the run, in its splits, and groups with them.

    Args:
        source: all data.
        mine: what the paths of new items begin with.
        placed: label and split of each old path.
    """
    together = {i.group: placed[i.path][1] for i in source.items if i.group and i.path in placed}
    items = [
        item._replace(split=placed[item.path][1])
        if item.path in placed
        else item._replace(split=item.split or together.get(item.group or ""))
        for item in source.items
        if item.path in placed or item.path.startswith(mine)
    ]
    identity = source.identity and f"{source.identity}\nupdate"
    return dataclasses.replace(source, items=items, identity=identity)


def _check_old(
    run: runs.Run, dataset: Dataset, placed: Mapping[str, tuple[str, Split]], more: str
) -> None:
    """Refuses data of which old examples are missing, have changed, or are labelled twice."""
    digests = dict(zip(dataset.paths, dataset.digests, strict=True))
    lost = sorted(placed.keys() - digests.keys())
    reasons = {one.path: one.reason for one in dataset.findings}
    if lost:
        reason = reasons.get(lost[0], "it is not there")
        problem = f"{len(lost)} examples of {run.path} cannot be used, such as {lost[0]}: {reason}."
        remedy = f"Bring {run.data} back to what it was, and correct labels in {more}."
        raise DataError(problem, remedy=remedy)
    held = files.sha256("".join(sorted(digests[path] for path in placed)).encode())
    if held != run.config.get("data_digest", held):
        problem = f"{run.data} has changed since {run.path} was trained on it."
        raise DataError(problem, remedy="Bring it back to what it was, or train anew.")


def _placed(
    run: runs.Run, dataset: Dataset, fresh: np.ndarray, given: Mapping[str, str | None]
) -> Dataset:
    """The data with new examples in splits: given ones, those of their group, or drawn ones."""
    assert dataset.groups is not None
    of_old = {group for i, group in enumerate(dataset.groups) if i not in set(fresh.tolist())}
    drawn = [
        i for i in fresh.tolist()
        if given[dataset.paths[i]] is None and dataset.groups[i] not in of_old
    ]  # fmt: skip
    recipe = Recipe(**read_file(run.path / runs.CONFIG))
    placed = dataset.splits.copy()
    placed[drawn] = splits.complete(
        splits.strata_of(dataset.labels[drawn], dataset.class_names),
        [dataset.groups[i] for i in drawn], [None] * len(drawn),
        split=recipe.split, seed=recipe.drawn_by,
    )  # fmt: skip
    return dataclasses.replace(dataset, splits=placed)


def _judged(
    old: runs.Run, new: runs.Run, dataset: Dataset, fresh: np.ndarray, left_out: int
) -> Update:
    """Both models on the old test split, and on new test examples of known classes."""
    after, task = {row["path"]: row for row in new.predictions}, new.task
    before = {row["path"]: row["predicted"] for row in old.predictions}
    tested = [dataset.paths[i] for i in fresh.tolist() if dataset.splits[i] == "test"]
    labels, given = (
        {path: set(task.names(after[path][column])) for path in tested}
        for column in ("label", "predicted")
    )
    place = {path: i for i, path in enumerate(dataset.paths)}
    known = [path for path in tested if labels[path] <= set(old.class_names)]
    if known:
        assert dataset.examples is not None
        scores = predict_probabilities(old.model, dataset.examples[[place[p] for p in known]])
        names = task.decode(task.answers(scores, old.thresholds), old.class_names)
        on_new = dict(zip(known, names, strict=True))

    def pair(answers: Mapping[str, str]) -> Pair:
        truth, then, now = (
            np.array(column)
            for column in zip(
                *((after[p]["label"], said, after[p]["predicted"]) for p, said in answers.items()),
                strict=True,
            )
        )
        return compare_predictions(truth, then, now, names=("the old model", "the new model"))

    unknown = [name for name in new.class_names if name not in old.class_names]
    of_class = {name: [path for path in tested if name in labels[path]] for name in unknown}
    found = {name: sum(name in given[path] for path in own) for name, own in of_class.items()}
    return Update(
        new, len(fresh), left_out, pair(before), pair(on_new) if known else None,
        [
            {
                "name": name, "images": len(own),
                "recall": found[name] / len(own) if own else None,
                "interval": intervals.wilson_interval(found[name], len(own)) if own else None,
            }
            for name, own in of_class.items()
        ],
    )  # fmt: skip
