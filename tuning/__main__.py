"""The command line of searches: parse, call, print. Nothing heavy is imported before its use."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_transfer import cli
from keras_transfer._version import __version__
from keras_transfer.base.errors import KerasTransferError

_PROG = "python -m tuning"
_TUNERS = ("bayesian", "hyperband", "random")
_OBJECTIVES = ("nll", "accuracy", "f1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status, as ``keras-transfer`` does."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cli._hush()
    options = _parser().parse_args(given)
    try:
        return int(options.command(options))
    except KerasTransferError as error:
        print(f"tuning: {error.message}\n  {error.remedy}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        words = [word for word in given if word != "--resume"]
        said = f" Continue with:\n  {_PROG} {shlex.join([*words, '--resume'])}"
        begun = options.command in (_search, _chief) and Path(options.output, "study.json").exists()
        print(f"\ntuning: interrupted.{said if begun else ''}", file=sys.stderr)
        return cli.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return cli.DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROG,
        description="Search the settings of a training run that matter; trials share frozen work.",
    )
    parser.add_argument("--version", action="version", version=f"keras-transfer {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: cli.Command, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(command=command)
        return made

    _add_search(add("search", _search, "Run trials and train the best one as a run."))
    made = add("chief", _chief, "Hand out a search's trials to workers on several machines.")
    _add_search(made)
    made.add_argument(
        "--address",
        default="127.0.0.1:8440",
        metavar="HOST:PORT",
        help="where workers reach it (default %(default)s; 0.0.0.0:PORT for other machines, on a "
        "network that you trust)",
    )
    made.add_argument(
        "--lost-after",
        type=cli._duration,
        default=60.0,
        metavar="60s",
        help="how long a worker may be silent before its trial is handed out again",
    )
    _add_worker(add("worker", _worker, "Run trials that a chief hands out."))
    made = add("show", _show, "Show a study's trials, best first.")
    made.add_argument("study", metavar="STUDY")
    made.add_argument("--json", action="store_true", help="print JSON instead of text")
    made.add_argument(
        "--tensorboard", metavar="DIR", help="write event files for TensorBoard's HParams plugin"
    )
    add("space", _space, "Print the default space as TOML, ready to edit.")
    return parser


def _add_search(parser: argparse.ArgumentParser) -> None:
    whole = cli._whole
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a folder of class folders, a .csv manifest, tfds:NAME, or builtin:digits",
    )
    parser.add_argument(
        "--trials", type=whole(1), default=20, metavar="N", help="trials in all (default 20)"
    )
    parser.add_argument(
        "--max-time", type=cli._duration, metavar="1h", help="begin no trial after that long"
    )
    parser.add_argument("--tuner", choices=_TUNERS, default="hyperband")
    parser.add_argument(
        "--objective",
        choices=_OBJECTIVES,
        default="nll",
        help="what is searched for on validation (default nll, after calibration)",
    )
    parser.add_argument("--space", metavar="FILE", help="what is varied, as TOML")
    parser.add_argument("--backbone", default="EfficientNetLite0", metavar="NAME")
    parser.add_argument("--weights", metavar="imagenet|offline|none|PATH|RUN")
    parser.add_argument("--image-size", type=whole(1), metavar="N", help="pixels")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--split", type=cli._shares, default=(0.7, 0.15, 0.15), metavar="TRAIN,VAL,TEST"
    )
    group.add_argument("--splits", metavar="FILE", help="a splits.csv to apply")
    parser.add_argument("--seed", type=whole(0), default=0, metavar="N")
    parser.add_argument("--cache", metavar="DIR", help="where frozen work is kept")
    parser.add_argument("--cache-limit", type=cli._bytes, metavar="SIZE", help="such as 20G")
    parser.add_argument(
        "--engine",
        choices=("auto", "keras", "openvino", "openvino-bfloat16"),
        default="auto",
        help="what runs the frozen part",
    )
    parser.add_argument("--jit", choices=("auto", "on", "off"), default="auto", help="XLA")
    parser.add_argument("--output", metavar="STUDY", help="the study (default studies/NAME)")
    parser.add_argument("--resume", action="store_true", help="go on with a study")
    parser.add_argument("--quiet", action="store_true", help="print the result alone")


def _add_worker(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", help="the chief's --output, on a shared disk")
    parser.add_argument("--chief", required=True, metavar="HOST:PORT", help="the chief's address")
    parser.add_argument("--data", metavar="DATA", help="where the data is here, if elsewhere")
    parser.add_argument("--cache", metavar="DIR", help="where frozen work is kept")
    parser.add_argument("--cache-limit", type=cli._bytes, metavar="SIZE", help="such as 20G")
    parser.add_argument("--quiet", action="store_true", help="print the result alone")


def _chief(options: argparse.Namespace) -> int:
    import functools

    from keras_transfer.base.progress import progress_for
    from tuning import workers

    workers.check_address(options.address)
    return _search(
        options,
        serve=functools.partial(
            workers.serve,
            address=options.address,
            lost_after=options.lost_after,
            progress=progress_for(options.quiet),
        ),
    )


def _worker(options: argparse.Namespace) -> int:
    cli._load_keras()
    from keras_transfer.base.progress import progress_for
    from tuning import workers

    done = workers.work(
        options.study,
        options.chief,
        data=options.data,
        cache=options.cache,
        cache_limit=options.cache_limit,
        progress=progress_for(options.quiet),
    )
    print(f"The chief has no more trials; this worker ran {done}.")
    return cli.DONE


def _search(options: argparse.Namespace, **more: Any) -> int:
    name = Path(cli._default_output(options.data)).name
    options.output = options.output or str(Path("studies") / name)
    from tuning import space_file

    wanted = space_file.read(options.space) if options.space else None
    cli._load_keras()
    from keras_transfer.base.progress import progress_for
    from tuning import objective, results, search
    from tuning import study_page as page

    setup = objective.Setup(
        data=options.data,
        backbone=options.backbone,
        weights=options.weights,
        image_size=options.image_size,
        split=options.split,
        splits_file=options.splits,
        seed=options.seed,
        engine=options.engine,
        jit=options.jit,
    )
    study = search.search(
        setup,
        options.output,
        trials=options.trials,
        max_time=options.max_time,
        tuner=options.tuner,
        objective=options.objective,
        space=wanted,
        resume=options.resume,
        cache=options.cache,
        cache_limit=options.cache_limit,
        progress=progress_for(options.quiet),
        **more,
    )
    cli._print(results.render(study))
    best = shlex.quote(str(study / results.BEST))
    splits = f" --splits {shlex.quote(options.splits)}" if options.splits else ""
    print(f"Page: {study / page.PAGE}")
    print(f"Repeat it: keras-transfer train {shlex.quote(options.data)} --config {best}{splits}")
    return cli.DONE


def _show(options: argparse.Namespace) -> int:
    from tuning import results
    from tuning import study_page as page

    if options.json:
        cli._print_json(results.to_json(options.study))
        return cli.DONE
    cli._print(results.render(options.study))
    if options.tensorboard:
        from tuning import hparams

        place = hparams.write_events(Path(options.study), Path(options.tensorboard))
        print(f"Event files: tensorboard --logdir {shlex.quote(str(place))}")
    # A study that somebody else keeps may be looked at and not written to.
    with contextlib.suppress(OSError):
        print(f"Page: {page.write_page(Path(options.study))}")
    return cli.DONE


def _space(options: argparse.Namespace) -> int:
    from tuning import space_file

    print(space_file.DEFAULT, end="")
    return cli.DONE


if __name__ == "__main__":
    sys.exit(main())
