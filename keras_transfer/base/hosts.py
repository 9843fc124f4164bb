"""Several hosts that train one model: what the environment of a cluster says of them."""

import dataclasses
import json
import os

from keras_transfer.base.errors import UsageError

# How many and which, as Keras reads it for JAX, and as SLURM sets it.
_COUNTED = (
    ("KERAS_DISTRIBUTION_NUM_PROCESSES", "KERAS_DISTRIBUTION_PROCESS_ID"),
    ("SLURM_NTASKS", "SLURM_PROCID"),
)


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The processes of a run, one a host.

    Attributes:
        count: how many.
        number: of this one, from 0; 0 is the chief, which alone writes the run.
    """

    count: int
    number: int


def hosts_of(asked: str | None) -> Hosts | None:
    """The hosts that share a run, from ``TF_CONFIG``, ``KERAS_DISTRIBUTION_*`` or SLURM.

    Args:
        asked: the setting; None is returned unless it is ``on``.

    Raises:
        UsageError: nothing names them, or what does cannot be read.
    """
    if asked != "on":
        return None
    try:
        if "TF_CONFIG" in os.environ:
            config = json.loads(os.environ["TF_CONFIG"])
            jobs = [(job, i) for job in ("chief", "worker") for i in range(_size(config, job))]
            task = config["task"]
            return Hosts(len(jobs), jobs.index((task["type"], int(task["index"]))))
        for count, number in _COUNTED:
            if count in os.environ:
                return Hosts(int(os.environ[count]), int(os.environ[number]))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        problem = f"What names the hosts of this run cannot be read: {error!r}."
        remedy = "Mend TF_CONFIG, KERAS_DISTRIBUTION_* or SLURM_* in the environment."
        raise UsageError(problem, remedy=remedy) from None
    raise UsageError(
        "Nothing in the environment names the hosts of this run.",
        remedy="Set TF_CONFIG, or for JAX KERAS_DISTRIBUTION_*, or leave --hosts out.",
    )


def _size(config: dict[str, dict[str, list[str]]], job: str) -> int:
    return len(config["cluster"].get(job, ()))
