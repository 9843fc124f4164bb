"""One test over every backbone: small ones here, the others in processes of their own."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import pytest

from keras_transfer import backbones

from . import check

QUICK = ["EfficientNetLite0", "MobileNetV3Small"]
IMAGES = [name for name in backbones.names() if backbones.spec(name).modality == "image"]
SLOW = [name for name in IMAGES if name not in QUICK]
# Converting these takes minutes each, and their families' smaller networks are converted.
NOT_CONVERTED = {
    *(f"EfficientNetB{number}" for number in range(3, 8)),
    *(f"ConvNeXt{size}" for size in ("Small", "Base", "Large", "XLarge")),
    "DenseNet169", "DenseNet201", "EfficientNetV2B3", "EfficientNetV2S", "EfficientNetV2M",
    "EfficientNetV2L", "NASNetLarge", "ResNet101", "ResNet152", "ResNet101V2", "ResNet152V2",
}  # fmt: skip

# These need a process to themselves to stay below 6 GiB; starting one takes five seconds. Where the
# processor makes TensorFlow use oneDNN, the allocator that comes with it would keep what is freed.
GIANTS = {"ConvNeXtLarge", "ConvNeXtXLarge", "EfficientNetV2L", "NASNetLarge"}
TOGETHER = 4


def size_of(name: str) -> tuple[int, int]:
    """A size that is neither square nor a multiple of 32."""
    smallest = max(64, backbones.spec(name).min_size)
    return smallest + 1, smallest + 30


@pytest.mark.parametrize("name", QUICK)
def test_keeps_its_promises(name: str) -> None:
    check.check(name, size_of(name), tflite=name not in NOT_CONVERTED)
    keras.utils.clear_session()


@pytest.fixture(scope="module")
def children(request: pytest.FixtureRequest) -> Iterator[dict[str, concurrent.futures.Future]]:
    """Checks of the selected backbones in processes of their own, two at a time."""
    selected = [item.callspec.params["name"] for item in request.session.items
                if item.name.startswith("test_keeps_its_promises_alone")]  # fmt: skip
    small = [name for name in selected if name not in GIANTS]
    groups = [small[start : start + TOGETHER] for start in range(0, len(small), TOGETHER)]
    groups += [[name] for name in selected if name in GIANTS]
    pool = concurrent.futures.ThreadPoolExecutor(2)
    running = [(group, pool.submit(run_alone, group)) for group in groups]
    yield {name: future for group, future in running for name in group}
    pool.shutdown(cancel_futures=True)


def run_alone(names: list[str]) -> subprocess.CompletedProcess[str]:
    arguments = [
        ",".join([name, *map(str, size_of(name)), "" if name in NOT_CONVERTED else "tflite"])
        for name in names
    ]
    return subprocess.run(
        [sys.executable, check.__file__, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(backbones.__file__).parents[2]),
            "TF_NUM_INTRAOP_THREADS": "1",
            "MALLOC_MMAP_THRESHOLD_": str(2**20),  # what is freed goes back to the system
            **({"TF_ENABLE_ONEDNN_OPTS": "0"} if GIANTS.intersection(names) else {}),
        },
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_keeps_its_promises_alone(
    name: str, children: dict[str, concurrent.futures.Future]
) -> None:
    done = children[name].result()
    assert f"passed {name}\n" in done.stdout, done.stderr[-3000:]


def test_every_model_function_of_keras_has_a_row() -> None:
    exported = {
        name
        for name in dir(keras.applications)
        if isinstance(getattr(keras.applications, name), Callable)
    }
    lite = {"EfficientNetLite0", "EfficientNetLite1", "EfficientNetLite2"}
    assert set(IMAGES) == exported | lite
    assert len(exported) >= 40
