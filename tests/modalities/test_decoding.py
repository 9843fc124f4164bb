from __future__ import annotations

import io
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import zoo
from PIL import Image, ImageOps

from keras_transfer.base.errors import ExampleError, UsageError
from keras_transfer.modalities import image
from keras_transfer.modalities.image import decoding


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


@pytest.fixture(scope="module")
def odd() -> dict[str, bytes]:
    return zoo.odd_images()


def test_every_odd_image_is_decoded_to_rgb(odd):
    for name, data in odd.items():
        pixels = image.decode(data, image.spec(64))
        assert pixels.shape == (64, 64, 3), name
        assert pixels.dtype == np.uint8, name
        assert pixels.std() > 10, name


@pytest.mark.parametrize(
    ("name", "seed", "tolerance"),
    [
        ("progressive.jpg", 105, 9),
        ("cmyk.jpg", 107, 9),
        ("profile.jpg", 109, 9),
        ("interlaced.png", 110, 0),
        ("sixteen-bit-rgb.png", 100, 0),
        ("animated.png", 103, 0),
        ("animated.webp", 101, 9),
        ("pages.tif", 113, 0),
        ("lossless.webp", 114, 0),
        ("bitmap.bmp", 115, 0),
        ("pixmap.ppm", 116, 0),
        ("misnamed.jpg", 118, 0),
    ],
)
def test_colours_and_first_frames_are_those_that_were_saved(odd, name, seed, tolerance):
    saved = levels(zoo.photo(seed=seed))
    assert difference(image.decode(odd[name]), saved) <= tolerance


def test_exif_rotation_is_applied(odd):
    turned = image.decode(odd["rotated.jpg"])
    assert difference(turned, np.rot90(levels(zoo.photo(seed=108)), k=-1)) < 9
    assert np.array_equal(image.decode(odd["rotated.jpg"], image.spec(128)), turned)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_agrees_with_pillow(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = zoo.encode(zoo.photo().resize((300, 200)), "JPEG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(image.decode(data), levels(upright))
    resized = upright.resize((30, 40), Image.Resampling.BILINEAR)
    assert difference(image.decode(data, image.spec((40, 30))), levels(resized)) < 1.5


def test_deep_grey_levels_keep_their_range(odd):
    grey = np.asarray(zoo.photo(seed=100).convert("L")).astype(int)
    for name in ("sixteen-bit.png", "float.tif"):
        pixels = image.decode(odd[name])
        assert (pixels == grey[..., None]).all(), name


def test_alpha_is_composited_on_white(odd):
    base = levels(zoo.photo(seed=100))
    alpha = np.asarray(Image.radial_gradient("L").resize((128, 128))).astype(float)[..., None] / 255
    expected = base * alpha + 255 * (1 - alpha)
    assert np.abs(image.decode(odd["alpha.png"]) - expected).max() <= 1
    assert difference(image.decode(odd["palette-alpha.png"]), expected) < 25
    clear = zoo.encode(Image.new("RGBA", (9, 9), (200, 0, 0, 0)), "PNG")
    assert (image.decode(clear) == 255).all()


def test_colour_key_becomes_white():
    raw = b"".join(b"\0" + bytes([9, 8, 7, 50, 60, 70]) for _ in range(2))
    keyed = zoo.png(2, 2, 8, 2, raw, zoo.chunk(b"tRNS", bytes([0, 9, 0, 8, 0, 7])))
    assert image.decode(keyed)[0].tolist() == [[255, 255, 255], [50, 60, 70]]


@pytest.mark.parametrize("levels_", [np.float32([[0, 2000]]), np.float32([[-1, 1]])])
def test_levels_without_a_known_range_are_refused(levels_):
    data = zoo.encode(Image.fromarray(np.tile(levels_, (9, 9))), "TIFF")
    with pytest.raises(ExampleError, match="levels"):
        image.decode(data)


def test_size_is_height_and_width_and_squashes():
    wide = zoo.encode(zoo.photo().resize((200, 50)), "PNG")
    assert image.decode(wide).shape == (50, 200, 3)
    assert image.decode(wide, image.spec(32)).shape == (32, 32, 3)
    tall = image.decode(wide, image.spec((60, 20)))
    whole = np.asarray(zoo.photo().resize((200, 50)).resize((20, 60), Image.Resampling.BILINEAR))
    assert difference(tall, whole) < 1.5


def test_scaled_jpeg_is_close_to_the_whole_one():
    data = zoo.encode(zoo.photo(side=900), "JPEG", quality=92)
    whole = Image.open(io.BytesIO(data)).resize((96, 96), Image.Resampling.BILINEAR)
    error = (image.decode(data, image.spec(96)).astype(float) - levels(whole)) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 38


def turned(photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return zoo.encode(photo, "JPEG", exif=exif)


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(96, 96), (224, 224), (300, 64)])
def test_the_decoder_that_travels_with_an_export_agrees(odd, size, fit, tmp_path):
    from keras_transfer.export import proof

    photos = [zoo.encode(zoo.photo(side=side), "JPEG") for side in (190, 358, 359, 717, 1800)]
    photos.append(zoo.encode(zoo.photo(side=1200), "BMP"))  # of which means are filtered
    photos += [turned(zoo.photo(side=903).resize((903, 601)), way) for way in range(1, 9)]
    photos += [zoo.encode(zoo.photo().resize(sides), "PNG") for sides in ((9, 2000), (1301, 97))]
    for data in [*odd.values(), *photos]:
        (tmp_path / "image").write_bytes(data)
        theirs = proof.read_pixels(tmp_path / "image", size, fit)
        assert np.array_equal(theirs, image.decode(data, image.spec(size).fitted(fit)))


@pytest.mark.parametrize("sides", [(640, 480), (427, 640), (900, 310), (64, 200)])
def test_an_image_is_cut_or_padded_as_pillow_does_it(sides):
    """Real photographs; Pillow's own functions are written by others."""
    from PIL import ImageOps

    photo = zoo.photo(side=900).resize(sides, Image.Resampling.LANCZOS)
    data = zoo.encode(photo, "PNG")
    cut = ImageOps.fit(photo, (64, 64), Image.Resampling.BILINEAR)
    padded = ImageOps.pad(photo, (64, 64), Image.Resampling.BILINEAR, color=(127, 127, 127))
    for fit, theirs in (("crop", cut), ("pad", padded)):
        ours = image.decode(data, image.spec(64).fitted(fit))
        assert difference(ours, np.asarray(theirs)) < 1.5, fit


def test_padding_is_grey_whichever_way_the_camera_was_held():
    wide = zoo.photo().resize((200, 100))
    upright = image.decode(turned(wide, 1), image.spec(64).fitted("pad"))
    assert (upright[:16] == 127).all()
    assert (upright[-16:] == 127).all()
    assert not (upright[16:-16] == 127).all(axis=(1, 2)).any()
    for orientation, turn in ((3, 2), (6, 3), (8, 1)):  # np.rot90 turns to the left
        data = turned(wide, orientation)
        found = image.decode(data, image.spec(64).fitted("pad"))
        assert np.array_equal(found, np.rot90(upright, turn))
        middle = image.decode(data, image.spec(64).fitted("crop"))
        assert np.array_equal(
            middle, np.rot90(image.decode(turned(wide, 1), image.spec(64).fitted("crop")), turn)
        )


def test_squares_are_what_they_were_in_every_way():
    data = zoo.encode(zoo.photo(side=500), "JPEG")
    ways = [image.decode(data, image.spec(96).fitted(fit)) for fit in ("squash", "crop", "pad")]
    assert np.array_equal(ways[0], ways[1])
    assert np.array_equal(ways[0], ways[2])


@pytest.mark.parametrize("size", [0, (8, 0)])
def test_sizes_must_be_positive(size):
    with pytest.raises(UsageError, match="positive"):
        image.decode(zoo.encode(zoo.photo(), "PNG"), image.spec(size))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("sides", "own", "expected"),
    [
        ([8] * 9, 224, 96), ([28] * 9, 224, 128), ([32] * 9, 224, 128), ([32] * 9, 96, 96),
        ([64] * 9, 224, 128), ([72] * 9, 224, 160), ([100] * 9, 224, 224), ([400] * 9, 224, 224),
        ([32, 32, 500], 224, 128),
    ],
)  # fmt: skip
def test_the_size_that_suits_small_images(sides, own, expected):
    assert image.suited(sides, own) == expected


def test_bad_files_give_the_right_reason():
    for name, (data, outcome) in zoo.bad_files().items():
        if outcome & {"image", "too_small"}:
            continue
        with pytest.raises(ExampleError) as caught:
            image.decode(data, image.spec(64))
        assert caught.value.kind in outcome, name
        assert caught.value.message, name


def test_thumbnail_does_not_depend_on_the_size():
    data = zoo.encode(zoo.photo(side=1000), "JPEG")
    first = image.examine(data, image.spec(96))
    assert (first.format, first.extent) == ("JPEG", 1000)
    for size in (None, 224, 300, 640):
        assert np.array_equal(
            image.examine(data, size and image.spec(size)).fingerprint, first.fingerprint
        )
    assert np.array_equal(
        image.examine(data, image.spec(300)).example, image.decode(data, image.spec(300))
    )


def test_reading_images_imports_neither_tensorflow_nor_keras():
    code = (
        "import sys, keras_transfer.datasets; "
        "assert not {'tensorflow', 'keras', 'tensorflow_datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def fuzz(count: int, seed: int) -> tuple[int, float]:
    """Decodes mutated images. Returns how many were still images, and the longest time taken."""
    random = np.random.default_rng(seed)
    small = [zoo.encode(zoo.photo(seed=1, side=48), kind) for kind in decoding.FORMATS]
    seeds = small + [data for data in zoo.odd_images().values() if len(data) < 40_000]
    images, longest = 0, 0.0
    for _ in range(count):
        data = bytearray(seeds[random.integers(len(seeds))])
        reach = len(data) if random.random() < 0.5 else min(64, len(data))
        for _ in range(int(random.integers(1, 12))):
            data[random.integers(reach)] = random.integers(256)
        if random.random() < 0.2:
            del data[random.integers(len(data)) :]
        start = time.perf_counter()
        try:
            pixels = image.examine(bytes(data), image.spec(64)).example
        except ExampleError:
            pass
        else:
            assert pixels.shape == (64, 64, 3)
            images += 1
        longest = max(longest, time.perf_counter() - start)
    return images, longest


@pytest.mark.filterwarnings("ignore")
def test_mutated_images_are_images_or_errors_of_ours():
    images, longest = fuzz(2_000, seed=0)
    assert 200 < images < 1_800
    assert longest < 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_hundred_thousand_mutated_images():
    before = psutil.Process().memory_info().rss
    images, longest = fuzz(100_000, seed=1)
    print(f"\n{images:,} of 100,000 were still images; the slowest took {longest:.2f} s")
    assert longest < 2
    assert psutil.Process().memory_info().rss - before < 2**30
