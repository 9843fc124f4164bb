"""Every setting of a run, once: its type, default, range and help.

All else is read from the fields of :class:`Recipe`: the options of the command line, the keywords
of ``train``, what a TOML file and ``config.json`` hold, what a search may vary, and the reference.

Notation of the second phase, in the letters of the code that runs it:

    w        the weights that it trains              w0    their pretrained values
    l_i(w)   cross-entropy of example i              N     number of training examples
    R(w)     the penalty                             lambda  its strength

    minimise   1/N * sum_i l_i(w)  +  lambda * R(w)
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import math
import operator
import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from keras_transfer.base import files
from keras_transfer.base.errors import UsageError, closest

Called = TypeVar("Called", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a setting may be.

    Attributes:
        expected: that, in words that follow "must be".
        read: the value of a word of the command line, or of a value of Python or TOML; raises
            ``ValueError`` or ``TypeError`` for what is not allowed.
        words: the allowed words, where there are no others.
        whole: whether its numbers are whole.
    """

    expected: str
    read: Callable[[Any], Any]
    words: tuple[str, ...] = ()
    whole: bool = False

    def take(self, value: Any) -> Any:
        """What ``read`` makes of a value; what a word of the command line is given to.

        Raises:
            ArgumentTypeError: it is not allowed; the message follows the name of what is set.
        """
        try:
            return self.read(value)
        except (TypeError, ValueError, OverflowError):
            near = closest(str(value), list(self.words))
            said = f"must be {self.expected}. Received: {value!r}.{near}"
            raise argparse.ArgumentTypeError(said) from None


def _number(value: Any, low: float, high: float, whole: bool = False) -> Any:
    if isinstance(value, bool):
        raise TypeError
    found = float(str(value))  # no whole number is too large for it by this way
    if not low <= found <= high or (whole and not found.is_integer()):
        raise ValueError
    return int(found) if whole else found


def whole(low: int, high: float = math.inf) -> Kind:
    """Whole numbers from ``low`` to ``high``."""
    bounds = f"of at least {low}" if high == math.inf else f"between {low} and {high}"
    return Kind(f"a whole number {bounds}", lambda v: _number(v, low, high, whole=True), whole=True)


def real(low: float, high: float) -> Kind:
    """Numbers from ``low`` to ``high``."""
    return Kind(f"a number between {low:g} and {high:.12g}", lambda v: _number(v, low, high))


def words(*known: str) -> Kind:
    """One of some words."""
    return Kind(f"one of {', '.join(known)}", lambda v: known[known.index(v)], known)


def word_or(word: str, kind: Kind) -> Kind:
    """A word, or what another kind allows."""
    return Kind(f"{word} or {kind.expected}", lambda v: v if v == word else kind.read(v))


def _text(value: Any) -> str:
    text = os.fspath(value)
    if not text or "\0" in text:
        raise ValueError
    return text


TEXT = Kind("a name or a path", _text)


def _matched(pattern: str, value: Any) -> re.Match[str]:
    found = re.fullmatch(pattern, str(value).strip().lower())
    if found is None:
        raise ValueError
    return found


def _duration(value: Any) -> float:
    found = _matched(r"(\d+(?:\.\d+)?)\s*([smh]?)", value)
    return _number(float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]], 1e-9, 1e9)


def _bytes(value: Any) -> int:
    found = _matched(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", value)
    return int(_number(float(found[1]) * 1024 ** " kmgt".index(found[2] or " "), 0, 2**63))


def _shares(value: Any) -> tuple[float, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    shares = tuple(_number(part, 1e-9, 1) for part in parts)
    if len(shares) != 3 or abs(sum(shares) - 1) > 0.01:
        raise ValueError
    return shares


def _fold(value: Any) -> tuple[int, int]:
    i, k = value.split("/") if isinstance(value, str) else value
    parts = _number(k, 1, math.inf, whole=True)
    return _number(i, 1, parts, whole=True), parts


def _depth(value: Any) -> int | str:
    if isinstance(value, (bool, float)) or not re.fullmatch(r"[\w.%-]+", str(value)):
        raise ValueError
    return int(value) if str(value).isdigit() else str(value)


def _cluster(value: Any) -> str:
    return _matched(r"auto|local|(ray://)?[\w.-]+:[1-9][0-9]{0,4}", value)[0]


def _columns(value: Any) -> str:
    pairs = dict(pair.split("=") for pair in str(value).split(","))
    if not pairs.keys() <= MEANINGS or not all(map(str.strip, pairs.values())):
        raise ValueError
    return str(value)


def _cache(value: Any) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else _text(value)


def _instance(kind: str, value: Any) -> Any:
    """What is of a class of a package, or of one of several, by its name, so that the package is
    not imported here."""
    bases = (f"{base.__module__.split('.')[0]}.{base.__name__}" for base in type(value).__mro__)
    if not set(kind.split()) & {*bases}:
        raise TypeError
    return value


def _each(read: Callable[[Any], Any], value: Any) -> tuple[Any, ...]:
    return tuple(read(one) for one in ([value] if isinstance(value, str) else value))


def _string(value: Any) -> str:
    return str(_instance("builtins.str", value))


def _called(value: Any) -> Any:
    if not callable(value):
        raise TypeError
    return value


def _array(value: Any, axes: int = 2) -> Any:
    import numpy as np

    found = np.asarray(value)
    if found.ndim < axes or found.dtype.kind not in "buif":
        raise ValueError
    return found


def _pixels(value: Any) -> Any:
    images = [_array(one) for one in value]
    return _array(value, 3) if len({one.shape for one in images}) < 2 else images


MEANINGS = {"path", "text", "label", "split", "group", "start", "end"}
COLUMNS = Kind("names of columns such as text=review,label=stars", _columns)
DURATION = Kind("a duration such as 90s, 10m or 1.5h", _duration)
BYTES = Kind("a size such as 500M or 20G", _bytes)
SHARES = Kind("three shares that add up to 1, such as 0.7,0.15,0.15", _shares)
FOLD = Kind("a fold such as 1/5", _fold)
DEPTH = Kind("a number of blocks, a block's name, a share such as 35%, all or none", _depth)
RATE = real(1e-12, 100)
CLUSTER = Kind("ray://HOST:PORT, HOST:PORT, auto or local", _cluster)
WORDS = words()
"""Of a setting: one of the words of its type, see :func:`kind_of`."""

Value = TypeVar("Value")
if TYPE_CHECKING:

    class Spelt(Generic[Value]):
        """Of a setting: it may be given as the command line spells it, and is its value then."""

        def __get__(self, held: Any, kind: Any = None) -> Value: ...
        def __set__(self, held: Any, value: Value | str) -> None: ...


def setting(
    group: str,
    default: Any,
    kind: Kind,
    help: str,
    *,
    metavar: str = "N",
    search: Mapping[str, Any] | None = None,
) -> Any:
    """A field of :class:`Recipe`.

    Args:
        group: the heading under which ``--help`` and the reference list it.
        default: its value in the default effort; None where it follows from the data.
        kind: what it may be.
        help: what it is, for people.
        metavar: what stands for its value in ``--help``.
        search: its row in the default search space, see ``tuning.space``.
    """
    about = {"group": group, "kind": kind, "help": help, "metavar": metavar, "search": search}
    return dataclasses.field(default=default, metadata=about)


@dataclasses.dataclass(frozen=True, repr=False)
class Recipe:
    """All settings of a run.

    ``Recipe()`` is the default effort with pretrained weights; ``resolve`` makes others.

    Raises:
        UsageError: a value is not allowed; the message names it and what is.

    >>> Recipe().fine_tune_epochs, Recipe(batch_size="64").batch_size
    (5, 64)
    """

    effort: Literal["quick", "default", "high"] = setting(
        "effort", "default", WORDS, "numbers of the recipe: the head and a short second phase near "
        "the top; more of both; everything trains, for longer",
    )  # fmt: skip
    time_budget: Spelt[float | None] = setting(
        "effort", None, DURATION, "shorten the run until it fits, such as 10m: what is done then "
        "depends on the machine's speed", metavar="10m",
    )  # fmt: skip

    split: Spelt[tuple[float, float, float]] = setting(
        "data", (0.7, 0.15, 0.15), SHARES, "shares of the splits that the data does not give",
        metavar="TRAIN,VAL,TEST",
    )  # fmt: skip
    splits: str | None = setting("data", None, TEXT, "a splits.csv to apply", metavar="FILE")
    group: str | None = setting(
        "data", None, TEXT, "the column of a table whose equal values stay in one split, such as "
        "film or speaker (default: group, where there is one)", metavar="COLUMN",
    )  # fmt: skip
    columns: str | None = setting(
        "data", None, COLUMNS, "what a table calls its columns path, text, label, split, group, "
        "start and end, such as text=review,label=stars", metavar="NAMES",
    )  # fmt: skip
    fold: Spelt[tuple[int, int] | None] = setting(
        "data", None, FOLD, "test on the I-th of K parts, validate on the next", metavar="I/K"
    )
    per_class: int | None = setting(
        "data", None, whole(1), "train on at most N examples of each class"
    )
    seed: int = setting(
        "data", 0, whole(0, 2**32 - 2), "of the order of examples and random weights, and of the "
        "split unless split_seed is given",
    )  # fmt: skip
    split_seed: int | None = setting(
        "data", None, whole(0, 2**32 - 2), "of the split, the folds and per_class alone (default: "
        "the same number as seed)",
    )  # fmt: skip
    fit: Literal["squash", "crop", "pad"] | None = setting(
        "data", None, WORDS, "how an image that is no square becomes one: squashed, cut to its "
        "middle, or with grey beside it (default: squash)",
    )  # fmt: skip
    multi_label: Literal["auto", "on", "off"] = setting(
        "data", "auto", WORDS, "whether an example may have several classes, which its label lists "
        "with | between (auto: where a label of a table does)",
    )  # fmt: skip
    class_weights: Literal["none", "balanced"] = setting(
        "data", "none", WORDS, "weigh each class by the inverse of its size"
    )

    backbone: str = setting(
        "model", "EfficientNetLite0", TEXT, "one of those that `backbones` lists", metavar="NAME"
    )
    weights: str | None = setting(
        "model", None, TEXT, "where they come from (default: what the backbone names first); with "
        "none everything trains", metavar="imagenet|offline|none|PATH|RUN",
    )  # fmt: skip
    image_size: int | None = setting(
        "model", None, whole(1, 10_000), "height and width in pixels (default: the backbone's, or "
        "of images that are much smaller two to four times their own)",
    )  # fmt: skip
    max_length: int | None = setting(
        "model", None, whole(1, 10_000), "tokens of a text, beyond which it is cut (default: what "
        "19 of 20 texts need, and no more than the backbone's)",
    )  # fmt: skip
    clip_length: float | None = setting(
        "model", None, real(0.8, 30), "seconds of a sound, beyond which it is cut (default: what "
        "19 of 20 sounds need, and no more than the backbone's)", metavar="SECONDS",
    )  # fmt: skip
    levels: float = setting(
        "model", 1.0, real(0, 10), "how many means of lower maps the head may see for each "
        "feature of the topmost one (Head2Toe)", metavar="X",
    )  # fmt: skip

    head_epochs: int | None = setting(
        "head", None, whole(0, 100_000), "train the head by gradient for N epochs, 8 if only its "
        "rate is given (default: it is solved by L-BFGS)",
    )  # fmt: skip
    head_lr: float | None = setting(
        "head", None, RATE, "train the head by gradient at this rate, 1e-3 if only epochs are "
        "given", metavar="X",
    )  # fmt: skip
    refit: Literal["on", "off"] = setting(
        "head", "on", WORDS, "whether a solved head is at last solved once more, by the penalty "
        "that validation chose, on its examples too",
    )  # fmt: skip

    unfreeze: int | str = setting(
        "fine-tuning", "35%", DEPTH, "blocks that the second phase trains, from the top: a number, "
        "the name of the lowest, or a share of the multiply-adds",
        metavar="N|NAME|SHARE|all|none",
        search={"choices": ["12%", "35%", "70%"]},
    )  # fmt: skip
    fine_tune_lr: float = setting(
        "fine-tuning", 7e-4, RATE, "peak learning rate", metavar="X",
        search={"low": 2e-4, "high": 3e-3, "scale": "log"},
    )  # fmt: skip
    fine_tune_epochs: int = setting(
        "fine-tuning", 5, whole(0, 100_000), "of the second phase; one sees a view of each example",
        search={"choices": [3, 5, 8]},
    )  # fmt: skip
    rate_decay: float = setting(
        "fine-tuning", 1.0, real(1e-3, 1), "factor on the rate for each block further down",
        metavar="X", search={"low": 0.5, "high": 1.0},
    )  # fmt: skip
    weight_decay: float = setting(
        "fine-tuning", 1e-4, real(0, 10), "decoupled, of kernels, as in AdamW", metavar="X",
        search={"low": 1e-6, "high": 1e-2, "scale": "log"},
    )  # fmt: skip
    penalty: Literal["none", "l2", "l2-sp"] = setting(
        "fine-tuning", "none", WORDS, "R(w): l2 is ||w||^2, l2-sp pulls to the pretrained "
        "weights, ||w - w0||^2",
        search={"choices": ["none", "l2-sp"]},
    )  # fmt: skip
    penalty_strength: float = setting(
        "fine-tuning", 1e-3, real(0, 1e6), "lambda", metavar="X",
        search={"low": 1e-4, "high": 1e-1, "scale": "log", "when": {"penalty": ["l2-sp"]}},
    )  # fmt: skip
    label_smoothing: float = setting(
        "fine-tuning", 0.0, real(0, 0.99), "share of a target spread over all classes",
        metavar="X", search={"choices": [0.0, 0.05, 0.1]},
    )  # fmt: skip
    warmup: float = setting(
        "fine-tuning", 0.1, real(0, 1), "share of the steps in which the rate rises", metavar="X"
    )
    decay: Literal["cosine", "constant"] = setting(
        "fine-tuning", "cosine", WORDS, "how the rate falls afterwards"
    )
    decay_from: float = setting(
        "fine-tuning", 0.0, real(0, 1), "share of the steps until which it stays at its peak",
        metavar="X",
    )  # fmt: skip
    clip_norm: float = setting(
        "fine-tuning", 1.0, real(0, 1e9), "bound on the gradient's global norm; 0 for none",
        metavar="X",
    )  # fmt: skip
    ema: float = setting(
        "fine-tuning", 0.98, real(0, 0.99999), "bound of the momentum of the weights' moving "
        "average, (t - 1) / (t + 2) at step t; 0 for none", metavar="X",
    )  # fmt: skip
    batch_norm: Literal["auto", "frozen", "train"] = setting(
        "fine-tuning", "auto", WORDS, "keep BatchNorm of trained blocks as it is, or train it, "
        "statistics included (auto: train for random weights alone)",
    )  # fmt: skip

    views: int = setting(
        "augmentation", 2, whole(1, 1000), "views of each training example, the first one clean; "
        "half as many as epochs, one to eight, unless given",
    )  # fmt: skip
    strength: float = setting(
        "augmentation", 1.0, real(0, 3), "of the views that are not clean", metavar="X",
        search={"choices": [0.5, 1.0]},
    )  # fmt: skip
    flip: Literal["auto", "on", "off"] = setting(
        "augmentation", "auto", WORDS, "whether views are mirrored (auto: unless the data shows "
        "that left and right matter)",
    )  # fmt: skip
    view_seed: int = setting(
        "augmentation", 0, whole(0, 2**32 - 2), "of the views; one for all runs, so that they "
        "share cached work",
    )  # fmt: skip

    # Here, since a search draws settings in the order in which they stand.
    batch_size: int = setting(
        "fine-tuning", 32, whole(1, 1_000_000), "examples in a step; computed in parts where there "
        "is little memory", search={"choices": [16, 32, 64]},
    )  # fmt: skip

    target_precision: float = setting(
        "judgement", 0.95, real(1e-9, 1), "share of right answers that the confidence threshold is "
        "chosen for", metavar="P",
    )  # fmt: skip
    calibration: Literal["temperature", "none"] = setting(
        "judgement", "temperature", WORDS, "whether probabilities are made honest on the "
        "validation split",
    )  # fmt: skip

    engine: Literal["auto", "keras", "openvino", "openvino-bfloat16"] = setting(
        "machine", "auto", WORDS, "what runs the frozen part"
    )
    jit: Literal["auto", "on", "off"] = setting("machine", "auto", WORDS, "XLA")
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = setting(
        "machine", "auto", WORDS, "in which type layers compute while they train"
    )
    devices: int | str = setting(
        "machine", 1, word_or("all", whole(1)), "how many share each batch", metavar="N|all"
    )
    hosts: Literal["off", "on"] = setting(
        "machine", "off", WORDS, "share each batch of the second phase among all devices of all "
        "hosts that TF_CONFIG names, or for JAX SLURM or KERAS_DISTRIBUTION_*",
    )  # fmt: skip
    cache: str = setting(
        "machine", "on", Kind("on, off or a folder", _cache), "where frozen work is kept",
        metavar="DIR|off",
    )  # fmt: skip
    cache_limit: Spelt[int | None] = setting(
        "machine", None, BYTES, "that it may take, such as 20G", metavar="SIZE"
    )
    machines: str | None = setting(
        "machine", None, CLUSTER, "a Ray cluster whose machines run the frozen part: auto for the "
        "one that this machine is in, local to start one here", metavar="ADDRESS",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                object.__setattr__(self, field.name, read(field.name, value))

    @property
    def head_is_solved(self) -> bool:
        """Whether L-BFGS solves the head, rather than gradient steps training it."""
        return self.head_epochs is None and self.head_lr is None

    @property
    def drawn_by(self) -> int:
        """The seed of the split."""
        return self.seed if self.split_seed is None else self.split_seed

    def for_head(self) -> Recipe:
        """The numbers of a head that trains by gradient, where those of the second phase stand."""
        return dataclasses.replace(
            self,
            fine_tune_epochs=8 if self.head_epochs is None else self.head_epochs,
            fine_tune_lr=1e-3 if self.head_lr is None else self.head_lr,
            penalty="none",
            label_smoothing=0.0,
        )

    def rate(self, step: int, steps: int) -> float:
        """The second phase's learning rate at ``step`` (from 0) of ``steps``.

        >>> recipe = Recipe(fine_tune_lr=0.001, warmup=0.5)
        >>> [round(recipe.rate(step, 4), 6) for step in range(4)]
        [0.0005, 0.001, 0.001, 0.0005]
        """
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return self.fine_tune_lr * (step + 1) / rising
        if self.decay == "constant":
            return self.fine_tune_lr
        level = max(rising, round(self.decay_from * steps))
        progress = max(0, step - level) / max(1, steps - level)
        return self.fine_tune_lr * 0.5 * (1.0 + math.cos(math.pi * progress))

    def __repr__(self) -> str:
        changed = {n: v for n, v in vars(self).items() if v != SETTINGS[n].default}
        return f"Recipe({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def to_dict(self, names: Collection[str] | None = None) -> dict[str, Any]:
        """The settings as plain values, fit for JSON and TOML; those of this machine left out.

        Args:
            names: those wanted; all by default.
        """
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
            if name not in LOCAL and (names is None or name in names)
        }


SETTINGS = {field.name: field for field in dataclasses.fields(Recipe)}
"""The field of each setting, by name; its metadata is what ``setting`` was given."""


def kind_of(name: str) -> Kind:
    """What a setting may be."""
    field = SETTINGS[name]
    kind = field.metadata["kind"]
    return cast(Kind, _of_type(str(field.type)) if kind is WORDS else kind)


def _of_type(said: str) -> Kind | None:
    """What a type says of a value: one of the words that it lists, or as ``_TYPES`` has it."""
    listed = re.findall(r"['\"]([\w-]+)['\"]", said)
    return words(*listed) if "Literal[" in said else _TYPES.get(said.removesuffix(" | None"))


_ARGUMENTS = {
    **{name: kind_of(name) for name in ("split", "fold", "seed", "per_class", "group", "weights")},
    **dict.fromkeys(("top", "count", "trials"), whole(1)),
    "path": TEXT,
    "limit": BYTES,
    "max_time": DURATION,
    "pixels": Kind("images, such as an array [images, height, width, 3]", _pixels),
}
"""What public functions take beside settings, or as well, by the name of the argument."""

_TYPES = {
    "keras.Model": Kind("a keras.Model", functools.partial(_instance, "keras.Model")),
    "Backbone": Kind("what build() gives", functools.partial(_instance, "keras_transfer.Backbone")),
    "Sequence[Block]": Kind(
        "blocks, as block_map() lists them",
        functools.partial(_each, functools.partial(_instance, "keras_transfer.Block")),
    ),
    "BackboneSpec | str": Kind(
        "a backbone's name or row",
        functools.partial(_instance, "builtins.str keras_transfer.BackboneSpec"),
    ),
    "Space | str | os.PathLike[str]": Kind(
        "a space, or the path of a file of one",
        functools.partial(_instance, "builtins.str pathlib.Path tuning.Space"),
    ),
    "Mapping[str, Any]": Kind("settings by name", dict),
    "Sequence[str]": Kind("names", functools.partial(_each, _string)),
    **dict.fromkeys(("str | os.PathLike[str]", "str | PathLike[str]"), TEXT),
    "registry.Layers": Kind("a function that puts layers on a tensor", _called),
    "Columns": COLUMNS,
    "np.ndarray": Kind("an array of numbers", _array),
    "int": Kind("a whole number", operator.index),
    "float": Kind("a number", lambda v: _number(v, -math.inf, math.inf)),
    "str": Kind("a string", _string),
}
"""The same by what is said of an argument's type."""

LOCAL = ("cache", "cache_limit", "hosts", "machines", "splits", "time_budget")
"""Settings of a machine or a moment: repeating a run elsewhere needs none of them."""

EFFORTS: Mapping[str, Mapping[str, Any]] = {
    "quick": {"unfreeze": "12%", "fine_tune_epochs": 2},
    "default": {},
    "high": {"unfreeze": "all", "fine_tune_epochs": 8, "fine_tune_lr": 4e-4, "levels": 1.5},
}
"""What each effort changes for images. Chosen by pairs over tuning tasks:
``benchmarks/results/recipe.md``."""

RANDOM_WEIGHTS = {"unfreeze": "all", "fine_tune_lr": 1e-3, "levels": 0.0, "batch_norm": "train"}
"""What random weights change: nothing is worth keeping, so everything trains, at a higher rate."""


def type_of(name: str) -> str:
    """What a setting may be, as a type for signatures."""
    field = SETTINGS[name]
    kept, spelt = re.subn(r"Spelt\[(.*)\]", r"\1", str(field.type).replace("'", '"'))
    path = " | PathLike[str]" if field.metadata["metavar"] in ("FILE", "DIR|off") else ""
    return f"{kept.removesuffix(' | None')}{' | str' * spelt}{path} | None"


def spelled_out(function: Called, without: Collection[str] = ()) -> Called:
    """Shows, of a function that takes ``**settings``, each with its type to who asks for them.

    Args:
        function: takes them.
        without: those that it does not take.
    """
    shown = inspect.signature(function)
    own = [one for one in shown.parameters.values() if one.kind is not one.VAR_KEYWORD]
    given, only = {one.name for one in own}.union(without), inspect.Parameter.KEYWORD_ONLY
    known = {"Literal": Literal, "PathLike": os.PathLike}
    kinds = {name: eval(type_of(name), known) for name in SETTINGS if name not in given}
    named = [
        inspect.Parameter(name, only, default=None, annotation=kind) for name, kind in kinds.items()
    ]
    vars(function)["__signature__"] = shown.replace(parameters=[*own, *named])
    return function


def reads_arguments(function: Called) -> Called:
    """Reads the arguments of a public function as the command line reads its words.

    What is wrong is then said in its terms, whatever the function would have done with it.
    """
    shown = inspect.signature(function)
    said = {name: str(one.annotation) for name, one in shown.parameters.items()}
    found = {name: _of_type(kind) for name, kind in said.items()} | _ARGUMENTS
    kinds = {name: kind for name, kind in found.items() if kind and name in said}
    title = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def called(*args: Any, **named: Any) -> Any:
        try:
            given = shown.bind(*args, **named)
        except TypeError as error:
            remedy = f"It takes {', '.join(name for name in said if name != 'self')}."
            raise UsageError(f"{title}: {error}.", remedy=remedy) from None
        for name in kinds.keys() & given.arguments.keys():
            value = given.arguments[name]
            if value is not None or shown.parameters[name].default is not None:
                given.arguments[name] = _read(name, kinds[name], value)
        return function(*given.args, **given.kwargs)

    return cast(Called, called)


def read(name: str, value: Any, where: str = "") -> Any:
    """A setting's value, from a word of the command line or from a value of Python or TOML.

    Raises:
        UsageError: the value is not allowed; ``where`` stands before the message.
    """
    return _read(name, kind_of(name), value, where)


def _read(name: str, kind: Kind, value: Any, where: str = "") -> Any:
    try:
        return kind.take(value)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{where}{name} {error}", remedy=f"Give {name} {kind.expected}.") from None


def resolve(
    typed: Mapping[str, Any],
    file: Mapping[str, Any] | None = None,
    efforts: Mapping[str, Mapping[str, Any]] = EFFORTS,
) -> Recipe:
    """The settings of a run: what is typed beats the file, the file the effort, that the default.

    Args:
        typed: settings of the command line or of a call, by name; None counts as not typed.
        file: those of :func:`read_file`.
        efforts: what each effort sets, of the modality at hand.

    Raises:
        UsageError: an unknown setting, a value that is not allowed, or settings that exclude each
            other.

    >>> resolve({"effort": "quick"}, {"fine_tune_epochs": 4}).views
    2
    """
    typed = {name: value for name, value in typed.items() if value is not None}
    given = {**(file or {}), **typed}
    if given.get("batch_size") == "auto":
        del given["batch_size"]
    check_names(given, "the settings")
    if len(ways := [name for name in ("split", "splits", "fold") if name in typed]) > 1:
        raise UsageError(f"{ways[0]} and {ways[1]} were given.", remedy="Give one or the other.")
    effort = read("effort", given.get("effort", "default"))
    pretrained = given.get("weights") != "none"
    numbers = {**efforts[effort], **({} if pretrained else RANDOM_WEIGHTS), **given}
    epochs = numbers.get("fine_tune_epochs") or efforts[effort].get("fine_tune_epochs", 5)
    numbers.setdefault("views", views_for(epochs if pretrained else 2 * int(epochs)))
    if numbers.get("batch_norm", "auto") == "auto":
        numbers["batch_norm"] = "frozen" if pretrained else "train"
    if not pretrained:
        # Lower blocks that know nothing must learn as fast as upper ones; nothing is worth keeping.
        numbers["rate_decay"] = 1.0
        numbers["penalty"] = "l2" if numbers.get("penalty") == "l2-sp" else numbers.get("penalty")
    return Recipe(**{name: value for name, value in numbers.items() if value is not None})


def check_names(names: Collection[str], where: str) -> None:
    """Refuses names that are no settings, with near ones."""
    for name in names:
        if name not in SETTINGS:
            problem = f"Unknown setting {name!r} in {where}.{closest(name, list(SETTINGS))}"
            raise UsageError(problem, remedy=f"Known settings: {', '.join(SETTINGS)}.")


def views_for(epochs: int) -> int:
    """The recipe's views for so many epochs of the second phase: half as many, one to eight.

    >>> [views_for(epochs) for epochs in (1, 5, 8, 30)]
    [1, 2, 4, 8]
    """
    return max(1, min(8, int(epochs) // 2))


def read_file(path: str | os.PathLike[str], typed: Collection[str] = ()) -> dict[str, Any]:
    """Settings of a TOML file, or of the ``config.json`` of an earlier run.

    Args:
        path: the file.
        typed: names of settings that are given elsewhere; with ``effort`` among them, what the
            run's own effort had decided is no word of the file.

    Raises:
        UsageError: the file is missing or damaged, or holds an unknown setting.
    """
    held = read_table(path)
    if "keras_transfer" in held:
        asked = files.table({"asked": list[str]})
        check_names(files.read_json(path, asked).get("asked", ()), f"asked of {path}")
        names = held["asked"] if "effort" in typed and "asked" in held else SETTINGS
        held = {name: held[name] for name in names if held.get(name) is not None}
    check(held, str(path))
    return held


def check(held: Mapping[str, Any], where: str) -> None:
    """Refuses names that are no settings, and values that are not allowed; None counts as absent.

    Raises:
        UsageError: that is so; the message begins with ``where``.
    """
    check_names(held, where)
    for name, value in held.items():
        if value is not None and (name, value) != ("batch_size", "auto"):
            read(name, value, f"{where}: ")


def read_table(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The values of a TOML or JSON file.

    Raises:
        UsageError: the file is missing or damaged, or holds no table.
    """
    remedy = "Name an existing file, and mend what the message names."
    reader = files.read_json if Path(path).suffix == ".json" else files.read_toml
    return reader(path, remedy=remedy)
