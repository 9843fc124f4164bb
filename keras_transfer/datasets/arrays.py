"""Images that are already in memory: NumPy arrays, tf.data, the built-in digits."""

from __future__ import annotations

import struct
import tempfile
import threading
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_transfer.base.errors import DataError
from keras_transfer.base.types import Split
from keras_transfer.datasets.sources import SPLIT_NAMES, Item, Listing


class Spool:
    """Byte strings kept in a nameless temporary file, and read back from any thread."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the spool
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}

    def add(self, path: str, data: bytes) -> None:
        """Keeps ``data`` under ``path``."""
        self._places[path] = (self._file.tell(), len(data))
        self._file.write(data)

    def read(self, path: str) -> bytes:
        """What was kept under ``path``."""
        offset, size = self._places[path]
        with self._lock:
            self._file.seek(offset)
            return self._file.read(size)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes as an uncompressed PNG, byte for byte the same on every machine.

    Compressed bytes, and so the digests that decide splits, differ between versions of zlib.

    Args:
        pixels: uint8, shape ``[height, width]`` or ``[height, width, 1, 3 or 4]``.
    """
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    color = {1: 0, 3: 2, 4: 6}[channels]
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row begins with filter 0
    rows[:, 1:] = pixels.reshape(height, -1)
    raw = rows.tobytes()
    blocks = [raw[i : i + 65535] for i in range(0, len(raw), 65535)]
    stored = b"".join(
        struct.pack("<BHH", i == len(blocks) - 1, len(block), 65535 - len(block)) + block
        for i, block in enumerate(blocks)
    )
    stream = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")
    )


def digits_source() -> Listing:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, levels 0..16 stretched to 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return _listing("builtin:digits", {None: (images, [str(label) for label in digits.target])})


def arrays_source(
    data: Any, class_names: Sequence[str] | None = None, name: str = "arrays"
) -> Listing:
    """Images and labels in memory.

    Args:
        data: ``(images, labels)``, or a ``tf.data.Dataset`` of such pairs (batched or not), or a
            mapping from ``train``, ``val``, ``test`` to either. Images are uint8, or floating
            point in 0..255, ``[images, height, width, 1, 3 or 4]`` or a list of single ones.
            Labels are integers or strings.
        class_names: the names of integer labels, in order.

    Raises:
        DataError: shapes, levels or labels that are none of these.
    """
    parts = data if isinstance(data, Mapping) else {None: data}
    pairs: dict[Split | None, tuple[Sequence[Any] | np.ndarray, list[str]]] = {}
    for key, part in parts.items():
        split = None if key is None else SPLIT_NAMES.get(str(key).lower())
        if key is not None and split is None:
            raise DataError(f"there is no split {key!r}.", remedy="Use train, val and test.")
        names = class_names or getattr(part, "class_names", None)
        if hasattr(part, "element_spec"):
            images, labels = _from_tf_data(part)
        else:
            images, labels = part
        if len(images) != len(labels):
            raise DataError(
                f"{len(images)} images come with {len(labels)} labels.",
                remedy="Give one label an image.",
            )
        pairs[split] = (_as_uint8(images), _as_names(labels, names))
    return _listing(name, pairs, tuple(class_names or ()))


def _listing(
    name: str,
    pairs: Mapping[Split | None, tuple[Sequence[np.ndarray] | np.ndarray, list[str]]],
    class_names: tuple[str, ...] = (),
) -> Listing:
    images: dict[str, np.ndarray] = {}
    items = []
    for split, (arrays, labels) in pairs.items():
        prefix = f"{split}/" if split else ""
        for i, (image, label) in enumerate(zip(arrays, labels, strict=True)):
            path = f"{prefix}{label}/{i:06d}.png"
            images[path] = image
            items.append(Item(path, label, split))
    if not items:
        raise DataError(f"{name}: there are no images.", remedy="Give at least two of each class.")
    items.sort(key=lambda item: item.path)
    return Listing(
        name, None, items, lambda path: encode_png(images[path]), class_names=class_names
    )


def _from_tf_data(dataset: Any) -> tuple[list[np.ndarray], list[Any]]:
    """Takes a ``tf.data.Dataset`` of (image, label), or of batches of them, into memory."""
    try:
        image_spec, _ = dataset.element_spec
        batched = image_spec.shape.rank == 4
    except (TypeError, ValueError, AttributeError):
        raise DataError(
            f"the tf.data set yields {dataset.element_spec}.",
            remedy="Make it yield pairs of an image and a label.",
        ) from None
    images: list[np.ndarray] = []
    labels: list[Any] = []
    for image, label in dataset.as_numpy_iterator():
        images.extend(image if batched else [image])
        labels.extend(label if batched else [label])
    return images, labels


def _as_uint8(images: Any) -> Sequence[np.ndarray] | np.ndarray:
    """Checks shapes and levels; floating-point levels are rounded."""
    arrays = images if isinstance(images, np.ndarray) else [np.asarray(image) for image in images]
    low = min((float(np.min(image)) for image in arrays if image.size), default=0.0)
    high = max((float(np.max(image)) for image in arrays if image.size), default=0.0)
    for image in arrays[:1] if isinstance(arrays, np.ndarray) else arrays:
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
            raise DataError(
                f"an image has the shape {image.shape}.",
                remedy="Give [height, width], or [height, width, 1, 3 or 4 channels].",
            )
        if image.dtype != np.uint8 and (low < 0 or high > 255 or 0 < high <= 1):
            raise DataError(
                f"images are {image.dtype} with levels from {low:g} to {high:g}.",
                remedy="Give uint8, or levels from 0 to 255.",
            )
    if isinstance(arrays, np.ndarray):
        return arrays if arrays.dtype == np.uint8 else np.rint(arrays).astype(np.uint8)
    return [
        image if image.dtype == np.uint8 else np.rint(image).astype(np.uint8) for image in arrays
    ]


def _as_names(labels: Any, class_names: Sequence[str] | None) -> list[str]:
    """Labels as class names. Integers without names are padded, so that they sort as numbers."""
    values: list[Any] = [
        value.decode() if isinstance(value, bytes) else value
        for value in np.asarray(labels).ravel().tolist()
    ]
    if len(values) != len(labels) or not all(isinstance(value, (str, int)) for value in values):
        shape = np.shape(labels[0]) if len(labels) else ()
        raise DataError(
            f"labels are {type(values[0]).__name__} of shape {shape} each.",
            remedy="Give one integer or one string an image.",
        )
    if all(isinstance(value, str) for value in values):
        return values
    if class_names is not None:
        if not 0 <= min(values) <= max(values) < len(class_names):
            raise DataError(
                f"labels run from {min(values)} to {max(values)}, for {len(class_names)} names.",
                remedy="Give a name for each label, from 0.",
            )
        return [class_names[value] for value in values]
    width = len(str(max(values)))
    return [str(value).zfill(width) for value in values]
