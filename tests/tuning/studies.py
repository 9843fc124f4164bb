"""What the tests of whole studies share."""

import csv

# Small enough for a trial of seconds: the topmost block for an epoch or two on clean images.
SPACE = """\
unfreeze = "1"
views = 1
[fine_tune_epochs]
choices = [1, 2]
default = 1
[fine_tune_lr]
low = 1e-4
high = 2e-3
scale = "log"
"""


def rows_of(study):
    """The rows of a study's ``trials.csv``."""
    with open(study / "trials.csv", newline="") as stream:
        return list(csv.DictReader(stream))
