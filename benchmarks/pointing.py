"""How often the brightest place of a saliency map lies on the object.

    python benchmarks/pointing.py [--seeds 3]

The pointing game (Zhang et al. 2018). Objects of known classes are put anywhere on pictures of
something else: digits on coloured squares, and emoji on photographs where ``../shared/data``
is there. A run is trained on them; its test pictures with the right answer are explained, by
Grad-CAM on the topmost map and as the report does it. Of pairs, two objects of different classes on
one picture, the brightest place for each class must lie on its own object. The centre of the
picture, where an uninformed guess would point, is counted beside them.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, NamedTuple

import numpy as np
from common import SHARED, record
from PIL import Image
from scipy.stats import binomtest
from sklearn.datasets import load_digits

from keras_transfer import training
from keras_transfer.evaluation import saliency

EMOJI = ("animals-nature", "flags", "food-drink", "smileys-emotion", "travel-places")


class Composed(NamedTuple):
    """Pictures with the class and the box ``(left, top)`` of the object that each shows."""

    pictures: np.ndarray
    labels: np.ndarray
    corners: np.ndarray
    side: int


def digits(side: int, size: int, random: np.random.Generator) -> Composed:
    """Digits 0 to 4 on coloured squares."""
    data = load_digits()
    rows = np.flatnonzero(data.target < 5)[:700]
    grounds = random.integers(0, 120, (len(rows), side // 8, side // 8, 3), np.uint8)
    levels = (data.images[rows] * 15.9).astype(np.uint8)
    objects = [
        np.asarray(Image.fromarray(one).convert("RGB").resize((size, size))) for one in levels
    ]
    masks = [one.max(axis=2) > 40 for one in objects]
    wide = grounds.repeat(8, axis=1).repeat(8, axis=2)
    return put(wide, objects, masks, data.target[rows], random)


def emoji(side: int, size: int, random: np.random.Generator) -> Composed:
    """Emoji of five categories on photographs of animals and vehicles."""
    files = [
        (path, label)
        for label, name in enumerate(EMOJI)
        for path in sorted((SHARED / "emoji-noto" / name).glob("*.png"))[:140]
    ]
    photos = sorted((SHARED / "photos-cifar-a").rglob("*.*g"))
    drawn = random.choice(len(photos), len(files))
    grounds = [Image.open(photos[i]).convert("RGB").resize((side, side)) for i in drawn]
    objects = [np.asarray(Image.open(p).convert("RGB").resize((size, size))) for p, _ in files]
    masks = [one.min(axis=2) < 245 for one in objects]
    labels = np.array([label for _, label in files])
    return put(np.stack([*map(np.asarray, grounds)]), objects, masks, labels, random)


def put(grounds: np.ndarray, objects: Any, masks: Any, labels: Any, random: Any) -> Composed:
    """Puts an object anywhere on each ground."""
    pictures, size = grounds.copy(), objects[0].shape[0]
    corners = random.integers(0, grounds.shape[1] - size + 1, (len(grounds), 2))
    for picture, (x, y), one, mask in zip(pictures, corners, objects, masks, strict=True):
        picture[y : y + size, x : x + size][mask] = one[mask]
    return Composed(pictures, labels, corners, size)


def pairs(data: Composed, rows: np.ndarray, random: np.random.Generator) -> Composed:
    """Pictures with the object of another put beside their own; each twice, for either class."""
    found: list[tuple[np.ndarray, int, np.ndarray]] = []
    room = data.pictures.shape[1] - data.side + 1
    for i in rows:
        j = random.choice(rows[data.labels[rows] != data.labels[i]])
        beside = random.integers(0, room, (200, 2))
        apart = beside[(np.abs(beside - data.corners[i]) >= data.side).any(axis=1)]
        if not len(apart):  # an object in the middle may leave no room
            continue
        (x, y), (left, top) = apart[0], data.corners[j]
        picture = data.pictures[i].copy()
        other = data.pictures[j][top : top + data.side, left : left + data.side]
        picture[y : y + data.side, x : x + data.side] = other
        found += [(picture, data.labels[i], data.corners[i]), (picture, data.labels[j], apart[0])]
    pictures, labels, corners = zip(*found, strict=True)
    return Composed(np.stack(pictures), np.array(labels), np.stack(corners), data.side)


def hit(maps: np.ndarray, data: Composed) -> np.ndarray:
    """Of each map, whether its brightest place lies on the object; one without any misses."""
    width = data.pictures.shape[2]
    found = []
    for one, (x, y) in zip(maps, data.corners, strict=True):
        wide = np.asarray(Image.fromarray(one).resize((width, width), Image.Resampling.BILINEAR))
        row, column = np.unravel_index(wide.argmax(), wide.shape)
        inside = x <= column < x + data.side and y <= row < y + data.side
        found.append(bool(inside and one.max() > 0))
    return np.array(found)


def centre(data: Composed) -> np.ndarray:
    """The same of the picture's centre."""
    middle = data.pictures.shape[1] // 2
    inside = (data.corners <= middle) & (middle < data.corners + data.side)
    return inside.all(axis=1)


class Game(NamedTuple):
    """What became of each map."""

    centre: np.ndarray
    topmost: np.ndarray
    ours: np.ndarray
    seconds: float


def with_interval(hit: np.ndarray) -> str:
    """A share with its interval of 95 % (Wilson)."""
    low, high = binomtest(int(hit.sum()), len(hit)).proportion_ci(method="wilson")
    return f"{hit.mean():.3f} ({low:.3f} to {high:.3f})"


def play(data: Composed, seed: int) -> dict[str, Game]:
    """Trains on the pictures and plays the game on the test pictures that are answered rightly."""
    size = data.pictures.shape[1]
    done = training.train((data.pictures, data.labels), image_size=size, effort="quick", seed=seed)
    place = {picture.tobytes(): i for i, picture in enumerate(data.pictures)}
    test = [place[one.tobytes()] for one in done.dataset.examples[done.dataset.indices("test")]]
    right = np.array(test)[done.test_probabilities.argmax(1) == data.labels[test]]
    single = Composed(*(part[right] for part in data[:3]), data.side)
    games = {}
    for what, game in (("one", single), ("pairs", pairs(data, right, np.random.default_rng(seed)))):
        begun = time.monotonic()
        ours = hit(saliency.contrastive_map(done.model, game.pictures, game.labels), game)
        seconds = time.monotonic() - begun
        before = hit(saliency.grad_cam(done.model, game.pictures, game.labels), game)
        games[what] = Game(centre(game), before, ours, seconds)
    return games


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    tasks = [("digits", digits, 64, 24)]
    if SHARED.is_dir():
        tasks += [("emoji", emoji, 64, 28), ("emoji", emoji, 96, 36), ("emoji", emoji, 128, 44)]
    rows: list[dict[str, Any]] = []
    for name, make, side, size in tasks:
        played = [play(make(side, size, np.random.default_rng(seed)), seed) for seed in seeds]
        for what in played[0]:
            games = [one[what] for one in played]
            looked, topmost, ours = (
                np.concatenate([one[place] for one in games]) for place in range(3)
            )
            rows.append({
                "pictures": f"{name}, {side} px", "objects": what, "maps": len(ours),
                "object, px": size, "centre": with_interval(looked),
                "Grad-CAM, topmost": with_interval(topmost),
                "as in the report": with_interval(ours),
                "ms an image": 1000 * sum(one.seconds for one in games) / len(ours),
            })  # fmt: skip
            print(rows[-1], flush=True)
    command = " ".join(["python benchmarks/pointing.py", *sys.argv[1:]])
    text = (
        "Shares of maps whose brightest place lies on the object of the class that is asked for, "
        f"with intervals of 95 %, over {len(seeds)} seeds of pictures, split and training."
    )
    record("pointing", command, rows, text)


if __name__ == "__main__":
    main()
