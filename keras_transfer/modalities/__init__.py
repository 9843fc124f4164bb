"""What is particular to a kind of example: one folder each, which no other room looks into."""

# ruff: noqa: F401

import os
from collections.abc import Iterable
from typing import Any, Literal

from keras_transfer.base.errors import UsageError, closest
from keras_transfer.modalities import audio, image, text
from keras_transfer.modalities.protocol import Examined, InputSpec, Modality

MODALITIES: dict[str, Modality] = {"image": image, "text": text, "audio": audio}
"""By name; the first is the one that is meant when nothing tells."""

KINDS: Any = Literal[tuple(MODALITIES)]
"""Their names as a type, for schemas."""


def modality(name: str) -> Modality:
    """Finds a modality by its name.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in MODALITIES:
        problem = f"there is no modality {name!r}.{closest(name, list(MODALITIES))}"
        raise UsageError(problem, remedy=f"Use {' or '.join(MODALITIES)}.")
    return MODALITIES[name]


def modality_of_files(paths: Iterable[str]) -> str:
    """The name of the modality to which most of some files belong, by their suffixes.

    An earlier one with half as many files is meant before: beside images often lie notes or labels.
    """
    suffixes = [os.path.splitext(path)[1].lower() for path in paths]
    counts = {
        name: sum(suffix in form.SUFFIXES for suffix in suffixes if suffix)
        for name, form in MODALITIES.items()
    }
    return next(name for name, count in counts.items() if 2 * count >= max(counts.values()))


def modality_of_value(value: Any) -> str:
    """The name of the modality of what a caller has in memory: a ``str`` is a text, an array of one
    axis or a pair of one and its rate a sound.
    """
    if isinstance(value, (str, bytes)):
        return "text"
    sounds = isinstance(value, tuple) or getattr(value, "ndim", 0) == 1
    return "audio" if sounds else next(iter(MODALITIES))
