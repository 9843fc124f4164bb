"""The command line: parse, call, print. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import re
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import keras_transfer
from keras_transfer._version import __version__
from keras_transfer.base import quiet
from keras_transfer.base.backend import require_backend
from keras_transfer.base.errors import KerasTransferError, UsageError, require
from keras_transfer.base.hosts import hosts_of
from keras_transfer.base.progress import LEVELS, Progress, progress_for
from keras_transfer.recipe import BYTES, SETTINGS, TEXT, kind_of, read_file, resolve, whole, word_or

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
DATA = (
    "a folder of class folders, a .csv or .jsonl table of paths or texts, an archive, tfds:NAME, "
    "builtin:digits, builtin:scipy or builtin:spoken"
)
Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    0 done; 2 wrong usage or unusable data; 1 anything else that went wrong; 130 interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in (["search"], ["study"]):
        # Searches have a package of their own, which imports this one.
        command = {"search": "search", "study": "show"}[given[0]]
        return int(importlib.import_module("tuning.__main__").main([command, *given[1:]]))
    return run("keras-transfer", _parser(), given, _how_to_go_on)


def run(
    program: str,
    parser: argparse.ArgumentParser,
    given: list[str],
    how_to_go_on: Callable[[argparse.Namespace, list[str]], str],
) -> int:
    """Parses and carries out a command, and says in one message what went wrong.

    Args:
        program: whose name stands before that message.
        parser: sets ``command`` on what it parses.
        given: the words of the command line.
        how_to_go_on: what to say to somebody who interrupts it.
    """
    _hush()
    if sys.stdout is None:
        return _fail(program, "standard output is closed.", "Send it to /dev/null.", USAGE)
    as_json = "--json" in given
    fail = functools.partial(_fail, program, as_json=as_json)
    options = argparse.Namespace(command=None)  # until it is parsed, which may be interrupted
    try:
        options = parser.parse_args(given)
        # Whoever reads JSON wants to be told of nothing else, unless they say so.
        level = getattr(options, "level", None)
        options.level = level or ("warning" if as_json else "info")
        if options.level == "error":
            warnings.simplefilter("ignore")
        code = int(options.command(options))
        sys.stdout.flush()
        return code
    except KerasTransferError as error:
        return fail(error.message, error.remedy, error.exit_code)
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has seen enough.
        return DONE
    except MemoryError:
        return fail("out of memory.", "Use a smaller --batch-size or size of examples.")
    except OSError as error:
        # A full or read-only disk, a file where a folder is meant, a name that is too long.
        where = f" {error.filename}" if error.filename else ""
        reason = f"cannot read or write{where}: {error.strerror or error}."
        return fail(reason, "Free or choose another place, and try again.")
    except (KeyboardInterrupt, Exception) as error:
        # Closing what was cut off, NumPy raises an error of its own over the interruption.
        if KeyboardInterrupt not in (type(error), type(error.__context__)):
            raise
        quiet.say("", sys.stderr)
        return fail("interrupted.", how_to_go_on(options, given), INTERRUPTED)
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            quiet.give_up(sys.stdout.fileno())


def _fail(
    program: str, message: str, remedy: str, code: int = FAILED, *, as_json: bool = False
) -> int:
    quiet.say("\n  ".join(filter(None, (f"{program}: {message}", remedy))), sys.stderr)
    if as_json:
        told = {"message": message, "remedy": remedy, "exit_code": code}
        quiet.say(json.dumps({"error": told}, indent=2), sys.stdout)
    return code


def _hush() -> None:
    """Makes the standard streams take what is printed, and nothing that is for developers."""
    if sys.stderr is None:  # it is closed, and the next file that is opened would get its number
        quiet.give_up(2)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8")
    if hasattr(sys.stdout, "reconfigure"):  # its encoding may lack letters
        sys.stdout.reconfigure(errors="backslashreplace")
    # TensorFlow reads them when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)
    # A warning is one line without the place in the source.
    warnings.showwarning = lambda said, *_, **also: quiet.say(f"warning: {said}", sys.stderr)


def load_keras() -> None:
    """Imports Keras and its backend with their native libraries' output held back."""
    require_backend()
    if "keras" in sys.modules:
        return
    # What the import makes lives until the end: to look through it for garbage, while it is made,
    # in every full collection and again at the exit, finds nothing and costs two seconds.
    collects = gc.isenabled()
    gc.disable()
    try:
        with quiet.quiet_stdio():
            import keras  # noqa: F401 - imported for its effect
    finally:
        if collects:
            gc.enable()
    gc.freeze()
    atexit.register(gc.freeze)


def _how_to_go_on(options: argparse.Namespace, given: list[str]) -> str:
    if options.command not in (_train, _update):
        return ""
    from keras_transfer.runs import folder as runs

    words = [word for word in given if word not in ("--resume", "--overwrite")]
    if not options.output or not runs.begun(options.output):
        return "Nothing was written."
    return f"Continue with:\n  keras-transfer {shlex.join([*words, '--resume'])}"


# Options ---------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Refuses and fails as commands do: argparse hides that a help could not be printed."""

    def error(self, message: str) -> NoReturn:
        """Ends the parsing, with one message instead of all options."""
        raise UsageError(f"{message}.".replace("..", "."), remedy=f"See `{self.prog} --help`.")

    def _print_message(self, message: str, file: Any = None) -> None:
        print(message, end="", file=file, flush=True)


def add_settings(parser: argparse.ArgumentParser, names: Collection[str] = SETTINGS) -> None:
    """Adds options for settings of a run; only those that are given stand in the namespace."""
    groups: dict[str, Any] = {}
    for name in names:
        about, default = SETTINGS[name].metadata, SETTINGS[name].default
        group = about["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        kind = word_or("auto", kind_of(name)) if name == "batch_size" else kind_of(name)
        spelt = ",".join(map(str, default)) if isinstance(default, tuple) else default
        said = "" if default is None else f" (default {spelt})"
        groups[group].add_argument(
            f"--{name.replace('_', '-')}",
            type=kind.take,
            default=argparse.SUPPRESS,
            metavar="|".join(kind.words) or about["metavar"],
            help=(about["help"] + said).replace("%", "%%"),
        )


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line, by name."""
    return {name: value for name, value in vars(options).items() if name in SETTINGS}


def default_name(data: str) -> str:
    """A folder's name for what is made of some data."""
    return re.sub(r"[^\w.-]+", "-", Path(data.split(":", 1)[-1]).stem).strip("-") or "run"


Argument = tuple[tuple[str, ...], dict[str, Any]]


def argument(*names: str, **settings: Any) -> Argument:
    """An argument of a command, as argparse takes it; its word is not empty."""
    return names, settings if "action" in settings else {"type": TEXT.take} | settings


def flag(name: str, help: str) -> Argument:
    """An option without a value."""
    return argument(f"--{name}", action="store_true", help=help)


def add_commands(
    parser: argparse.ArgumentParser, table: Sequence[tuple[str, Command, str, Sequence[Argument]]]
) -> dict[str, argparse.ArgumentParser]:
    """Adds commands, each with a name, what carries it out, a sentence and its arguments."""
    parser.add_argument("--version", action="version", version=f"keras-transfer {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    made = {}
    for name, command, text, arguments in table:
        made[name] = commands.add_parser(name, help=text, description=text)
        made[name].set_defaults(command=command)
        for names, settings in (*_EVERYWHERE, *arguments):
            made[name].add_argument(*names, **settings)
    return made


def level(*names: str, level: str, help: str) -> Argument:
    """A short word for a ``--log-level``."""
    return argument(*names, action="store_const", dest="level", const=level, help=help)


_EVERYWHERE = (
    flag("json", "print JSON on standard output instead of text"),
    argument("--log-level", dest="level", choices=LEVELS, help="how much is told meanwhile on "
             "standard error (default info)"),
    level("-v", "--verbose", level="debug", help="tell every decision and its reason"),
    level("--quiet", level="warning", help="print the result alone"),
)  # fmt: skip
RUN = argument("run", metavar="RUN")
COUNT = whole(1).take


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="keras-transfer",
        description="Transfer learning for the classification of images, texts and sounds, from a "
        "folder or a table to a model that is proven on the device's own runtime.",
        epilog="keras-transfer search DATA and study STUDY are python -m tuning search and show: "
        "trials over the settings, on shared frozen work.",
    )
    made = add_commands(parser, _COMMANDS)
    add_settings(made["train"])
    add_settings(made["inspect"], ("group", "columns", "multi_label"))
    return parser


# The commands ----------------------------------------------------------------------------------


def _inspect(options: argparse.Namespace) -> int:
    how = settings_of(options)
    with progress_of(options) as progress:
        if options.labels:
            load_keras()
            found = keras_transfer.inspect_labels(options.data, **how, progress=progress)
        else:
            from keras_transfer import datasets

            progress.stage("decode")
            source = datasets.open_source(options.data, **how)
            progress.expect({"decode": 0.003 * len(source.items)})
            found = keras_transfer.inspect(source, multi_label=source.task.setting)
    if options.page:
        found.write_page(options.page)
    manifest = found.fix(options.fix) if options.fix else None
    show(options, found.to_json, found.render)
    if not options.json:
        if options.page:
            echo(f"Page: {options.page}")
        if manifest:
            echo(f"Clean manifest, which can be given as DATA: {manifest}")
    elif found.problem:  # it stands in the JSON
        return _fail("keras-transfer", found.problem.message, found.problem.remedy, USAGE)
    if found.problem:
        raise found.problem
    return USAGE if options.strict and found.problems else DONE


@contextlib.contextmanager
def progress_of(options: argparse.Namespace, *, briefly: bool = False) -> Iterator[Progress]:
    """Says at once that there is work, and tells of it until the block ends.

    Args:
        options: with the ``level`` of what is told.
        briefly: of work of seconds, of which a log need not know.
    """
    silent = briefly and not sys.stderr.isatty()
    with progress_for("warning" if silent else options.level) as progress:
        yield progress


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options of some names, as a call takes them."""
    return {name: getattr(options, name) for name in names}


def _train(options: argparse.Namespace) -> int:
    began, compared = time.monotonic(), list[dict[str, Any]]()
    options.output = options.output or str(Path("runs") / default_name(options.data))
    with progress_of(options) as progress:
        from keras_transfer.runs import folder as runs

        # What is wrong is said before Keras is loaded.
        allowed = given(options, "resume", "overwrite", "data")
        settings = settings_of(options)
        hosts = hosts_of(settings.get("hosts"))
        if hosts is None or hosts.number == 0:
            runs.check_output(options.output, **allowed)
        resolve(settings, read_file(options.config, settings) if options.config else None)
        load_keras()
        asked = allowed | given(options, "output", "tensorboard", "config") | {"progress": progress}
        result = keras_transfer.train(began=began, **asked, **settings)
        if result.path is None:  # the first of several hosts writes the run, and tells of it
            return DONE
        run = keras_transfer.open_run(options.output)
        if options.baselines:
            from keras_transfer.runs import probing

            compared = probing.compare_with_baselines(run, progress)
            run = keras_transfer.open_run(options.output)
    from keras_transfer import console

    detailed = options.level == "debug"
    show(options, lambda: console.run_json(run), lambda: console.summary(result, run, detailed))
    if compared and not options.json:
        echo(console.baselines(compared))
    return DONE


def _opened(options: argparse.Namespace) -> keras_transfer.Run:
    """The run of a command; what is wrong with it is said before Keras is loaded."""
    run = keras_transfer.open_run(options.run)
    load_keras()
    return run


def _evaluate(options: argparse.Namespace) -> int:
    with progress_of(options, briefly=True):
        run = _opened(options)
        from keras_transfer import console
        from keras_transfer.runs import probing

        judged = probing.evaluate_run(run) if options.data is None else None
        shift = probing.evaluate_elsewhere(run, options.data) if judged is None else None
    if judged:
        return show(options, judged.to_json, lambda: console.evaluation(judged, run))
    assert shift is not None
    return show(options, shift.to_json, lambda: console.shift(shift, run.modality.NOUN))


def _curve(options: argparse.Namespace) -> int:
    with progress_of(options) as progress:
        run = _opened(options)
        from keras_transfer import console
        from keras_transfer.runs import probing

        count = sum(run.metrics["images"].values())
        progress.expect({"extract": 0.02 * count, "fits": 0.002 * count}, {"extract": count})
        found = probing.curve(run, progress)
    return show(options, found.to_json, lambda: console.curve(found, run.modality.NOUN))


def _compare(options: argparse.Namespace) -> int:
    with progress_of(options, briefly=True):
        found = keras_transfer.compare([keras_transfer.open_run(path) for path in options.runs])
    return show(options, found.to_json, found.render)


def _update(options: argparse.Namespace) -> int:
    with progress_of(options) as progress:
        from keras_transfer.runs import folder as runs

        run = keras_transfer.open_run(options.run)
        options.output = options.output or str(runs.beside(run.path, "updated"))
        allowed = given(options, "resume", "overwrite", "data")
        runs.check_output(options.output, **allowed, update_of=str(run.path.resolve()))
        load_keras()
        asked = allowed | given(options, "output", "cache")
        found = keras_transfer.update(run, **asked, progress=progress)
    return show(options, found.to_json, found.render)


def _label(options: argparse.Namespace) -> int:
    with progress_of(options) as progress:
        run = _opened(options)
        asked = given(options, "data", "count", "output")
        found = keras_transfer.label(run, **asked, progress=progress)
    return show(options, found.to_json, found.render)


def _predict(options: argparse.Namespace) -> int:
    with progress_of(options, briefly=True):
        load_keras()
        from keras_transfer import console

        rows = keras_transfer.predict(options.model, options.images, **given(options, "top", "csv"))
    show(options, lambda: rows, lambda: console.predictions(rows))
    return USAGE if any("error" in row for row in rows) else DONE


def _export(options: argparse.Namespace) -> int:
    with progress_of(options) as progress:
        run = _opened(options)
        from keras_transfer import console

        asked = given(options, "formats", "output", "overwrite", "allow_failing", "sign")
        result = keras_transfer.export_run(run, **asked, progress=progress)
    show(options, result.to_json, lambda: f"{result.render()}\n{console.exported(result)}")
    return DONE if result.passed or options.allow_failing else FAILED


def _verify(options: argparse.Namespace) -> int:
    with progress_of(options) as progress:
        result = keras_transfer.verify(options.export, options.key, progress=progress)
    show(options, result.to_json, result.render)
    return int(result.result["exit_code"])


def _demo(options: argparse.Namespace) -> int:
    from keras_transfer.export.demo import Demo

    with Demo(options.export, wasm=options.wasm, port=options.port) as server:
        said = f"Open {server.url} in a browser; Ctrl-C ends it."
        show(options, lambda: {"url": server.url}, lambda: said)
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):  # its proper end
            server.serve_forever()
    return DONE


def _report(options: argparse.Namespace) -> int:
    with progress_of(options, briefly=True):
        run = _opened(options)
        from keras_transfer.runs import report

        page = str(report.write_report(run))
    return show(options, lambda: {"report": page}, lambda: page)


def _cache(options: argparse.Namespace) -> int:
    from keras_transfer import console
    from keras_transfer.base import files
    from keras_transfer.frozen.store import ActivationStore

    with files.cache_at(options.cache):
        store = ActivationStore(files.cache_folder() / "activations", limit=options.cache_limit)
    if options.action == "list":
        rows = store.entries()
        listed = [console.cache_row(row) for row in rows]
        return show(options, lambda: listed, lambda: console.cache(rows, store.folder))
    freed = store.prune(0 if options.action == "clear" else options.cache_limit)
    return show(options, lambda: {"freed": freed}, lambda: f"Freed {freed / 2**20:.1f} MiB.")


def _backbones(options: argparse.Namespace) -> int:
    from keras_transfer import backbones
    from keras_transfer.modalities import modality

    if options.name is None:
        return show(options, backbones.listing, backbones.render_listing)
    row = backbones.spec(options.name)
    with progress_of(options, briefly=True):
        load_keras()
    size = getattr(options, modality(row.modality).SIZE) or row.size
    return show(
        options,
        lambda: {"name": row.name, "blocks": backbones.price_table(row.name, size)},
        lambda: backbones.render_price_table(row.name, size),
    )


def _completion(options: argparse.Namespace) -> int:
    require(["shtab"], "pip install 'keras-transfer[completion]'.")
    import shtab

    script = shtab.complete(_completed(shtab.FILE), options.shell)
    return show(options, lambda: {"script": script}, lambda: script)


def _completed(file: Any) -> argparse.ArgumentParser:
    """The parser of all verbs, the searches' included, with the words that each option takes."""
    from keras_transfer import backbones

    parser, searches = _parser(), importlib.import_module("tuning.__main__").parser()
    verbs, others = (_verbs(one) for one in (parser, searches))
    for name, of_tuning in (("search", "search"), ("study", "show")):
        other = others.choices[of_tuning]
        verbs.add_parser(name, parents=[other], add_help=False, help=other.description)
    names = [row["name"] for row in backbones.listing()]
    for action in (action for verb in verbs.choices.values() for action in verb._actions):
        words = kind_of(action.dest).words if action.dest in SETTINGS else ()
        named = action.dest == "backbone" or action.metavar == "NAME"
        if action.choices is None and (names if named else words):
            action.choices = names if named else words
        elif action.choices is None and action.metavar in _PLACES:
            action.complete = file
    return parser


# What stands for a file or a folder in a usage line.
_PLACES = ("DATA", "RUN", "RUN|MODEL", "IMAGE", "EXPORT", "STUDY", "FILE", "DIR", "KEY", "PATH")


def _verbs(parser: argparse.ArgumentParser) -> Any:
    return next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))


_COMMANDS: tuple[tuple[str, Command, str, Sequence[Argument]], ...] = (
    ("inspect", _inspect, "Look at a data set and say what is wrong with it.", (
        argument("data", metavar="DATA", help=DATA),
        flag("strict", "exit 2 if there are findings"),
        flag("labels", "also find labels that look wrong, which takes one pass of every example "
             "through the default backbone"),
        argument("--fix", metavar="DIR", help="write a clean manifest into DIR"),
        argument("--page", metavar="FILE", help="write an HTML page that shows it"),
    )),
    ("train", _train, "Train a classifier on a data set.", (
        argument("data", metavar="DATA", help=DATA),
        argument("--config", metavar="FILE", help="settings as TOML, or a run's config.json"),
        argument("--output", metavar="RUN", help="the run folder (default runs/NAME)"),
        flag("resume", "go on with a killed run"),
        flag("overwrite", "replace a run in RUN"),
        flag("tensorboard", "write event files to RUN/tensorboard"),
        flag("baselines", "also measure nearest neighbour, logistic regression, from scratch"),
    )),
    ("evaluate", _evaluate, "Evaluate a run on its test split or on other data.", (
        RUN, argument("data", metavar="DATA", nargs="?"),
    )),
    ("compare", _compare, "Compare runs on the same test split.", (
        argument("runs", metavar="RUN", nargs="+"),
    )),
    ("update", _update, "Train a run again with more data, and compare both.", (
        RUN,
        argument("data", metavar="DATA", help="new examples, of known classes or of new ones"),
        argument("--output", metavar="RUN2", help="the new run folder (default RUN-updated)"),
        flag("resume", "go on with a killed update"),
        flag("overwrite", "replace a run in RUN2"),
        argument("--cache", metavar="DIR|off", help=SETTINGS["cache"].metadata["help"]),
    )),
    ("label", _label, "Rank what to label next, and write a sheet to fill in.", (
        RUN,
        argument("data", metavar="UNLABELLED", help="a folder, or a table of paths or texts"),
        argument("--count", type=COUNT, default=100, help="how many (default 100)"),
        argument("--output", metavar="DIR", help="for the sheet (default RUN-to-label)"),
    )),
    ("predict", _predict, "Classify images, texts or sounds with a run or an exported model.", (
        argument("model", metavar="RUN|MODEL"),
        argument("images", metavar="IMAGE", nargs="+", help="a file, a folder of them, or a table; "
                 "for a model of texts also a text, or - for the lines of the standard input"),
        argument("--top", type=COUNT, default=3, help="classes to name (default 3)"),
        argument("--csv", metavar="FILE", help="write a table, too: predicted, probability, "
                 "unsure, error"),
    )),
    ("export", _export, "Export a run and prove what is exported.", (
        RUN,
        argument("--formats", default="saved_model,tflite", metavar="A,B,...", help="any of "
                 "saved_model, tflite, tflite-float16, tflite-dynamic, tflite-int8, onnx, keras "
                 "(default saved_model,tflite)"),
        argument("--output", metavar="DIR", help="default: saved_models/NAME"),
        flag("overwrite", "replace an export in DIR"),
        flag("allow-failing", "keep artefacts that fail"),
        argument("--sign", metavar="KEY", help="an Ed25519 private key (PEM) to sign it with"),
    )),
    ("verify", _verify, "Repeat the proof of an export folder: exit 0 passed, 1 failed, 2 no "
     "runtime is installed.", (
        argument("export", metavar="EXPORT"),
        argument("--key", metavar="KEY", help="the signer's Ed25519 public key (PEM): fail what "
                 "was not signed by it"),
    )),
    ("demo", _demo, "Try an export on a local page: a file, camera, microphone, or a text.", (
        argument("export", metavar="EXPORT"),
        argument("--port", type=whole(0, 65535).take, default=0, metavar="N",
                 help="where it listens on this machine (default: any free port)"),
        argument("--wasm", metavar="DIR", help="node_modules/@mediapipe/tasks-vision, "
                 "tasks-audio or tasks-text: run the .tflite in the browser itself"),
    )),
    ("curve", _curve, "Say what more data would bring to a run.", (RUN,)),
    ("report", _report, "Write a run's report.html again.", (RUN,)),
    ("cache", _cache, "List, prune or clear the cached activations.", (
        argument("action", choices=("list", "prune", "clear"), nargs="?", default="list"),
        argument("--cache", metavar="DIR", help="where the cache is"),
        argument("--cache-limit", type=BYTES.take, metavar="SIZE", help="to prune down to"),
    )),
    ("backbones", _backbones, "List the backbones, or one backbone's blocks and prices.", (
        argument("name", metavar="NAME", nargs="?"),
        *(argument(f"--{name.replace('_', '-')}", type=kind_of(name).take,
                   metavar="N") for name in ("image_size", "max_length")),
    )),
    ("completion", _completion, "Print what completes this command in a shell: eval \"$(keras-"
     "transfer completion bash)\", or into a file of fish's or zsh's.", (
        argument("shell", choices=("bash", "zsh", "fish")),
    )),
)  # fmt: skip


def show(
    options: argparse.Namespace,
    plain: Callable[[], Any],
    rendered: Callable[[], Any],
    width: int | None = None,
) -> int:
    """Prints a result as JSON where that was asked for, else as people read it."""
    if options.json:
        from keras_transfer.base import files

        escaped = (sys.stdout.encoding or "utf-8").lower() != "utf-8"
        print(json.dumps(files.plain(plain()), indent=2, ensure_ascii=escaped))
    else:
        echo(rendered(), width)
    return DONE


def echo(what: Any, width: int | None = None) -> None:
    """Prints text as it is, and what rich knows how to render as rich does, in so many columns."""
    if not isinstance(what, str):
        import rich.console

        width = width or (None if sys.stdout.isatty() else 100)
        console = rich.console.Console(width=width, markup=False, emoji=False)
        with console.capture() as rendered:  # it would end the process where a pipe is closed
            console.print(what)
        what = rendered.get().rstrip("\n")
    print(what)
