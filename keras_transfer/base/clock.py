"""Where the time goes."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping

from keras_transfer.base import files

# How many times as long as planned a stage takes, until this machine has shown it: two busy cores.
_USUAL = {
    "extract": 1.5, "head": 2.0, "fine_tune": 0.5, "choose": 0.5, "evaluate": 1.4, "report": 1.2,
}  # fmt: skip
_PACES = "paces.json"
STAGES = ("decode", "extract", "head", "fine_tune", "evaluate")


class Clock:
    """Adds up the seconds of stages.

    Args:
        tell: called with the name of each as it begins.

    Attributes:
        start: ``time.monotonic()`` at its beginning.
        seconds: of each stage so far.
    """

    def __init__(self, tell: Callable[[str], None] = lambda name: None) -> None:
        self.start, self._tell = time.monotonic(), tell
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the duration of the block to a stage."""
        begun = time.monotonic()
        self._tell(name)
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun

    def paced(self, planned: Mapping[str, float]) -> dict[str, float]:
        """Expected seconds of stages, by how long they took on this machine so far."""
        paces = _paces()
        return {name: seconds * paces[name] for name, seconds in planned.items()}

    def learn(self, planned: Mapping[str, float], taken: Mapping[str, float]) -> None:
        """Remembers for later runs how many seconds stages took against what was planned."""
        paces = _paces()
        for name, seconds in planned.items():
            if seconds > 0.5:
                seen = min(5.0, max(0.2, taken[name] / seconds))
                paces[name] = round(math.sqrt(paces[name] * seen), 3)
        with contextlib.suppress(OSError):  # a cache that cannot be written to is no reason to fail
            files.write_json(files.cache_folder() / _PACES, paces)

    def report(self) -> dict[str, float]:
        """All stages and the total, in seconds."""
        total = {"total": time.monotonic() - self.start}
        return {name: round(value, 3) for name, value in (self.seconds | total).items()}


def _paces() -> dict[str, float]:
    """What the file in the cache says, the usual where it does not."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        held = json.loads((files.cache_folder() / _PACES).read_text()).items()
        return _USUAL | {
            name: min(5.0, max(0.2, float(pace))) for name, pace in held if name in _USUAL
        }
    return dict(_USUAL)
