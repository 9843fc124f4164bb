"""How clients feed an exported model: the one place of this room that knows what an example is.

Everything else takes a :class:`Signature` from :func:`signature` and asks it. Another modality adds
a class beside ``images.py``, and a reader of its samples to ``proof.py``.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from keras_transfer.base.errors import UsageError
from keras_transfer.export.clips import AudioSignature
from keras_transfer.export.feeding import Signature
from keras_transfer.export.images import ImageSignature
from keras_transfer.export.texts import TextSignature
from keras_transfer.modalities import InputSpec, Modality

if TYPE_CHECKING:
    import keras


_SIGNATURES: dict[str, Callable[[InputSpec], Signature]] = {
    "image": ImageSignature,
    "text": TextSignature,
    "audio": AudioSignature,
}


def signature(form: Modality, spec: InputSpec) -> Signature:
    """How a classifier is fed that takes such examples."""
    return _SIGNATURES[form.NAME](spec)


def signature_of(model: "keras.Model", form: Modality, fit: str | None = None) -> Signature:
    """How a classifier is fed, its examples fitted as in training.

    Raises:
        UsageError: it takes something else than examples of its modality.
    """
    shape, kind = model.input_shape[1:], model.input.dtype
    spec = form.spec_of(shape, kind)
    if spec is None:
        raise UsageError(
            f"the model takes {kind} {[*shape]}, and no {form.NOUN}s.",
            remedy="Train it with keras-transfer, or wrap it into a model that does.",
        )
    return signature(form, spec.fitted(fit))
