"""What a run begins with: the recipe that was asked for, its backbone, its data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import keras

from keras_transfer import backbones, datasets
from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.base.task import Task, task_of
from keras_transfer.base.types import Backbone, BackboneSpec, Dataset, Split
from keras_transfer.datasets.sources import Source
from keras_transfer.modalities import MODALITIES, modality
from keras_transfer.recipe import LOCAL, SETTINGS, Recipe, check_names, read, read_file, resolve
from keras_transfer.runs import folder as runs


def given_backbone(backbone: Any, settings: Mapping[str, Any]) -> Backbone | None:
    """The backbone where it is no name; a model, or the file of one, becomes one.

    Raises:
        UsageError: it is none of these.
    """
    if backbone is None or isinstance(backbone, Backbone):
        return backbone
    if isinstance(backbone, keras.Model) or str(backbone).endswith(".keras"):
        named = backbone if isinstance(backbone, keras.Model) else str(backbone)
        built = backbones.build(named)
        name = modality(built.spec.modality).SIZE
        if built.at or settings.get(name) is None:
            return built
        return backbones.build(named, image_size=read(name, settings[name]))
    read("backbone", backbone)
    return None


def asked_recipe(
    recipe: Recipe | None,
    settings: dict[str, Any],
    config: str | PathLike[str] | None,
    given: Backbone | None,
    efforts: Mapping[str, Mapping[str, Any]],
) -> tuple[Recipe, list[str]]:
    """The recipe of a call, its weights named, and the names of the settings that it asked for.

    Args:
        recipe: all settings at once, or None.
        settings: single ones; None stands for one that is not given.
        config: a file of settings, which single ones beat.
        given: the backbone, where it is built.
        efforts: what each effort sets, see ``Modality.EFFORTS``.

    Raises:
        UsageError: a setting is unknown or of no use, or a recipe came with settings beside it.
    """
    typed = {name: value for name, value in settings.items() if value is not None}
    check_names(typed, "the call")
    if recipe is not None:
        if not isinstance(recipe, Recipe):
            problem = f"recipe is a {type(recipe).__name__}."
            raise UsageError(problem, remedy="Give a Recipe, or single settings.")
        if config is not None or set(typed) - {"backbone"}:
            raise UsageError(
                "A recipe was given, and settings beside it.", remedy="Put them into the recipe."
            )
        recipe = dataclasses.replace(recipe, **typed)
        weights = recipe.weights or _first_weights(recipe.backbone, given)
        usual: dict[str, Any] = {"auto": "train" if weights == "none" else "frozen"}
        batch_norm = usual.get(recipe.batch_norm, recipe.batch_norm)
        asked = recipe.to_dict()
        first = {n: asked[n] for n in ("effort", "weights") if asked[n] != SETTINGS[n].default}
        usual = resolve(first, efforts=efforts).to_dict()
        differs = (n for n in asked if n == "views" or asked[n] not in (None, usual[n]))
        names = [*first, *differs]
        return dataclasses.replace(recipe, weights=weights, batch_norm=batch_norm), names
    file = read_file(config, typed) if config is not None else {}
    asked = {**file, **typed}
    if "weights" not in asked:
        effort = efforts[read("effort", asked.get("effort", "default"))]
        named = {"backbone": SETTINGS["backbone"].default, **effort, **asked}["backbone"]
        typed["weights"] = _first_weights(named, given)
    return resolve(typed, file, efforts), [name for name in asked if name not in LOCAL]


def _first_weights(backbone: str, given: Backbone | None) -> str:
    return given.weights if given else backbones.spec(backbone).weights[0]


def settled(
    recipe: Recipe, data: Source | Dataset, spec: BackboneSpec, given: Backbone | None = None
) -> Recipe:
    """The recipe with what the data decides: the size, the fit, whether labels are several.

    Args:
        recipe: what is asked for.
        data: a source, or a data set.
        spec: the backbone's row.
        given: the backbone, where it is built.

    Raises:
        UsageError: as :func:`size_of`, or the data set was opened otherwise.
    """
    form, size = modality(data.modality), size_of(recipe, data, spec, given)
    fit = recipe.fit or (data.fit if isinstance(data, Dataset) else "")
    decided: dict[str, Any] = {form.SIZE: size, "fit": form.spec(size).fitted(fit).fit or None}
    return dataclasses.replace(recipe, **decided, multi_label=_task(data, recipe).setting)


def build(spec: BackboneSpec, recipe: Recipe, given: Backbone | None = None) -> Backbone:
    """The backbone of a recipe, or the one that is given, at its size and with its weights.

    Raises:
        WeightsError: these cannot be read or do not fit.
    """
    size = getattr(recipe, modality(spec.modality).SIZE)
    if given is not None:
        return given.at(size) if given.at else given
    weights = str(recipe.weights)
    runs.settle(Path(weights))
    return backbones.build(spec.name, image_size=size, weights=weights)


def opened(data: Any, recipe: Recipe) -> Source:
    """What is to be read: files, rows or arrays with their labels. Opened once, since an archive is
    unpacked.

    Raises:
        DataError: there is nothing that can be read.
    """
    how: dict[str, Any] = {"multi_label": recipe.multi_label, "columns": recipe.columns}
    return datasets.open_source(data, group=recipe.group, **how)


def size_of(recipe: Recipe, data: Any, spec: BackboneSpec, given: Backbone | None = None) -> Any:
    """The size to train at: what is asked for, else that of a data set or backbone that is given,
    else what suits the data.

    Args:
        recipe: what is asked for.
        data: a source, or a data set.
        spec: the backbone's row.
        given: the backbone, where it is built.

    Raises:
        UsageError: the backbone is for other data, or the size of something else is asked for.
    """
    form = modality(data.modality)
    if spec.modality != form.NAME:
        takes = modality(spec.modality).NOUN
        problem = f"{spec.name} takes {takes}s, and {data.name} holds {form.NOUN}s."
        raise UsageError(problem, remedy="List the backbones with: keras-transfer backbones")
    for other in MODALITIES.values():
        if other.SIZE != form.SIZE and getattr(recipe, other.SIZE) is not None:
            problem = f"{other.SIZE} was given, and {data.name} holds {form.NOUN}s."
            raise UsageError(problem, remedy=f"Give {form.SIZE}, or leave it out.")
    asked = getattr(recipe, form.SIZE)
    if asked is not None:
        return asked
    if given is not None and given.at is None:
        return form.size_of(given.model.input_shape[1:])
    if isinstance(data, Dataset):
        return spec.size if data.examples is None else form.size_of(data.examples.shape[1:])
    sizes = datasets.natural_sizes(data, at_most=64)
    return max(spec.min_size, form.suited(sizes, spec.size)) if sizes else spec.size


def load(source: Any, recipe: Recipe) -> Dataset:
    """The data set of a recipe, at its size and in its splits; one that is loaded, as it is."""
    if isinstance(source, Dataset):
        return source
    source = opened(source, recipe)
    return datasets.load_dataset(
        source, image_size=getattr(recipe, modality(source.modality).SIZE), split=recipe.split,
        splits=recipe.splits, fold=recipe.fold, per_class=recipe.per_class,
        seed=recipe.drawn_by, cache=recipe.cache != "off", fit=recipe.fit,
        multi_label=source.task.setting,
    )  # fmt: skip


def _task(data: Any, recipe: Recipe) -> Task:
    """What the labels of a source or of a data set are."""
    task = task_of(data.labels) if isinstance(data, Dataset) else data.task
    if isinstance(data, Dataset) and recipe.multi_label not in ("auto", task.setting):
        problem = f"multi_label is {recipe.multi_label!r}, and the data set was opened otherwise."
        raise UsageError(problem, remedy="Open it with load_dataset(..., multi_label=...).")
    return task


def check(dataset: Dataset, backbone: Backbone, fit: str | None, needed: Sequence[Split]) -> None:
    """Refuses a data set that the backbone cannot take, that was fitted otherwise, or of which a
    needed split is empty.

    Raises:
        UsageError: its examples are of another shape or fit than is asked for.
        DataError: a split is empty.
    """
    what, shape = modality(dataset.modality).NOUN, tuple(backbone.model.input_shape[1:])
    if dataset.examples is None or tuple(dataset.examples.shape[1:]) != shape:
        had = "none" if dataset.examples is None else f"some of shape {dataset.examples.shape[1:]}"
        problem = f"The backbone takes {what}s of shape {shape}; the data set has {had}."
        raise UsageError(problem, remedy=f"Open it with load_dataset(..., image_size={shape[0]}).")
    if dataset.fit not in ("", fit):
        problem = f"fit is {fit!r}, and the data set was opened with {dataset.fit!r}."
        raise UsageError(problem, remedy=f"Open it with load_dataset(..., fit={fit!r}).")
    for name in needed:
        if not (dataset.splits == name).any():
            problem = f"{dataset.name}: the {name} split holds no {what}s."
            raise DataError(problem, remedy=f"Add {what}s, or give other shares with --split.")
