"""What people are told meanwhile: how far it is, how long it takes, in a pipe and in a notebook."""

import contextlib
import io
import math
import os
import subprocess
import sys

import pytest

from keras_transfer.base.clock import Clock
from keras_transfer.base.progress import PlainProgress, Progress, Timeline, progress_for, telling


class Now:
    """A clock that stands still until it is told to go on."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def test_what_is_left_is_what_was_expected_until_the_stage_shows_its_own_pace():
    now = Now()
    line = Timeline(now)
    assert line.left() is None
    assert line.share() == 0.0
    line.begin("extract")
    now.seconds = 10.0
    line.expect({"extract": 20.0, "head": 5.0, "fine_tune": 15.0}, {"extract": 100})
    line.begin("extract")
    assert line.left() == pytest.approx(40.0)
    line.advance(50)
    now.seconds = 40.0  # three times as slow: half of it took 30 s
    whole = 0.25 * 20 + 0.75 * 60
    assert line.left() == pytest.approx(0.5 * whole + math.sqrt(whole / 20) * 20)
    now.seconds = 90.0  # all of it took four times as long: what is to come, twice
    line.begin("fine_tune")  # what was skipped is over
    assert line.left() == pytest.approx(2 * 15.0)
    assert line.share() == pytest.approx(90 / 120)
    now.seconds = 100.0  # no units: by the clock
    assert line.left() == pytest.approx(20.0)
    now.seconds = 400.0
    assert 0 < line.left() < 0.06 * 400
    before = line.share()
    line.expect({"fine_tune": 1000.0}, {})
    assert line.share() == before  # a bar never goes back


def test_only_a_stage_whose_units_are_counted_says_how_fast_the_others_are():
    now = Now()
    line = Timeline(now)
    line.begin("extract")
    line.expect({"extract": 0.0, "head": 10.0, "evaluate": 4.0}, {"extract": 100})
    now.seconds = 3.0  # all of it was done before
    line.begin("head")
    assert line.left() == pytest.approx(14.0)
    now.seconds = 43.0  # four times as long as expected
    line.begin("evaluate")
    assert line.left() == pytest.approx(4.0)


def test_a_kept_pace_ends_when_it_said():
    now = Now()
    line = Timeline(now)
    line.expect({"extract": 10.0, "head": 5.0}, {"extract": 10})
    line.begin("extract")
    for second in range(10):
        assert now.seconds + line.left() == pytest.approx(15.0)
        now.seconds = second + 1.0
        line.advance(1)


def test_a_pipe_gets_a_line_a_stage_in_plain_words_and_details_where_asked():
    for detailed in (False, True):
        stream = io.StringIO()
        with PlainProgress(stream, every=1e9, detailed=detailed) as progress:
            progress.stage("extract")
            progress.expect({"extract": 0.2, "head": 30.0})
            progress.detail("Frozen layers run on an engine.")
            with progress.step("extract", 3) as advance:
                advance(2)
            progress.stage("head")
        lines = stream.getvalue().splitlines()
        assert lines[:2] == ["Starting", "Running the frozen layers"]
        assert lines[-1] == "Solving the head ... about 30 s to go in all"
        assert ("Frozen layers run on an engine." in lines) == detailed


def test_a_step_outside_of_any_stage_is_one_and_later_passes_are_told_apart():
    stream = io.StringIO()
    with PlainProgress(stream, every=0.0) as progress:
        with progress.step("extract", 3) as advance:
            advance(2)
        with progress.step("extract view 2", 3) as advance:
            advance(1)
    assert stream.getvalue().splitlines() == [
        "Starting",
        "Running the frozen layers",
        "Running the frozen layers, 2 of 3",
        "Running the frozen layers, view 2: 1 of 3",
    ]


def test_going_through_units_says_how_many_are_done_and_how_long_the_others_take():
    stream = io.StringIO()
    with PlainProgress(stream, every=0.0) as progress:
        assert list(progress.through("prove", ["a", "b"], 30.0)) == ["a", "b"]
        assert progress.timeline.share() > 0
    said = stream.getvalue().splitlines()
    assert said[:2] == ["Starting", "Running the exported files"]
    assert said[-1].startswith("Running the exported files, 2 of 2 ... ")
    assert list(Progress().through("prove", ["a"], 1.0)) == ["a"]


STOPPED = """
import os, sys

class Stop:
    def find_spec(self, name, *_):
        if name in ("keras", "tensorflow"):
            os._exit(7)

sys.meta_path.insert(0, Stop())
from keras_transfer import cli

cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "words",
    [
        "train builtin:digits", "inspect builtin:digits", "inspect builtin:digits --labels",
        "verify export", "search builtin:digits",
    ],
)  # fmt: skip
def test_a_pipe_is_told_something_before_anything_heavy_is_imported(words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, *words.split()],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.splitlines()[0] == "Starting"


def test_how_long_a_stage_takes_is_learnt_from_runs_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_TRANSFER_CACHE", str(tmp_path))
    planned = {"extract": 4.0, "head": 0.1}
    usual = Clock().paced(planned)
    assert usual["extract"] >= 4.0
    for _ in range(8):
        Clock().learn(planned, {"extract": 12.0, "head": 9.0})
    found = Clock().paced(planned)
    assert found["extract"] == pytest.approx(12.0, rel=0.05)
    assert found["head"] == usual["head"]  # too short to tell
    parts = {"fine_tune": 3.0, "choose": 1.0}
    for _ in range(8):
        Clock().learn(parts, {"fine_tune": 6.0, "choose": 4.0})
    assert Clock().paced(parts) == pytest.approx({"fine_tune": 6.0, "choose": 4.0}, rel=0.05)
    (tmp_path / "paces.json").write_text('{"extract": "x", "head": 1e99}')
    assert Clock().paced(planned)["extract"] == usual["extract"]
    (tmp_path / "paces.json").write_text("[]")
    assert Clock().paced(planned) == usual


def test_a_script_is_silent_unless_it_asks():
    assert type(progress_for("warning")).__name__ == "Progress"
    assert isinstance(progress_for("info"), PlainProgress)  # no terminal here


def test_a_notebook_shows_a_bar_by_itself():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cell = (
        "from keras_transfer.base.progress import in_notebook, progress_for\n"
        "with progress_for() as progress:\n"
        "    progress.stage('head'); progress.expect({'head': 40.0})\n"
        "    print(in_notebook(), type(progress).__name__)\n"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    seen = []
    client = nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120)
    process = client.process_message

    def noting(message, *rest):
        if message["msg_type"] in ("display_data", "update_display_data"):
            seen.append(message["content"]["data"].get("text/html", ""))
        return process(message, *rest)

    client.process_message = noting
    client.execute()
    assert "True NotebookProgress" in str(notebook.cells[0].outputs)
    assert any(
        "<progress" in one and "Solving the head, about 40 s to go in all" in one for one in seen
    )
    assert "<progress" in seen[1]
    assert "Starting" in seen[1]
    assert seen[-1] == ""  # gone when the work is done


@pytest.mark.skipif(os.name != "posix", reason="no pseudo-terminal")
def test_a_terminal_shows_something_before_anything_heavy_is_imported():
    script = (
        "import sys\nfrom keras_transfer import cli\n"
        "cli.load_keras = lambda: (print('\\nHEAVY', flush=True), sys.exit(0))\n"
        "cli.main(['train', 'builtin:digits', '--output', '/nonexistent/run'])\n"
    )
    reader, terminal = os.openpty()
    shown = {"stdin": subprocess.DEVNULL, "stdout": terminal, "stderr": terminal}
    process = subprocess.Popen([sys.executable, "-c", script], **shown)
    os.close(terminal)
    said = b""
    with contextlib.suppress(OSError):  # at the end nobody holds the other side
        while part := os.read(reader, 65536):  # at once: what is full makes the bar wait
            said += part
    os.close(reader)
    code, said = process.wait(), said.decode()
    assert code == 0, said
    assert 0 <= said.find("Starting") < said.find("HEAVY"), said


def test_a_call_tells_where_it_is_told_to(capsys):
    for wanted in (None, False):  # this is no notebook
        with telling(wanted) as told:
            told.note("One.")
    with telling(True) as told:
        told.note("Two.")
    given = Progress()
    with telling(given) as told:
        assert told is given
    said = capsys.readouterr().err
    assert "One." not in said
    assert "Two." in said
