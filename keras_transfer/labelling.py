"""What to label next: the examples from which a run would learn most, as a sheet to fill in."""

from __future__ import annotations

import dataclasses
import functools
import os
import shlex
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from keras_transfer import backbones, datasets
from keras_transfer.base import files, templates
from keras_transfer.base.errors import DataError, ExampleError, UsageError
from keras_transfer.base.progress import Progress, telling
from keras_transfer.base.quiet import quiet_stdio
from keras_transfer.base.task import ONE, Task
from keras_transfer.base.types import POOL, Columns
from keras_transfer.datasets import arrays, manifests
from keras_transfer.datasets.inspection_page import printable
from keras_transfer.datasets.items import Items
from keras_transfer.datasets.sources import Data, check_outside, is_hidden, read_file
from keras_transfer.frozen.engine import Engine, build_engine
from keras_transfer.modalities import modality
from keras_transfer.preparation import size_of
from keras_transfer.recipe import reads_arguments, resolve
from keras_transfer.runs import folder as runs
from keras_transfer.runs import probing
from keras_transfer.runs.finished import Finished, Folder

SHEET, PAGE = "sheet.csv", "sheet.html"
_BLOCK = 256  # examples that are decoded before they are run


@dataclasses.dataclass(frozen=True, repr=False)
class Sheet:
    """What to label next.

    Attributes:
        path: the table; its column ``label`` is empty.
        rows: its rows, the most useful first: ``path`` (or ``text``), ``label``, ``guess`` and
            ``confidence``.
        left_out: what could not be read, by name, and why.
        known: how many are in the run's own data, and not ranked; None where that cannot be read.
        command: what takes the table once labels are filled in.
    """

    path: Path
    rows: Sequence[dict[str, str]]
    left_out: dict[str, str]
    known: int | None
    command: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = {"sheet": str(self.path), "rows": list(self.rows), "left_out": self.left_out}
        return told | {"known": self.known}

    def render(self) -> str:
        """Its first rows, where it is and what to do with it, for a terminal."""
        of_texts = "text" in self.rows[0]

        def shown(row: dict[str, str]) -> str:
            """A text, or the file as it is seen from here."""
            return row["text"] if of_texts else os.path.relpath(self.path.parent / row["path"])

        lines = [f"{'text' if of_texts else 'file'}  guess  confidence"]
        lines += [
            "  ".join(map(printable, (shown(row), row["guess"], row["confidence"])))
            for row in self.rows[:10]
        ]
        lines += [f"... and {len(self.rows) - 10:,} more"] if len(self.rows) > 10 else []
        lines += ["Some of which it is sure are there for variety."]
        lines += [f"{printable(n)} cannot be read: {why}" for n, why in self.left_out.items()]
        lines += [f"Labelled already, in the run's own data: {self.known:,}."] if self.known else []
        if self.known is None:
            lines += ["The run's own data cannot be read: what it has labelled may be asked again."]
        sheet, page = shlex.quote(str(self.path)), self.path.with_name(PAGE)
        lines += [f"Look at {page}, fill the column label of {sheet}, then:"]
        return "\n".join([*lines, f"  {self.command}"])

    def __repr__(self) -> str:
        return f"Sheet({len(self.rows)} examples to label, in {str(self.path)!r})"


@reads_arguments
def label(
    run: Finished | Folder,
    data: Folder | Items,
    *,
    count: int = 100,
    output: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> Sheet:
    """Ranks unlabelled examples by what a run would learn from their labels, and writes a sheet.

    Once its column ``label`` is filled, as far as anybody likes, the table is data for ``train``
    and ``update``: rows without a label are left out.

    Args:
        run: a finished run, or its folder.
        data: a folder of files, a ``.csv``, ``.tsv``, ``.jsonl`` or DataFrame with a column
            ``path`` or ``text``, or a list of paths or texts.
        count: how many to rank.
        output: the folder for the table and its page with previews; by default that of the run
            with ``-to-label`` behind it.
        seed: of the ranking, see :func:`ranking`.
        progress: whether, or where, to tell of it, as for ``train``.

    Returns:
        The sheet.

    Raises:
        DataError: nothing in ``data`` can be read.
        UsageError: there is a sheet already, which may hold labels; the run cannot be opened.
    """
    run = runs.in_folder(run)
    folder = Path(output) if output is not None else run.path.with_name(f"{run.path.name}-to-label")
    check_outside(folder, data)
    if (folder / SHEET).exists():
        problem = f"{folder / SHEET} exists, and may hold labels."
        raise UsageError(problem, remedy="Name another folder with --output.")
    column, items = _unlabelled(run, data)
    given = str(data) if isinstance(data, (str, os.PathLike)) else f"The {type(data).__name__}"
    names, features, scores, left_out, known = _seen(run, items, progress)
    if not names:
        raise _nothing(run, given, len(items), left_out, known)
    answers = run.task.answers(scores, run.thresholds)
    guesses = run.task.decode(answers, run.class_names)
    sureness = run.task.sureness(scores, answers)
    rows, pieces = [], []
    for i in ranking(scores, features, count, seed, run.task).tolist():
        guess, sure = guesses[i], f"{sureness[i]:.3f}"
        shown = names[i] if column == "text" else Path(os.path.relpath(names[i], folder)).as_posix()
        rows.append({column: shown, "label": "", "guess": guess, "confidence": sure})
        form = run.modality
        html = form.show(form.decode(items[names[i]](), form.preview(run.spec)), names[i])
        piece = {"html": html, "name": "" if column == "text" else shown, "row": len(rows) + 1}
        pieces.append(piece | {"guess": guess, "confidence": sure})
    files.write_csv(folder / SHEET, list(rows[0]), [list(row.values()) for row in rows])
    values = {"run": str(run.path), "data": given, "what": run.modality.NOUN, "rows": pieces}
    page = templates.fill(Path(__file__).with_name("labelling.html.j2"), values)
    files.write_text(folder / PAGE, page)
    command = shlex.join(["keras-transfer", "update", str(run.path), str(folder / SHEET)])
    return Sheet(folder / SHEET, rows, left_out, known, command)


@reads_arguments
def inspect_labels(
    data: Data,
    *,
    group: str | None = None,
    columns: Columns | None = None,
    multi_label: Literal["auto", "on", "off"] = "auto",
    progress: Progress | bool | None = None,
) -> datasets.Inspection:
    """As ``inspect``, and finds labels that look wrong.

    Confident learning (Northcutt, Jiang and Chuang 2021) on frozen features of the default
    backbone: heads that have not seen an example give it to another class. This costs one pass of
    every example through the network, as the frozen part of ``train`` does, and five heads.

    Args:
        data: as for ``inspect``.
        group: as for ``inspect``, as are ``columns`` and ``multi_label``.
        columns: what a table calls its columns.
        multi_label: whether an example may have several labels.
        progress: whether, or where, to tell of it, as for ``train``.

    Returns:
        What ``inspect`` returns, at most 50 findings of the kind ``suspect_label`` among its own.

    Raises:
        DataError: there is nothing to inspect.
    """
    source = datasets.open_source(data, group=group, columns=columns, multi_label=multi_label)
    recipe = resolve({}, efforts=modality(source.modality).EFFORTS)
    size = size_of(recipe, source, backbones.spec(recipe.backbone))
    with telling(progress) as told:
        return probing.inspect_labels(source, recipe.backbone, size, told)


def ranking(
    probabilities: np.ndarray, features: np.ndarray, count: int, seed: int = 0, task: Task = ONE
) -> np.ndarray:
    """An order in which to label examples: uncertain ones, each unlike those before it.

    BADGE (Ash et al. 2020): the gradient that an example would give to the last layer, were its
    answer the right one, is long where the model is unsure; by the seeding of
    k-means++ each next example is drawn in proportion to its squared distance from all before.

    Args:
        probabilities: ``[examples, classes]``.
        features: what the last layer sees, ``[examples, d]``.
        count: how many to rank.
        seed: of the draws.
        task: what the labels are.

    Returns:
        Positions, int64, at most ``count`` of them.
    """
    random, chosen = np.random.default_rng(seed), list[int]()
    answers = task.answers(probabilities)
    errors = probabilities.astype(np.float64) - task.targets(answers, probabilities.shape[1])
    seen = features.astype(np.float64)
    lengths = np.square(errors).sum(axis=1) * np.square(seen).sum(axis=1)
    distance, weight = np.full(len(errors), np.inf), lengths
    for _ in range(min(count, len(errors))):
        if weight.sum() > 0:
            draw = random.choice(len(errors), p=weight / weight.sum())
            last = int(draw if chosen else lengths.argmax())
        else:  # copies of what is chosen
            last = int(np.setdiff1d(np.arange(len(errors)), chosen)[0])
        chosen.append(last)
        # The gradients are outer products, and are never made.
        alike = (errors @ errors[last]) * (seen @ seen[last])
        distance = np.minimum(distance, np.maximum(lengths + lengths[last] - 2 * alike, 0.0))
        distance[chosen] = 0.0
        weight = distance
    return np.array(chosen, np.int64)


def _unlabelled(run: runs.Run, data: Any) -> tuple[str, dict[str, Callable[[], bytes]]]:
    """Whether items are paths or texts, and of each what reads its bytes."""
    form, of_table = run.modality, hasattr(data, "columns")
    named = isinstance(data, (str, os.PathLike))
    path = Path(data).expanduser() if named else Path()
    if named and path.is_dir():
        found = [os.path.join(place, one) for place, _, inside in os.walk(path) for one in inside]
        known = [f for f in sorted(found) if form.SUFFIXES.get(os.path.splitext(f)[1].lower())]
        kept = [f for f in known if not is_hidden(os.path.relpath(f, path))]
        return "path", {file: functools.partial(read_file, file) for file in kept}
    if named and not (path.is_file() and path.name.lower().endswith(manifests.SUFFIXES)):
        problem = f"{data} is neither a folder nor a .csv, .tsv or .jsonl."
        raise DataError(problem, remedy="Give a folder of what to label, or a table.")
    if named or of_table:
        table = path if named else data
        column, cells = manifests.unlabelled(table, form.NAME, run.config.get("columns"))
    else:
        column, cells = arrays.names(data, form)
    if column == "text":
        return column, {cell: cell.encode for cell in cells}
    return column, {place: functools.partial(read_file, place) for place in cells}


def _nothing(
    run: runs.Run, data: str, count: int, left_out: dict[str, str], known: int | None
) -> DataError:
    """Why nothing is to be labelled."""
    what = f"{run.modality.NOUN}s"
    if known:
        problem = f"{data} has nothing new: {known} of {count} are in the run's data already."
        return DataError(problem, remedy=f"Give {what} that nobody has labelled.")
    reasons = (f": {name}: {reason}" for name, reason in left_out.items())
    problem = f"{data} has no {what} that can be read{next(reasons, '')}."
    return DataError(problem, remedy=f"Give a folder of {what}, or a table.")


def _labelled(run: runs.Run) -> frozenset[str] | None:
    """The digests of what the run was made from; None where that cannot be read."""
    try:
        return frozenset(run.dataset.digests)
    except DataError:
        return None


def _seen(
    run: runs.Run, items: dict[str, Callable[[], bytes]], progress: Progress | bool | None
) -> tuple[list[str], np.ndarray, np.ndarray, dict[str, str], int | None]:
    """The names of items that can be read, their features and probabilities; why others cannot;
    and how many are labelled already, None where that cannot be read."""
    model, left_out, names, known = run.model, dict[str, str](), list[str](), 0
    outputs = [model.get_layer(POOL).output, model.output]
    engine: Engine = build_engine(keras.Model(model.input, outputs), images=len(items))
    found, waiting = list[list[np.ndarray]](), list[np.ndarray]()
    with telling(progress) as told:
        told.stage("decode")
        labelled = _labelled(run)
        for name, read in told.through("extract", items.items(), 0.02):
            try:
                data = read()
                if labelled and files.sha256(data) in labelled:
                    known += 1
                    continue
                with warnings.catch_warnings(action="ignore"), quiet_stdio():
                    waiting.append(run.modality.decode(data, run.spec))
                names.append(name)
            except ExampleError as error:
                left_out[name] = error.message
            if len(waiting) == _BLOCK:
                found.append(engine.predict(np.stack(waiting)))
                waiting.clear()
    if waiting:
        found.append(engine.predict(np.stack(waiting)))
    features, scores = map(np.concatenate, zip(*found, strict=True)) if found else ([], [])
    told_of = None if labelled is None else known
    return names, np.asarray(features), np.asarray(scores), left_out, told_of
