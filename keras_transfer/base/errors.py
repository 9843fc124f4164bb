"""One base error. Every message says what is wrong, where, and what to do about it."""

import importlib.util
from collections.abc import Sequence


class KerasTransferError(Exception):
    """An error that a user can act on; the command line prints it without a traceback.

    Args:
        message: what is wrong and where, naming the file, option or value received.
        remedy: what to do about it, as one imperative sentence.

    Attributes:
        exit_code: the status with which the command line ends.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str) -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message}\n{remedy}")


class UsageError(KerasTransferError):
    """An option, a name or a folder that cannot be used as given."""

    exit_code = 2


class DataError(UsageError):
    """Images or labels that cannot be trained on or evaluated."""


NEEDS_PACKAGE = "needs_package"
"""The kind of an item that could be read if a package were installed."""


class ExampleError(DataError):
    """One item that cannot be read or decoded. Its message is the reason alone.

    Attributes:
        kind: the reason in one word, e.g. ``truncated``; see ``datasets.inspection.TITLES``.
    """

    def __init__(self, reason: str, *, kind: str = "unreadable") -> None:
        self.kind = kind
        super().__init__(reason, remedy="Repair or remove the file.")


class WeightsError(UsageError):
    """Pretrained weights that are missing, damaged or of another architecture."""


def require(modules: Sequence[str], remedy: str) -> None:
    """Refuses, before any work, what needs a package that is not installed.

    Args:
        modules: what would be imported.
        remedy: what to install, or to do without.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"{module} is not installed.", remedy=remedy)


def closest(name: str, known: list[str], cutoff: float = 0.5) -> str:
    """Returns `` Did you mean ...?`` with up to three names close to ``name``, or nothing.

    Args:
        name: the word received.
        known: the allowed words.
        cutoff: the least likeness, 0..1; from 0.8 on, a slip of the fingers.
    """
    import difflib

    lowered = {word.lower(): word for word in known}
    near = difflib.get_close_matches(name.lower(), list(lowered), n=3, cutoff=cutoff)
    return f" Did you mean {', '.join(lowered[word] for word in near)}?" if near else ""
