"""Runs exported models on their own runtimes and holds their answers against the trained model's.

This file is both the judge that runs while exporting and the script that travels in the export
folder as ``verify/verify.py``. It needs Python, NumPy, Pillow and the runtime of the artefact: it
imports nothing else, and never ``keras_transfer``.

    python verify/verify.py            # repeat the proof; exit 0 passed, 1 failed, 2 no runtime
    python verify/verify.py --json
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]

PACKAGES = {
    "saved_model": "tensorflow",
    "keras": "keras",
    "tflite": "ai-edge-litert",
    "onnx": "onnxruntime",
}
"""The Python package of each runtime, as ``pip`` names it."""


class MissingRuntimeError(Exception):
    """The runtime's package is not installed here."""


# Images: the same pixels as in training.


def read_pixels(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Decodes an image file to uint8 ``[height, width, 3]``, in the way the model was trained with.

    First frame, transparency on white, RGB, the whole image squashed to ``size`` (height, width)
    by an antialiased bilinear filter, then turned as EXIF asks. A JPEG of which 1/2, 1/4 or 1/8
    leaves 0.8 of the size (and of 224 px) is decoded so; of other formats the means of as many
    pixels as leave four times the size are filtered.
    """
    from PIL import Image

    flip = Image.Transpose
    turns = [flip.FLIP_LEFT_RIGHT, flip.ROTATE_180, flip.FLIP_TOP_BOTTOM, flip.TRANSPOSE]
    turns += [flip.ROTATE_270, flip.TRANSVERSE, flip.ROTATE_90]
    with Image.open(path) as image:
        (width, height), scale = image.size, 1
        jpeg = image.format in ("JPEG", "MPO")
        if jpeg:
            ratio = 5 * min(width, height) // (4 * max(*size, 224))
            scale = max(s for s in (1, 2, 4, 8) if s == 1 or ratio >= s)
            if scale > 1:
                image.draft(None, (width // scale, height // scale))
        orientation = image.getexif().get(0x0112, 1)
        rgb = _rgb(image)
        width, height = image.size if scale == 1 else (width, height)  # which decoding may turn
    rows, columns = size[::-1] if 5 <= orientation <= 8 else size
    x, y = max(1, int(width / columns / 4)), max(1, int(height / rows / 4))
    x, y = (1, 1) if jpeg else (x, y)
    pixels = np.asarray(rgb if (x, y) == (1, 1) else rgb.reduce((x, y)))
    pixels = _filtered(pixels, rows, height / scale / y)
    pixels = _filtered(pixels.swapaxes(0, 1), columns, width / scale / x).swapaxes(0, 1)
    if 2 <= orientation <= 8:
        return np.asarray(Image.fromarray(pixels).transpose(turns[orientation - 2]))
    return pixels


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


# Runtimes: each opens an artefact and returns a function from pixels to probabilities.


def open_tflite(path: Path, threads: int) -> Predict:
    """LiteRT; takes batches of any size by resizing its input."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    batch = 1

    def predict(pixels: np.ndarray) -> np.ndarray:
        nonlocal batch
        if len(pixels) != batch:
            interpreter.resize_tensor_input(entry["index"], pixels.shape)
            interpreter.allocate_tensors()
            batch = len(pixels)
        interpreter.set_tensor(entry["index"], pixels)
        interpreter.invoke()
        return interpreter.get_tensor(exit_["index"])

    return predict


def open_saved_model(path: Path, threads: int) -> Predict:
    """TensorFlow's own loader, with nothing of Keras."""
    signature = _serving_model(path, threads).signatures["serving_default"]
    return lambda pixels: signature(image=_tensor(pixels))["scores"].numpy()


def open_saved_model_encoded(path: Path, threads: int) -> Callable[[list[bytes]], np.ndarray]:
    """The SavedModel's second signature: encoded files in, probabilities out."""
    signature = _serving_model(path, threads).signatures["serve_encoded"]
    return lambda files: signature(image_bytes=_tensor(files))["scores"].numpy()


def open_keras(path: Path, threads: int) -> Predict:
    """Plain Keras, on whichever backend is configured."""
    if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
        _limit_threads(threads)
    import keras

    model = keras.models.load_model(path)
    return lambda pixels: np.asarray(model.predict_on_batch(pixels))


def open_onnx(path: Path, threads: int) -> Predict:
    """ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["scores"], {"image": pixels})[0]


def _limit_threads(threads: int) -> Any:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


@functools.cache
def _serving_model(path: Path, threads: int) -> Any:
    """TF Serving's layout holds the model in a folder named by its version."""
    return _limit_threads(threads).saved_model.load(str(path / "1"))


def _tensor(values: Any) -> Any:
    import tensorflow as tf

    return tf.constant(values)


OPENERS: dict[str, Callable[[Path, int], Predict]] = {
    "saved_model": open_saved_model,
    "keras": open_keras,
    "tflite": open_tflite,
    "onnx": open_onnx,
}


# One artefact in one process.


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Runs one artefact over stored pixels.

    Args:
        job: ``runtime``, ``path`` of the artefact, ``pixels`` (a ``.npy`` of uint8 ``[n, height,
            width, 3]``), ``threads``, ``output`` (the ``.npy`` to write float32 ``[n, classes]``
            to, or None), ``seconds`` to spend on timing, and ``files``: encoded images for the
            second signature of a SavedModel, or none.

    Returns:
        ``runtime_version``, ``load_seconds``, ``latency_ms`` (``median`` and ``p95`` of one image,
        warm), ``peak_memory_bytes`` of this process, ``any_batch``: whether batches of another size
        give the same answers, and ``encoded``: probabilities of ``files``.
    """
    runtime, path, threads = job["runtime"], Path(job["path"]), job["threads"]
    pixels = np.load(job["pixels"], mmap_mode="r")
    started = time.perf_counter()
    try:
        predict = OPENERS[runtime](path, threads)
    except ImportError as error:
        raise MissingRuntimeError(f"{PACKAGES[runtime]} is not installed here") from error
    result: dict[str, Any] = {
        "runtime_version": importlib.metadata.version(_installed(PACKAGES[runtime])),
        "load_seconds": time.perf_counter() - started,
        "keras_transfer_imported": "keras_transfer" in sys.modules,
    }
    if job.get("output"):
        # Phones and cameras ask for one image at a time, servers for many.
        step = 1 if runtime == "tflite" else 32
        rows = [predict(np.array(pixels[i : i + step])) for i in range(0, len(pixels), step)]
        np.save(job["output"], np.concatenate(rows).astype(np.float32))
        result["any_batch"] = _takes_batches(predict, np.array(pixels[:2]), rows)
    if job.get("seconds"):
        result["latency_ms"] = measure(predict, np.array(pixels[:1]), job["seconds"])
    if job.get("files"):
        encoded = open_saved_model_encoded(path, threads)
        answers = [encoded([Path(file).read_bytes()]) for file in job["files"]]
        result["encoded"] = np.concatenate(answers).tolist()
    result["peak_memory_bytes"] = peak_memory()
    return result


def _installed(package: str) -> str:
    """TensorFlow is published under several names."""
    for name in (package, f"{package}-cpu", f"{package}_cpu", f"{package}-gpu"):
        try:
            importlib.metadata.version(name)
            return name
        except importlib.metadata.PackageNotFoundError:
            continue
    raise MissingRuntimeError(f"{package} is not installed here")


def _takes_batches(predict: Predict, pixels: np.ndarray, rows: list[np.ndarray]) -> bool:
    """Whether two images at once get the answers that they got before."""
    try:
        expected = np.concatenate(rows)[: len(pixels)]
        return bool(np.abs(predict(pixels) - expected).max() < 0.01)
    except Exception:
        return False


def measure(predict: Predict, image: np.ndarray, seconds: float) -> dict[str, float]:
    """Median and 95th percentile of the time for one image, in milliseconds, once warm."""
    for _ in range(5):
        predict(image)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 10 or (time.perf_counter() < end and len(times) < 1000):
        started = time.perf_counter()
        predict(image)
        times.append(1000 * (time.perf_counter() - started))
    return {"median": float(np.median(times)), "p95": float(np.quantile(times, 0.95))}


def peak_memory() -> int | None:
    """The most memory that this process held at once, in bytes; None where it cannot be known."""
    try:
        # getrusage would count the parent's memory too, from before this program was started.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def run_fresh(job: dict[str, Any], *, timeout: float = 1800) -> dict[str, Any]:
    """``run_job`` in a new process.

    Returns:
        What ``run_job`` returns, or ``{"missing": ...}`` where the runtime is not installed, or
        ``{"error": ...}`` with the reason in one line.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder, "job.json"), Path(folder, "answer.json")
        request.write_text(json.dumps({**job, "answer": str(answer)}))
        # An isolated judge starts isolated children: no user packages, no current folder.
        flags = ["-I"] if sys.flags.isolated or job.get("isolated") else []
        try:
            done = subprocess.run(
                [sys.executable, *flags, str(Path(__file__).resolve()), "--job", str(request)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                text=True,
                check=False,
                errors="replace",
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"gave no answer within {timeout:.0f} seconds"}
        if answer.exists():
            return json.loads(answer.read_text())
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"the runtime's process ended with status {done.returncode}: {last}"}


def _job_main(request: Path) -> int:
    job = json.loads(request.read_text())
    try:
        result = run_job(job)
    except MissingRuntimeError as error:
        result = {"missing": str(error)}
    except Exception as error:
        lines = str(error).strip().splitlines()
        result = {"error": f"{type(error).__name__}: {lines[0] if lines else ''}"[:400]}
    Path(job["answer"]).write_text(json.dumps(result))
    return 0


# What the answers are worth.


def compare(expected: np.ndarray, found: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Holds an artefact's probabilities against the trained model's, image by image.

    Args:
        expected: float ``[n, classes]``, the trained model's probabilities.
        found: the artefact's, of the same shape.
        labels: int ``[n]``, the true classes.
    """
    right, still = expected.argmax(1) == labels, found.argmax(1) == labels
    difference = np.abs(found - expected)

    def nll(probabilities: np.ndarray) -> float:
        truth = probabilities[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(truth, 1e-12)).mean())

    return {
        "images": len(labels),
        "agreement": float((expected.argmax(1) == found.argmax(1)).mean()),
        "disagreements": int((expected.argmax(1) != found.argmax(1)).sum()),
        "accuracy": float(still.mean()),
        "reference_accuracy": float(right.mean()),
        "lost": int((right & ~still).sum()),
        "gained": int((~right & still).sum()),
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "nll": nll(found),
        "nll_change": nll(found) - nll(expected),
    }


HEADINGS = "artefact|verdict|agree|accuracy|max diff|NLL change|1 thread|threads|size|memory"


def table(rows: list[dict[str, Any]]) -> str:
    """The proof as aligned text: one line an artefact, reasons below."""
    cells = [HEADINGS.split("|"), *[_cells(row) for row in rows]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    reasons = [f"{row['name']}: {row['reason']}" for row in rows if row.get("reason")]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * sum(widths), *lines[1:], *reasons])


def _cells(row: dict[str, Any]) -> list[str]:
    def show(key: str, form: str, factor: float = 1.0) -> str:
        return form.format(factor * row[key]) if row.get(key) is not None else "-"

    latency = row.get("latency_ms") or {}
    times = [f"{latency[count]['median']:.1f} ms" for count in sorted(latency, key=int)]
    return [
        row["name"],
        row["verdict"],
        show("agreement", "{:.1f} %", 100),
        show("accuracy", "{:.3f}"),
        show("largest_difference", "{:.4f}"),
        show("nll_change", "{:+.4f}"),
        times[0] if times else "-",
        f"{times[-1]} ({max(latency, key=int)})" if len(times) > 1 else "-",
        show("bytes", "{:.1f} MB", 1e-6),
        show("peak_memory_bytes", "{:.0f} MB", 1e-6),
    ]


# The proof that travels.


def verify(folder: Path) -> dict[str, Any]:
    """Repeats the proof of an export folder.

    Every file is held against its digest in ``manifest.json``; then each artefact runs in a fresh
    process over the sample images. It passes when it disagrees with the trained model on no more
    of them than it did when it was exported, plus the share that its limit allows.

    Returns:
        ``passed``, ``exit_code`` (0 passed, 1 failed, 2 nothing could be run), ``files``: one line
        for each file that is missing or changed, and ``artefacts``: rows for ``table``.
    """
    try:
        files = check_files(folder)
    except (OSError, ValueError, KeyError) as error:
        files = [f"manifest.json: {error}"]
        return {"passed": False, "exit_code": 1, "files": files, "artefacts": []}
    if any(line.startswith("verify/") for line in files):
        # Without its own files the proof proves nothing.
        return {"passed": False, "exit_code": 1, "files": files, "artefacts": []}
    changed = {line.split(": ")[0] for line in files}
    proof = json.loads((folder / "verify" / "expected.json").read_text(encoding="utf-8"))
    images = proof["images"]
    size = (int(proof["image_size"][0]), int(proof["image_size"][1]))
    paths = [folder / "verify" / "images" / image["file"] for image in images]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        pixels = Path(scratch, "pixels.npy")
        np.save(pixels, np.stack([read_pixels(path, size) for path in paths]))
        expected = np.array([image["probabilities"] for image in images])
        labels = np.array([proof["class_names"].index(image["label"]) for image in images])
        for artefact in proof["artefacts"]:
            row = {"name": artefact["name"], "verdict": "failed"}
            bad = [file for file in changed if (file + "/").startswith(artefact["file"] + "/")]
            if bad:
                row["reason"] = f"{bad[0]} is not the file that was exported"
            else:
                row |= _verify_one(folder, artefact, pixels, expected, labels)
            rows.append(row)
    verdicts = {row["verdict"] for row in rows}
    passed = not files and verdicts <= {"passed", "skipped"} and "passed" in verdicts
    code = 0 if passed else 2 if not files and verdicts <= {"skipped"} else 1
    return {"passed": passed, "exit_code": code, "files": files, "artefacts": rows}


def report(result: dict[str, Any]) -> str:
    """``verify``'s result as text."""
    lines = [f"{line}" for line in result["files"]]
    if result["artefacts"]:
        lines.append(table(result["artefacts"]))
    words = {0: "passed", 1: "FAILED", 2: "not proven: no runtime of these artefacts is installed"}
    return "\n".join([*lines, words[result["exit_code"]]])


def _verify_one(
    folder: Path, artefact: dict[str, Any], pixels: Path, expected: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    path = folder / artefact["file"]
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, "probabilities.npy")
        job = {
            "runtime": artefact["runtime"],
            "path": str(path),
            "pixels": str(pixels),
            "threads": 1,
            "seconds": 0.5,
            "output": str(output),
        }
        result = run_fresh(job)
        if "missing" in result:
            return {"verdict": "skipped", "reason": result["missing"]}
        if "error" in result:
            return {"verdict": "failed", "reason": result["error"]}
        found = np.load(output)
    row = compare(expected, found, labels)
    row |= {
        "runtime_version": result["runtime_version"],
        "latency_ms": {"1": result["latency_ms"]},
        "peak_memory_bytes": result["peak_memory_bytes"],
        "bytes": size_of(path),
    }
    allowed = artefact["disagreements"] + int((1 - artefact["limit"]) * len(labels))
    if row["disagreements"] <= allowed:
        return {**row, "verdict": "passed"}
    reason = (
        f"disagrees with the trained model on {row['disagreements']} of {len(labels)} images; "
        f"{allowed} are allowed"
    )
    return {**row, "verdict": "failed", "reason": reason}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def check_files(folder: Path) -> list[str]:
    """One line for each file that ``manifest.json`` lists and that is missing or changed."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    wrong = []
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name}: missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            wrong.append(f"{name}: changed since it was exported")
    return wrong


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
