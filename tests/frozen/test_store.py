import dataclasses
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from keras_transfer.base import files
from keras_transfer.frozen import store as activations
from keras_transfer.frozen.store import ActivationKey, ActivationStore

KEY = ActivationKey(
    backbone="EfficientNetLite0",
    weights="a" * 64,
    cut=("block5c_add",),
    preprocessing="lite",
    rule="image 1",
    shape=(128, 128, 3),
    dtype="float16",
    engine="openvino",
)
OTHERS = {
    "backbone": "MobileNetV2",
    "weights": "b" * 64,
    "cut": ("block5b_add",),
    "preprocessing": "tf",
    "rule": "image 2",
    "shape": (160, 160, 3),
    "dtype": "float32",
    "engine": "openvino-bfloat16",
    "view": 1,
    "view_seed": 1,
    "strength": 0.5,
    "flip": True,
    "version": activations.CODE_VERSION + 1,
}


class Counting:
    """Stands for a frozen network: a known function of the image's number; counts its work."""

    def __init__(self, digests, shape=(2, 3, 4), size=8):
        self.digests, self.shape, self.size, self.rows = digests, shape, size, []

    def values(self, row):
        number = int(self.digests[row].split("-")[1])
        return np.full(self.shape, number, np.float32)

    def __call__(self, rows):
        for start in range(0, len(rows), self.size):
            batch = rows[start : start + self.size]
            self.rows += list(batch)
            yield [np.stack([self.values(row) for row in batch])]


def size(store):
    return sum(entry["bytes"] for entry in store.entries())


def names(*numbers):
    return [f"image-{number}" for number in numbers]


def read(store, digests, compute=None, key=KEY):
    compute = compute or Counting(digests)
    held = store.ensure([key], digests, compute)[0]
    rows = held.gather(np.arange(len(digests)))[0]
    assert [int(row.flat[0]) for row in rows] == [int(d.split("-")[1]) for d in digests]
    assert (rows == rows[:, :1, :1, :1]).all()
    return len(compute.rows)


def test_computes_once_and_only_what_is_missing(tmp_path):
    store = ActivationStore(tmp_path)
    assert read(store, names(*range(20))) == 20
    assert read(store, names(*range(20))) == 0
    assert read(store, names(3, 25, 1, 26)) == 2
    assert read(ActivationStore(tmp_path), names(26, 25, *range(20))) == 0
    assert store.counts.hits == 22
    assert store.counts.misses == 22


def test_an_image_that_stands_twice_is_computed_once(tmp_path):
    assert read(ActivationStore(tmp_path), names(1, 2, 1, 1)) == 2


@pytest.mark.parametrize("part", [field.name for field in dataclasses.fields(ActivationKey)])
def test_every_part_of_the_key_misses_when_it_changes(tmp_path, part):
    store = ActivationStore(tmp_path)
    assert read(store, names(1, 2)) == 2
    changed = dataclasses.replace(KEY, **{part: OTHERS[part]})
    assert read(store, names(1, 2), key=changed) == 2
    assert read(store, names(1, 2)) == 0


def test_an_image_whose_bytes_change_misses(tmp_path):
    store = ActivationStore(tmp_path)
    read(store, names(1, 2))
    assert read(store, names(1, 9)) == 1


def test_several_cuts_are_computed_in_one_pass(tmp_path):
    low, high = KEY, dataclasses.replace(KEY, cut=("a", "b"))
    passes = []

    def compute(rows):
        passes.append(list(rows))
        one = np.ones((len(rows), 2), np.float32)
        yield [one, 2 * one, 3 * one]

    first, second = ActivationStore(tmp_path).ensure([low, high], names(1, 2), compute)
    assert [t[0, 0] for t in first.gather(np.array([0]))] == [1]
    assert [t[0, 0] for t in second.gather(np.array([1]))] == [2, 3]
    assert passes == [[0, 1]]


@pytest.mark.parametrize("what", ["flip", "truncate", "remove", "record"])
def test_a_damaged_shard_is_found_and_rebuilt(tmp_path, what):
    store = ActivationStore(tmp_path)
    read(store, names(*range(10)))
    shard = next(tmp_path.glob("*/shard-*.npy"))
    if what == "flip":
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    elif what == "truncate":
        shard.write_bytes(shard.read_bytes()[:-5])
    elif what == "remove":
        shard.unlink()
    else:
        next(tmp_path.glob("*/shard-*.json")).write_text("{")
    with pytest.warns(UserWarning, match="damaged"):
        assert read(store, names(*range(10))) == 10
    assert read(store, names(*range(10))) == 0


def test_extraction_resumes_after_the_last_whole_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(activations, "SHARD_BYTES", 4 * 2 * 3 * 4 * 2)
    digests = names(*range(20))
    steady = Counting(digests, size=2)

    def dying(rows):
        for number, batch in enumerate(steady(rows)):
            if number == 7:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        ActivationStore(tmp_path).ensure([KEY], digests, dying)
    again = Counting(digests, size=2)
    assert read(ActivationStore(tmp_path), digests, again) == 20 - 12
    assert not list(tmp_path.glob("*/.*shard*"))


@pytest.mark.parametrize("memory", [100, 2**30], ids=["from disk", "in memory"])
def test_rows_come_in_the_order_asked_for_from_many_shards(tmp_path, monkeypatch, memory):
    monkeypatch.setattr(activations, "MEMORY_BYTES", memory)
    monkeypatch.setattr(activations, "SHARD_BYTES", 1000)
    assert read(ActivationStore(tmp_path), names(*range(100))) == 100
    shards = sorted(tmp_path.glob("*/shard-*.npy"))
    assert len(shards) > 3
    np.testing.assert_array_equal(
        np.concatenate(list(map(np.load, shards)))[:, 0, 0, 0], range(100)
    )
    assert read(ActivationStore(tmp_path), names(7, 3, 99)) == 0
    shuffled = np.random.default_rng(0).integers(0, 100, 300)
    assert read(ActivationStore(tmp_path), names(*range(20, 60), *shuffled, 99, 0)) == 0


def test_a_shard_cut_off_while_it_is_read_is_an_error_and_no_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(activations, "MEMORY_BYTES", 100)
    digests = names(*range(40))
    (held,) = ActivationStore(tmp_path).ensure([KEY], digests, Counting(digests))
    (shard,) = tmp_path.glob("*/shard-*.npy")
    os.truncate(shard, shard.stat().st_size - 10)
    with pytest.raises(OSError, match="ends before"):
        held.gather(np.arange(40))


def test_what_is_stored_in_float16_is_rounded_as_ieee_asks_small_numbers_too(tmp_path):
    random = np.random.default_rng(0)
    scales = 10.0 ** random.uniform(-9, 4, (40, 500))
    values = (random.normal(size=scales.shape) * scales).astype(np.float32)
    values = np.clip(values, -65504, 65504)

    def compute(rows):
        yield [values[rows]]

    (held,) = ActivationStore(tmp_path).ensure([KEY], names(*range(40)), compute)
    (found,) = held.gather(np.arange(40))
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found.view(np.uint16), values.astype(np.float16).view(np.uint16))


@pytest.mark.parametrize("value", [1e6, -1e6, np.inf, np.nan])
def test_values_beyond_float16_are_refused_rather_than_stored_as_infinity(tmp_path, value):
    def compute(rows):
        yield [np.full((len(rows), 2), value, np.float32)]

    with pytest.raises(FloatingPointError):
        ActivationStore(tmp_path).ensure([KEY], names(1), compute)
    assert not list(tmp_path.glob("*/shard-*"))


def test_least_recently_used_keys_go_first_but_never_one_in_use(tmp_path):
    store = ActivationStore(tmp_path)
    keys = [dataclasses.replace(KEY, view=view) for view in (1, 2, 3)]
    for age, key in enumerate(keys):
        read(store, names(*range(10)), key=key)
        os.utime(tmp_path / key.digest / "key.json", (age, age))
    size = store.entries()[0]["bytes"]
    assert store.prune(limit=0) == 0  # this process uses all three
    store.release()
    assert store.prune(limit=2 * size) == size
    left = {entry["key"]["view"] for entry in store.entries()}
    assert left == {2, 3}
    # Another process reads what is left, until it dies.
    assert files.lives(1)  # whoever may signal it
    script = (
        "import time, test_store as here\n"
        f"store = here.ActivationStore({str(tmp_path)!r})\n"
        "for view in (2, 3):\n"
        "    here.read(store, here.names(1), key=here.dataclasses.replace(here.KEY, view=view))\n"
        "print('reading', flush=True)\n"
        "time.sleep(60)\n"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    )
    try:
        assert reader.stdout.readline() == "reading\n"
        assert {entry["in_use"] for entry in store.entries()} == {True}
        assert store.prune(limit=0) == 0
    finally:
        reader.kill()
        reader.wait()
    assert store.prune(limit=0) == 2 * size
    assert store.entries() == []


def test_the_limit_holds_while_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(activations, "SHARD_BYTES", 500)
    old = ActivationStore(tmp_path)
    read(old, names(*range(100)))
    old.release()
    held = size(old)
    small = ActivationStore(tmp_path, limit=int(1.5 * held))
    read(small, names(*range(100)), key=dataclasses.replace(KEY, view=1))
    assert size(small) <= 1.5 * held
    assert [entry["key"]["view"] for entry in small.entries()] == [1]


def test_a_full_disk_ends_clearly_and_leaves_a_store_that_works(tmp_path, monkeypatch):
    monkeypatch.setattr(activations, "SHARD_BYTES", 60_000)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs rights that this machine does not give")
    try:
        digests = names(*range(400))
        with ActivationStore(disk / "store", limit=10**9) as store:
            with pytest.raises(OSError, match=r"No space left on device: .*store/"):
                store.ensure([KEY], digests, Counting(digests, shape=(4, 5, 50)))
            kept = len(list((disk / "store").glob("*/shard-*.json")))
            assert kept >= 1
        again = Counting(digests[:20], shape=(4, 5, 50))
        with ActivationStore(disk / "store", limit=10**9) as store:
            assert read(store, digests[:20], again) == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_two_processes_on_an_empty_store_extract_once(tmp_path):
    script = textwrap.dedent(
        f"""
        import sys, time
        import numpy as np
        from keras_transfer.frozen.store import ActivationKey, ActivationStore
        key = ActivationKey(backbone="b", weights="w", cut=("c",), preprocessing="p",
                            rule="r", shape=(8, 8, 3), dtype="float32", engine="e")
        done = []
        def compute(rows):
            for row in rows:
                time.sleep(0.02)
                done.append(int(row))
                yield [np.full((1, 3), row, np.float32)]
        digests = [f"image-{{i}}" for i in range(50)]
        held = ActivationStore({str(tmp_path)!r}).ensure([key], digests, compute)[0]
        assert (held.gather(np.arange(50))[0][:, 0] == np.arange(50)).all()
        print(len(done))
        """
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    counts = [int(process.communicate(timeout=60)[0]) for process in both]
    assert sorted(counts) == [0, 50]


def test_entries_say_what_is_there(tmp_path):
    store = ActivationStore(tmp_path)
    read(store, names(1, 2))
    (entry,) = store.entries()
    assert entry["key"] == json.loads(json.dumps(dataclasses.asdict(KEY)))
    assert entry["in_use"]
    assert entry["bytes"] > 2 * 24 * 2
    assert abs(entry["used"] - time.time()) < 60
    shutil.rmtree(tmp_path)
    assert store.entries() == []


def test_what_was_answered_once_holds_for_all_who_share_the_store(tmp_path):
    asked = []

    def answer():
        asked.append(1)
        return len(asked)

    first, second = ActivationStore(tmp_path), ActivationStore(tmp_path)
    assert first.remember("how many", answer) == 1
    assert second.remember("how many", answer) == 1
    assert second.remember("how many more", answer) == 2
    (path,) = (path for path in tmp_path.glob("answers/*") if json.loads(path.read_text())[0] == 1)
    for damaged in ("{", json.dumps([7, json.loads(path.read_text())[1]])):
        path.write_text(damaged)
        assert first.remember("how many", lambda: 1) == 1
    assert first.prune(limit=0) == 0
    assert first.remember("how many", answer) == 3
    assert first.entries() == []


def test_what_may_be_written_is_the_limit_or_a_share_of_the_disk(tmp_path):
    assert ActivationStore(tmp_path, limit=7).allowed_bytes() == 7
    free = shutil.disk_usage(tmp_path).free
    found = ActivationStore(tmp_path / "not" / "yet").allowed_bytes()
    assert found == pytest.approx(free * activations.DEFAULT_SHARE, rel=0.05)
