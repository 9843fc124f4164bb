"""The command line of searches: parse, call, print. Nothing heavy is imported before its use."""

from __future__ import annotations

import argparse
import contextlib
import functools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_transfer import cli
from keras_transfer.recipe import BYTES, DURATION, SETTINGS

_PROG = "python -m tuning"
# The time of a study is bounded by --max-time, and no trial looks at one fold alone.
_OF_STUDY = [name for name in SETTINGS if name not in ("time_budget", "fold")]
_OF_SEARCH = "data", "output", "trials", "max_time", "tuner", "objective", "space", "resume"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status, as ``keras-transfer`` does."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return cli.run("tuning", parser(), given, _how_to_go_on)


def _how_to_go_on(options: argparse.Namespace, given: list[str]) -> str:
    words = [word for word in given if word != "--resume"]
    begun = options.command in (_search, _chief) and Path(options.output, "study.json").exists()
    return f"Continue with:\n  {_PROG} {shlex.join([*words, '--resume'])}" if begun else ""


def parser() -> argparse.ArgumentParser:
    """Parses the command line of searches."""
    made = cli.Parser(
        prog=_PROG,
        description="Search the settings of a training run that matter; trials share frozen work.",
    )
    verbs = cli.add_commands(made, _COMMANDS)
    for name in ("search", "chief"):
        cli.add_settings(verbs[name], _OF_STUDY)
    return made


def _chief(options: argparse.Namespace) -> int:
    with cli.progress_of(options):
        cli.load_keras()
        from tuning import workers

        server, secret = workers.listen(options.address)
    where = server, secret, options.address, options.lost_after
    return _search(options, lambda tuner, progress: workers.serve(tuner, *where, progress))


def _worker(options: argparse.Namespace) -> int:
    with cli.progress_of(options) as progress:
        cli.load_keras()
        from tuning import workers

        asked = cli.given(options, "study", "chief", "data", "cache", "cache_limit")
        done = workers.work(**asked, progress=progress)
    said = f"The chief has no more trials; this worker ran {done}."
    return cli.show(options, lambda: {"trials": done}, lambda: said)


def _search(options: argparse.Namespace, serve: Any = None) -> int:
    options.output = options.output or str(Path("studies") / cli.default_name(options.data))
    with cli.progress_of(options) as progress:
        cli.load_keras()
        from tuning import results, search

        asked = cli.given(options, *_OF_SEARCH) | ({"serve": serve} if serve else {})
        study = search.search(**asked, settings=cli.settings_of(options), progress=progress)
    cli.show(options, lambda: results.to_json(study), lambda: results.render(study))
    if not options.json:
        again = results.command(study, results.read_study(study))
        print(f"Page: {study / results.PAGE}\nTrain the best again: {again}")
    return cli.DONE


def _show(options: argparse.Namespace) -> int:
    from tuning import results, study_page

    rendered = functools.partial(results.render, options.study, options.wide)
    if options.tensorboard:
        from tuning import hparams

        place = hparams.write_events(Path(options.study), Path(options.tensorboard))
    width = 10_000 if options.wide else None
    cli.show(options, lambda: results.to_json(options.study), rendered, width)
    if options.json:
        return cli.DONE
    if options.tensorboard:
        print(f"Event files: tensorboard --logdir {shlex.quote(str(place))}")
    # A study that somebody else keeps may be looked at and not written to.
    with contextlib.suppress(OSError):
        print(f"Page: {study_page.write_page(Path(options.study))}")
    return cli.DONE


def _space(options: argparse.Namespace) -> int:
    from tuning import space

    made, text = space.default_space(kind=options.modality), space.default_text(options.modality)
    return cli.show(options, made.to_json, lambda: text.rstrip("\n"))


_SEARCH = (
    cli.argument("data", metavar="DATA", help=cli.DATA),
    cli.argument("--trials", type=cli.COUNT, default=20, metavar="N", help="in all (default 20)"),
    cli.argument("--max-time", type=DURATION.take, metavar="1h", help="begin no trial after "
                 "that long"),
    cli.argument("--tuner", choices=("bayesian", "hyperband", "random"), default="hyperband"),
    cli.argument("--objective", choices=("nll", "accuracy", "f1"), default="nll", help="what is "
                 "searched for on validation (default nll, after calibration)"),
    cli.argument("--space", metavar="FILE", help="what is varied, as TOML"),
    cli.argument("--output", metavar="STUDY", help="the study (default studies/NAME)"),
    cli.flag("resume", "go on with a study"),
)  # fmt: skip
_COMMANDS: tuple[tuple[str, cli.Command, str, Sequence[cli.Argument]], ...] = (
    ("search", _search, "Run trials and train the best one as a run.", _SEARCH),
    ("chief", _chief, "Hand out a search's trials to workers on several machines.", (
        *_SEARCH,
        cli.argument("--address", default="127.0.0.1:8440", metavar="HOST:PORT", help="where "
                     "workers reach it (default %(default)s; 0.0.0.0:PORT for other machines, on "
                     "a network that you trust)"),
        cli.argument("--lost-after", type=DURATION.take, default=60.0, metavar="60s",
                     help="how long a worker may be silent before its trial is handed out again"),
    )),
    ("worker", _worker, "Run trials that a chief hands out.", (
        cli.argument("study", metavar="STUDY", help="the chief's --output, on a shared disk"),
        cli.argument("--chief", required=True, metavar="HOST:PORT", help="the chief's address"),
        cli.argument("--data", metavar="DATA", help="where the data is here, if elsewhere"),
        cli.argument("--cache", metavar="DIR", help="where frozen work is kept"),
        cli.argument("--cache-limit", type=BYTES.take, metavar="SIZE", help="such as 20G"),
        )),
    ("show", _show, "Show a study's trials, best first.", (
        cli.argument("study", metavar="STUDY"),
        cli.flag("wide", "all trials, figures and settings, however wide"),
        cli.argument("--tensorboard", metavar="DIR", help="write event files for TensorBoard's "
                     "HParams plugin"),
    )),
    ("space", _space, "Print the default space as TOML, ready to edit.", (
        cli.argument("--modality", choices=("image", "text", "audio"), default="image",
                     help="of the data (default %(default)s)"),
    )),
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
