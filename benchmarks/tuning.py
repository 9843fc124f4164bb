"""A search on shared frozen work against plain KerasTuner over an uncached Keras model.

    python benchmarks/tuning.py [--configurations 12] [--epochs 8] [--image-size 128] [--views 4]
                                [--data DIR] [--memory-trials 60] [--skip-memory]
    python benchmarks/tuning.py --search [--tuners bayesian hyperband] [--seeds 0 1 2] [--trials 30]

Both train the same configurations, depths by rates, by the same recipe with the same seed, each in
a process of its own from an empty store. Recipe: solve the head on frozen features of all views,
then fine-tune above the depth with AdamW, cosine, clipping and an average of the weights. The
plain side holds nothing between epochs or trials: a step costs about T + 2R there and 3R here, with
T the backbone's forward pass and R that of its unfrozen part, and their ratio over the mix of
depths is the bound for fine-tuning that stands beside the figure. Memory is that of a process after
many tiny trials.

``--search`` takes the plain side from the results of the first form: how soon whole searches from
an empty store, with the default space, come to the best validation NLL of all its configurations,
on the same splits; and what so many trials cost in uncached default runs, one of which it times.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, SHARED, python, record

# This file has the name of the package that it measures, and its folder comes first.
sys.path.append(sys.path.pop(0))

# Top block to above block3b of EfficientNet-Lite0, as shares of its multiply-adds.
DEPTHS, RATES = ("1", "12%", "35%", "70%"), (2e-4, 4e-4, 1e-3)


def configurations(count: int) -> list[dict[str, Any]]:
    """Depths by rates; fewer than all take the rates one after the other over every depth."""
    every = [{"unfreeze": d, "fine_tune_lr": r} for r in RATES for d in DEPTHS]
    return every[:count]


def ours(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The trials of a search on one workbench; the first one pays for extraction and all heads."""
    from keras_transfer.frozen.store import ActivationStore
    from keras_transfer.recipe import resolve
    from tuning import space
    from tuning.bench import Workbench

    rows = []
    with tempfile.TemporaryDirectory() as folder, ActivationStore(Path(folder) / "store") as store:
        recipe = resolve({"image_size": options.image_size})
        bench = Workbench(options.data, recipe, Path(folder) / "heads", store)
        wanted = configurations(options.configurations)
        depths = list(dict.fromkeys(one["unfreeze"] for one in wanted))
        text = f"views = {options.views}\nfine_tune_epochs = {options.epochs}\n[unfreeze]\n"
        text += f"choices = {json.dumps(depths)}\ndefault = {json.dumps(depths[0])}\n"
        begun = time.perf_counter()
        bench.plan(space.parse(text), len(wanted))
        print(f"data, backbone and plan: {time.perf_counter() - begun:.1f} s")
        for number, values in enumerate(wanted):
            values |= {"fine_tune_epochs": options.epochs, "views": options.views}
            begun = time.perf_counter()
            done, _ = bench.run(bench.trial_recipe(values), Path(folder) / str(number), None)
            seconds = time.perf_counter() - begun
            rest = seconds - done.fine_tune_seconds
            rows.append(
                {"depth": values["unfreeze"], "rate": values["fine_tune_lr"], "seconds": seconds,
                 "nll": done.nll, "accuracy": done.accuracy, "rest": rest,
                 "fine_tune": done.fine_tune_seconds, "compilations": done.compilations}
            )  # fmt: skip
    return rows


def plain(
    options: argparse.Namespace, wanted: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """KerasTuner's grid search over a model that is built, compiled and run whole each time."""
    import keras
    import keras_tuner
    import numpy as np

    from keras_transfer import backbones, datasets
    from keras_transfer.learn import calibration, heads, planner
    from keras_transfer.modalities import image

    data = datasets.load_dataset(options.data, image_size=options.image_size)
    assert data.examples is not None
    train, validation = data.indices("train"), data.indices("val")
    digests = [data.digests[i] for i in train]
    classes, labels = len(data.class_names), data.labels
    targets = np.eye(classes, dtype=np.float32)[labels]
    rows: list[dict[str, Any]] = []

    def pixels(view: int) -> np.ndarray:
        return image.view(data.examples[train], digests, view)

    class Whole(keras_tuner.GridSearch):
        def run_trial(self, trial: Any, *arguments: Any, **named: Any) -> float:
            hp, begun = trial.hyperparameters, time.perf_counter()
            keras.utils.set_random_seed(0)
            built = backbones.build(
                "EfficientNetLite0", image_size=options.image_size, weights="offline"
            )
            depth = planner.resolve_depth(built.blocks, hp.get("depth"))
            top = {name for block in built.blocks[-depth:] for name in block.layers}
            for layer in built.model.layers:
                norm = isinstance(layer, keras.layers.BatchNormalization)
                layer.trainable = layer.name in top and not norm
            pooled = keras.layers.GlobalAveragePooling2D()(built.model.output)
            dense = keras.layers.Dense(classes, name="logits")
            model = keras.Model(built.model.input, dense(pooled))
            features = keras.Model(built.model.input, pooled)
            solved = heads.solve_head(
                np.concatenate(
                    [features.predict(pixels(v), verbose=0) for v in range(options.views)]
                ),
                np.tile(labels[train], options.views),
                classes,
                features.predict(data.examples[validation], verbose=0),
                labels[validation],
            )
            dense.set_weights([solved.kernel, solved.bias])
            steps = -(-len(train) // 32) * options.epochs
            warm = max(1, round(0.1 * steps))
            rate = keras.optimizers.schedules.CosineDecay(
                0.0, steps - warm, warmup_target=hp.get("rate"), warmup_steps=warm
            )
            optimizer = keras.optimizers.AdamW(
                rate, weight_decay=1e-4, global_clipnorm=1.0, use_ema=True, ema_momentum=0.98
            )
            loss = keras.losses.CategoricalCrossentropy(from_logits=True)
            model.compile(optimizer, loss)
            best = np.inf
            for epoch in range(options.epochs):
                model.fit(
                    pixels((epoch + 1) % options.views), targets[train],
                    initial_epoch=epoch, epochs=epoch + 1, verbose=0,
                )  # fmt: skip
                logits = model.predict(data.examples[validation], verbose=0)
                heat = calibration.fit_temperature(logits, labels[validation])
                best = min(best, calibration.nll(logits, labels[validation], heat))
            accuracy = float((logits.argmax(axis=1) == labels[validation]).mean())
            seconds = time.perf_counter() - begun
            rows.append({"depth": hp.get("depth"), "rate": hp.get("rate"), "seconds": seconds,
                         "nll": best, "accuracy": accuracy})  # fmt: skip
            return best

    space = keras_tuner.HyperParameters()
    wanted = wanted or configurations(options.configurations)
    depths = list(dict.fromkeys(one["unfreeze"] for one in wanted))
    rates = list(dict.fromkeys(one["fine_tune_lr"] for one in wanted))
    space.Choice("depth", depths) if len(depths) > 1 else space.Fixed("depth", depths[0])
    space.Choice("rate", rates) if len(rates) > 1 else space.Fixed("rate", rates[0])
    with tempfile.TemporaryDirectory() as folder:
        Whole(hypermodel=None, hyperparameters=space,
              max_trials=len(wanted), directory=folder).search(verbose=0)  # fmt: skip
    return rows


def default(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One plain run of the default recipe."""
    from keras_transfer.recipe import Recipe

    recipe = Recipe()
    options.epochs, options.views = recipe.fine_tune_epochs, recipe.views
    return plain(options, [{"unfreeze": recipe.unfreeze, "fine_tune_lr": recipe.fine_tune_lr}])


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Resident memory as tiny trials go by in one process."""
    import psutil

    from keras_transfer.frozen.store import ActivationStore
    from keras_transfer.recipe import resolve
    from tuning.bench import Workbench

    rows = []
    with tempfile.TemporaryDirectory() as folder, ActivationStore(Path(folder) / "store") as store:
        recipe = resolve({"image_size": 32})
        bench = Workbench("builtin:digits", recipe, Path(folder) / "heads", store)
        for number in range(options.memory_trials):
            values = {"unfreeze": str(1 + number % 2), "fine_tune_epochs": 1, "views": 1,
                      "fine_tune_lr": 1e-4 * (1 + number)}  # fmt: skip
            bench.run(bench.trial_recipe(values), Path(folder) / str(number), None)
            rows.append({"trial": number, "bytes": psutil.Process().memory_info().rss})
    return rows


def bound(image_size: int, wanted: list[dict[str, Any]]) -> float:
    """(T + 2R) / 3R over the mix of depths, in counted multiply-adds."""
    from keras_transfer import backbones
    from keras_transfer.learn import planner

    blocks = backbones.build("EfficientNetLite0", image_size=image_size, weights="none").blocks
    whole = sum(block.macs for block in blocks)
    above = [
        sum(b.macs for b in blocks[-planner.resolve_depth(blocks, one["unfreeze"]) :])
        for one in wanted
    ]
    return sum(whole + 2 * r for r in above) / sum(3 * r for r in above)


PARTS = {"ours": ours, "plain": plain, "default": default, "memory": memory}


def part_of(part: str, arguments: list[str]) -> tuple[list[dict[str, Any]], float]:
    """What one side found in a process of its own, and the seconds of that process."""
    with tempfile.TemporaryDirectory() as cache:
        # Decoded pixels and converted weights belong to both sides alike.
        shared = os.environ.get("KERAS_TRANSFER_CACHE", cache)
        done = python(__file__, *arguments, "--part", part, KERAS_TRANSFER_CACHE=shared)
    line = next(text for text in done["output"].splitlines() if text.startswith("RESULT "))
    print(f"{part}: {done['seconds']:.1f} s", flush=True)
    found: list[dict[str, Any]] = json.loads(line.removeprefix("RESULT "))
    return found, done["seconds"]


def searches(options: argparse.Namespace) -> None:
    """Whole searches by the command line, against the plain trials that are on record."""
    from keras_transfer.datasets import load_dataset, write_splits

    held = json.loads((RESULTS / "tuning.json").read_text())
    aim = min(row["plain NLL"] for row in held["rows"])
    took = sum(row["plain, s"] for row in held["rows"])
    whole = part_of("default", ["--image-size", str(options.image_size)])[0][0]["seconds"]
    rows = []
    for tuner in options.tuners:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as name:
                splits, study = Path(name) / "splits.csv", Path(name) / "study"
                write_splits(load_dataset(options.data, cache=False), splits)
                begun = datetime.datetime.now(datetime.UTC)
                python(
                    "-m", "tuning", "search", options.data, "--tuner", tuner, "--quiet",
                    "--image-size", str(options.image_size), "--trials", str(options.trials),
                    "--seed", str(seed), "--splits", str(splits), "--output", str(study),
                    KERAS_TRANSFER_CACHE=str(Path(name) / "cache"),
                )  # fmt: skip
                with open(study / "trials.csv", newline="") as stream:
                    trials = [row for row in csv.DictReader(stream) if row["nll"]]
            ended = [
                (datetime.datetime.fromisoformat(row["finished"]) - begun).total_seconds()
                for row in trials
            ]
            there = [t for t, row in zip(ended, trials, strict=True) if float(row["nll"]) <= aim]
            rows.append(
                {
                    "tuner": tuner,
                    "seed": seed,
                    "trials": len(trials),
                    "all trials, s": round(max(ended)),
                    "in uncached default runs": round(max(ended) / whole, 2),
                    "best NLL": round(min(float(row["nll"]) for row in trials), 4),
                    "plain's best reached after, s": round(min(there)) if there else "never",
                    "times sooner": round(took / min(there), 1) if there else "",
                }
            )
            print(rows[-1], flush=True)
    said = [
        f"Plain: best validation NLL {aim:.4f} of {len(held['rows'])} trials in {took:.0f} s "
        f"(`tuning.md`); one uncached default run {whole:.0f} s."
    ]
    for tuner in options.tuners:
        mine = [row for row in rows if row["tuner"] == tuner]
        sooner = [float(row["times sooner"] or 0) for row in mine]
        share = statistics.median(float(row["in uncached default runs"]) for row in mine)
        said.append(
            f"{tuner}: reached {statistics.median(sooner):.1f} times sooner, {options.trials} "
            f"trials cost {share:.1f} default runs (medians of {len(mine)} seeds)."
        )
    command = " ".join(["python benchmarks/tuning.py", *sys.argv[1:]])
    record("tuning_search", command, rows, "\n".join(said))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=str(SHARED / "emoji-noto"))
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--configurations", type=int, default=12)
    parser.add_argument("--memory-trials", type=int, default=60)
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--search", action="store_true", help="whole searches")
    parser.add_argument("--tuners", nargs="+", default=["bayesian", "hyperband"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--part", choices=tuple(PARTS), help="one side alone, as JSON")
    options = parser.parse_args()
    if options.part:
        found = PARTS[options.part](options)
        print("RESULT " + json.dumps(found))
        return
    if options.search:
        searches(options)
        return
    given = [word for word in sys.argv[1:] if word != "--skip-memory"]
    scale = " ".join(["python benchmarks/tuning.py", *sys.argv[1:]])

    walls: dict[str, float] = {}

    def run(part: str) -> list[dict[str, Any]]:
        found, walls[part] = part_of(part, given)
        return found

    mine, theirs = run("ours"), run("plain")
    limit = bound(options.image_size, configurations(options.configurations))
    by_key = {(row["depth"], row["rate"]): row for row in theirs}
    table = []
    for row in mine:
        other = by_key[row["depth"], row["rate"]]
        table.append(
            {"depth": row["depth"], "rate": row["rate"], "plain, s": round(other["seconds"], 1),
             "ours, s": round(row["seconds"], 1),
             "ratio": round(other["seconds"] / row["seconds"], 2),
             "plain NLL": round(other["nll"], 4), "our NLL": round(row["nll"], 4),
             "neither training nor evaluation, s": round(row["rest"], 2),
             "compilations": row["compilations"]}
        )  # fmt: skip
    totals = [sum(row["seconds"] for row in side) for side in (theirs, mine)]
    ratio = totals[0] / totals[1]
    warm = [row["rest"] for row in mine if not row["compilations"]]
    said = [
        f"Scale: {options.configurations} configurations, {options.epochs} epochs, "
        f"{options.views} views, {options.image_size} px.",
        f"All trials: plain {totals[0]:.1f} s, ours {totals[1]:.1f} s with extraction, ratio "
        f"{ratio:.2f}. (T + 2R) / 3R over this mix is {limit:.2f}; the ratio is "
        f"{ratio / limit:.2f} of it.",
        f"Whole processes, data and imports included: plain {walls['plain']:.1f} s, ours "
        f"{walls['ours']:.1f} s, ratio {walls['plain'] / walls['ours']:.2f}.",
    ]
    if warm:
        said.append(
            f"Of a trial whose step was compiled before, {min(warm):.2f} to {max(warm):.2f} s went "
            "into neither training nor evaluation (reading the store, the memoised head, the rest)."
        )
    if not options.skip_memory:
        grown = [row["bytes"] / 2**20 for row in run("memory")]
        early, late = grown[min(9, len(grown) - 1)], grown[-1]
        said.append(
            f"Memory: {early:.0f} MiB after 10 tiny trials, {late:.0f} MiB after {len(grown)}."
        )
    record("tuning", scale, table, "\n".join(said))


if __name__ == "__main__":
    main()
