"""HEIC photographs: read by the extra ``heic``, and without it a message that says so."""

import io
import os
import sys

import numpy as np
import pytest
import zoo
from PIL import Image

from keras_transfer import cli
from keras_transfer.base.errors import ExampleError
from keras_transfer.datasets import inspect
from keras_transfer.export import proof
from keras_transfer.modalities import image
from keras_transfer.modalities.image import decoding


@pytest.fixture
def without(monkeypatch):
    """As where the package is not installed."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(decoding, "reads_heic", decoding.reads_heic.__wrapped__)


@pytest.fixture(scope="module")
def heic():
    """Encodes a picture as HEIC."""
    package = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")

    def encode(picture, **options):
        package.register_heif_opener(thumbnails=False)
        return zoo.encode(picture, "HEIF", **options)

    return encode


def refused(data):
    with pytest.raises(ExampleError) as caught:
        image.examine(data)
    return caught.value


def test_without_the_package_the_file_and_the_remedy_are_named(without, tmp_path, capsys):
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    assert refused(path.read_bytes()).kind == "needs_package"
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(3):
            path = tmp_path / "data" / label / f"{i}.jpg"
            path.write_bytes(zoo.encode(zoo.photo(seed=i + 9 * (label == "b")), "JPEG"))
    os.replace(tmp_path / "IMG_0001.HEIC", tmp_path / "data" / "a" / "IMG_0001.HEIC")
    assert cli.main(["inspect", str(tmp_path / "data"), "--json"]) == 0
    said = capsys.readouterr().out
    assert "a/IMG_0001.HEIC" in said
    assert "pip install 'keras-transfer[heic]'" in said


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_the_pixels_are_those_of_the_photograph(heic, mode, tmp_path):
    photo = zoo.photo(side=300).resize((300, 200))
    data = heic(photo.convert(mode), quality=95)
    found = image.examine(data, image.spec(96))
    assert (found.format, found.extent) == ("HEIF", 300)
    assert image.peek(data) == 200
    whole = np.asarray(photo.convert(mode).convert("RGB"))
    assert np.abs(image.decode(data).astype(int) - whole).mean() < 3
    (tmp_path / "photo.heic").write_bytes(data)
    for fit in ("squash", "crop", "pad"):
        spec = image.spec(96).fitted(fit)
        theirs = proof.read_pixels(tmp_path / "photo.heic", (96, 96), fit)
        assert np.array_equal(theirs, image.decode(data, spec))


def test_it_stands_as_the_camera_was_held(heic):
    """HEIC has a rotation of its own, which libheif applies; EXIF then must not turn it again."""
    photo = zoo.photo(side=200).resize((200, 120))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = heic(photo, quality=95, exif=exif.tobytes())
    expected = np.rot90(np.asarray(photo), 3)
    assert image.decode(data).shape == expected.shape
    assert np.abs(image.decode(data).astype(int) - expected).mean() < 3


@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_part_of_a_photograph_is_none(heic, tenth):
    data = heic(zoo.photo())
    cut = refused(data[: len(data) * tenth // 10])
    assert cut.kind in ("truncated", "unreadable")


def test_limits_hold(heic, monkeypatch):
    data = heic(zoo.photo(side=128))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 128 * 128 - 1)
    assert refused(data).kind == "bomb"
    monkeypatch.undo()
    tiny = heic(zoo.photo(side=128).resize((64, 7)))
    assert refused(tiny).kind == "too_small"


def test_whatever_bytes_are_changed_it_is_an_example_or_an_error_of_ours(heic):
    from promises import check_damage, mutate

    data, random = heic(zoo.photo()), np.random.default_rng(0)
    for _ in range(120):
        check_damage(image, mutate(data, random), image.spec(32))


def test_what_was_left_out_for_want_of_the_package_comes_in_once_it_is_there(
    heic, tmp_path, monkeypatch
):
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(4):
            photo = zoo.photo(seed=i + 9 * (label == "b"))
            data = heic(photo) if i == 0 else zoo.encode(photo, "JPEG")
            (tmp_path / label / f"{i}.heic").write_bytes(data)
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "reads_heic", lambda: False)
        assert inspect(str(tmp_path)).left_out == 2
    found = inspect(str(tmp_path))
    assert found.left_out == 0
    assert {one.kind for one in found.findings if one.path} == {"misnamed"}
    assert io.BytesIO(found.dataset.read(0)).read(12)[4:8] == b"ftyp"
