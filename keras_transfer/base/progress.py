"""Telling a person what a command is doing and how long it still takes: one bar for all of it.

On a terminal it is live, in a notebook it changes in place, in a pipe it is a line now and then.
"""

from __future__ import annotations

import contextlib
import html
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Self, TypeVar

from keras_transfer.base.quiet import say

WORDS = {
    "": "Starting",
    "build": "Loading the backbone",
    "decode": "Reading the data",
    "extract": "Running the frozen layers",
    "head": "Solving the head",
    "fine_tune": "Training the top blocks",
    "choose": "Choosing what to keep",
    "evaluate": "Testing",
    "prove": "Running the exported files",
    "report": "Writing the report",
}
"""What a stage is called before people; one that is not here is called by its name."""

LEVELS = ("error", "warning", "info", "debug")
"""How much is said: of what fails; of what is doubtful; what is done; and why, in detail."""

Unit = TypeVar("Unit")


class Progress:
    """Says nothing; the base of those that do, each of which ends with its ``with`` block.

    A step is a stretch of work with a known number of units, such as images or epochs.
    """

    def note(self, text: str) -> None:
        """Says one sentence that stays on the screen."""

    def detail(self, text: str) -> None:
        """The same, for those who asked for more."""
        self.note(text)

    def row(self, row: Mapping[str, Any]) -> None:
        """Takes note of a row of the history, see ``TransferResult.history``."""

    def stage(self, name: str) -> None:
        """The stage of this name begins, and what was before it is over."""

    def expect(self, seconds: Mapping[str, float], units: Mapping[str, int] | None = None) -> None:
        """The present stage and those to come, with how long and of how many units each is."""

    @contextlib.contextmanager
    def step(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        """Yields ``advance(units=1, info="")``, to be called as the work goes on."""
        yield lambda units=1, info="": None

    def through(self, name: str, units: Collection[Unit], seconds: float) -> Iterator[Unit]:
        """Goes through the units of a stage, the last one, each of so many seconds or about."""
        self.stage(name)
        self.expect({name: seconds * len(units)}, {name: len(units)})
        with self.step(name, len(units)) as advance:
            for unit in units:
                yield unit
                advance()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Ends what is live."""


class Relay(Progress):
    """Tells all to another one.

    Args:
        inner: that one.
    """

    def __init__(self, inner: Progress) -> None:
        self.inner = inner

    def note(self, text: str) -> None:
        """As ``inner`` does; so are the others."""
        self.inner.note(text)

    def detail(self, text: str) -> None:
        self.inner.detail(text)

    def row(self, row: Mapping[str, Any]) -> None:
        self.inner.row(row)

    def stage(self, name: str) -> None:
        self.inner.stage(name)

    def expect(self, seconds: Mapping[str, float], units: Mapping[str, int] | None = None) -> None:
        self.inner.expect(seconds, units)

    @contextlib.contextmanager
    def step(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        with self.inner.step(name, total) as advance:
            yield advance


class Timeline:
    """How far a command is, and how long it still takes, by what was expected and what is seen.

    Args:
        now: the clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begun: float = now()
        self._expected: dict[str, float] = {}
        self._units: dict[str, int] = {}
        self._present: dict[str, Any] = {"name": "", "since": now(), "done": 0, "share": 0.0}

    @property
    def starting(self) -> bool:
        """Whether no stage has begun."""
        return not self._present["name"]

    def begin(self, name: str) -> None:
        """A stage begins, and those before it are over; what these showed goes on to count."""
        names = list(self._expected)
        over = names[: names.index(name)] if name in names else []
        if self._present["name"] in over:
            pace = self._pace(self._now() - self._present["since"])
            self._expected.update((stage, pace * self._expected[stage]) for stage in names)
        for earlier in over:
            del self._expected[earlier]
        self._present.update(name=name, since=self._now(), done=0)

    def expect(self, seconds: Mapping[str, float], units: Mapping[str, int]) -> None:
        """Replaces what was expected."""
        self._expected, self._units = dict(seconds), dict(units)

    def advance(self, units: int) -> None:
        """Units of the present stage are done."""
        self._present["done"] += units

    def left(self) -> float | None:
        """Seconds that are left, None where nothing is known.

        Of the present stage what was expected counts less, and its own pace more, as it goes on.
        """
        if not self._expected:
            return None
        name, spent = self._present["name"], self._now() - self._present["since"]
        expected, units = self._expected.get(name, 0.0), self._units.get(name, 0)
        if units:
            share = min(0.95, self._present["done"] / units)
            unseen = (1 - share) ** 2
            whole = unseen * expected + (1 - unseen) * spent / max(share, 1e-9)
        else:
            whole = max(expected, spent / 0.95, 1e-9)
            share = spent / whole
        later = sum(value for stage, value in self._expected.items() if stage != name)
        return (1 - share) * whole + self._pace(whole) * later

    def _pace(self, whole: float) -> float:
        """How many times as long as expected what is to come takes, if the present stage takes so
        long: half of its own factor, where its units show how fast the network runs today.
        """
        name = self._present["name"]
        expected = self._expected.get(name, 0.0) if self._units.get(name) else 0.0
        return min(5.0, max(0.2, whole / expected)) ** 0.5 if expected > 0.5 else 1.0

    def share(self) -> float:
        """The share of all time that is over; it never becomes less."""
        spent, left = self._now() - self._begun, self.left()
        share = 0.0 if left is None else spent / max(spent + left, 1e-9)
        self._present["share"] = max(share, self._present["share"])
        return float(self._present["share"])

    def words(self, info: str = "") -> str:
        """The present stage as people call it, and what is to be said of it."""
        name = self._present["name"]
        return ", ".join(filter(None, (WORDS.get(name, name), info)))


def about(seconds: float | None) -> str:
    """A duration in a few words, or nothing where it is unknown.

    >>> about(4.2), about(47), about(400), about(9000)  # doctest: +NORMALIZE_WHITESPACE
    ('a few seconds to go', 'about 45 s to go in all', 'about 7 min to go in all',
     'about 2.5 h to go in all')
    """
    if seconds is None:
        return ""
    if seconds < 7.5:
        return "a few seconds to go"
    if seconds < 90:
        return f"about {5 * round(seconds / 5)} s to go in all"
    long = f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"
    return f"about {long} to go in all"


class _Shown(Progress):
    """Keeps the time and leaves to others how it is shown, by :meth:`draw`.

    Args:
        detailed: whether details are said, too.
    """

    def __init__(self, detailed: bool = False) -> None:
        self._detailed, self.timeline, self.said = detailed, Timeline(), {"info": ""}

    def draw(self, begins: bool = False) -> None:
        """Shows how things stand now; ``begins`` where a stage does."""

    def detail(self, text: str) -> None:
        if self._detailed:
            self.note(text)

    def stage(self, name: str) -> None:
        self.timeline.begin(name)
        self.said["info"] = ""
        self.draw(begins=True)

    def expect(self, seconds: Mapping[str, float], units: Mapping[str, int] | None = None) -> None:
        self.timeline.expect(seconds, units or {})
        self.draw(begins=True)

    @contextlib.contextmanager
    def step(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        done, (kind, _, part) = [0], name.partition(" ")
        if self.timeline.starting:
            self.stage(kind)

        def advance(units: int = 1, info: str = "") -> None:
            done[0] += units
            count = f"{part and f'{part}: '}{done[0]:,} of {total:,}"
            self.said["info"] = ", ".join(filter(None, (count, info)))
            self.timeline.advance(units)
            self.draw()

        yield advance


class PlainProgress(_Shown):
    """A line where a stage begins, and one each ten seconds while it lasts: for pipes and logs."""

    def __init__(self, stream: Any = None, every: float = 10.0, detailed: bool = False) -> None:
        super().__init__(detailed)
        self._stream, self._every = stream or sys.stderr, every
        self._last: dict[str, Any] = {"drawn": time.monotonic(), "line": ""}
        self.draw(begins=True)

    def note(self, text: str) -> None:
        say(text, self._stream)

    def draw(self, begins: bool = False) -> None:
        words = self.timeline.words(self.said["info"])
        due = begins or time.monotonic() - self._last["drawn"] >= self._every
        if due and words != self._last["line"]:
            self._last.update(drawn=time.monotonic(), line=words)
            self.note(" ... ".join(filter(None, (words, about(self.timeline.left())))))


class RichProgress(_Shown):
    """A bar on a terminal, which moves by itself."""

    def __init__(self, detailed: bool = False) -> None:
        import rich.console
        import rich.progress as bars

        super().__init__(detailed)
        columns = (
            bars.SpinnerColumn(),
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(bar_width=20),
            bars.TaskProgressColumn(),
            bars.TextColumn("{task.fields[left]}", markup=False),
        )
        progress = self

        class Ticking(bars.Progress):
            def get_renderables(self) -> Any:
                for task in self.tasks:
                    timeline = progress.timeline
                    task.description = timeline.words(progress.said["info"])
                    task.completed = 100 * timeline.share()
                    task.fields["left"] = about(timeline.left())
                yield from super().get_renderables()

        # A descriptor of its own: others' output is held back while libraries are imported.
        own = rich.console.Console(file=os.fdopen(os.dup(2), "w", encoding="utf-8"))
        self._bar = Ticking(*columns, console=own, redirect_stdout=False, transient=True)
        self._bar.add_task("", total=100, left="")
        self._bar.start()

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)

    def __exit__(self, *error: object) -> None:
        self._bar.stop()


class NotebookProgress(_Shown):
    """A bar below the cell of a notebook, which is gone when the work is done."""

    def __init__(self, detailed: bool = False) -> None:
        from IPython.display import HTML, display

        super().__init__(detailed)
        self._html, self._last = HTML, {"drawn": 0.0}
        self._handle = display(HTML(""), display_id=True)
        self.draw(begins=True)

    def note(self, text: str) -> None:
        print(text)

    def draw(self, begins: bool = False) -> None:
        if begins or time.monotonic() - self._last["drawn"] >= 0.2:
            self._last["drawn"] = time.monotonic()
            words = self.timeline.words(self.said["info"]), about(self.timeline.left())
            bar = f'<progress max="1" value="{self.timeline.share():.3f}"></progress> '
            self._handle.update(self._html(bar + html.escape(", ".join(filter(None, words)))))

    def __exit__(self, *error: object) -> None:
        self._handle.update(self._html(""))


def in_notebook() -> bool:
    """Whether a cell of a notebook is what is running."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


@contextlib.contextmanager
def telling(progress: Progress | bool | None) -> Iterator[Progress]:
    """Where a call tells of its work.

    Args:
        progress: where, or whether. By default a notebook, where somebody waits, shows a bar, and a
            script is silent, whose output is for whoever wrote it.
    """
    if isinstance(progress, Progress):
        yield progress
        return
    wanted = in_notebook() if progress is None else progress
    with progress_for("info" if wanted else "warning") as shown:
        yield shown


def progress_for(level: str = "info") -> Progress:
    """What suits where it is shown, a terminal, a notebook, or a pipe; silent below ``info``.

    Args:
        level: of ``LEVELS``.
    """
    detailed = level == "debug"
    if level in ("error", "warning"):
        return Progress()
    if in_notebook():
        return NotebookProgress(detailed)
    return RichProgress(detailed) if sys.stderr.isatty() else PlainProgress(detailed=detailed)
