"""Reads a Whisper as CTranslate2 converts it, which is how faster-whisper distributes it."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Of the converters since 2020; what a type of number is called in the file.
_VERSIONS = (5, 6)
_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
_RENAMED = {
    r"encoder/(.*)": r"\1",
    "position_encodings/encodings": "embed_positions/weight",
    r"layer_(\d+)/": r"layers.\1/",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
    "gamma$": "weight",
    "beta$": "bias",
    "/": ".",
}


def read(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """Reads the encoder in ``model.bin``.

    Returns:
        Its tensors under the hub's names, and the number of its heads.

    Raises:
        ValueError: it is another file, is cut short, or holds weights in int8.
        KeyError: a tensor is missing.
    """
    tensors = {name: tensor for name, tensor in _variables(path) if name.startswith("encoder/")}
    if any(tensor.dtype == np.int8 for tensor in tensors.values()):
        raise ValueError("its weights are in int8; take a conversion to float16 or float32")
    heads, found = int(tensors.pop("encoder/num_heads")), dict[str, np.ndarray]()
    for name, tensor in tensors.items():
        for theirs, ours in _RENAMED.items():
            name = re.sub(theirs, ours, name)
        stem, joined, part = name.partition(".self_attention.linear_0.")
        if joined:
            found |= {
                f"{stem}.self_attn.{letter}_proj.{part}": third
                for letter, third in zip("qkv", np.split(tensor, 3), strict=True)
            }
        else:
            found[name] = tensor
    return found, heads


def _variables(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields what the file holds: a header, then name, shape, type and bytes one by one."""
    data, place = path.read_bytes(), 0

    def take(form: str) -> Any:
        nonlocal place
        found = struct.unpack_from(f"<{form}", data, place)
        place += struct.calcsize(f"<{form}")
        return found if len(found) > 1 else found[0]

    def name() -> str:
        return str(take(f"{take('H')}s").rstrip(b"\0").decode())

    try:
        if take("I") not in _VERSIONS or name() != "WhisperSpec":
            raise ValueError("it is no Whisper of CTranslate2's")
        _, count = take("II")
        for _ in range(count):
            called, rank = name(), take("B")
            shape = [take("I") for _ in range(rank)]
            dtype, size = np.dtype(_DTYPES[take("B")]), take("I")
            yield called, np.frombuffer(data, dtype, size // dtype.itemsize, place).reshape(shape)
            place += size
    except (struct.error, LookupError, UnicodeDecodeError) as error:
        raise ValueError(f"it is cut short or no conversion of CTranslate2: {error}") from error
