"""What the calls of Python take and refuse."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer.base.errors import UsageError
from keras_transfer.recipe import SETTINGS

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
]


@pytest.mark.parametrize(("name", "arguments", "said"), WRONG)
def test_a_value_of_a_wrong_type_is_said_in_our_words(name, arguments, said) -> None:
    with pytest.raises(UsageError, match=said):
        getattr(kt, name)(**arguments)


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
    words = {name for name, field in SETTINGS.items() if field.metadata["kind"].words} - {"fit"}
    assert all("Literal" in str(shown[name].annotation) for name in words)


RETURNED = {"Dataset", "ExportResult", "Run", "TransferResult"}
"""Classes of what functions give, which nobody makes by hand."""
CALLABLES = [
    name
    for name in kt.__all__
    if callable(getattr(kt, name))
    and name not in RETURNED
    and not (inspect.isclass(getattr(kt, name)) and issubclass(getattr(kt, name), Exception))
]
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
