"""Squashes pixels to a size: the same levels to the last bit on every machine.

An antialiased bilinear filter as Pillow's, in fixed point, so that it is defined exactly: by
``_squash_plainly``, whose definition an export's ``verify.py`` repeats in NumPy alone. Where the
package ``cykooz.resizer`` is installed (it has no wheel for Linux on ARM) it computes the same with
the processor's vector instructions.
"""

import numpy as np
from scipy.sparse import csr_array

try:
    import cykooz_resizer as fast
except ImportError:
    fast = None

Box = tuple[float, float, float, float]


def squash(pixels: np.ndarray, size: tuple[int, int], box: Box | None = None) -> np.ndarray:
    """Resizes an image to a height and width, whatever its own proportions are.

    Levels are within two of those of Pillow's ``resize`` with ``BILINEAR``, whose weights have 22
    bits where these have 15, and which filters along the width first.

    Args:
        pixels: uint8, shape ``[height, width, 3]``.
        size: height and width wanted, in pixels.
        box: left, top, right and bottom of the part to take, in pixels and fractions of them; all
            of it by default.

    Returns:
        uint8, shape ``[*size, 3]``; ``pixels`` itself where nothing is to do.
    """
    height, width = pixels.shape[:2]
    box = (0, 0, width, height) if box is None else box
    if size == (height, width) and box == (0, 0, width, height):
        return pixels
    return (_squash_plainly if fast is None else _squash_fast)(pixels, size, box)


def _squash_plainly(pixels: np.ndarray, size: tuple[int, int], box: Box) -> np.ndarray:
    """The definition: along the height, then along the width, 8 bits between the two."""
    rows = _filtered(pixels, size[0], box[1], box[3])
    columns = _filtered(rows.swapaxes(0, 1), size[1], box[0], box[2])
    return np.ascontiguousarray(columns.swapaxes(0, 1))


def _filtered(pixels: np.ndarray, count: int, begin: float, end: float) -> np.ndarray:
    """Takes ``count`` weighted means along the first axis, each about the middle of its share."""
    # The weights fall linearly from the middle to the neighbours' middles, or over one pixel where
    # there are fewer pixels than means; their sum is one. They are rounded to as many binary digits
    # as leave the greatest under 2**15.
    if count == len(pixels) and (begin, end) == (0, count):
        return pixels
    step = (end - begin) / count
    reach = max(step, 1.0)
    middles = begin + (np.arange(count) + 0.5) * step
    first = np.maximum(np.floor(middles - reach), 0).astype(int)
    last = np.minimum(np.ceil(middles + reach), len(pixels)).astype(int)
    taps = first[:, None] + np.arange((last - first).max())
    distance = np.abs((taps - (middles[:, None] - 0.5)) * (1.0 / reach))
    weights = np.where(taps < last[:, None], np.maximum(1.0 - distance, 0.0), 0.0)
    # One after the other, as a sum is rounded at each step.
    weights /= np.add.accumulate(weights, axis=1)[:, -1:]
    fits = [d for d in range(21) if np.floor(weights.max() * 2.0 ** (d + 1) + 0.5) >= 2**15]
    digits = fits[0] if fits else 21
    whole = np.floor(weights * 2**digits + 0.5).astype(np.int32)
    taps = np.minimum(taps, len(pixels) - 1)
    ends = np.arange(count + 1) * taps.shape[1]
    matrix = csr_array((whole.ravel(), taps.ravel(), ends), shape=(count, len(pixels)))
    sums = matrix @ pixels.reshape(len(pixels), -1).astype(np.int32) + (1 << (digits - 1))
    levels = np.clip(sums >> digits, 0, 255).astype(np.uint8)
    return levels.reshape(count, *pixels.shape[1:])


def _squash_fast(pixels: np.ndarray, size: tuple[int, int], box: Box) -> np.ndarray:
    options = fast.ResizeOptions(
        resize_alg=fast.ResizeAlg.convolution(fast.FilterType.bilinear),
        use_alpha=False,
        crop_box=fast.CropBox(box[0], box[1], box[2] - box[0], box[3] - box[1]),
    )
    kind = fast.PixelType.U8x3
    given = fast.ImageData(pixels.shape[1], pixels.shape[0], kind, pixels.tobytes())
    found = fast.ImageData(size[1], size[0], kind)
    fast.Resizer().resize(given, found, options)
    return np.frombuffer(found.get_buffer(), np.uint8).reshape(*size, 3)
