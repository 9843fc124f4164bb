"""The race over depths: what it leaves behind, and a run that begins with it."""

import json
import time
import types

import numpy as np
import pytest
import scipy.stats
from labelled import labelled

from keras_transfer import cli, datasets, training
from keras_transfer.base.errors import UsageError
from keras_transfer.base.progress import Progress
from keras_transfer.learn import race as depth
from keras_transfer.learn.selection import Candidate
from keras_transfer.recipe import Recipe


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
    assert config["unfreeze"] == winner
    assert "unfreeze" in config["asked"]
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
    """Stands in for training, with made-up scores."""

    def __init__(self, scores):
        self.scores = scores

    def __call__(self, data, recipe):
        nll = self.scores[recipe.unfreeze]
        head, tuned = (
            Candidate(name, 1.0, n, 0.5) for name, n in (("head", 0.6), ("average", nll))
        )
        # Every image's loss is about that score: the true class's logit among nine of zero.
        labels = data.labels[data.indices("val")]
        spread = np.random.default_rng(0).normal(0, 0.01, len(labels))
        logits = np.zeros((len(labels), 10))
        logits[np.arange(len(labels)), labels] = np.log(9 / np.expm1(nll + spread))
        return types.SimpleNamespace(
            candidates=(tuned, head), validation_logits=logits, temperature=1.0
        )


@pytest.mark.parametrize("winner", depth.DEPTHS)
def test_a_sure_winner_is_taken(digits_folder, winner):
    data = datasets.load_dataset(str(digits_folder), image_size=32, split=(0.6, 0.2, 0.2))
    scores = {name: 0.5 - 0.1 * (name == winner) for name in depth.DEPTHS}
    found, rows = depth.decide(data, Recipe(unfreeze="auto"), Fake(scores), Progress())
    assert found == winner
    assert len(rows) == len(depth.DEPTHS)
    for row in rows:
        lead = scores[depth.DEEPEST] - scores[row["unfreeze"]]
        assert row["sure"] == 0 if not lead else row["sure"] * lead > 9 * abs(lead)


@pytest.mark.parametrize(("epochs", "raced"), [({}, 2), ({"70%": 1}, 1), ({"35%": 0}, 0)])
def test_a_budget_ends_the_race_at_a_depth_that_was_shortened(digits_folder, epochs, raced):
    data = datasets.load_dataset(str(digits_folder), image_size=32, split=(0.6, 0.2, 0.2))
    fake, budgets = Fake({"35%": 0.5, "70%": 0.3}), []

    def fit(dataset, recipe):
        budgets.append(recipe.time_budget)
        done = fake(dataset, recipe)
        ran = epochs.get(recipe.unfreeze, recipe.fine_tune_epochs)
        done.phases = [types.SimpleNamespace(name="fine_tune", epochs=ran)]
        return done

    deadline = time.monotonic() + 400
    found, rows = depth.decide(data, Recipe(unfreeze="auto"), fit, Progress(), deadline)
    assert found == ("70%" if raced == 2 else "35%")
    assert [row["unfreeze"] for row in rows] == list(depth.DEPTHS[:raced])
    assert all(0 < one <= 100 for one in budgets)


@pytest.mark.parametrize(("weights", "winner"), [("none", "35%"), ("balanced", "70%")])
def test_classes_weigh_in_the_race_as_they_do_in_training(weights, winner):
    """The shallower depth does better on a common class, and worse on a rare one."""
    labels, splits = (
        np.repeat([0, 1, 0, 1], [400, 10, 20, 20]),
        np.repeat(["val", "train"], [410, 40]),
    )
    losses = {"35%": np.array([0.3, 1.5]), "70%": np.array([0.5, 0.5])}

    def fit(dataset, recipe):
        asked = dataset.labels[dataset.indices("val")]
        logits = np.zeros((len(asked), 2))
        logits[np.arange(len(asked)), asked] = -np.log(np.expm1(losses[recipe.unfreeze][asked]))
        candidates = [Candidate(name, 1.0, 0.5, 0.5) for name in ("average", "head")]
        return types.SimpleNamespace(
            candidates=candidates, validation_logits=logits, temperature=1.0
        )

    recipe = Recipe(unfreeze="auto", class_weights=weights)
    assert depth.decide(labelled(labels, splits), recipe, fit, Progress())[0] == winner


def test_the_lead_is_counted_in_standard_errors_of_the_pairs():
    draw = np.random.default_rng(0)
    default = draw.normal(1.0, 0.5, 400)
    other = default - draw.normal(0.05, 0.4, 400)
    lead = scipy.stats.ttest_rel(default, other).statistic
    assert depth._ahead(other, default) == pytest.approx(lead, abs=1e-3)
    assert depth._ahead(None, default) == depth._ahead(other, None) == 0


@pytest.mark.parametrize(
    ("sure", "winner"), [((2.9, 0.0, 0.0), "70%"), ((3.1, 1.0, 0.0), "12%"), ((4, 3.5, 0), "35%")]
)
def test_the_deepest_stays_unless_another_is_surely_better(sure, winner):
    rows = [
        {"unfreeze": name, "nll": nll, "sure": lead}
        for name, nll, lead in zip(("12%", "35%", "70%"), (0.56, 0.5, 0.7), sure, strict=True)
    ]
    assert depth._winner(rows) == winner


def test_random_weights_have_no_depth_to_decide():
    with pytest.raises(UsageError, match="no depth"):
        depth.decide(None, Recipe(weights="none"), None, Progress())
