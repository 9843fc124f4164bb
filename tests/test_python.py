"""What the calls of Python take and refuse."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer.base.errors import UsageError
from keras_transfer.recipe import SETTINGS, kind_of
from tuning.search import search

WRONG: list[tuple[str, dict, str]] = [
    ("train", {"data": 5}, "int is no data"),
    ("train", {"data": "d", "output": 5}, "output must be a name or a path"),
    ("train", {"data": "d", "recipe": 5}, "recipe is a int"),
    ("train", {"data": "d", "backbone": 5}, "backbone must be a name"),
    ("train", {"data": "d", "time_budget": "soon"}, "time_budget must be a duration"),
    ("train", {"data": "d", "epochs": 5}, "Did you mean head_epochs, fine_tune_epochs"),
    ("load_dataset", {"data": "d", "split": 5}, "split must be three shares"),
    ("load_dataset", {"data": "d", "fold": "5"}, "fold must be a fold such as 1/5"),
    ("load_dataset", {"data": "d", "seed": None}, "seed must be a whole number"),
    ("load_dataset", {"data": "d", "spilts": "s"}, "unexpected keyword argument 'spilts'"),
    (
        "load_dataset",
        {"data": "builtin:digits", "image_size": "big"},
        "image size must be positive",
    ),
    ("inspect", {"data": "d", "splits": 5}, "splits must be a name or a path"),
    ("build", {"name": 5}, "backbone must be a name or a path"),
    ("build", {"name": "MobileNetV3Small", "weights": 5}, "weights must be a name or a path"),
    ("open_run", {"path": 5}, "path must be a name or a path"),
    ("write_report", {"run": 5}, "path must be a name or a path"),
    ("compare", {"runs": 5}, "5 are no runs"),
    ("compare", {"runs": ["a", "b"]}, r"\['a', 'b'\] are no runs"),
    ("export_run", {"run": 5}, "path must be a name or a path"),
    ("verify", {"folder": 5}, "folder must be a name or a path"),
    ("predict", {"model": "m", "items": [], "top": "a"}, "top must be a whole number"),
    ("predict", {"model": 5, "items": []}, "5 is no model"),
    ("label", {"run": "r", "data": "d", "count": "x"}, "count must be a whole number"),
    ("train", {"data": "builtin:digits", "callbacks": 5}, "takes no int as a callback"),
    ("load_dataset", {"data": "d", "multi_label": "some"}, "multi_label must be one of auto, on"),
    ("load_dataset", {"data": "d", "fit": 5}, "fit must be one of squash, crop, pad"),
    ("inspect_labels", {"data": "d", "multi_label": True}, "multi_label must be one of auto, on"),
    ("search", {"data": "d", "output": 5}, "output must be a name or a path"),
    ("search", {"data": "d", "output": "s", "max_time": "soon"}, "max_time must be a duration"),
    ("search", {"data": "d", "output": "s", "trials": "some"}, "trials must be a whole number"),
    ("search", {"data": "d", "output": "s", "tuner": "rand"}, "Did you mean random"),
    ("search", {"data": "d", "output": "s", "objective": 5}, "objective must be one of nll, acc"),
    ("search", {"data": "d", "output": "s", "settings": 5}, "settings must be settings by name"),
    ("search", {"data": "d", "output": "s", "settings": {"sed": 1}}, "Did you mean seed"),
    ("search", {"data": "d", "output": "s", "space": 5}, "space must be a space, or the path"),
    ("search", {"data": "d", "output": "s", "space": "no.toml"}, "no.toml"),
    ("search", {"data": 5, "output": "s"}, "int is no data"),
    ("search", {"data": "d"}, "missing a required argument: 'output'"),
]


@pytest.mark.parametrize(("name", "arguments", "said"), WRONG)
def test_a_value_of_a_wrong_type_is_said_in_our_words(
    name: str, arguments: dict, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        (search if name == "search" else getattr(kt, name))(**arguments)
    assert not [path for path in tmp_path.rglob("*") if path.name not in ("s", "lock")]


def test_spellings_of_the_command_line_are_values() -> None:
    data = kt.load_dataset("builtin:digits", split="0.5,0.25,0.25", per_class="3")
    assert len(data.indices("train")) == 30
    assert len(data.indices("test")) in range(445, 454)
    recipe = kt.Recipe(time_budget="10m", cache_limit="20G", fold="2/5")
    assert (recipe.time_budget, recipe.cache_limit, recipe.fold) == (600, 20 * 2**30, (2, 5))
    shown = inspect.signature(kt.train).parameters
    assert shown.keys() >= SETTINGS.keys()
    assert "settings" not in shown


@pytest.mark.parametrize("function", [kt.train, kt.TransferClassifier])
def test_who_asks_for_the_signature_is_told_the_choices(function) -> None:
    shown = inspect.signature(function).parameters
    assert shown["effort"].annotation == Literal["quick", "default", "high"] | None
    assert shown["cache"].annotation == str | os.PathLike[str] | None
    assert shown["time_budget"].annotation == float | str | None


RETURNED = {"Dataset", "ExportResult", "Run", "TransferResult"}
"""Classes of what functions give, which nobody makes by hand."""
CALLABLES = [
    name
    for name in kt.__all__
    if callable(getattr(kt, name))
    and name not in RETURNED
    and not (inspect.isclass(getattr(kt, name)) and issubclass(getattr(kt, name), Exception))
]
CHOICES = {name: kind_of(name).words for name in SETTINGS if kind_of(name).words} | {
    "image_fit": kind_of("fit").words, "tuner": ("bayesian", "hyperband", "random"),
    "objective": ("nll", "accuracy", "f1"),
}  # fmt: skip
SPELT = {"time_budget": "float", "cache_limit": "int", "max_time": "float"} | {
    name: f"tuple[{', '.join(parts)}]"
    for name, parts in {"split": 3 * ["float"], "fold": 2 * ["int"]}.items()
}


@pytest.mark.parametrize("name", [*CALLABLES, "search"])
def test_so_is_who_asks_for_any_other(name: str) -> None:
    """Of words all, and of what the command line spells that a string is one."""
    shown = inspect.signature(search if name == "search" else getattr(kt, name)).parameters
    for one in shown.values():
        said = str(one.annotation)
        words = CHOICES.get(one.name)
        if words and (name, one.name) != ("unfreeze", "batch_norm"):  # a bool of another meaning
            assert "Literal[" in said, (one.name, said)
            assert set(re.findall(r"'([\w-]+)'", said)) == set(words), (one.name, said)
        if kind := SPELT.get(one.name):
            assert kind in said, (one.name, said)
            assert "Spelt[" in said or "str" in said, (one.name, said)
    assert name not in ("train", "Recipe") or shown.keys() >= CHOICES.keys() - {
        "image_fit", "tuner", "objective",
    }  # fmt: skip


STUB = ast.parse(Path(kt.__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body


def taken(definition: ast.FunctionDef, known: dict) -> list[inspect.Parameter]:
    """What a definition takes as whoever reads it sees it, but for ``self`` and types."""
    plain, names = ast.parse(ast.unparse(definition)).body[0], dict(known)
    plain.decorator_list, plain.returns, plain.body = [], None, [ast.Pass()]
    for one in ast.walk(plain.args):
        if isinstance(one, ast.arg):
            one.annotation = None
    exec(ast.unparse(plain), names)
    parameters = inspect.signature(names[definition.name]).parameters.values()
    return [one for one in parameters if one.name != "self"]


def definitions(nodes: list[ast.stmt], name: str) -> list[ast.FunctionDef]:
    """Those of a function, or of what makes an object of a class."""
    found = [one for one in nodes if getattr(one, "name", None) == name]
    within = [one for kind in found if isinstance(kind, ast.ClassDef) for one in kind.body]
    makes = [one for one in within if getattr(one, "name", None) == "__init__"]
    return [one for one in [*found, *makes] if isinstance(one, ast.FunctionDef)]


@pytest.mark.parametrize("name", [name for name in kt.__all__ if name != "__version__"])
def test_an_editor_is_told_what_is_taken(name: str) -> None:
    """By the stub, or by the source where the stub takes the name from there."""
    thing = getattr(kt, name)
    written, known = definitions(STUB, name), {}
    if not written:
        homes = [
            one.module for one in STUB
            if isinstance(one, ast.ImportFrom) for alias in one.names if alias.asname == name
        ]  # fmt: skip
        assert [getattr(importlib.import_module(home), name) for home in homes] == [thing]
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(thing)))
        written = definitions(ast.parse(source).body, name)
        known = vars(sys.modules[thing.__module__])
    assert written or dataclasses.is_dataclass(thing), name
    empty = inspect.Parameter.empty
    shown = [one.replace(annotation=empty) for one in inspect.signature(thing).parameters.values()]
    for one in written:
        found = taken(one, known)
        if len(written) > 1:  # they differ in ``judge``
            found, shown = (
                [p.replace(default=True) if p.name == "judge" else p for p in each]
                for each in (found, shown)
            )
        assert found == shown


REST = {
    "spec": "MobileNetV2", "classes": 2, "pixels": np.zeros((1, 8, 8, 3), np.uint8),
    "maps": np.zeros((1, 2, 2)), "layers": lambda x: x, "image_size": 32, "cut": ("a",),
    "depth": 1, "blocks": (), "formats": "keras", "items": "x", "data": "x",
}  # fmt: skip


@pytest.mark.parametrize("wrong", [5, None, [1], b"x", 1.5, {"a": 1}, ...], ids=repr)
@pytest.mark.parametrize("name", CALLABLES)
def test_whatever_a_function_is_given_first_it_answers_in_our_words(
    name: str, wrong: object, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    function = getattr(kt, name)
    first, *others = inspect.signature(function).parameters.values()
    if first.kind is first.KEYWORD_ONLY:  # an estimator keeps what it is given until it fits
        assert function(**{first.name: wrong}).get_params()[first.name] is wrong
        return
    needed = [
        one.name for one in others if one.default is one.empty and one.kind is not one.VAR_KEYWORD
    ]
    with pytest.raises(UsageError) as caught:
        function(wrong, **{one: REST[one] for one in needed})
    assert caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_so_it_does_for_what_it_is_given_further_on() -> None:
    backbone = kt.build("MobileNetV3Small", image_size=32, weights="none")
    model, pixels = backbone.model, np.zeros((1, 8, 8, 3), np.uint8)
    for call, said in (
        (lambda: kt.block_map(model, 5), "spec must be a backbone's name or row. Received: 5"),
        (lambda: kt.split(model, 5), "cut must be names"),
        (lambda: kt.unfreeze(model, 1, "block"), "blocks must be blocks, as block_map() lists"),
        (lambda: kt.build_classifier(backbone, "two"), "classes must be a whole number"),
        (lambda: kt.build_classifier(backbone), "build_classifier: missing a required argument"),
        (lambda: kt.register("Mine", 5, image_size=32), "layers must be a function that puts"),
        (lambda: kt.grad_cam(model, "photo.png"), "pixels must be images"),
        (lambda: kt.overlay(pixels, 5), "maps must be an array of numbers"),
        (lambda: kt.gallery(pixels, columns="two"), "columns must be a whole number"),
        (lambda: kt.ActivationStore("cache", limit="much"), "limit must be a size such as 500M"),
        (lambda: kt.ActivationStore("cache", size=1), "ActivationStore: got an unexpected keyword"),
    ):
        with pytest.raises(UsageError, match=re.escape(said)):
            call()
    assert kt.ActivationStore("cache", limit="2K").limit == 2048
    (cut,) = backbone.blocks[0].cut
    assert len(kt.split(model, cut)) == 2  # one name needs no list
    assert len(kt.gallery([pixels[0], pixels[0, :4]]).axes) == 8  # of any sizes
    np.testing.assert_array_equal(kt.overlay([pixels[0]], [[[1.0]]]).shape, (1, 8, 8, 3))
