"""Augmented views of images, and whether they may be mirrored."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from keras_transfer.base.threads import cores, in_threads

ROTATION = 10.0  # degrees either way
ZOOM = 0.12  # log-scale range either way
SHIFT = 0.06  # of the side, either way
BRIGHTNESS = 0.12
CONTRAST = 0.2
SATURATION = 0.2


def view(
    examples: np.ndarray,
    digests: Sequence[str],
    number: int,
    *,
    seed: int = 0,
    strength: float = 1.0,
    flip: bool = True,
) -> np.ndarray:
    """Draws one augmented view of each image.

    A view is one affine transform (rotation up to 10 degrees, zoom up to 12 %, shift up to 6 % of
    the side, reflected at the border) and one colour transform (brightness, contrast, saturation).
    The ranges are mild enough to keep the meaning of digits, letters and symbols.

    Args:
        examples: uint8, shape ``[images, height, width, 3]``.
        digests: one content digest an image: with ``number`` and ``seed`` it alone decides what is
            drawn, so that neither the order nor the number of threads matters.
        number: 0 gives the pixels unchanged; every other number another draw.
        seed: of the draws.
        strength: 0 to 3, multiplies every range. 1 suits most sets; 0 leaves only the flip.
        flip: whether half of the images are mirrored left to right. Turn it off where direction
            has a meaning, as in text and digits.

    Returns:
        uint8, the shape of ``examples``; ``examples`` itself for view 0.
    """
    if number == 0:
        return examples
    drawn = np.empty_like(examples)

    def draw(i: int) -> None:
        drawn[i] = _view(examples[i], _uniforms(digests[i], number, seed), strength, flip)

    # Half of the cores: the others compute what views are drawn for. Pillow holds Python's lock for
    # much of a small view, so that two threads on two cores gain nothing and delay the network.
    in_threads(draw, len(examples), max(1, cores() // 2))
    return drawn


def _uniforms(digest: str, number: int, seed: int) -> np.ndarray:
    """Eight numbers in [0, 1) that depend on nothing but the arguments."""
    drawn = hashlib.sha256(f"{digest}:{number}:{seed}".encode()).digest()
    return np.frombuffer(drawn, "<u4") / 2.0**32


def _view(image: np.ndarray, uniforms: np.ndarray, strength: float, flip: bool) -> np.ndarray:
    """One view of one image: uint8 ``[height, width, 3]`` in and out."""
    height, width = image.shape[:2]
    signed = ((2 * uniforms - 1) * strength).tolist()
    angle = math.radians(ROTATION * signed[0])
    scale = math.exp(ZOOM * signed[1])
    mirror = -1.0 if flip and uniforms[4] < 0.5 else 1.0
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    # How far outside the image its corners may look, as a share of the longer side.
    reach = max(0.5 * (cosine + abs(sine)) - 0.5 + SHIFT * strength, 0.0)
    margin = math.ceil(reach * max(width, height)) + 1
    left, top = min(margin, width - 1), min(margin, height - 1)
    padded = np.pad(image, ((top, top), (left, left), (0, 0)), mode="reflect")
    # Pillow maps output to input positions: here about the centres, plus the shift.
    x = left + width * (0.5 + SHIFT * signed[2]) - (mirror * cosine * width + sine * height) / 2
    y = top + height * (0.5 + SHIFT * signed[3]) - (cosine * height - mirror * sine * width) / 2
    # The nearest pixel at twice the size, then the mean of each 2x2: faster than Pillow's bilinear
    # transform, and close to it.
    doubled = Image.fromarray(padded).transform(
        (2 * width, 2 * height),
        Image.Transform.AFFINE,
        (mirror * cosine / 2, sine / 2, x, -mirror * sine / 2, cosine / 2, y),
        resample=Image.Resampling.NEAREST,
    )
    return np.asarray(doubled.reduce(2).convert("RGB", _colours(*signed[5:8])))


def _colours(first: float, second: float, third: float) -> tuple[float, ...]:
    """Saturation about each pixel's grey, contrast about mid-grey, and brightness, each -1..1 times
    the strength, as one matrix: three rows of four, as Pillow's ``convert`` takes them.
    """
    saturation, contrast = 1 + SATURATION * first, 1 + CONTRAST * second
    offset = 127.5 * (1 - contrast) + 255 * BRIGHTNESS * third
    grey = np.tile((0.299, 0.587, 0.114), (3, 1))
    mixed = contrast * (1 - saturation) * grey + contrast * saturation * np.eye(3)
    return tuple(np.c_[mixed, np.full(3, offset)].ravel().tolist())


def mirroring_is_safe(
    examples: np.ndarray, labels: np.ndarray, train: np.ndarray, validation: np.ndarray
) -> tuple[bool, str]:
    """Whether a mirrored image still shows its class, as far as the data itself tells.

    Classifies validation images and their mirror images by the nearest training image, compared as
    gray thumbnails of 16 by 16 pixels. Left and right are part of the class where mirroring loses
    over a quarter of the right answers, and significantly many (McNemar: the loss is over two
    standard deviations). Features of a pretrained network cannot tell, since it was trained on
    mirrored images.

    Args:
        examples: uint8 ``[n, height, width, 3]``; they may lie on disk.
        labels: int ``[n]``.
        train: positions of the training images; at most 5,000 of them are looked at.
        validation: positions of those of validation; at most 1,000 of them are looked at.

    Returns:
        The decision and the reason in one sentence.
    """
    known = train[np.unique(np.linspace(0, len(train) - 1, 5000).astype(int))]
    asked = validation[np.unique(np.linspace(0, len(validation) - 1, 1000).astype(int))]
    references, truth = _thumbnails(examples[known]), labels[asked]

    def right(images: np.ndarray) -> np.ndarray:
        nearest = (_thumbnails(images) @ references.T).argmax(axis=1)
        return labels[known][nearest] == truth

    clean = examples[asked]
    before, after = right(clean), right(clean[:, :, ::-1])
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    net = lost - gained
    safe = net <= 2 * np.sqrt(lost + gained) or net <= 0.25 * before.sum()
    counts = f"as thumbnails {before.mean():.0%} are recognised, {after.mean():.0%} mirrored"
    return bool(safe), f"Augmentation {'mirrors' if safe else 'does not mirror'}: {counts}."


def _thumbnails(pixels: np.ndarray, side: int = 16) -> np.ndarray:
    """Gray thumbnails, centred and of unit length, float32 ``[n, side * side]``."""
    small = [
        np.asarray(Image.fromarray(image).convert("L").resize((side, side)), np.float32).ravel()
        for image in np.ascontiguousarray(pixels)
    ]
    flat = np.stack(small)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6)
