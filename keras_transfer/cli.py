"""The command line: parse, call, print. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keras_transfer._version import __version__
from keras_transfer.base.errors import KerasTransferError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    0 done; 2 wrong usage or unusable data; 1 anything else that went wrong; 130 interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    _hush()
    options = _parser().parse_args(given)
    try:
        return int(options.command(options))
    except KerasTransferError as error:
        print(f"keras-transfer: {error.message}\n  {error.remedy}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\nkeras-transfer: interrupted.{_how_to_go_on(options, given)}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except MemoryError:
        print(
            "keras-transfer: out of memory.\n  Use a smaller --batch-size or --image-size.",
            file=sys.stderr,
        )
        return FAILED


def _hush() -> None:
    """TensorFlow's chatter is for its developers; set before it is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)
    warnings.showwarning = _show_warning


def _show_warning(message: Any, *where: Any, **also: Any) -> None:
    """A warning is one line without the place in the source."""
    print(f"warning: {message}", file=sys.stderr)


def _load_keras() -> None:
    """Imports Keras and its backend with their native libraries' output held back."""
    from keras_transfer.base.backend import require_backend
    from keras_transfer.base.quiet import quiet_stdio

    require_backend()
    if "keras" in sys.modules:
        return
    # What the import makes lives until the end: to look through it for garbage, while it is made,
    # in every full collection and again at the exit, finds nothing and costs two seconds.
    collects = gc.isenabled()
    gc.disable()
    try:
        with quiet_stdio():
            import keras  # noqa: F401 - imported for its effect
    finally:
        if collects:
            gc.enable()
    gc.freeze()
    atexit.register(gc.freeze)


def _how_to_go_on(options: argparse.Namespace, given: list[str]) -> str:
    if getattr(options, "command", None) is not _train:
        return ""
    words = [word for word in given if word not in ("--resume", "--overwrite")]
    if not Path(options.output).exists():
        return " Nothing was written."
    return f" Continue with:\n  keras-transfer {shlex.join([*words, '--resume'])}"


# Types of options ------------------------------------------------------------------------------


def _shares(text: str) -> tuple[float, float, float]:
    try:
        parts = tuple(float(part) for part in text.split(","))
    except ValueError:
        parts = ()
    if len(parts) != 3 or min(parts) < 0 or abs(sum(parts) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(f"{text!r} is not three shares that add up to 1")
    return parts[0], parts[1], parts[2]


def _fold(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no fold such as 1/5")
    return int(match[1]), int(match[2])


def _duration(text: str) -> float:
    """``90``, ``90s``, ``10m``, ``1.5h`` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 90s, 10m or 1.5h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0 and at most 1")
    return value


def _bytes(text: str) -> int:
    """``500M``, ``20G`` and the like, in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500M or 20G")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))


def _whole(low: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {low}")
        return value

    return parse


def _count_or(word: str) -> Callable[[str], int | str]:
    def parse(text: str) -> int | str:
        return text if text == word else _whole(1)(text)

    return parse


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate above 0")
    return value


# The parser ------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-transfer",
        description="Transfer learning for image classification, from a folder of images to a "
        "model that is proven on the device's own runtime.",
    )
    parser.add_argument("--version", action="version", version=f"keras-transfer {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(command=command)
        return made

    _add_inspect(add("inspect", _inspect, "Look at a data set and say what is wrong with it."))
    _add_train(add("train", _train, "Train a classifier on a data set."))
    made = add("evaluate", _evaluate, "Evaluate a run on its test split or on other data.")
    made.add_argument("run", metavar="RUN")
    made.add_argument("data", metavar="DATA", nargs="?")
    _add_json(made)
    made = add("compare", _compare, "Compare runs on the same test images.")
    made.add_argument("runs", metavar="RUN", nargs="+")
    _add_json(made)
    made = add("predict", _predict, "Classify images with a run or an exported model.")
    made.add_argument("model", metavar="RUN|MODEL")
    made.add_argument("images", metavar="IMAGE", nargs="+")
    made.add_argument("--top", type=_whole(1), default=3, help="classes to name (default 3)")
    _add_json(made)
    _add_export(add("export", _export, "Export a run and prove what is exported."))
    made = add(
        "verify",
        _verify,
        "Repeat the proof of an export folder: exit 0 passed, 1 failed, 2 no runtime is installed.",
    )
    made.add_argument("export", metavar="EXPORT")
    _add_json(made)
    made = add("demo", _demo, "Try an export on a local page: drop an image, or use the camera.")
    made.add_argument("export", metavar="EXPORT")
    made.add_argument(
        "--wasm",
        metavar="DIR",
        help="node_modules/@mediapipe/tasks-vision: run the .tflite in the browser itself",
    )
    made = add("curve", _curve, "Say what more data would bring to a run.")
    made.add_argument("run", metavar="RUN")
    _add_json(made)
    made = add("report", _report, "Write a run's report.html again.")
    made.add_argument("run", metavar="RUN")
    made = add("cache", _cache, "List, prune or clear the cached activations.")
    made.add_argument("action", choices=("list", "prune", "clear"), nargs="?", default="list")
    made.add_argument("--cache", metavar="DIR", help="where the cache is")
    made.add_argument("--cache-limit", type=_bytes, metavar="SIZE", help="bytes to prune down to")
    _add_json(made)
    made = add("backbones", _backbones, "List the backbones, or one backbone's blocks and prices.")
    made.add_argument("name", metavar="NAME", nargs="?")
    made.add_argument("--image-size", type=_whole(1), metavar="N")
    _add_json(made)
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA")
    _add_json(parser)
    parser.add_argument("--strict", action="store_true", help="exit 2 if there are findings")
    parser.add_argument("--fix", metavar="DIR", help="write a clean manifest into DIR")
    parser.add_argument("--page", metavar="FILE", help="write an HTML page with pictures")


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a folder of class folders, a .csv manifest, tfds:NAME, or builtin:digits",
    )
    parser.add_argument("--backbone", default="EfficientNetLite0", metavar="NAME")
    parser.add_argument("--weights", metavar="imagenet|offline|none|PATH|RUN")
    parser.add_argument("--image-size", type=_whole(1), metavar="N", help="pixels")
    parser.add_argument(
        "--unfreeze",
        metavar="N|NAME|SHARE|all|none|auto",
        help="blocks that the second phase trains, from the top (default: the effort's); auto "
        "decides by a short race",
    )
    parser.add_argument("--head-epochs", type=_whole(0), metavar="N")
    parser.add_argument("--fine-tune-epochs", type=_whole(0), metavar="N")
    parser.add_argument(
        "--batch-size",
        type=_count_or("auto"),
        metavar="N|auto",
        help="images in a step (auto: the recipe's); computed in parts where memory is short",
    )
    parser.add_argument("--head-lr", type=_rate, metavar="X")
    parser.add_argument("--fine-tune-lr", type=_rate, metavar="X")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--split", type=_shares, default=(0.7, 0.15, 0.15), metavar="TRAIN,VAL,TEST")
    group.add_argument("--splits", metavar="FILE", help="a splits.csv to apply")
    group.add_argument(
        "--fold",
        type=_fold,
        metavar="I/K",
        help="test on the I-th of K parts, validate on the next",
    )
    parser.add_argument(
        "--per-class", type=_whole(1), metavar="N", help="train on at most N images of each class"
    )
    parser.add_argument("--seed", type=_whole(0), default=0, metavar="N")
    parser.add_argument("--effort", choices=("quick", "default", "high"), default="default")
    parser.add_argument("--time-budget", type=_duration, metavar="10m")
    parser.add_argument("--config", metavar="FILE", help="settings as TOML, or a run's config.json")
    parser.add_argument("--cache", metavar="DIR|off", help="where frozen work is kept")
    parser.add_argument("--cache-limit", type=_bytes, metavar="SIZE", help="such as 20G")
    parser.add_argument(
        "--engine",
        choices=("auto", "keras", "openvino", "openvino-bfloat16"),
        default="auto",
        help="what runs the frozen part",
    )
    parser.add_argument("--jit", choices=("auto", "on", "off"), default="auto", help="XLA")
    parser.add_argument(
        "--precision",
        default="auto",
        metavar="float32|mixed_bfloat16|mixed_float16",
        help="in which type layers compute while they train",
    )
    parser.add_argument(
        "--devices", type=_count_or("all"), default=1, metavar="N|all", help="to share each batch"
    )
    parser.add_argument(
        "--target-precision",
        type=_share,
        default=0.95,
        metavar="P",
        help="share of right answers that the confidence threshold is chosen for (default 0.95)",
    )
    parser.add_argument(
        "--calibration",
        choices=("temperature", "none"),
        default="temperature",
        help="whether probabilities are made honest on the validation images (default temperature)",
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write event files to RUN/tensorboard"
    )
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="also measure nearest neighbour, logistic regression and training from scratch",
    )
    parser.add_argument("--output", metavar="RUN", help="the run folder (default runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="go on with a killed run")
    parser.add_argument("--overwrite", action="store_true", help="replace a run in RUN")
    parser.add_argument("--quiet", action="store_true", help="print the result alone")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--formats", default="saved_model,tflite", metavar="A,B,...")
    parser.add_argument("--output", metavar="DIR", help="default: saved_models/NAME")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--allow-failing", action="store_true", help="keep artefacts that fail")
    parser.add_argument("--quiet", action="store_true")


# The commands ----------------------------------------------------------------------------------


def _inspect(options: argparse.Namespace) -> int:
    from keras_transfer import datasets

    found = datasets.inspect(options.data)
    _print_json(found.to_json()) if options.json else _print(found.render())
    if options.page:
        found.write_page(options.page)
    manifest = found.fix(options.fix) if options.fix else None
    if not options.json:
        if options.page:
            _print(f"Page with pictures: {options.page}")
        if manifest:
            _print(f"Clean manifest, which can be given as DATA: {manifest}")
    if found.problem:
        raise found.problem
    return USAGE if options.strict and found.problems else DONE


def _train(options: argparse.Namespace) -> int:
    options.output = options.output or _default_output(options.data)
    from keras_transfer.runs import folder as runs

    runs.check_output(options.output, resume=options.resume, overwrite=options.overwrite)
    settings = _settings(options)
    _load_keras()
    from keras_transfer import api, console
    from keras_transfer.base.progress import progress_for

    result = api.train(
        options.data, output=options.output, progress=progress_for(options.quiet), **settings
    )
    _print(console.summary(result, options.output))
    if options.baselines:
        from keras_transfer.runs import probing

        run = runs.open_run(options.output)
        _print(console.baselines(probing.compare_with_baselines(run, progress_for(options.quiet))))
    return DONE


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of ``api.train``: options given override those of ``--config``."""
    from keras_transfer import config

    changes = {
        name: getattr(options, name)
        for name in ("head_epochs", "fine_tune_epochs", "batch_size", "head_lr", "fine_tune_lr")
    }
    if changes["batch_size"] == "auto":
        changes["batch_size"] = None
    settings: dict[str, Any] = {
        "backbone": options.backbone,
        "weights": options.weights,
        "image_size": options.image_size,
        "unfreeze": options.unfreeze,
        "effort": options.effort,
        "changes": changes,
        "split": options.split,
        "splits_file": options.splits,
        "fold": options.fold,
        "per_class": options.per_class,
        "seed": options.seed,
        "cache": {None: True, "off": False}.get(options.cache, options.cache),
        "cache_limit": options.cache_limit,
        "engine": options.engine,
        "jit": options.jit,
        "precision": options.precision,
        "devices": options.devices,
        "time_budget": options.time_budget,
        "target_precision": options.target_precision,
        "calibration": options.calibration,
        "tensorboard": options.tensorboard,
        "resume": options.resume,
        "overwrite": options.overwrite,
    }
    if options.config:
        defaults = vars(_parser().parse_args(["train", options.data]))
        given = {name for name, value in vars(options).items() if value != defaults.get(name)}
        settings = config.merge(settings, config.read(options.config), given)
    return settings


def _default_output(data: str) -> str:
    name = re.sub(r"[^\w.-]+", "-", Path(data.split(":", 1)[-1]).stem).strip("-") or "run"
    return str(Path("runs") / name)


def _evaluate(options: argparse.Namespace) -> int:
    from keras_transfer.runs import folder as runs

    run = runs.open_run(options.run)
    _load_keras()
    from keras_transfer import api, console

    if options.data is None:
        judged = api.evaluate_run(run)
        _print_json(judged.to_json()) if options.json else _print(console.evaluation(judged, run))
    else:
        shift = api.evaluate_elsewhere(run, options.data)
        _print_json(shift.to_json()) if options.json else _print(console.shift(shift))
    return DONE


def _curve(options: argparse.Namespace) -> int:
    from keras_transfer.runs import folder as runs

    run = runs.open_run(options.run)
    _load_keras()
    from keras_transfer.base.progress import progress_for
    from keras_transfer.runs import probing

    found = probing.curve(run, progress_for(options.json))
    if options.json:
        _print_json(found.to_json())
        return DONE
    for size, accuracy, (low, high) in zip(
        found.sizes, found.accuracy, found.intervals, strict=True
    ):
        _print(f"{size:>8,} images: {accuracy:.3f} ({low:.3f} to {high:.3f})")
    _print(found.verdict)
    return DONE


def _compare(options: argparse.Namespace) -> int:
    from keras_transfer import console, evaluation
    from keras_transfer.runs import folder as runs

    found = evaluation.compare([runs.open_run(path) for path in options.runs])
    _print_json(found.to_json()) if options.json else _print(console.comparison(found))
    return DONE


def _predict(options: argparse.Namespace) -> int:
    _load_keras()
    from keras_transfer import console
    from keras_transfer.export import prediction as predicting

    rows = predicting.predict(options.model, options.images, top=options.top)
    _print_json(rows) if options.json else _print(console.predictions(rows))
    return USAGE if any("error" in row for row in rows) else DONE


def _export(options: argparse.Namespace) -> int:
    from keras_transfer.runs import folder as runs

    run = runs.open_run(options.run)
    _load_keras()
    from keras_transfer import console
    from keras_transfer.base.progress import progress_for
    from keras_transfer.export import export

    result = export(
        run,
        options.formats,
        options.output,
        overwrite=options.overwrite,
        allow_failing=options.allow_failing,
        progress=progress_for(options.quiet).note,
    )
    _print(result.render())
    _print(console.exported(result))
    return DONE if result.passed or options.allow_failing else FAILED


def _verify(options: argparse.Namespace) -> int:
    from keras_transfer.export import verify

    result = verify(options.export)
    _print_json(result.to_json()) if options.json else _print(result.render())
    return int(result.result["exit_code"])


def _demo(options: argparse.Namespace) -> int:
    from keras_transfer.export.demo import demo

    demo(
        options.export,
        wasm=options.wasm,
        ready=lambda url: print(f"Open {url} in a browser; Ctrl-C ends it.", flush=True),
    )
    return DONE


def _report(options: argparse.Namespace) -> int:
    from keras_transfer.runs import folder as runs

    run = runs.open_run(options.run)
    _load_keras()
    from keras_transfer.runs import report

    _print(str(report.write_report(run)))
    return DONE


def _cache(options: argparse.Namespace) -> int:
    from keras_transfer import console
    from keras_transfer.base import files
    from keras_transfer.frozen.store import ActivationStore

    with files.cache_at(options.cache):
        store = ActivationStore(files.cache_folder() / "activations", limit=options.cache_limit)
    if options.action == "list":
        rows = store.entries()
        _print_json([console.cache_row(row) for row in rows]) if options.json else _print(
            console.cache(rows, store.folder)
        )
        return DONE
    freed = store.prune(0 if options.action == "clear" else options.cache_limit)
    _print_json({"freed": freed}) if options.json else _print(f"Freed {freed / 2**20:.1f} MiB.")
    return DONE


def _backbones(options: argparse.Namespace) -> int:
    from keras_transfer import backbones

    if options.name is None:
        _print_json(backbones.listing()) if options.json else _print(backbones.render_listing())
        return DONE
    row = backbones.spec(options.name)
    _load_keras()
    size = options.image_size or row.image_size
    if options.json:
        _print_json({"name": row.name, "blocks": backbones.price_table(row.name, size)})
    else:
        _print(backbones.render_price_table(row.name, size))
    return DONE


def _print(what: Any) -> None:
    """Prints text as it is, and what rich knows how to render through it."""
    if isinstance(what, str):
        print(what)
        return
    import rich.console

    width = None if sys.stdout.isatty() else 100
    rich.console.Console(width=width).print(what)


def _print_json(value: Any) -> None:
    from keras_transfer.base.files import plain

    print(json.dumps(plain(value), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
