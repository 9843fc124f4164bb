from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import sys
import wave

import numpy as np
import pytest
import scipy.io.wavfile
import scipy.signal
import soundfile
import soxr
from PIL import Image
from promises import check_modality
from sounding import FORMS, RATE, melody, written

from keras_transfer.base.errors import DataError, ExampleError, UsageError
from keras_transfer.datasets import load_dataset, open_source
from keras_transfer.modalities import audio, modality_of_files, modality_of_value
from keras_transfer.modalities.audio import fingerprints, listening, sounds


@pytest.fixture(scope="module")
def spoken():
    """Three takes of each digit by each speaker, as FLAC, by their paths."""
    source = open_source("builtin:spoken")
    return {item.path: source.read(item.path) for item in source.items if item.path[-6] in "012"}


def test_sounds_keep_the_promises_of_a_modality():
    items = [written(melody(i), form=form) for i, form in enumerate(FORMS)]
    check_modality(audio, items, size=0.9)


# Reading ---------------------------------------------------------------------------------------


def test_samples_are_those_of_the_file():
    """By Python's own reader: 16 bits, two channels."""
    left, right = (np.rint(32767 * melody(seed)).astype(np.int16) for seed in (1, 2))
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((2, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.stack([left, right], axis=1).tobytes())
    expected = (left / 2.0**15 + right / 2.0**15) / 2
    assert np.array_equal(audio.decode(stream.getvalue()), expected.astype(np.float32))


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_other_rates_are_resampled(rate):
    """A tone is the same tone; what models cannot hear is gone; all as soxr has it in one piece."""
    time = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 1000 * time)
    beyond = 0.3 * np.sin(2 * np.pi * 9_500 * time) * (rate > 20_000)
    heard = audio.decode(written(tone + beyond, rate, "64-bit floating point"))
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    assert len(heard) == RATE
    assert np.abs(heard - expected)[800:-800].max() < 1e-4
    whole = soxr.resample((tone + beyond).astype(np.float32), rate, RATE)
    assert np.array_equal(heard, whole)
    ours, scipys = (
        one[800:-800] for one in (heard, scipy.signal.resample_poly(tone, RATE, rate)[:RATE])
    )
    assert np.abs(ours - scipys).max() < 0.01


@pytest.mark.parametrize("form", ["WAV", "FLAC", "Vorbis", "Opus", "MP3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_beginning_does_not_depend_on_how_much_is_asked_for(form, channels, monkeypatch):
    monkeypatch.setattr(listening, "BLOCK", 10_000)
    data = written(np.stack([melody(i, 3, 48_000) for i in range(channels)], 1), 48_000, form)
    whole = listening.read(data).samples
    for count in (12_800, 20_000, 33_333):
        assert np.array_equal(listening.read(data, count).samples, whole[:count])
        example = audio.decode(data, audio.spec(count / RATE))
        assert np.array_equal(audio.examine(data, audio.spec(count / RATE)).example, example)


def test_a_long_sound_is_cut_and_a_short_one_is_followed_by_silence():
    data = written(melody(0, 1.2))
    whole = audio.decode(data)
    assert np.array_equal(audio.decode(data, audio.spec(1)), whole[:RATE])
    longer = audio.decode(data, audio.spec(1.5))
    assert np.array_equal(longer[: len(whole)], whole)
    assert not longer[len(whole) :].any()
    assert audio.peek(data) == 1.2
    assert audio.examine(data).extent == 1200


def counted(monkeypatch):
    """How many frames libsndfile is asked for, in a list that grows."""
    asked, read = [], soundfile.SoundFile.read

    def counting(self, frames, *others, **more):
        got = read(self, frames, *others, **more)
        asked.append(got.shape)
        return got

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    return asked


def test_no_more_of_a_long_recording_is_decoded_than_is_heard(monkeypatch):
    long = written(np.tile(melody(0, 1, 8000), 1200), 8000, "FLAC")
    asked = counted(monkeypatch)
    assert audio.peek(long) == 1200
    assert asked == []
    audio.examine(long, audio.spec(30))
    audio.decode(long, audio.spec(10))
    assert [len(asked), sum(frames for frames, _ in asked) <= 2 * listening.BLOCK] == [2, True]


def test_many_channels_are_decoded_in_blocks_of_bounded_size(monkeypatch):
    monkeypatch.setattr(listening, "BLOCK", 200_000)
    wide = written(np.tile(melody(0)[:, None], 64))
    asked = counted(monkeypatch)
    assert np.allclose(audio.decode(wide), melody(0), atol=1e-4)
    assert len(asked) == 4
    assert max(frames * channels for frames, channels in asked) <= listening.BLOCK


def test_levels_beyond_full_scale_are_cut():
    loud = written(3 * melody(0), form="64-bit floating point")
    assert np.array_equal(audio.decode(loud), np.clip(3 * melody(0), -1, 1).astype(np.float32))


@pytest.mark.parametrize("size", [0, 0.79, 30.1, -1, float("nan"), float("inf"), "1", None, (1,)])
def test_lengths_that_no_model_takes_are_refused(size):
    with pytest.raises(UsageError, match=r"0\.8 to 30 s"):
        audio.spec(size)


def test_a_length_is_known_by_its_samples():
    assert audio.spec(1.5).shape == (24_000,)
    assert audio.spec_of([24_000], "float32") == audio.spec(1.5)
    assert audio.size_of((24_000,)) == 1.5
    for shape, kind in (((100,), "float32"), ((24_000,), "int16"), ((481_000,), "float32")):
        assert audio.spec_of(shape, kind) is None


# What is odd -----------------------------------------------------------------------------------


def kinds(samples, rate=RATE, form="64-bit floating point"):
    return [kind for kind, _ in audio.examine(written(samples, rate, form)).remarks]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (melody(0), []), (0.01 * melody(0), []), (melody(0) + 0.03, []),
        (np.zeros(8000), ["silence"]), (1e-4 * melody(0), ["silence"]),
        (np.full(8000, 1e-4), ["silence"]),
        (0.3 * melody(0) + 0.3, ["offset"]), (np.full(8000, 0.5), ["offset"]),
        (np.clip(4 * melody(0), -1, 1), ["clipping"]), (2 * melody(0), ["clipping"]),
        (30_000 * melody(0), ["clipping"]), (melody(0) / 0.8, []),
        (np.sin(2 * np.pi * 440 * np.arange(8000) / RATE), []),
    ],
)  # fmt: skip
def test_what_is_odd_is_said_and_what_is_not_is_not(samples, expected):
    assert kinds(samples) == expected


@pytest.mark.parametrize(("rate", "odd"), [(3_999, True), (4_000, False), (384_001, True)])
def test_odd_rates_are_said(rate, odd):
    assert ("odd_rate" in kinds(melody(0, 1), rate)) == odd


def test_nothing_is_odd_about_spoken_digits(spoken):
    assert len(spoken) == 180
    assert [path for path, data in spoken.items() if audio.examine(data).remarks] == []


def test_what_is_cut_off_is_counted():
    (found,) = audio.losses([500, 1_000, 1_500, 3_000], 0, audio.spec(1), [])
    assert found.reason.startswith("2 of 4 clips are longer than 1 s, the longest 3.0 s; 41.7% of")
    assert audio.losses([500, 1_000], 0, audio.spec(1), []) == []
    assert "longer than 1.75 s" in audio.losses([1_800], 0, None, [1_200] * 30)[0].reason


@pytest.mark.parametrize(
    ("sizes", "own", "expected"),
    [
        ([0.4] * 20, 10, 1.25), ([1.3] * 99 + [60], 10, 2.0), ([1.25] * 20, 10, 1.75),
        ([25.0] * 3, 10, 10), ([], 10, 10), ([0.2], 0.9, 0.9),
    ],
)  # fmt: skip
def test_the_length_that_suits_clips(sizes, own, expected):
    assert audio.suited(sizes, own) == expected


# Near copies -----------------------------------------------------------------------------------


def prints(items):
    return np.stack([audio.examine(data).fingerprint for data in items])


def again(data, form, rate=None, gain=1.0):
    """A file encoded again, louder or at another rate."""
    samples, own = soundfile.read(io.BytesIO(data), dtype="float32")
    if rate:
        samples = soxr.resample(samples, own, rate)
    return written(np.clip(gain * samples, -1, 1), rate or own, form)


COPIES = {
    "MP3": ("MP3", None, 1.0), "MP3 at 44.1 kHz": ("MP3", 44_100, 1.0),
    "Vorbis": ("Vorbis", None, 1.0), "Opus": ("Opus", 48_000, 1.0), "A-law": ("A-law", None, 1.0),
    "a tenth as loud": ("WAV", None, 0.1), "22.05 kHz": ("FLAC", 22_050, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("case", COPIES)
def test_what_was_encoded_again_is_a_near_copy(case, spoken):
    some = list(spoken.values())[::3]
    pairs = audio.near_copies(
        np.concatenate([prints(some), prints(again(d, *COPIES[case]) for d in some)])
    )
    rows = {(i, j - len(some)) for i, j in pairs.tolist()}
    assert all(i == j for i, j in rows)
    assert len(rows) >= 0.97 * len(some)


def test_takes_of_one_word_by_one_speaker_are_no_copies(spoken):
    assert audio.near_copies(prints(spoken.values())).tolist() == []


def test_a_machine_that_always_sounds_the_same_is_recorded_anew_each_time():
    random = np.random.default_rng(0)
    shape = scipy.signal.firwin(101, [300, 900], pass_zero=False, fs=RATE)
    for seconds in (1, 10):
        noise = [
            np.convolve(random.standard_normal(seconds * RATE), shape, "same") for _ in range(30)
        ]
        items = [written(one / np.abs(one).max()) for one in noise]
        assert audio.near_copies(prints(items)).tolist() == []
        twice = prints([*items, again(items[3], "MP3")])
        assert audio.near_copies(twice).tolist() == [[3, 30]]


def test_silence_and_steady_tones_are_no_copies_of_each_other():
    tones = [0.5 * np.sin(2 * np.pi * pitch * np.arange(RATE) / RATE) for pitch in (440, 441, 880)]
    still = [np.zeros(RATE), np.zeros(RATE // 2), np.full(RATE, 0.5)]
    assert audio.near_copies(prints(written(one) for one in [*tones, *still])).tolist() == []


def test_ten_thousand_equal_sounds_make_few_pairs():
    same = np.repeat(prints([written(melody(0))]), 10_000, axis=0)
    assert 9_999 <= len(audio.near_copies(same)) <= 60_000


def test_the_planes_of_the_hash_are_the_same_for_ever():
    digest = hashlib.sha256(fingerprints._PLANES.astype("<f4").tobytes()).hexdigest()
    assert digest.startswith("0f28e37049f35d2f")


# In memory -------------------------------------------------------------------------------------


def test_whole_numbers_are_what_python_writes():
    samples = np.rint(32767 * melody(0)).astype(np.int16)
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    assert audio.encode(samples) == stream.getvalue()


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_floating_point_comes_back_to_the_last_bit(rate):
    samples = melody(0).astype(np.float32)
    data = audio.encode((samples, rate))
    own, read = scipy.io.wavfile.read(io.BytesIO(data))
    assert own == rate
    assert np.array_equal(read, samples)
    assert b"PEAK" not in data  # which holds the time of day
    assert rate != RATE or np.array_equal(audio.decode(data), samples)


def test_clips_in_memory_make_a_set():
    loud, stereo = melody(0, 1, 44_100), np.stack([melody(1), melody(2)], axis=1)
    clips = [(np.rint(32767 * loud).astype(np.int16), 44_100), (stereo, RATE), (melody(3), RATE)]
    clips += [(melody(seed), RATE) for seed in range(4, 24)]
    data = load_dataset((clips, ["a", "b"] * 11 + ["a"]), image_size=1)
    assert (data.modality, data.examples.shape) == ("audio", (23, RATE))
    held = dict(zip(data.paths, data.examples, strict=True))
    assert np.abs(held["a/000000.wav"] - soxr.resample(loud, 44_100, RATE)).max() < 1e-4
    assert np.allclose(held["b/000001.wav"][:9600], stereo.mean(axis=1), atol=1e-7)


def test_what_is_a_sound_in_memory():
    for value in (np.zeros(9), np.zeros(9, np.int16), (np.zeros((9, 2)), 8000)):
        assert modality_of_value(value) == "audio"
    for value in (np.zeros((9, 9)), None, np.zeros((9, 9, 3), np.uint8)):
        assert modality_of_value(value) == "image"


@pytest.mark.parametrize(
    ("value", "needle"),
    [
        (np.zeros(0), r"shape \(0,\)"), (np.zeros((2, 9)), r"shape \(2, 9\)"),
        (np.zeros((9, 2, 2)), "shape"), (np.zeros((900, 65)), "shape"), (np.float64(1), "shape"),
        (np.zeros(9, np.uint8), "uint8"), (np.zeros(9, np.int32), "int32"),
        (np.zeros(9, bool), "bool"), (np.array(["a"]), "<U1"), (np.array([np.inf]), "up to inf"),
        (np.array([np.nan, 0]), "levels up to nan"), (np.array([1.5]), "levels up to 1.5"),
        ((np.zeros(9), 0), "rate 0"), ((np.zeros(9), 44.1), "rate 44.1"),
        ((8000, np.zeros(9)), "shape"),
    ],
)  # fmt: skip
def test_what_is_no_sound_in_memory_is_refused(value, needle):
    with pytest.raises(DataError, match=f"clip 1.*{needle}"):
        audio.from_memory([melody(0), value])


# What pages show -------------------------------------------------------------------------------


def shown(samples, **options):
    page = audio.show(samples.astype(np.float32), **options)
    sound = base64.b64decode(re.search(r'src="data:audio/mpeg;base64,([^"]*)"', page)[1])
    webps = re.findall(r"data:image/webp;base64,([^\"]*)", page)
    pictures = [Image.open(io.BytesIO(base64.b64decode(webp))).convert("RGB") for webp in webps]
    return page, sound, [np.asarray(picture, float) for picture in pictures]


def test_a_page_plays_what_was_heard_without_the_silence_behind():
    samples = audio.decode(written(melody(0, 0.8)), audio.preview(audio.spec(2)))
    page, sound, pictures = shown(samples, caption="a")
    heard = audio.decode(sound)
    assert soundfile.info(io.BytesIO(sound)).format == "MP3"
    assert len(heard) == round(0.8 * RATE)
    difference = heard - samples[: len(heard)]
    assert np.square(difference).sum() < 0.05 * np.square(samples).sum()
    assert [picture.shape for picture in pictures] == [(80, 240, 3)]
    assert len(sound) < 6_000
    assert len(page) < 16_000
    assert 'preload="none"' in page


def test_a_spectrogram_shows_a_tone_where_it_is():
    time = np.arange(2 * RATE) / RATE
    low_then_high = np.where(
        time < 1, np.sin(2 * np.pi * 200 * time), np.sin(2 * np.pi * 4000 * time)
    )
    _, _, (picture,) = shown(0.5 * low_then_high)
    rows = picture.sum(axis=2).reshape(80, 2, 120).mean(axis=2).argmax(axis=0)
    frequencies = 7_800 * (60 / 7_800) ** (rows / 79)
    assert np.allclose(frequencies, [200, 4_000], rtol=0.08)


@pytest.mark.parametrize("places", [(8,), (8, 4), (32_000,)])
def test_what_counts_is_shaded_where_it_was_heard(places):
    """What is heard is half of the example, and a model sees it in the middle."""
    samples = audio.decode(written(melody(0, 1)), audio.spec(2))
    weights = np.zeros(places)
    weights[places[0] // 4 : places[0] // 2] = 1
    _, _, (plain, shaded) = shown(samples, saliency=weights)
    left, right = shaded[:, :110].mean(), shaded[:, 130:].mean()
    assert left > 100 + right
    assert plain[:, :110].mean() < 50 + plain[:, 130:].mean()


def test_low_frequencies_of_a_map_are_at_the_bottom():
    _, _, (_, shaded) = shown(0.0 * melody(0), saliency=np.array([[1.0, 0.0]] * 4))
    assert shaded[60:].mean() > 100 + shaded[:20].mean()


def test_silence_is_dark():
    assert shown(np.zeros(RATE))[2][0].max() < 20


def test_players_of_a_model_show_as_much_as_it_hears():
    assert audio.preview(audio.spec(1.5)) == audio.spec(1.5)
    assert audio.preview(None) == audio.spec(4)


# Libraries -------------------------------------------------------------------------------------


def test_libraries_are_imported_when_a_sound_is_read_and_not_before():
    code = (
        "import sys, keras_transfer.datasets; assert not {'soundfile', 'soxr'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("name", ["soundfile", "soxr"])
def test_without_a_library_a_message_says_what_to_install(name, monkeypatch):
    listening.libraries.cache_clear()
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"pip install keras-transfer\[audio\]"):
        audio.examine(written(melody(0)))
    listening.libraries.cache_clear()


def test_folders_of_sounds_are_told_by_their_names():
    assert modality_of_files(["a.mp3", "b.wav", "clips.csv"]) == "audio"
    assert sounds.USUAL == 10
    with pytest.raises(ExampleError, match="M4A"):
        audio.peek(b"\0\0\0\x20ftypM4A ")
