"""How clients feed a model of images."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from scipy import ndimage

from keras_transfer.export.feeding import Signature
from keras_transfer.modalities import Modality, image
from keras_transfer.modalities.image.decoding import FITS, PADDING


class ImageSignature(Signature):
    """uint8 RGB pixels in, of one size."""

    form: ClassVar[Modality] = image
    encoded = "image_bytes"
    made_for_eight_bits = ", or train on EfficientNetLite0, which is made for eight bits"
    reader = "Pillow"
    others = "Other cameras, other light, other drawings"
    mediapipe = "vision"
    by_mediapipe = "resized"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.spec.shape[0], self.spec.shape[1]

    @property
    def fitting(self) -> str:
        """What becomes of an image of other proportions, in words."""
        return FITS[self.spec.fit]

    def for_mediapipe(self, data: bytes) -> np.ndarray:
        """As MediaPipe's image tasks resize it."""
        return mobile_resize(image.decode(data), self.size)

    def blank(self) -> tuple[np.ndarray, bytes]:
        """A white image, uint8 ``[1, height, width, 3]`` and as a PNG file."""
        import tensorflow as tf

        white = np.full((1, *self.size, 3), 255, np.uint8)
        return white, tf.io.encode_png(white[0]).numpy()

    def served(self, data: bytes) -> bool:
        """Whether :meth:`serving_decoder` can read a file that begins like this one."""
        return data.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM"))

    def serving_decoder(self) -> Callable[[Any], Any]:
        """A graph from a string tensor that holds a JPEG, PNG, BMP or GIF file to an example.

        TensorFlow's decoders ignore EXIF rotation; everything else is as in training.
        """
        import tensorflow as tf

        def on_white(levels: Any) -> Any:
            alpha = levels[..., 3:] / 255.0
            return levels[..., :3] * alpha + 255.0 * (1.0 - alpha)

        def decode(data: Any) -> Any:
            def jpeg() -> Any:
                # The DCT that Pillow has, too; TensorFlow's default is faster and coarser.
                image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
                return tf.cast(image, tf.float32)

            def png() -> Any:
                return on_white(tf.cast(tf.io.decode_png(data, channels=4), tf.float32))

            def other() -> Any:
                image = tf.io.decode_image(data, channels=3, expand_animations=False)
                return tf.cast(image, tf.float32)

            start = tf.strings.substr(data, 0, 3)
            cases = [(start == b"\xff\xd8\xff", jpeg), (start == b"\x89PN", png)]
            levels = tf.ensure_shape(tf.case(cases, default=other), (None, None, 3))
            found = tf.round(tf.clip_by_value(self._fitted(levels), 0.0, 255.0))
            return tf.ensure_shape(tf.cast(found, tf.uint8), self.spec.shape)

        return decode

    def _fitted(self, levels: Any) -> Any:
        """Float levels ``[height, width, 3]`` of any size, brought to the model's."""
        import tensorflow as tf

        size, wanted = tf.shape(levels)[:2], tf.constant(self.size)
        shares = tf.cast(wanted, tf.float32) / tf.cast(size, tf.float32)
        if self.spec.fit == "crop":
            kept = tf.cast(tf.cast(wanted, tf.float32) / tf.reduce_max(shares) + 0.5, tf.int32)
            kept = tf.minimum(kept, size)
            begin = (size - kept) // 2
            levels = tf.slice(levels, [*tf.unstack(begin), 0], [*tf.unstack(kept), 3])
        if self.spec.fit == "pad":
            exact = tf.cast(size, tf.float32) * tf.reduce_min(shares)
            wanted = tf.maximum(tf.cast(exact + 0.5, tf.int32), 1)
        resized = tf.image.resize(levels, wanted, method="bilinear", antialias=True)
        before = (tf.constant(self.size) - wanted) // 2
        behind = tf.constant(self.size) - wanted - before
        beside = tf.concat([tf.stack([before, behind], axis=1), [[0, 0]]], axis=0)
        return tf.pad(resized, beside, constant_values=float(PADDING))

    def metadata(self) -> dict[int, Any]:
        """The input's ``TensorMetadata``, as ``metadata.pack`` takes it."""
        height, width = self.size
        size = {0: np.uint32(width), 1: np.uint32(height)}
        # The graph takes raw pixels: mean 0 and deviation 1 say that nothing is left to do.
        identity = {0: (0.0,), 1: (1.0,)}
        return {
            0: self.spec.name,
            1: f"{self.spec.content}, {self.fitting}",
            3: {0: np.uint8(2), 1: {0: np.int8(1), 1: size}},  # ImageProperties: RGB
            4: [{0: np.uint8(1), 1: identity}],  # NormalizationOptions
            5: {0: (255.0,), 1: (0.0,)},  # largest and smallest value
        }


def mobile_resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes as MediaPipe's image tasks do on a CPU.

    Output pixel i is interpolated at i times the step, where antialiased filters look around
    (i + 0.5) times the step: the picture moves by up to half a pixel, and what lies between the
    sampled points is lost. As in OpenCV's warps, which it uses, positions are multiples of 1/32.
    Through a model that gives its input back MediaPipe 1.2.3 gives the same levels.

    Args:
        pixels: uint8 ``[height, width, 3]``.
        size: (height, width) to make.
    """
    at = [
        np.rint(32 * np.arange(wanted) * (length / wanted)) / 32
        for length, wanted in zip(pixels.shape[:2], size, strict=True)
    ]
    points = np.meshgrid(*at, indexing="ij")
    levels = [
        ndimage.map_coordinates(band, points, np.float32, order=1, mode="nearest")
        for band in np.moveaxis(pixels, 2, 0)
    ]
    return np.floor(np.stack(levels, axis=2) + 0.5).astype(np.uint8)
