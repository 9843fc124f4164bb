"""The formats that a model can be exported to: one row each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from keras_transfer.base.errors import UsageError, closest


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of artefact.

    Attributes:
        name: what users ask for.
        file: the artefact's file or folder inside the export folder.
        runtime: the key of its runtime in ``proof.OPENERS``.
        limit: the smallest share of test images, 0..1, on which its most probable class must be
            that of the trained model.
        summary: what it is and where it runs, in one line.
    """

    name: str
    file: str
    runtime: str
    limit: float
    summary: str


FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format(
            "saved_model", "saved_model", "saved_model", 0.995, "TensorFlow Serving, any server"
        ),
        Format("keras", "model.keras", "keras", 0.995, "Keras, to train or evaluate further"),
        Format("tflite", "model.tflite", "tflite", 0.995, "phones and boards, float32"),
        Format(
            "tflite-float16",
            "model-float16.tflite",
            "tflite",
            0.99,
            "phones and boards, half the size; computes in float32 on a CPU",
        ),
        Format(
            "tflite-dynamic",
            "model-dynamic.tflite",
            "tflite",
            0.98,
            "phones and boards, a quarter of the size; int8 weights, float activations",
        ),
        Format(
            "tflite-int8",
            "model-int8.tflite",
            "tflite",
            0.97,
            "phones, boards and accelerators, a quarter of the size and the fastest",
        ),
        Format("onnx", "model.onnx", "onnx", 0.995, "ONNX Runtime, on any platform"),
    )
}

DEFAULT_FORMATS = ("saved_model", "tflite")


def parse_formats(names: str | Sequence[str]) -> tuple[Format, ...]:
    """Looks formats up, keeping their order and dropping repetitions.

    Args:
        names: format names, or one string of them with commas between.

    Raises:
        UsageError: no name, or one that is not in ``FORMATS``.
    """
    words = names.split(",") if isinstance(names, str) else list(names)
    chosen = dict.fromkeys(word.strip() for word in words if word.strip())
    for word in chosen:
        if word not in FORMATS:
            raise UsageError(
                f"unknown export format. Received: {word!r}.{closest(word, list(FORMATS))}",
                remedy=f"Choose among {', '.join(FORMATS)}.",
            )
    if not chosen:
        raise UsageError("no export format given.", remedy=f"Choose among {', '.join(FORMATS)}.")
    return tuple(FORMATS[word] for word in chosen)
