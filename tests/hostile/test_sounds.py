"""What a folder of sounds may hold: read rightly, said to be odd, or left out with a reason."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import zoo
from sounding import RATE, melody, written

from hostile.table import assert_refused, say
from keras_transfer import datasets
from keras_transfer.base.errors import DataError
from keras_transfer.modalities import audio

GOOD = {
    f"{label}/{i:02d}.wav": written(melody(20 * j + i, 0.3))
    for j, label in enumerate(("bird", "car"))
    for i in range(10)
}
FLOATING = "64-bit floating point"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_TRANSFER_CACHE", str(tmp_path / "cache"))


def lay(more, folder="set"):
    for path, data in (GOOD | more).items():
        place = Path(folder, path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


def inspected(*words):
    said = say("inspect", *words, "--json")
    assert (said.code, said.err) == (0, ""), said
    return json.loads(said.out)


def silent(seconds, rate=RATE, form="FLAC", channels=1):
    return written(np.zeros((round(seconds * rate), channels)), rate, form)


def with_header(field, value, kind="<I"):
    """A WAV one of whose fields has another value: 22 channels, 24 rate, 34 bits, 40 bytes."""
    data = bytearray(written(melody(90)))
    struct.pack_into(kind, data, field, value)
    return bytes(data)


def streamed():
    """As a program writes it that does not know yet how long it becomes."""
    data = bytearray(written(melody(91)))
    data[4:8] = data[40:44] = b"\xff" * 4
    return bytes(data)


def endless():
    """A FLAC that leaves out how many samples it has."""
    data = bytearray(written(melody(92), form="FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def poisoned(value):
    samples = melody(93)
    samples[100] = value
    return written(samples, form=FLOATING)


def other():
    """What libsndfile reads and nobody keeps sounds in."""
    stream = io.BytesIO()
    soundfile.write(stream, melody(97), RATE, format="MAT5", subtype="PCM_16")
    return stream.getvalue()


PICTURE = b"ID3\4\0\0\0\0\7\x68" + bytes(1000)  # as players keep a cover
A, LOUD = melody(94), np.clip(5 * melody(95), -1, 1)
READ = {
    "nothing odd": ("a.wav", written(A), {}),
    "8 bits": ("a.wav", written(A, form="WAV of 8 bits"), {}),
    "24 bits": ("a.wav", written(A, form="24 bits"), {}),
    "floating point of 64 bits": ("a.wav", written(A, form=FLOATING), {}),
    "32 channels": ("a.wav", written(np.tile(A[:, None], 32)), {}),
    "192 kHz": ("a.flac", written(melody(96, rate=192_000), 192_000, "FLAC"), {}),
    "a suffix in capitals": ("A.WAV", written(A), {}),
    "an unknown length in its header": ("a.wav", streamed(), {}),
    "metadata behind the samples": ("a.wav", written(A) + b"LIST\4\0\0\0INFO", {}),
    "a picture before the samples": ("a.mp3", PICTURE + written(A, form="MP3"), {}),
    "empty": ("a.wav", b"", {"empty": 1}),
    "zero samples": ("a.wav", written(A[:0]), {"empty": 1}),
    "zero samples as FLAC": ("a.flac", written(A[:0], form="FLAC"), {"empty": 1}),
    "one sample": ("a.wav", written(A[:1]), {"too_small": 1}),
    "10 ms": ("a.wav", written(A[:160]), {"too_small": 1}),
    "NaN": ("a.wav", poisoned(np.nan), {"unreadable": 1}),
    "infinity": ("a.wav", poisoned(-np.inf), {"unreadable": 1}),
    "levels of 32,000": ("a.wav", written(32_000 * A, form=FLOATING), {"clipping": 1}),
    "flat tops": ("a.wav", written(LOUD), {"clipping": 1}),
    "an offset": ("a.wav", written(0.4 * A + 0.5), {"offset": 1}),
    "all silent": ("a.flac", silent(1), {"silence": 1}),
    "nearly silent": ("a.wav", written(1e-4 * A), {"silence": 1}),
    "1,000 channels": ("a.wav", written(np.zeros((100, 1000))), {"bomb": 1}),
    "65 channels": ("a.wav", with_header(22, 65, "<H"), {"bomb": 1}),
    "no channel": ("a.wav", with_header(22, 0, "<H"), {"unreadable": 1}),
    "a rate of zero": ("a.wav", with_header(24, 0), {"unreadable": 1}),
    "a rate of 100 Hz": ("a.wav", with_header(24, 100), {"unreadable": 1}),
    "a rate of 2 GHz": ("a.wav", with_header(24, 2**31 - 1), {"unreadable": 1}),
    "a rate of 3 kHz": ("a.wav", with_header(24, 3000), {"odd_rate": 1, "cut": 1}),
    "a rate of 400 kHz": ("a.wav", with_header(24, 400_000), {"odd_rate": 1}),
    "samples that are not there": ("a.wav", with_header(40, 10**6), {"truncated": 1}),
    "no samples, by its header": ("a.wav", with_header(40, 0), {"empty": 1}),
    "half its samples, by its header": ("a.wav", with_header(40, 9_600), {}),
    "no length of a FLAC": ("a.flac", endless(), {"unreadable": 1}),
    "a codec that is none": ("a.wav", with_header(20, 0x1234, "<H"), {"unreadable": 1}),
    "text": ("a.wav", b"no sound at all " * 99, {"not_a_sound": 1}),
    "HTML": ("a.mp3", b"<!DOCTYPE html><p>404", {"not_a_sound": 1}),
    "a picture": ("a.wav", zoo.encode(zoo.photo(seed=0, side=32), "PNG"), {"not_a_sound": 1}),
    "MPEG-4": ("a.m4a", b"\0\0\0\x20ftypM4A " + bytes(99), {"not_a_sound": 1}),
    "another container": ("a.wav", other(), {"not_a_sound": 1}),
    "FLAC named as WAV": ("a.wav", written(A, form="FLAC"), {"misnamed": 1}),
    "two hours": ("a.flac", lambda: silent(7_200, 1_000), {"silence": 1, "odd_rate": 1, "cut": 1}),
    "over two hours": ("a.flac", lambda: silent(7_201, 1_000), {"bomb": 1}),
    "the same in MP3": ("a.mp3", written(melody(3, 0.3), form="MP3"), {"near_duplicate": 1}),
    "the same at a third": ("a.wav", written(melody(3, 0.3) / 3), {"near_duplicate": 1}),
    "the same bytes": ("a.wav", GOOD["bird/03.wav"], {"duplicate": 1}),
}  # fmt: skip
LEFT_OUT = {"empty", "too_small", "unreadable", "bomb", "truncated", "not_a_sound"}


@pytest.mark.parametrize("case", READ)
def test_sounds_are_read_or_what_is_odd_is_said(case):
    name, data, findings = READ[case]
    lay({f"bird/{name}": data() if callable(data) else data})
    found = inspected("set")
    assert found["modality"] == "audio"
    assert found["finding_counts"] == findings
    assert inspected("set") == found  # of what was kept of the first pass
    left_out = bool(findings.keys() & LEFT_OUT)
    assert (found["images"], found["left_out"]) == (21 - left_out, left_out)


def test_the_page_of_a_set_speaks_of_clips():
    odd = "flat tops", "NaN", "the same in MP3", "an offset", "HTML"
    lay({f"car/{i}{READ[case][0]}": READ[case][1] for i, case in enumerate(odd)})
    said = say("inspect", "set", "--page", "page.html", "--quiet")
    assert (said.code, said.err) == (0, "")
    page = Path("page.html").read_text().split("</style>")[1]
    for words in (said.out, page):
        assert "clips" in words
        assert "audios" not in words
        assert "image" not in words.replace("data:image", "")
    assert page.count("<audio ") >= 22


@pytest.mark.parametrize("form", ["WAV", "24 bits", "AIFF", "AU", "FLAC", "Vorbis", "Opus", "MP3"])
def test_what_is_cut_short_at_any_tenth_is_left_out(form):
    """In the reading or in the header alone: none of it is taken for a shorter sound."""
    whole = written(melody(7, 2), form=form)
    lay({f"bird/cut/{tenth}.wav": whole[: tenth * len(whole) // 10] for tenth in range(10)})
    found = inspected("set")
    faults = {one["path"]: one["kind"] for one in found["findings"] if one["action"] == "left out"}
    assert faults.keys() == {f"bird/cut/{tenth}.wav" for tenth in range(10)}
    assert set(faults.values()) <= {"empty", "truncated", "unreadable", "not_a_sound"}
    assert form == "FLAC" or list(faults.values()).count("truncated") >= 3, faults
    assert found["images"] == 20


def test_a_sound_that_changed_is_noticed():
    lay({})
    data = datasets.load_dataset("set", image_size=1)
    Path("set", data.paths[0]).write_bytes(written(melody(99)))
    with pytest.raises(DataError, match="has changed"):
        data.read(0)
    Path("set", data.paths[0]).write_bytes(written(melody(99))[:500])
    assert len(datasets.load_dataset("set", image_size=1)) == 19


@pytest.mark.parametrize(
    "header", ["path,label", "audio,category", "clip,class", "filename,target"]
)
def test_tables_of_sounds_are_read(header):
    lay({})
    rows = [f"set/{path},{path.split('/')[0]}" for path in GOOD]
    Path("a.csv").write_text("\n".join([header, *rows]))
    found = inspected("a.csv")
    assert (found["modality"], found["images"], found["finding_counts"]) == ("audio", 20, {})


def test_speakers_of_a_table_stay_in_one_split():
    lay({})
    rows = [f"set/{path},{path.split('/')[0]},{int(path[-6:-4]) % 5}" for path in GOOD]
    Path("a.csv").write_text("\n".join(["path,label,speaker", *rows]))
    data = datasets.load_dataset("a.csv", group="speaker")
    places = {(int(p[-6:-4]) % 5, s) for p, s in zip(data.paths, data.splits.tolist(), strict=True)}
    assert len(places) == 5


def test_sets_of_nothing_are_refused():
    for i in range(3):
        lay_one = Path(f"void/bird/{i}.wav")
        lay_one.parent.mkdir(parents=True, exist_ok=True)
        lay_one.write_bytes(b"RIFF")
    said = say("inspect", "void")
    assert_refused(said._replace(out=""), "void has no clip that can be used")
    Path("one/bird").mkdir(parents=True)
    for i in range(5):
        Path(f"one/bird/{i}.wav").write_bytes(written(melody(i)))
    said = say("inspect", "one")
    assert_refused(said._replace(out=""), "single class 'bird'", "folder of clips")


def test_a_clean_manifest_of_sounds_is_data():
    lay({"bird/again.mp3": written(melody(3, 0.3), form="MP3"), "bird/no.wav": b"RIFF"})
    said = say("inspect", "set", "--fix", "clean")
    assert said.code == 0, said
    found = inspected("clean/manifest.csv")
    assert (found["images"], found["left_out"]) == (21, 0)


def test_memory_is_bounded_whatever_a_header_says(monkeypatch):
    """By the largest array that a sound is decoded into."""
    made, empty = [], np.empty

    def counting(shape, dtype=float, **more):
        made.append(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        return empty(shape, dtype, **more)

    monkeypatch.setattr(np, "empty", counting)
    sounds = (
        streamed(),
        silent(7_200, 1_000),
        silent(60, 48_000),
        silent(9, channels=60, form="WAV"),
    )
    for data in sounds:
        audio.examine(data, audio.spec(1))
    assert 2**22 < max(made) <= 2**23


def test_what_decoders_say_of_damaged_bytes_is_not_printed(capfd):
    """Libmpg123 writes past Python to the standard error."""
    whole = written(melody(7, 2), form="MP3")
    lay({"bird/cut.mp3": whole[: len(whole) // 2]})
    datasets.inspect("set")
    assert capfd.readouterr() == ("", "")


def test_spoken_digits_are_split_by_speaker():
    data = datasets.load_dataset("builtin:spoken")
    assert (len(data), data.class_names) == (300, tuple("0123456789"))
    speakers = [path.split("/")[1].split("_")[0] for path in data.paths]
    assert len(set(zip(speakers, data.splits.tolist(), strict=True))) == len(set(speakers)) == 6
    assert "6 groups by the column 'speaker'" in str(data.findings)
