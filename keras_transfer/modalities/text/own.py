"""Networks of somebody's own that read token ids."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_transfer.base.errors import UsageError
from keras_transfer.base.types import MASK
from keras_transfer.modalities.protocol import Put, layers_within
from keras_transfer.modalities.text.remarks import USUAL, entrance
from keras_transfer.modalities.text.tokens import VOCABULARY, WORDS, spec

if TYPE_CHECKING:
    import keras

_PARTS = {"mask": "mask", "segment": "segments", "type": "segments"}
"""What an input beside the ids is by a word in its name, as KerasHub and the hub name them."""


def adopted(
    model: "keras.Model", put: Put, size: Any, preprocessing: str | None
) -> tuple[Any, Any] | None:
    """Takes integers ``[tokens]``, beside them a mask of what is no padding and segments, and of
    several outputs the one that has a place for each token, see ``Modality``.
    """
    from keras import layers, ops

    words = [next((word for word in _PARTS if word in one.name), "") for one in model.inputs]
    parts = [_PARTS.get(word, "ids") for word in words]
    ids = model.inputs[parts.index("ids")] if parts.count("ids") == 1 else None
    if ids is None or any(len(one.shape) != 2 for one in model.inputs):
        return None
    if ids.dtype not in ("int32", "int64") or len(set(parts)) < len(parts):
        return None
    _check_vocabulary(model, preprocessing)
    longest = getattr(model, "max_sequence_length", USUAL)  # as KerasHub's have it
    [length] = spec(size or ids.shape[1] or min(longest, USUAL)).shape
    examples, _ = entrance(length, "ids")
    mask = layers.Rescaling(1.0, dtype="float32", name=MASK)(ops.minimum(examples, 1))
    # By way of the mask, so that it lies below the first cut like everything that is read.
    ids = ops.multiply(examples, ops.cast(mask, "int32"))
    made = {"ids": ids, "mask": mask, "segments": ops.zeros_like(ids)}
    outputs = put([made[part] for part in parts])
    states = [one for one in outputs if len(one.shape) == 3 and one.shape[1] == length]
    if len(states) != 1 and (len(outputs) > 1 or ("mask" in parts and len(outputs[0].shape) > 2)):
        problem = f"{model.name} gives {[tuple(one.shape) for one in outputs]}."
        remedy = "Give a model of one output, or of one that has a place for each token."
        raise UsageError(problem, remedy=remedy)
    # Padding counts for nothing where places are averaged, and every cut has the mask beside it.
    out = ops.multiply(states[0], ops.expand_dims(mask, -1)) if states else outputs[0]
    return examples, out


def _check_vocabulary(model: "keras.Model", given: str | None) -> None:
    """Refuses a model of another vocabulary, by the rows of its embeddings or by its words."""
    parts = (part for layer in layers_within(model) for part in layer._flatten_layers())
    sizes = {getattr(part, "input_dim", None) or 0: part.name for part in parts}
    ours = "texts are cut into the words of bert-base-uncased here"
    if (most := max(sizes)) and WORDS not in sizes:
        problem = f"{model.name} knows {most:,} words ({sizes[most]}), and {ours}: {WORDS:,}."
        raise UsageError(problem, remedy="Give a network that was trained with that vocabulary.")
    if given not in (None, "ids"):
        path = Path(str(given))
        if not path.is_file() or path.read_bytes().split() != VOCABULARY.read_bytes().split():
            problem = f"{path} is not that vocabulary: {ours}."
            raise UsageError(problem, remedy="Give a network that was trained with it.")
