"""Rows of a table that mean a part of a recording."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import soundfile
from hostile.table import assert_refused, say
from sounding import RATE, melody, written

from keras_transfer.base.errors import DataError, ExampleError
from keras_transfer.datasets import load_dataset, open_source
from keras_transfer.datasets.segments import Segment, named

PIECES = 12


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_TRANSFER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def recordings(tmp_path):
    """Eight of twelve seconds, a second of each class in turn, and what tells where they are."""
    rows = []
    for file in range(8):
        pieces = [melody(100 * file + piece, 1, 44_100) for piece in range(PIECES)]
        form = ("FLAC", "WAV")[file % 2]
        name = f"recording {file}.{form.lower()}"
        (tmp_path / name).write_bytes(written(np.concatenate(pieces), 44_100, form))
        rows += [(name, "ab"[piece % 2], piece, piece + 1) for piece in range(PIECES)]
    return tmp_path, rows


def table(folder, rows, header="path,label,start,end"):
    file = folder / "events.csv"
    file.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return file


def test_a_segment_is_that_part_of_the_file(recordings):
    folder, rows = recordings
    source = open_source(table(folder, rows))
    assert source.modality == "audio"
    assert len(source.items) == len(rows)
    for item in source.items[::7]:
        file, start, end = named(item.path)
        samples, rate = soundfile.read(folder / file, dtype="float32")
        found, own = soundfile.read(io.BytesIO(source.read(item.path)), dtype="float32")
        assert own == rate
        assert np.array_equal(found, samples[round(start * rate) : round(end * rate)])


def test_what_is_of_one_recording_stays_in_one_split(recordings):
    folder, rows = recordings
    data = load_dataset(table(folder, rows), image_size=1.0)
    assert len(data) == len(rows)
    assert data.examples.shape == (len(rows), RATE)
    splits = {}
    for path, split in zip(data.paths, data.splits, strict=True):
        splits.setdefault(named(path).file, set()).add(split)
    assert len(splits) == 8
    assert all(len(found) == 1 for found in splits.values())
    assert any("8 groups by the column 'path'" in one.reason for one in data.findings)


def test_a_column_of_groups_says_more(recordings):
    folder, rows = recordings
    grouped = [(*row, f"day {row[0][10]}"[:5]) for row in rows]
    source = open_source(table(folder, grouped, "path,label,begin,stop,day"), group="day")
    assert {item.group for item in source.items} == {f"day {n}"[:5] for n in range(8)}


def test_a_whole_file_and_its_parts_are_one_group(recordings):
    folder, rows = recordings
    mixed = [*rows[:3], (rows[0][0], "a", "", ""), (rows[-1][0], "b", "", "")]
    groups = {item.path: item.group for item in open_source(table(folder, mixed)).items}
    assert groups[rows[0][0]] == groups[f"{rows[0][0]}#t=1,2"] == rows[0][0]
    assert groups[rows[-1][0]] is None


def test_a_repaired_table_is_read_again(recordings):
    """The names of segments are all that a table needs, as those of ``splits.csv``."""
    folder, rows = recordings
    file = table(folder, rows)
    said = say("inspect", str(file), "--fix", str(folder / "clean"))
    assert said.code == 0, said
    again = load_dataset(folder / "clean" / "manifest.csv")
    first = load_dataset(file)
    assert sorted(again.digests) == sorted(first.digests)
    assert sorted(group.removeprefix("group ") for group in again.groups) == sorted(first.groups)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("a.wav", Segment("a.wav")),
        ("a.wav#t=1.5,3", Segment("a.wav", 1.5, 3)),
        ("a.wav#t=,3", Segment("a.wav", 0, 3)),
        ("a.wav#t=2", Segment("a.wav", 2)),
        ("a#t=1,2.wav", Segment("a#t=1,2.wav")),
        ("a.wav#t=-1,2", Segment("a.wav#t=-1,2")),
    ],
)
def test_names_are_those_of_media_fragments(name, meant):
    assert named(name) == meant
    assert named(meant.name) == meant


@pytest.mark.parametrize(
    ("start", "end"),
    [("x", 2), (2, 1), (1, 1), (-1, 2), ("nan", 2), (0, "inf"), ("1e99", ""), (1, "nan")],
)
def test_impossible_segments_are_refused(recordings, start, end):
    folder, rows = recordings
    file = table(folder, [*rows, (rows[0][0], "a", start, end)])
    refused = say("inspect", str(file))
    assert_refused(refused, f"row {len(rows) + 2}: the segment is from", "Give seconds")


def test_a_segment_beyond_the_end_is_a_finding(recordings):
    folder, rows = recordings
    beyond = [
        (rows[0][0], "a", 20, 21),
        (rows[0][0], "b", 11.5, 13),
        (rows[1][0], "a", 11.5, 12.05),
    ]
    said = say("inspect", str(table(folder, [*rows, *beyond])), "--json")
    findings = json.loads(said.out)["findings"]
    late = {one["path"]: one["reason"] for one in findings if one["kind"] == "truncated"}
    assert late == {
        f"{rows[0][0]}#t={part}": "the sound ends after 12 s" for part in ("20,21", "11.5,13")
    }


def test_columns_of_that_name_mean_nothing_beside_pictures(digits_folder, tmp_path):
    files = sorted(digits_folder.glob("*/*.png"))[::3]
    rows = [(file, file.parent.name, "soon", 7) for file in files]
    assert len(load_dataset(table(tmp_path, rows))) == len(files)


def test_a_segment_that_no_memory_holds_is_refused(monkeypatch):
    from keras_transfer.modalities.audio import excerpt, playing

    monkeypatch.setattr(playing, "MOST", RATE)
    data = written(np.stack([melody(1, 2), melody(2, 2)], axis=1))
    assert len(excerpt(data, 0, 0.5)) == 44 + 4 * RATE // 2
    with pytest.raises(ExampleError, match="too long a segment"):
        excerpt(data, 0.5, None)


def test_a_table_says_which_row_is_wrong_of_a_frame_too():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"path": ["a.wav"], "label": ["a"], "start": [3.0], "end": [1.5]})
    with pytest.raises(DataError, match=r"row 0: the segment is from '3.0' to '1.5'"):
        open_source(frame)
