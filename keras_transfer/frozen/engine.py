"""Runs what never trains: Keras itself, or an inference engine where there is work enough for it.

On a CPU, OpenVINO runs a frozen network two to six times faster than the framework that trains it.
The seam is one callable: a batch in, a list of arrays out.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib.util
import os
import tempfile
import timeit
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transfer import fast
from keras_transfer.backbones.copying import working_copy
from keras_transfer.backbones.multiply_adds import model_macs
from keras_transfer.base import files
from keras_transfer.base.compute import PLAIN, Compute, accelerators, keep_compiled
from keras_transfer.base.errors import UsageError, closest
from keras_transfer.base.inference import openvino_core
from keras_transfer.base.quiet import quiet_stdio
from keras_transfer.fast import frozen_graph

ENGINES = ("auto", "keras", "openvino", "openvino-bfloat16")
BATCH = 32
Batch = np.ndarray | list[np.ndarray]
Result = Callable[[], list[np.ndarray]]

# Examples that OpenVINO is given at a time: what the layers of more of them hand to each other does
# not stay in a processor's cache.
_OPENVINO_ROWS = 8
# Multiply-adds that take as long in Keras as a conversion to OpenVINO, one to two seconds, together
# with what OpenVINO then needs for them.
_WORTH_CONVERTING = 50e9
# Examples for which tracing a network, a second for a large one, takes as long as it saves.
_WORTH_TRACING = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Engine:
    """A model ready to run forward.

    Attributes:
        name: ``keras``, ``openvino`` or ``openvino-bfloat16``.
        run: takes one batch, uint8 or float ``[n, ...]``, or a list of such arrays for a model of
            several inputs; returns a list of float32 arrays, one an output, with n rows each.
        reason: why this engine was chosen, in one sentence.
        begin: hands a batch to a device and returns what waits for its result, as ``run`` has it;
            None where the work is done when a call is.
        rounded: makes the same network ready in bfloat16, where that is faster; None elsewhere.
    """

    name: str
    run: Callable[[Batch], list[np.ndarray]]
    reason: str = "asked for"
    begin: Callable[[Batch], Result] | None = None
    rounded: Callable[[], Engine] | None = None

    def predict(self, examples: np.ndarray, batch_size: int = BATCH) -> list[np.ndarray]:
        """Runs all of ``examples`` in batches and joins the outputs."""
        starts = range(0, len(examples), batch_size)
        parts = self.results(examples[start : start + batch_size] for start in starts)
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def results(self, batches: Iterable[Batch]) -> Iterator[list[np.ndarray]]:
        """What ``run`` gives for each batch; a device computes the next one meanwhile."""
        if self.begin is None:
            yield from map(self.run, batches)
            return
        begun = collections.deque[Result]()
        for batch in batches:
            begun.append(self.begin(batch))
            if len(begun) > 1:
                yield begun.popleft()()
        for fetch in begun:
            yield fetch()


def choose_engine(
    model: keras.Model, name: str = "auto", *, images: int = 0, compute: Compute = PLAIN
) -> tuple[str, str]:
    """The engine for a model, and why: by counting alone, so that it is the same every time.

    Args:
        model: a functional model.
        name: one of ``ENGINES``. ``auto`` takes OpenVINO where ``images`` examples are work enough
            to pay for the conversion.
        images: how many examples will be run; 0 where that is not known.
        compute: how Keras would compute.

    Raises:
        UsageError: the engine is unknown.
    """
    if name not in ENGINES:
        problem = f"Unknown engine {name!r}.{closest(name, list(ENGINES))}"
        raise UsageError(problem, remedy=f"Choose one of {', '.join(ENGINES)}.")
    if name != "auto":
        return name, "asked for"
    if compute.share > 1:
        return "keras", f"Keras shares a batch among {compute.share}"
    if accelerators():
        return "keras", "an accelerator runs Keras"
    if compute.dtype_policy != "float32":
        return "keras", f"{compute.dtype_policy} is for Keras"
    each = model_macs(model)
    counted = f"{images} examples of {each / 1e6:.0f} million multiply-adds"
    if not worth_converting(images, each):
        return "keras", f"{counted} do not pay for a conversion"
    return "openvino", f"{counted} pay for a conversion"


def build_engine(
    model: keras.Model, name: str = "auto", *, images: int = 0, compute: Compute = PLAIN
) -> Engine:
    """Makes a model ready to run forward, in inference mode; for the arguments see
    :func:`choose_engine`. What ``auto`` cannot hand to OpenVINO runs in Keras.

    Raises:
        UsageError: the engine is unknown, or not to be had here.
    """
    chosen, reason = choose_engine(model, name, images=images, compute=compute)
    if chosen != "keras":
        try:
            return dataclasses.replace(_openvino_engine(model, chosen), reason=reason)
        except (UsageError, RuntimeError, ValueError, TypeError) as error:
            if name != "auto":
                raise
            reason = f"OpenVINO cannot run this model: {str(error).splitlines()[0]}"
    copied = working_copy(model, compute)
    native = keras_engine(copied, compute, traced=worth_tracing(images))
    return dataclasses.replace(native, reason=reason)


def predict_probabilities(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Probabilities float32 ``[n, classes]`` of examples ``[n, ...]``, as ``auto`` runs them."""
    return build_engine(model, images=len(images)).predict(images)[0]


def worth_converting(images: int, multiply_adds: int) -> bool:
    """Whether so many images of so many multiply-adds pay for a conversion to OpenVINO."""
    return not accelerators() and images * multiply_adds >= _WORTH_CONVERTING


def worth_tracing(images: int) -> bool:
    """Whether Keras is to make a graph of a model that runs so many images; 0 is not known."""
    return not 0 < images < _WORTH_TRACING


def seconds_per_image(engine: Engine, batch: np.ndarray) -> float:
    """The better of two timings of a batch that has run before, divided by its rows."""
    engine.run(batch)
    return min(timeit.repeat(lambda: engine.run(batch), number=1, repeat=2)) / len(batch)


def keras_engine(model: keras.Model, compute: Compute = PLAIN, *, traced: bool = True) -> Engine:
    """Runs a model by Keras.

    Where XLA compiles, or several share the work, every batch is filled up to the rows of the
    largest so far: batches come largest first, so that one shape is compiled.

    Args:
        model: a functional model.
        compute: what shares every batch.
        traced: whether TensorFlow on a CPU makes a graph of the model first, which then runs two
            to three times faster.
    """
    share = compute.share
    compiled = bool(accelerators()) or keras.backend.backend() == "jax" or share > 1
    # A compiler of a GPU takes ten seconds for a shape; rows too many cost it nothing.
    static = -(-BATCH // share) * share if accelerators() else 0
    keep_compiled(files.cache_folder() / "compiled")

    def begin(batch: Batch) -> Result:
        nonlocal static
        tensors = batch if isinstance(batch, list) else [batch]
        rows = len(tensors[0])
        if compiled:
            static = max(static, -(-rows // share) * share)
            with compute.scope():
                placed = compute.place(filled(tensors, static))
                if keras.backend.backend() == "jax" and fast.enabled():
                    outputs = frozen_graph.compiled(model, placed)
                else:
                    outputs = model.predict_on_batch(placed if len(placed) > 1 else placed[0])
        elif traced and fast.enabled():
            outputs = frozen_graph.run(model, batch)
        else:
            outputs = model(batch, training=False)
        arrays = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        numpy = keras.ops.convert_to_numpy
        return lambda: [np.asarray(numpy(array), np.float32)[:rows] for array in arrays]

    return Engine("keras", lambda batch: begin(batch)(), begin=begin if compiled else None)


def filled(tensors: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
    """Arrays of fewer rows made as long by repeating what they hold."""
    return [np.resize(tensor, (rows, *tensor.shape[1:])) for tensor in tensors]


def _openvino_engine(model: keras.Model, name: str) -> Engine:
    core = openvino_core()
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
    if name != "openvino" or not computes_bfloat16():
        return made
    rounded = functools.partial(_compiled, core, converted, "openvino-bfloat16", dtypes)
    return dataclasses.replace(made, rounded=rounded)


WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"}


@functools.cache
def computes_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16, and OpenVINO is there to use them.

    Not where ``ONEDNN_MAX_CPU_ISA`` keeps TensorFlow from them: a product in bfloat16 then ends the
    process (TensorFlow 2.21), and OpenVINO does not look at that variable.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if limit in WITHOUT_BFLOAT16 or importlib.util.find_spec("openvino") is None:
        return False
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _compiled(core: Any, converted: Any, name: str, dtypes: list[np.dtype[Any]]) -> Engine:
    """A converted network made ready, in float32 or in bfloat16."""
    rounds = name.endswith("bfloat16")
    for operation in converted.get_ops() if rounds else ():
        # OpenVINO leaves what lies between the last convolution and an output in float32: without
        # this, a value would depend on which others are outputs beside it.
        operation.get_rt_info()["enforceBF16evenForGraphTail"] = "YES"
    settings: dict[str, Any] = {
        # Latency mode gives one request all cores; throughput mode would want many requests.
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if rounds else "f32",
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
    results = converted.get_results()
    if len(results) == count:
        return
    own = {"Identity:0", *(f"Identity_{number}:0" for number in range(1, count))}
    others = [result for result in results if result.get_friendly_name() not in own]
    if len(results) - len(others) != count:
        raise RuntimeError(f"of {len(results)} outputs, {count} should be the model's")
    for result in others:
        converted.remove_result(result)
