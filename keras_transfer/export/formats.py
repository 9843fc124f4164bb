"""The formats that a model can be exported to: one row each."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from keras_transfer.base.errors import UsageError, closest, require
from keras_transfer.export import proof, quantise
from keras_transfer.export.convert import Source, write_onnx, write_saved_model
from keras_transfer.export.metadata import add_metadata, carry


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of artefact.

    Attributes:
        name: what users ask for: its runtime (a key of ``proof.RUNTIMES``), and its kind if it has
            several.
        summary: what it is and where it runs, in one line.
        write: writes a model to a path that must not exist; raises whatever its converter raises.
        eight_bits: whether weights are rounded to eight bits, which not every network bears.
        extra: the package's extra that has its converter, ``""`` if none is needed.
        modules: what of that extra is imported.
    """

    name: str
    summary: str
    write: Callable[[Source, Path], None]
    eight_bits: bool = False
    extra: str = ""
    modules: tuple[str, ...] = ()

    @property
    def runtime(self) -> str:
        """The key of its runtime in ``proof.RUNTIMES``."""
        return self.name.split("-")[0]

    @property
    def file(self) -> str:
        """The artefact's file or folder inside the export folder, such as ``model-int8.tflite``."""
        kind = self.name.removeprefix(self.runtime)
        return self.name if self.name == "saved_model" else f"model{kind}.{self.runtime}"

    @property
    def limit(self) -> float:
        """The smallest share of test images on which it must answer as the trained model does."""
        return proof.LIMITS[self.name]


def _lite(content: Callable[[Source], bytes]) -> Callable[[Source, Path], None]:
    """Writes a TensorFlow Lite file, with what it says of itself."""

    def write(source: Source, path: Path) -> None:
        path.write_bytes(add_metadata(content(source), source.info))

    return write


def _keras(source: Source, path: Path) -> None:
    source.model.save(path)
    carry(path, source.info)


FORMATS: dict[str, Format] = {row.name: row for row in (
    Format("saved_model", "TensorFlow Serving, any server", write_saved_model),
    Format("keras", "Keras, to train or evaluate further", _keras),
    Format("tflite", "phones and boards, float32", _lite(lambda source: source.lite)),
    Format(
        "tflite-float16", "phones and boards, half the size; computes in float32 on a CPU",
        _lite(lambda source: quantise.float16(source.lite)),
    ),
    Format(
        "tflite-dynamic",
        "phones and boards, a quarter of the size; int8 weights, float activations",
        _lite(lambda source: quantise.dynamic_range(source.lite, source.activations)), True,
    ),
    Format(
        "tflite-int8", "phones, boards and accelerators, a quarter of the size and the fastest",
        _lite(lambda source: quantise.full_integer(source.lite, source.activations)), True,
    ),
    Format(
        "onnx", "ONNX Runtime, on any platform", write_onnx,
        extra="onnx", modules=("tf2onnx", "onnxruntime"),
    ),
)}  # fmt: skip
DEFAULT_FORMATS = ("saved_model", "tflite")


def parse_formats(names: str | Sequence[str]) -> tuple[Format, ...]:
    """Looks formats up, keeping their order and dropping repetitions.

    Args:
        names: format names, or one string of them with commas between.

    Raises:
        UsageError: no name, or one that is not in ``FORMATS``; what it needs is not installed.
    """
    remedy = f"Choose among {', '.join(FORMATS)}."
    words = names.split(",") if isinstance(names, str) else names
    if not isinstance(words, Iterable):
        raise UsageError(f"{names!r} is no export format.", remedy=remedy)
    chosen = list(dict.fromkeys(word.strip() for word in words if word.strip()))
    for word in chosen:
        if word not in FORMATS:
            near = closest(word, list(FORMATS))
            raise UsageError(f"unknown export format. Received: {word!r}.{near}", remedy=remedy)
        extra, modules = FORMATS[word].extra, FORMATS[word].modules
        require(modules, f"pip install 'keras-transfer[{extra}]', or leave {word} out.")
    if not chosen:
        raise UsageError("no export format given.", remedy=remedy)
    return tuple(FORMATS[word] for word in chosen)
