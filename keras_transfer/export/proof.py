"""Runs exported models on their own runtimes and holds their answers against the trained model's.

This file is both the judge that runs while exporting and the script that travels in the export
folder as ``verify/verify.py``. It needs Python, NumPy, the runtime of the artefact, and Pillow for
images (with ``pillow-heif`` where samples are HEIC), ``tokenizers`` for texts, or ``soundfile`` and
``soxr`` for sounds: it imports nothing else, and never ``keras_transfer``.

    python verify/verify.py            # repeat the proof; exit 0 passed, 1 failed, 2 no runtime
    python verify/verify.py --json
"""

import argparse
import contextlib
import functools
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

Predict = Callable[[Any], np.ndarray]
Row = dict[str, Any]

LIMITS = dict.fromkeys(("saved_model", "keras", "tflite", "onnx"), 0.995)
LIMITS |= {"tflite-float16": 0.99, "tflite-dynamic": 0.98, "tflite-int8": 0.97}
"""Of each format, the smallest share of answers, 0..1, that must be those of the trained model, as
:func:`differing` counts them."""

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
"""The digests of an export's other files, and the signature of that list where there is one."""

REQUIRED = ("labels.txt", "parity.json", "verify/expected.json", "verify/verify.py")
"""What every export holds, whatever its formats are."""


# Images: the same pixels as in training.


def read_pixels(path: Path, size: tuple[int, int], fit: str = "squash") -> np.ndarray:
    """Decodes an image file to uint8 ``[height, width, 3]``, in the way the model was trained with.

    First frame, transparency on white, RGB, the whole image squashed to ``size`` (height, width)
    by an antialiased bilinear filter, then turned as EXIF asks. By the ``fit`` ``crop`` only its
    middle of the proportions of ``size``; by ``pad`` in its own, within grey of the level 127.

    A JPEG of which 1/2, 1/4 or 1/8 leaves 0.8 of the size (and of 224 px) is decoded so; of other
    formats the means of as many pixels as leave four times the size are filtered.
    """
    from PIL import Image

    flip = Image.Transpose
    turns = [flip.FLIP_LEFT_RIGHT, flip.ROTATE_180, flip.FLIP_TOP_BOTTOM, flip.TRANSPOSE]
    turns += [flip.ROTATE_270, flip.TRANSVERSE, flip.ROTATE_90]
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    with Image.open(path) as image:
        (width, height), scale = image.size, 1
        jpeg = image.format in ("JPEG", "MPO")
        if jpeg:
            ratio = 5 * min(width, height) // (4 * max(*size, 224))
            scale = next((s for s in (8, 4, 2) if ratio >= s), 1)
        if scale > 1:
            image.draft(None, (width // scale, height // scale))
        orientation = image.getexif().get(0x0112, 1)
        rgb = _rgb(image)
        width, height = image.size if scale == 1 else (width, height)  # which decoding may turn
    rows, columns = size[::-1] if 5 <= orientation <= 8 else size
    high, wide = height / scale, width / scale
    if fit == "crop":
        middle = min(high, wide * rows / columns), min(wide, high * columns / rows)
        top, left = int((high - middle[0]) / 2), int((wide - middle[1]) / 2)
        high, wide = middle
        rgb = rgb.crop((left, top, math.ceil(left + wide), math.ceil(top + high)))
    elif fit == "pad":
        share = min(rows / high, columns / wide)
        rows, columns = max(1, int(high * share + 0.5)), max(1, int(wide * share + 0.5))
    elif fit != "squash":
        raise ValueError(f"nothing is fitted by {fit!r}")
    x, y = max(1, int(wide / columns / 4)), max(1, int(high / rows / 4))
    x, y = (1, 1) if jpeg else (x, y)
    pixels = np.asarray(rgb.reduce((x, y)))
    pixels = _filtered(pixels, rows, high / y)
    pixels = _filtered(pixels.swapaxes(0, 1), columns, wide / x).swapaxes(0, 1)
    if 2 <= orientation <= 8:
        pixels = np.asarray(Image.fromarray(pixels).transpose(turns[orientation - 2]))
    found, own = np.full((*size, 3), 127, np.uint8), pixels.shape[:2]
    top, left = (size[0] - own[0]) // 2, (size[1] - own[1]) // 2
    found[top : top + own[0], left : left + own[1]] = pixels
    return found


def _filtered(pixels: np.ndarray, count: int, end: float) -> np.ndarray:
    """``count`` weighted means along the first axis up to ``end``, in fixed point.

    Weights fall linearly from the middle of a mean's share to its neighbours' middles, or over one
    pixel when enlarging, and are rounded to as many binary digits as leave them under 2**15.
    """
    if end == count == len(pixels):
        return pixels
    step = end / count
    reach = max(step, 1.0)
    middles = (np.arange(count) + 0.5) * step
    first = np.maximum(np.floor(middles - reach), 0).astype(int)
    last = np.minimum(np.ceil(middles + reach), len(pixels)).astype(int)
    taps = first[:, None] + np.arange((last - first).max())
    distance = np.abs((taps - (middles[:, None] - 0.5)) * (1.0 / reach))
    weights = np.where(taps < last[:, None], np.maximum(1.0 - distance, 0.0), 0.0)
    weights /= np.add.accumulate(weights, axis=1)[:, -1:]
    fits = [d for d in range(21) if np.floor(weights.max() * 2.0 ** (d + 1) + 0.5) >= 2**15]
    digits = fits[0] if fits else 21
    whole = np.floor(weights * 2**digits + 0.5).astype(np.int32)
    found = np.full((count, *pixels.shape[1:]), 1 << (digits - 1), np.int32)
    for tap, weight in zip(np.minimum(taps, len(pixels) - 1).T, whole.T, strict=True):
        found += weight[:, None, None] * pixels[tap]
    return np.clip(found >> digits, 0, 255).astype(np.uint8)


def _rgb(image: Any) -> Any:
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):  # more than eight bits a channel
        levels = np.asarray(image).astype(np.float64)
        scale = 1 / 257 if image.mode != "F" else 255.0
        plain = levels.max() <= 255 if image.mode == "I" else levels.max() > 1
        if plain and image.mode in "IF":
            scale = 1.0
        image = Image.fromarray(np.rint(levels * scale).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


# Texts: the same ids as in training.


def read_ids(path: Path, size: int) -> np.ndarray:
    """Turns a text file into int32 ids ``[size]``, in the way the model was trained with.

    BERT's uncased WordPiece by the ``vocab.txt`` in the folder above the text's own: [CLS] first,
    [SEP] last, 0 behind; what is longer is cut.
    """
    data = path.read_bytes()
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = data.decode("utf-16" if wide else "utf-8-sig")
    ids = _tokenizer(path.parents[1] / "vocab.txt").encode(text).ids
    ids = ids if len(ids) <= size else [*ids[: size - 1], ids[-1]]
    return np.array([*ids, *[0] * (size - len(ids))], np.int32)


@functools.cache
def _tokenizer(vocabulary: Path) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordPiece.from_file(str(vocabulary), unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    last, first = ((word, made.token_to_id(word) or 0) for word in ("[SEP]", "[CLS]"))
    made.post_processor = processors.BertProcessing(last, first)
    return made


# Sounds: the same samples as in training.


def read_samples(path: Path, size: float) -> np.ndarray:
    """Decodes a sound file to float32 ``[samples]``, in the way the model was trained with.

    The mean of all channels at 16 kHz, cut after ``size`` seconds; 0 behind the last.
    """
    import soundfile
    import soxr

    with soundfile.SoundFile(path) as sound:
        rate = sound.samplerate
        # A second more than is heard, for the filter.
        levels = sound.read(round((size + 1) * rate), "float32", always_2d=True)
    samples = levels.mean(axis=1)
    if rate != 16_000:
        samples = soxr.resample(samples, rate, 16_000, "HQ")
    found = np.zeros(round(16_000 * size), np.float32)
    part = np.clip(samples[: len(found)], -1, 1)
    found[: len(part)] = part
    return found


READERS: dict[str, tuple[str, type, Callable[..., np.ndarray]]] = {
    "images": ("image_size", list, read_pixels),
    "texts": ("max_length", int, read_ids),
    "clips": ("clip_length", float, read_samples),
}
"""Of the kinds of samples, by the name of their folder: the field of ``expected.json`` that says
how large an example is, its type, and what reads a sample at that size (and ``fit``, if any)."""


# Runtimes: each opens an artefact and returns a function from examples to probabilities.


def open_tflite(path: Path, threads: int) -> Predict:
    """LiteRT; takes batches of any size by resizing its input."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    # A model of texts has inputs behind the first that MediaPipe fills and no operator reads.
    entry, (exit_,) = interpreter.get_input_details()[0], interpreter.get_output_details()
    batch = 1

    def predict(examples: np.ndarray) -> np.ndarray:
        nonlocal batch
        if len(examples) != batch:
            interpreter.resize_tensor_input(entry["index"], examples.shape)
            interpreter.allocate_tensors()
            batch = len(examples)
        interpreter.set_tensor(entry["index"], examples)
        interpreter.invoke()
        return interpreter.get_tensor(exit_["index"])

    return predict


def open_saved_model(path: Path, threads: int, signature: str = "serving_default") -> Predict:
    """TensorFlow's own loader, with nothing of Keras. ``serve_encoded`` takes encoded files."""
    import tensorflow as tf

    serve = _saved_model(path, threads).signatures[signature]
    (name,) = serve.structured_input_signature[1]
    return lambda examples: serve(**{name: tf.constant(examples)})["scores"].numpy()


def open_keras(path: Path, threads: int) -> Predict:
    """Plain Keras, on whichever backend is configured."""
    if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
        _tensorflow(threads)
    import keras

    model = keras.models.load_model(path)
    return lambda examples: np.asarray(model.predict_on_batch(examples))


def open_onnx(path: Path, threads: int) -> Predict:
    """ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda examples: session.run(["scores"], {name: examples})[0]


def _tensorflow(threads: int) -> Any:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


@functools.cache
def _saved_model(path: Path, threads: int) -> Any:
    """TF Serving's layout holds the model in a folder named by its version."""
    return _tensorflow(threads).saved_model.load(str(path / "1"))


RUNTIMES: dict[str, tuple[str, Callable[[Path, int], Predict]]] = {
    "saved_model": ("tensorflow", open_saved_model),
    "keras": ("keras", open_keras),
    "tflite": ("ai-edge-litert", open_tflite),
    "onnx": ("onnxruntime", open_onnx),
}
"""Of each runtime, its Python package as ``pip`` names it, and what opens an artefact with it."""


# One artefact in one process.


def run_job(job: Row) -> Row:
    """Runs one artefact over stored examples.

    Args:
        job: ``runtime``, ``path`` of the artefact, ``threads``, ``examples`` (a ``.npy`` of ``[n,
            ...]``), ``seconds`` to spend on timing, ``output`` (the ``.npy`` to write float32 ``[n,
            classes]`` to) or none, and ``files``: encoded examples for the second signature of a
            SavedModel, or none.

    Returns:
        ``runtime_version``, ``load_seconds``, ``latency_ms`` (by the number of threads, ``median``
        and ``p95`` of one example, warm), ``peak_memory_bytes`` of this process, ``any_batch``:
        whether batches of another size give the same answers, and ``encoded``: probabilities of
        ``files``; or ``missing`` where the runtime is not installed.
    """
    path, threads = Path(job["path"]), job["threads"]
    package, opener = RUNTIMES[job["runtime"]]
    examples = np.load(job["examples"], mmap_mode="r")
    started = time.perf_counter()
    try:
        predict = opener(path, threads)
        seconds = time.perf_counter() - started
        result: Row = {"runtime_version": _version(package), "load_seconds": seconds}
    except ImportError:
        return {"missing": f"{package} is not installed here"}
    if job["output"]:
        # Phones and cameras ask for one example at a time, servers for many.
        step = 1 if job["runtime"] == "tflite" else 32
        rows = [predict(np.array(examples[i : i + step])) for i in range(0, len(examples), step)]
        found = np.concatenate(rows).astype(np.float32)
        np.save(job["output"], found)
        result["any_batch"] = False
        with contextlib.suppress(Exception):
            again = predict(np.array(examples[:2]))
            result["any_batch"] = bool(np.abs(again - found[:2]).max() < 0.01)
    result["latency_ms"] = {threads: measure(predict, np.array(examples[:1]), job["seconds"])}
    if job.get("files"):
        serve = open_saved_model(path, threads, "serve_encoded")
        answers = [serve([Path(file).read_bytes()]) for file in job["files"]]
        result["encoded"] = np.concatenate(answers).tolist()
    result["peak_memory_bytes"] = peak_memory()
    return result


def _version(package: str) -> str:
    """TensorFlow is published under several names."""
    for name in (package, f"{package}-cpu", f"{package}-gpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    raise metadata.PackageNotFoundError(package)


def measure(predict: Predict, example: np.ndarray, seconds: float) -> dict[str, float]:
    """Median and 95th percentile of the time for one example, in milliseconds, once warm."""
    for _ in range(5):
        predict(example)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 10 or (time.perf_counter() < end and len(times) < 1000):
        started = time.perf_counter()
        predict(example)
        times.append(1000 * (time.perf_counter() - started))
    return {"median": float(np.median(times)), "p95": float(np.quantile(times, 0.95))}


def peak_memory() -> int | None:
    """The most memory that this process held at once, in bytes; None where it cannot be known."""
    with contextlib.suppress(OSError):
        # getrusage would count the parent's memory too, from before this program was started.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def run_fresh(job: Row, examples: np.ndarray, *, timeout: float = 1800) -> Row:
    """``run_job`` in a new process.

    Args:
        job: as for ``run_job``; an ``output`` that is true asks for ``probabilities``.
        examples: ``[n, ...]``.
        timeout: seconds to wait at most.

    Returns:
        What ``run_job`` returns, with ``probabilities`` (float32 ``[n, classes]``) where they were
        asked for, or ``{"error": ...}`` with the reason in one line.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder, "job.json"), Path(folder, "answer.json")
        given, output = Path(folder, "examples.npy"), Path(folder, "probabilities.npy")
        np.save(given, examples)
        paths = {"answer": answer, "examples": given, "output": output if job["output"] else ""}
        request.write_text(json.dumps({**job, **paths}, default=str))
        # An isolated judge starts isolated children: no user packages, no current folder.
        flags = ["-I"] if sys.flags.isolated or job.get("isolated") else []
        try:
            done = subprocess.run(
                [sys.executable, *flags, str(Path(__file__).resolve()), "--job", str(request)],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                check=False,
                errors="replace",
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"gave no answer within {timeout:.0f} seconds"}
        if not answer.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return {"error": f"the runtime's process ended with status {done.returncode}: {last}"}
        result = json.loads(answer.read_text())
        if output.exists():
            result["probabilities"] = np.load(output)
        return result


def _job_main(request: Path) -> int:
    job = json.loads(request.read_text())
    try:
        result = run_job(job)
    except Exception as error:
        lines = str(error).strip().splitlines()
        result = {"error": f"{type(error).__name__}: {lines[0] if lines else ''}"[:400]}
    Path(job["answer"]).write_text(json.dumps(result))
    return 0


# What the answers are worth.


def answers(probabilities: np.ndarray, thresholds: Sequence[float] = ()) -> np.ndarray:
    """The most probable class int ``[n]``; with a threshold for each class 0 or 1 ``[n, classes]``:
    every class whose probability reaches it."""
    if not len(thresholds):
        return probabilities.argmax(1)
    return (probabilities >= np.asarray(thresholds)).astype(np.uint8)


def alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether answers are the same, bool ``[n]``: of several classes all of them."""
    return (first == second).reshape(len(first), -1).all(axis=1)


def differing(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many answers to each example differ, of how many; int ``[n]`` each.

    An example of one class has one answer. Of several classes its labels are counted: as many as
    must be exchanged, given or taken away, of those that the larger of the two has. Whole answers
    would differ the more often the more classes there are, and single decisions would hardly differ
    where most classes are rare, though no label were right. Where each has one label this is the
    same count, so that one limit holds for both.
    """
    if first.ndim == 1:
        return (first != second).astype(int), np.ones(len(first), int)
    most = np.maximum(first.sum(axis=1, dtype=int), second.sum(axis=1, dtype=int))
    return most - (first & second).sum(axis=1, dtype=int), most


def compare(
    expected: np.ndarray, found: np.ndarray, labels: np.ndarray, thresholds: Sequence[float] = ()
) -> Row:
    """Holds an artefact's probabilities against the trained model's, example by example.

    Args:
        expected: float ``[n, classes]``, the trained model's probabilities.
        found: the artefact's, of the same shape.
        labels: the true answers, as :func:`answers` gives them.
        thresholds: of each class where an example may have several.
    """
    before, after = answers(expected, thresholds), answers(found, thresholds)
    right, still = alike(before, labels), alike(after, labels)
    differ, given = (int(counts.sum()) for counts in differing(before, after))
    difference = np.abs(found - expected)
    nll, earlier = (_nll(given, labels) for given in (found, expected))
    return {
        "images": len(labels),
        "answers": given,
        "agreement": (given - differ) / given if given else 1.0,
        "disagreements": differ,
        "accuracy": float(still.mean()),
        "reference_accuracy": float(right.mean()),
        "lost": int((right & ~still).sum()),
        "gained": int((~right & still).sum()),
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "nll": nll,
        "nll_change": nll - earlier,
    }


def _nll(given: np.ndarray, labels: np.ndarray) -> float:
    """The mean negative log-likelihood: of the true class, or of all decisions."""
    if labels.ndim == 1:
        return float(-np.log(np.maximum(given[np.arange(len(labels)), labels], 1e-12)).mean())
    return float(-np.log(np.maximum(np.where(labels > 0, given, 1 - given), 1e-12)).mean())


COLUMNS: dict[str, Callable[[Row], str]] = {
    "artefact": lambda row: row["name"],
    "verdict": lambda row: row["verdict"],
    "agree": lambda row: f"{100 * row['agreement']:.1f} %",
    "accuracy": lambda row: f"{row['accuracy']:.3f}",
    "max diff": lambda row: f"{row['largest_difference']:.4f}",
    "NLL change": lambda row: f"{round(row['nll_change'], 4) + 0.0:+.4f}",  # never -0.0000
    "1 thread": lambda row: f"{row['latency_ms']['1']['median']:.1f} ms",
    "threads": lambda row: _several_threads(row["latency_ms"]),
    "size": lambda row: f"{1e-6 * row['bytes']:.1f} MB",
    "memory": lambda row: f"{1e-6 * row['peak_memory_bytes']:.0f} MB",
}


def _several_threads(latency: Row) -> str:
    most = max(latency, key=int)
    return f"{latency[most]['median']:.1f} ms ({most})" if most != "1" else "-"


def table(rows: list[Row]) -> str:
    """The proof as aligned text: one line an artefact, reasons below."""

    def cell(show: Callable[[Row], str], row: Row) -> str:
        try:
            return show(row)
        except (KeyError, TypeError):  # what could not be measured
            return "-"

    cells = [list(COLUMNS), *[[cell(show, row) for show in COLUMNS.values()] for row in rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)) for line in cells]
    reasons = [f"{row['name']}: {row['reason']}" for row in rows if row.get("reason")]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * sum(widths), *lines[1:], *reasons])


# The proof that travels.


def verify(folder: Path, each: Callable[..., Iterable[Row]] = lambda _, rows, __: rows) -> Row:
    """Repeats the proof of an export folder.

    Every file is held against its digest in ``manifest.json``; then each artefact runs in a fresh
    process over the samples. It passes when it disagrees with the trained model in no more
    answers than it did when it was exported, plus the share that its limit allows.

    Args:
        folder: the export.
        each: goes through the artefacts that are to be run, and may tell of it; it is given a name
            for that, them, and about how many seconds each takes.

    Returns:
        ``passed``, ``exit_code`` (0 passed, 1 failed, 2 nothing could be run), ``files``: one line
        for each file that is missing, changed, not listed or at odds with another, and
        ``artefacts``: rows for ``table``.
    """
    files: list[str] = []
    try:
        files += check_files(folder)
        if any(line.startswith("verify/") for line in files):
            return outcome(files, [])  # without its own files the proof proves nothing
        proof = expected_of(folder)
        files += check_proof(folder, proof)
        rows = _repeat(folder, proof, {line.split(": ")[0] for line in files}, each)
    except Exception as error:  # whatever it is, nothing is proven
        return outcome([*files, f"no proof: {type(error).__name__}: {error}"], [])
    return outcome(files, rows)


def check_files(folder: Path) -> list[str]:
    """One line for each file that ``manifest.json`` lists and that is missing or changed, or that
    is there, or has to be, and is not listed."""
    listed = read(folder, MANIFEST, "files", dict)
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    present = present - {MANIFEST, SIGNATURE}
    wrong = [f"{n}: not listed in {MANIFEST}" for n in {*REQUIRED, *present} - listed.keys()]
    wrong += [f"{name}: missing" for name in listed.keys() - present]
    for name in listed.keys() & present:
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != listed[name]:
            wrong.append(f"{name}: changed since it was exported")
    return sorted(wrong)


def check_proof(folder: Path, proof: Row) -> list[str]:
    """One line for each file that is at odds with another, or with the limits in ``LIMITS``."""
    wrong = []
    labels = (folder / "labels.txt").read_text(encoding="utf-8").split("\n")[:-1]
    if labels != proof["class_names"]:
        wrong.append("labels.txt: not the classes of verify/expected.json")
    parity = read(folder, "parity.json", "artefacts", dict)
    judged = [row for row in parity.values() if "file" in row]
    for file, rows in (("parity.json", judged), ("verify/expected.json", proof["artefacts"])):
        for row in rows:
            if row["limit"] != LIMITS.get(row["name"]):
                wrong.append(f"{file}: {row['limit']} is not the limit of {row['name']}")
    for row in proof["artefacts"]:
        allowed, counted = row["disagreements"], parity.get(row["name"], {})
        if allowed != counted.get("sample_disagreements"):
            wrong.append(f"verify/expected.json: {allowed} is not what parity.json counted")
    if read(folder, "parity.json", "thresholds", list, []) != proof["thresholds"]:
        wrong.append("parity.json: not the thresholds of verify/expected.json")
    return wrong


def expected_of(folder: Path) -> Row:
    """What ``verify/expected.json`` holds: ``class_names``, their ``thresholds`` if any,
    ``artefacts``, and of the ``kind`` in ``READERS`` the ``samples``, their ``size`` and ``fit``;
    errors as of :func:`read`."""
    name = "verify/expected.json"
    kind = next((kind for kind in READERS if (folder / "verify" / kind).is_dir()), "images")
    size, type_, _ = READERS[kind]
    found = {field: read(folder, name, field, list) for field in ("class_names", "artefacts")}
    samples = {"kind": kind, "samples": read(folder, name, kind, list)}
    samples["fit"] = read(folder, name, "fit", str, "")
    samples["thresholds"] = read(folder, name, "thresholds", list, [])
    return found | samples | {"size": read(folder, name, size, type_)}


def read(folder: Path, name: str, field: str, kind: type, default: Any = None) -> Any:
    """A field of one of an export's JSON files.

    Raises:
        ValueError: the file is damaged, or has no such field, of that type and without a default;
            the message names both.
    """
    try:
        held = json.loads((folder / name).read_text(encoding="utf-8"))
        found = held[field] if default is None else held.get(field, default)
        if not isinstance(found, kind):
            raise TypeError(f"not a {kind.__name__}")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{name}: {field}: {type(error).__name__}: {error}") from None
    return found


def _repeat(folder: Path, proof: Row, changed: set[str], each: Callable[..., Any]) -> list[Row]:
    """Runs each artefact over the samples, but for those whose files have ``changed``."""
    samples, names, kind = proof["samples"], proof["class_names"], proof["kind"]
    _, _, reader = READERS[kind]
    expected = np.array([sample["probabilities"] for sample in samples])
    labels = _labels([sample["label"] for sample in samples], names, proof["thresholds"])
    paths = [folder / "verify" / kind / sample["file"] for sample in samples]
    how = {"fit": proof["fit"]} if proof["fit"] else {}
    examples = np.stack([reader(path, proof["size"], **how) for path in paths])

    def repeated(artefact: Row) -> Row:
        path = folder / artefact["file"]
        if bad := sorted(n for n in changed if f"{n}/".startswith(f"{artefact['file']}/")):
            return {"verdict": "failed", "reason": f"{bad[0]} is not the file that was exported"}
        job = {"runtime": artefact["runtime"], "path": path, "threads": 1, "seconds": 0.5}
        result = run_fresh(job | {"output": True}, examples)
        if "missing" in result:
            return {"verdict": "skipped", "reason": result["missing"]}
        if "error" in result:
            return {"verdict": "failed", "reason": result["error"]}
        row = compare(expected, result.pop("probabilities"), labels, proof["thresholds"])
        row |= result | {"bytes": size_of(path)}
        allowed = artefact["disagreements"] + int((1 - artefact["limit"]) * row["answers"])
        if row["disagreements"] <= allowed:
            return {**row, "verdict": "passed"}
        reason = (
            f"disagrees with the trained model in {row['disagreements']} of {row['answers']} "
            f"labels of the samples; {allowed} are allowed"
        )
        return {**row, "verdict": "failed", "reason": reason}

    artefacts = each("prove", proof["artefacts"], 5.0)
    return [{"name": artefact["name"], **repeated(artefact)} for artefact in artefacts]


def _labels(cells: list[str], names: list[str], thresholds: list[float]) -> np.ndarray:
    """The true answers; where there are thresholds a cell lists classes with | between."""
    if not thresholds:
        return np.array([names.index(cell) for cell in cells])
    labels = np.zeros((len(cells), len(names)), np.uint8)
    for row, cell in zip(labels, cells, strict=True):
        row[[names.index(name) for name in cell.split("|") if name]] = 1
    return labels


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def outcome(files: list[str], rows: list[Row]) -> Row:
    """``verify``'s result, from what is wrong with files and the rows of artefacts."""
    verdicts = {row["verdict"] for row in rows}
    passed = not files and "passed" in verdicts and "failed" not in verdicts
    code = 0 if passed else 2 if not files and verdicts == {"skipped"} else 1
    return {"passed": passed, "exit_code": code, "files": files, "artefacts": rows}


def report(result: Row) -> str:
    """``verify``'s result as text."""
    words = ("passed", "FAILED", "not proven: no runtime of these artefacts is installed")
    tables = [table(result["artefacts"])] if result["artefacts"] else []
    counts = {row["images"] for row in result["artefacts"] if "images" in row}
    which = [f"On the {count} test samples that travel with the export:" for count in counts]
    return "\n".join([*result["files"], *which, *tables, words[result["exit_code"]]])


def main(arguments: list[str] | None = None) -> int:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(description="Repeat the proof of an export folder.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.job:
        return _job_main(options.job)
    result = verify(options.folder)
    print(json.dumps(result, indent=2) if options.json else report(result))
    return int(result["exit_code"])


if __name__ == "__main__":
    sys.exit(main())
