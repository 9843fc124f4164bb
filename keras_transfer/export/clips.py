"""How clients feed a model of sounds."""

import fractions
import io
import math
import re
import struct
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from scipy import signal

from keras_transfer.export.feeding import Signature
from keras_transfer.modalities import Modality, audio
from keras_transfer.modalities.audio.listening import RATE, libraries

# 16 bits a sample, uncompressed, of any number of channels, at the model's rate.
_SERVED = re.compile(
    rb"RIFF....WAVEfmt \x10\0\0\0\x01\0..%b......\x10\0" % re.escape(struct.pack("<I", RATE)),
    re.DOTALL,
)


class AudioSignature(Signature):
    """float32 samples in, of one length, 0 behind the last."""

    form: ClassVar[Modality] = audio
    encoded = "wav_bytes"
    reader = "soundfile, soxr"
    others = "Other microphones, other rooms, other voices"
    mediapipe = "audio"
    by_mediapipe = "resampled"

    @property
    def size(self) -> float:
        """The length in seconds."""
        return self.spec.shape[0] / RATE

    def for_mediapipe(self, data: bytes) -> np.ndarray:
        """As MediaPipe's audio tasks resample it: the first of the blocks that they cut it into."""
        with libraries()[0].SoundFile(io.BytesIO(data)) as sound:
            rate = sound.samplerate
            heard = math.ceil((self.size + 1) * rate)  # a second more, for the filter
            levels = sound.read(heard, "float32", always_2d=True)
        found = mobile_resample(levels.mean(axis=1), rate)[: self.spec.shape[0]]
        return np.pad(found, (0, self.spec.shape[0] - len(found))).astype(np.float32)

    def blank(self) -> tuple[np.ndarray, bytes]:
        """Silence, float32 ``[1, samples]`` and as a WAV file."""
        silence = np.zeros(self.spec.shape, np.int16)
        return silence[None].astype(np.float32), audio.encode(silence)

    def served(self, data: bytes) -> bool:
        """Whether :meth:`serving_decoder` can read a file that begins like this one."""
        return _SERVED.match(data) is not None

    def serving_decoder(self) -> Callable[[Any], Any]:
        """A graph from a string tensor that holds a WAV file of 16 bits at 16 kHz to an example.

        Another rate is an error, as nothing in TensorFlow resamples.
        """
        import tensorflow as tf

        def decode(data: Any) -> Any:
            samples, rate = tf.audio.decode_wav(data, desired_samples=self.spec.shape[0])
            wrong = f"the file is not at {RATE} samples a second"
            with tf.control_dependencies([tf.debugging.assert_equal(rate, RATE, wrong)]):
                return tf.reduce_mean(samples, axis=1)

        return decode

    def metadata(self) -> dict[int, Any]:
        """The input's ``TensorMetadata``, as ``metadata.pack`` takes it."""
        properties = {0: np.uint32(RATE), 1: np.uint32(1)}  # of one channel
        return {
            0: self.spec.name,
            1: self.spec.content,
            3: {0: np.uint8(4), 1: properties},  # AudioProperties
            5: {0: (1.0,), 1: (-1.0,)},  # largest and smallest value
        }


def mobile_resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Resamples to 16 kHz as MediaPipe's audio tasks do.

    By Google's QResampler (github.com/google/multichannel-audio-tools): a sinc cut at 0.9 of the
    lower Nyquist frequency, under a Kaiser window of 60 dB that reaches five samples of the slower
    rate to each side; ``soxr`` is sharper. Through a model that gives its input back MediaPipe
    1.2.3 gives the same samples.

    Args:
        samples: float32 ``[samples]``.
        rate: theirs, a second.

    Returns:
        float32, with what rings out behind the last.
    """
    ratio = fractions.Fraction(rate, RATE).limit_denominator(1000)
    up, down = ratio.denominator, ratio.numerator
    slower = max(1.0, rate / RATE)
    reach, radius = 5 * slower, math.ceil(5 * slower)
    at = np.linspace(-radius, radius, 2 * radius * up + 1)
    window = np.i0(6 * np.sqrt(np.maximum(0, 1 - (at / reach) ** 2))) / np.i0(6)
    kernel = 0.9 / slower * np.sinc(0.9 / slower * at) * window * (np.abs(at) <= reach)
    ringing = np.pad(samples, (0, radius))
    return np.asarray(signal.resample_poly(ringing, up, down, window=kernel / up))
