"""Runs what never trains: Keras itself, or an inference engine where that is faster.

On a CPU, OpenVINO runs a frozen network two to six times faster than the framework that trains it.
The seam is one callable: a batch in, a list of arrays out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transfer.backbones.copying import working_copy
from keras_transfer.backbones.multiply_adds import model_macs
from keras_transfer.base import files
from keras_transfer.base.compute import accelerators, keep_compiled
from keras_transfer.base.distribution import Distribution, place
from keras_transfer.base.errors import UsageError, closest
from keras_transfer.base.quiet import quiet_stdio
from keras_transfer.fast import frozen_graph

ENGINES = ("auto", "keras", "openvino", "openvino-bfloat16")
BATCH = 32
Batch = np.ndarray | list[np.ndarray]

# Images that OpenVINO is given at a time. What the layers of more hand to each other does not stay
# in a processor's cache: on two cores 32 take 12 to 17 % longer at 224 px, 2 to 14 % at 128 px.
_OPENVINO_ROWS = 8

# Multiply-adds that take as long in Keras as a conversion to OpenVINO, one to two seconds,
# together with what OpenVINO then needs for them.
_WORTH_CONVERTING = 50e9
# Images for which tracing a network, a second for a large one, takes as long as it saves.
_WORTH_TRACING = 200
# A rate that is this much worse, and stays it when both engines are timed in turn so many times, is
# no accident of the machine's load.
_CLEARLY_SLOWER = 1.25
_TURNS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Engine:
    """A model ready to run forward.

    Attributes:
        name: ``keras``, ``openvino`` or ``openvino-bfloat16``.
        run: takes one batch, uint8 or float ``[n, ...]``, or a list of such arrays for a model of
            several inputs; returns a list of float32 arrays, one an output, with n rows each.
        build_seconds: what making it ready took.
        seconds_per_image: measured on one warm batch; 0 where nothing was measured.
        reason: why this engine was chosen, in one sentence.
        rounded: makes the same network ready in bfloat16, where that is faster; None elsewhere.
    """

    name: str
    run: Callable[[Batch], list[np.ndarray]]
    build_seconds: float = 0.0
    seconds_per_image: float = 0.0
    reason: str = "asked for"
    rounded: Callable[[], Engine] | None = None

    def predict(self, images: np.ndarray, batch_size: int = BATCH) -> list[np.ndarray]:
        """Runs all of ``images`` in batches and joins the outputs."""
        parts = [
            self.run(images[start : start + batch_size])
            for start in range(0, len(images), batch_size)
        ]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]


def build_engine(
    model: keras.Model,
    name: str = "auto",
    *,
    images: int = 0,
    sample: np.ndarray | None = None,
    precision: str = "float32",
    distribution: Distribution | None = None,
    native_seconds: float = 0.0,
) -> Engine:
    """Makes a model ready to run forward, in inference mode.

    Args:
        model: a functional model with one input.
        name: one of ``ENGINES``. ``auto`` takes OpenVINO where ``images`` images are work enough to
            pay for the conversion and the sample shows that it is not slower. float32 unless asked
            for by name.
        images: how many images will be run; 0 where that is not known.
        sample: a batch to measure on, at least one image.
        native_seconds: what an image takes in Keras, where that is known; measured otherwise.

    Raises:
        UsageError: the engine is unknown, or not to be had here.
    """
    if name not in ENGINES:
        raise UsageError(
            f"Unknown engine {name!r}.{closest(name, list(ENGINES))}",
            remedy=f"Choose one of {', '.join(ENGINES)}.",
        )
    if name.startswith("openvino"):
        return _openvino_engine(model, name)
    traced = not 0 < images < _WORTH_TRACING
    native = keras_engine(working_copy(model, precision, distribution), distribution, traced=traced)
    if name == "keras":
        return native
    if distribution:
        return dataclasses.replace(native, reason=f"{len(distribution)} devices run Keras")
    if accelerators() or precision != "float32":
        what = "an accelerator runs" if accelerators() else f"{precision} is for"
        return dataclasses.replace(native, reason=f"{what} Keras")
    return _choose(model, native, images, sample, native_seconds)


def _choose(
    model: keras.Model,
    native: Engine,
    images: int,
    sample: np.ndarray | None,
    native_seconds: float,
) -> Engine:
    """OpenVINO where there is work enough to pay for its conversion, unless it proves slower.

    What is enough is counted, not timed: the same run must choose the same engine each time, or
    its figures would change in the last digits with the machine's load, and runs at once would not
    share a store. A rate that looks much worse is therefore not believed before both have been
    timed again in turn.
    """
    each = model_macs(model)
    if sample is None or not len(sample) or not worth_converting(images, each):
        return dataclasses.replace(
            native,
            reason=f"{images} images of {each / 1e6:.0f} million multiply-adds do not pay "
            "for a conversion",
        )
    try:
        other = _openvino_engine(model, "openvino")
    except (UsageError, RuntimeError, ValueError, TypeError) as error:
        why = str(error).splitlines()[0]
        return dataclasses.replace(native, reason=f"OpenVINO cannot run this model: {why}")
    batch = np.resize(sample[:BATCH], (BATCH, *sample.shape[1:]))
    rates = [native_seconds or seconds_per_image(native, batch), seconds_per_image(other, batch)]
    for turn in range(_TURNS):
        if rates[1] <= _CLEARLY_SLOWER * rates[0]:
            break
        again = [seconds_per_image(one, batch, warm=True) for one in (native, other)]
        # What Keras took before another process came is no measure of what it takes beside it.
        rates = again if turn == 0 else [min(pair) for pair in zip(rates, again, strict=True)]
    said = f"OpenVINO runs at {rates[0] / rates[1]:.1f} times Keras's rate here"
    if rates[1] > _CLEARLY_SLOWER * rates[0]:
        return dataclasses.replace(native, seconds_per_image=rates[0], reason=said)
    return dataclasses.replace(other, seconds_per_image=rates[1], reason=said)


def predict_probabilities(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Probabilities float32 ``[n, classes]`` of uint8 images ``[n, height, width, 3]``.

    Runs on whatever is fastest for that many images, in float32.
    """
    runner = build_engine(model, "auto", images=len(images), sample=images[:BATCH])
    return runner.predict(images)[0]


def worth_converting(images: int, multiply_adds: int) -> bool:
    """Whether so many images of so many multiply-adds pay for a conversion to OpenVINO."""
    return not accelerators() and images * multiply_adds >= _WORTH_CONVERTING


def seconds_per_image(engine: Engine, batch: np.ndarray, *, warm: bool = False) -> float:
    """The better of two timings of a batch that has run before, divided by its images.

    Args:
        engine: what runs it.
        batch: its images.
        warm: whether the engine has run a batch of this shape already.
    """
    if not warm:
        engine.run(batch)
    times = []
    for _ in range(2):
        start = time.perf_counter()
        engine.run(batch)
        times.append(time.perf_counter() - start)
    return min(times) / len(batch)


def keras_engine(
    model: keras.Model, distribution: Distribution | None = None, *, traced: bool = True
) -> Engine:
    """Runs a model by Keras.

    Where XLA compiles, or devices share the work, every batch is filled up to the rows of the
    largest so far: batches come largest first, so that one shape is compiled.

    Args:
        model: a functional model.
        distribution: devices that share every batch.
        traced: whether TensorFlow on a CPU makes a graph of the model first, which then runs two
            to three times faster (Lite0 at 128 px: 3.7 ms an image for 11.3, on two cores).
    """
    compiled = bool(accelerators()) or keras.backend.backend() == "jax" or distribution is not None
    share = len(distribution) if distribution else 1
    # A compiler of a GPU takes ten seconds for a shape; rows too many cost it nothing.
    static = -(-BATCH // share) * share if accelerators() else 0
    keep_compiled(files.cache_folder() / "compiled")

    def run(batch: Batch) -> list[np.ndarray]:
        nonlocal static
        tensors = batch if isinstance(batch, list) else [batch]
        rows = len(tensors[0])
        if compiled:
            static = max(static, -(-rows // share) * share)
            padded = [np.resize(t, (static, *t.shape[1:])) for t in tensors]
            with distribution.scope() if distribution else contextlib.nullcontext():
                placed = (distribution.place if distribution else place)(padded)
                outputs = model.predict_on_batch(placed if len(placed) > 1 else placed[0])
        elif traced:
            outputs = frozen_graph.run(model, batch)
        else:
            outputs = model(batch, training=False)
        arrays = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return [np.asarray(keras.ops.convert_to_numpy(a), np.float32)[:rows] for a in arrays]

    return Engine("keras", run)


def _openvino_engine(model: keras.Model, name: str) -> Engine:
    start = time.perf_counter()
    core = _core()
    with tempfile.TemporaryDirectory() as folder:
        on_tensorflow = keras.backend.backend() == "tensorflow"
        path = Path(folder) / ("model.pb" if on_tensorflow else "model.xml")
        try:
            with quiet_stdio():
                if on_tensorflow:
                    frozen_graph.write(model, path)
                else:
                    model.export(str(path), format="openvino", verbose=False)
        except ImportError as error:
            raise UsageError(
                f"Keras on {keras.backend.backend()} cannot hand a model to OpenVINO: {error}",
                remedy="Install what is missing, or use --engine keras.",
            ) from None
        converted = core.read_model(path)
        _keep_outputs(converted, len(model.outputs))
        dtypes = [np.dtype(keras.backend.standardize_dtype(one.dtype)) for one in model.inputs]
        made = _compiled(core, converted, name, dtypes)
    rounded = None
    if name == "openvino" and computes_bfloat16():
        rounded = functools.partial(_compiled, core, converted, "openvino-bfloat16", dtypes)
    seconds = time.perf_counter() - start
    return dataclasses.replace(made, build_seconds=seconds, rounded=rounded)


def _core() -> Any:
    # OpenVINO reports over the network that it is imported, and what it converts, from a process
    # of its own, unless this package cannot be found. No variable of the environment stops it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise UsageError(
            "The engine openvino is not installed.",
            remedy="pip install openvino, or --engine keras.",
        ) from None
    return openvino.Core()


@functools.cache
def computes_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16, and OpenVINO is there to use them."""
    try:
        return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except UsageError:
        return False


def _compiled(core: Any, converted: Any, name: str, dtypes: list[np.dtype[Any]]) -> Engine:
    settings: dict[str, Any] = {
        # Latency mode gives one request all cores; throughput mode would want many requests.
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if name.endswith("bfloat16") else "f32",
    }
    compiled = core.compile_model(converted, "CPU", settings)
    request = compiled.create_infer_request()

    def run(batch: Batch) -> list[np.ndarray]:
        tensors = batch if isinstance(batch, list) else [batch]
        feed = [np.ascontiguousarray(t, d) for t, d in zip(tensors, dtypes, strict=True)]
        rows = len(feed[0])
        held: list[np.ndarray] = []
        for start in range(0, rows, _OPENVINO_ROWS):
            here = slice(start, start + _OPENVINO_ROWS)
            results = request.infer([tensor[here] for tensor in feed], share_inputs=True)
            found = [results[output] for output in compiled.outputs]
            held = held or [np.empty((rows, *one.shape[1:]), np.float32) for one in found]
            for whole, part in zip(held, found, strict=True):
                whole[here] = part
        return held

    return Engine(name, run)


def _keep_outputs(converted: Any, count: int) -> None:
    """Takes away what the conversion makes an output besides the model's own.

    TensorFlow's swish has a gradient of its own, whose node leaves an end that nothing uses; every
    such activation comes out as a further output, and is computed in full.

    Raises:
        RuntimeError: the model's own outputs cannot be told from others.
    """
    own = [f"Identity_{number}:0" if number else "Identity:0" for number in range(count)]
    results = {result.get_friendly_name(): result for result in converted.get_results()}
    if len(results) == count:
        return
    if not results.keys() >= set(own):
        raise RuntimeError(f"of {len(results)} outputs, {count} should be the model's")
    for name, result in results.items():
        if name not in own:
            converted.remove_result(result)
