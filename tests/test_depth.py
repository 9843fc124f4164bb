"""The race over depths: what it leaves behind, and a run that begins with it."""

import json

import numpy as np
import pytest

from keras_transfer import cli, datasets, depth, planner, training
from keras_transfer.errors import UsageError
from keras_transfer.progress import Progress
from keras_transfer.schedule import recipe
from keras_transfer.steps import Steps


@pytest.fixture(scope="module")
def raced(digits_folder, tmp_path_factory):
    """A run with ``--unfreeze auto``, and how many images the test's model saw."""
    output, opened = tmp_path_factory.mktemp("auto") / "run", []
    with pytest.MonkeyPatch.context() as patch:
        predict = training.predict_probabilities

        def counted(model, pixels):
            opened.append(len(pixels))
            return predict(model, pixels)

        patch.setattr(training, "predict_probabilities", counted)
        done = cli.main(
            ["train", str(digits_folder), "--image-size", "32", "--split", "0.6,0.2,0.2",
             "--effort", "quick", "--unfreeze", "auto", "--output", str(output), "--quiet"]
        )  # fmt: skip
    assert done == 0
    return output, opened


def test_the_winner_of_the_race_is_what_trains(raced):
    output, opened = raced
    config = json.loads((output / "config.json").read_text())
    rows = config["race"]
    assert [row["unfreeze"] for row in rows] == list(depth.DEPTHS)
    winner = depth._winner(rows)
    assert config["schedule"]["fine_tune"]["unfreeze"] == winner
    assert config["requested_schedule"]["fine_tune"]["unfreeze"] == "auto"
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["seconds"]["race"] >= sum(row["seconds"] for row in rows) - 0.01
    # The test split was opened once, after the race.
    assert opened == [metrics["images"]["test"]]


def test_half_of_every_class_is_raced_with(digits_folder):
    data = datasets.load_dataset(str(digits_folder), image_size=32, split=(0.6, 0.2, 0.2))
    half = depth._half(data)
    for label in range(len(data.class_names)):
        counts = [int((one.labels[one.indices("train")] == label).sum()) for one in (data, half)]
        assert counts[1] == -(-counts[0] // 2)
    for split in ("val", "test"):
        np.testing.assert_array_equal(half.indices(split), data.indices(split))


class Fake:
    """Stands in for training: made-up scores, and weights that it moves."""

    def __init__(self, scores, backbone):
        self.scores, self.backbone = scores, backbone

    def __call__(self, data, backbone, schedule, **how):
        kernel = backbone.model.trainable_variables[0]
        kernel.assign(kernel + 1.0)
        backbone.model.layers[-1].trainable = False
        nll = self.scores[schedule.fine_tune.unfreeze]
        head = training.Candidate("head", 1.0, nll=0.6, accuracy=0.5)
        tuned = training.Candidate("last epoch", 1.0, nll=nll, accuracy=0.5)
        measured = planner.Measured(0.01, 0.005, 1024, 1280, "keras", "a test")
        return training.Fitted(None, (), (head, tuned), 1.0, np.zeros((1, 1)), measured)


@pytest.fixture(scope="module")
def backbone():
    from keras_transfer import backbones

    return backbones.build("EfficientNetLite0", image_size=32, weights="offline")


@pytest.mark.parametrize("winner", depth.DEPTHS)
def test_a_deep_winner_trains_for_less(digits_folder, backbone, monkeypatch, winner):
    data = datasets.load_dataset(str(digits_folder), image_size=32, split=(0.6, 0.2, 0.2))
    scores = {name: 0.5 - 0.1 * (name == winner) for name in depth.DEPTHS}
    monkeypatch.setattr(depth, "fit", Fake(scores, backbone))
    before = np.array(backbone.model.trainable_variables[0])
    base = recipe()
    asked = training.dataclasses.replace(
        base, fine_tune=training.dataclasses.replace(base.fine_tune, unfreeze="auto")
    )
    found, rows = depth.decide(
        data, backbone, asked, store=None, steps=Steps(), progress=Progress(), seed=0
    )
    assert found.fine_tune.unfreeze == winner
    assert (found.fine_tune.epochs < base.fine_tune.epochs) == (winner == "70%")
    assert len(rows) == 3
    np.testing.assert_array_equal(np.array(backbone.model.trainable_variables[0]), before)
    assert backbone.model.layers[-1].trainable


def test_the_default_stays_where_the_race_was_too_short_to_judge_it():
    rows = [
        {"unfreeze": name, "nll": nll, "head_nll": 0.57}
        for name, nll in zip(depth.DEPTHS, (0.56, 0.83, 1.08), strict=True)
    ]
    assert depth._winner(rows) == depth.DEFAULT
    rows[1]["nll"] = 0.565
    assert depth._winner(rows) == "12%"
    rows[2]["nll"] = 0.5
    assert depth._winner(rows) == "70%"


def test_random_weights_have_no_depth_to_decide():
    class Random:
        weights = "none"

    with pytest.raises(UsageError, match="no depth"):
        depth.decide(
            None, Random(), recipe(), store=None, steps=Steps(), progress=Progress(), seed=0
        )
