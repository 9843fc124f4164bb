from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import zoo
from PIL import Image, ImageOps

from keras_transfer.base.errors import ImageError, UsageError
from keras_transfer.modalities.image import pipeline


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


@pytest.fixture(scope="module")
def odd() -> dict[str, bytes]:
    return zoo.odd_images()


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return np.stack([np.asarray(zoo.photo(seed=seed, side=96)) for seed in range(40)])


def digests(count: int) -> list[str]:
    return [f"digest {i}" for i in range(count)]


def test_every_odd_image_is_decoded_to_rgb(odd):
    for name, data in odd.items():
        pixels = pipeline.decode_image(data, 64)
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
    assert difference(pipeline.decode_image(odd[name]), saved) <= tolerance


def test_exif_rotation_is_applied(odd):
    turned = pipeline.decode_image(odd["rotated.jpg"])
    assert difference(turned, np.rot90(levels(zoo.photo(seed=108)), k=-1)) < 9
    assert np.array_equal(pipeline.decode_image(odd["rotated.jpg"], 128), turned)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_agrees_with_pillow(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = zoo.encode(zoo.photo().resize((300, 200)), "JPEG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(pipeline.decode_image(data), levels(upright))
    resized = upright.resize((30, 40), Image.Resampling.BILINEAR)
    assert difference(pipeline.decode_image(data, (40, 30)), levels(resized)) < 1.5


def test_deep_grey_levels_keep_their_range(odd):
    grey = np.asarray(zoo.photo(seed=100).convert("L")).astype(int)
    for name in ("sixteen-bit.png", "float.tif"):
        pixels = pipeline.decode_image(odd[name])
        assert (pixels == grey[..., None]).all(), name


def test_alpha_is_composited_on_white(odd):
    base = levels(zoo.photo(seed=100))
    alpha = np.asarray(Image.radial_gradient("L").resize((128, 128))).astype(float)[..., None] / 255
    expected = base * alpha + 255 * (1 - alpha)
    assert np.abs(pipeline.decode_image(odd["alpha.png"]) - expected).max() <= 1
    assert difference(pipeline.decode_image(odd["palette-alpha.png"]), expected) < 25
    clear = zoo.encode(Image.new("RGBA", (9, 9), (200, 0, 0, 0)), "PNG")
    assert (pipeline.decode_image(clear) == 255).all()


def test_colour_key_becomes_white():
    raw = b"".join(b"\0" + bytes([9, 8, 7, 50, 60, 70]) for _ in range(2))
    keyed = zoo.png(2, 2, 8, 2, raw, zoo.chunk(b"tRNS", bytes([0, 9, 0, 8, 0, 7])))
    assert pipeline.decode_image(keyed)[0].tolist() == [[255, 255, 255], [50, 60, 70]]


@pytest.mark.parametrize("levels_", [np.float32([[0, 2000]]), np.float32([[-1, 1]])])
def test_levels_without_a_known_range_are_refused(levels_):
    data = zoo.encode(Image.fromarray(np.tile(levels_, (9, 9))), "TIFF")
    with pytest.raises(ImageError, match="levels"):
        pipeline.decode_image(data)


def test_size_is_height_and_width_and_squashes():
    wide = zoo.encode(zoo.photo().resize((200, 50)), "PNG")
    assert pipeline.decode_image(wide).shape == (50, 200, 3)
    assert pipeline.decode_image(wide, 32).shape == (32, 32, 3)
    tall = pipeline.decode_image(wide, (60, 20))
    whole = np.asarray(zoo.photo().resize((200, 50)).resize((20, 60), Image.Resampling.BILINEAR))
    assert difference(tall, whole) < 1.5


def test_scaled_jpeg_is_close_to_the_whole_one():
    data = zoo.encode(zoo.photo(side=900), "JPEG", quality=92)
    whole = Image.open(io.BytesIO(data)).resize((96, 96), Image.Resampling.BILINEAR)
    error = (pipeline.decode_image(data, 96).astype(float) - levels(whole)) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 38


@pytest.mark.parametrize("size", [(96, 96), (224, 224), (300, 64)])
def test_the_decoder_that_travels_with_an_export_agrees(odd, size, tmp_path):
    from keras_transfer.export import proof

    photos = [zoo.encode(zoo.photo(side=side), "JPEG") for side in (190, 358, 359, 717, 1800)]
    for data in [*odd.values(), *photos]:
        (tmp_path / "image").write_bytes(data)
        theirs = proof.read_pixels(tmp_path / "image", size)
        assert np.array_equal(theirs, pipeline.decode_image(data, size))


@pytest.mark.parametrize("size", [0, (8, 0)])
def test_sizes_must_be_positive(size):
    with pytest.raises(UsageError, match="positive"):
        pipeline.decode_image(zoo.encode(zoo.photo(), "PNG"), size)


@pytest.mark.filterwarnings("ignore")
def test_bad_files_give_the_right_reason():
    for name, (data, outcome) in zoo.bad_files().items():
        if outcome & {"image", "too_small"}:
            continue
        with pytest.raises(ImageError) as caught:
            pipeline.decode_image(data, 64)
        assert caught.value.kind in outcome, name
        assert caught.value.message, name


def test_thumbnail_does_not_depend_on_the_size():
    data = zoo.encode(zoo.photo(side=1000), "JPEG")
    first = pipeline.examine(data, 96)
    assert (first.format, first.width, first.height) == ("JPEG", 1000, 1000)
    for size in (None, 224, 300, 640):
        assert np.array_equal(pipeline.examine(data, size).thumbnail, first.thumbnail)
    assert np.array_equal(pipeline.examine(data, 300).pixels, pipeline.decode_image(data, 300))


def test_view_depends_on_digest_view_seed_and_nothing_else(photos, monkeypatch):
    monkeypatch.setattr(pipeline, "threads", lambda: 8)
    drawn = pipeline.augment(photos, digests(40), view=1, seed=0)
    monkeypatch.setattr(pipeline, "threads", lambda: 1)
    order = np.random.default_rng(0).permutation(40)
    shuffled = pipeline.augment(photos[order], [f"digest {i}" for i in order], view=1, seed=0)
    assert np.array_equal(shuffled, drawn[order])
    alone = pipeline.augment(photos[7:8], ["digest 7"], view=1, seed=0)
    assert np.array_equal(alone[0], drawn[7])
    for other in ({"view": 2, "seed": 0}, {"view": 1, "seed": 1}):
        assert difference(pipeline.augment(photos, digests(40), **other), drawn) > 5


def test_view_zero_is_clean(photos):
    assert np.array_equal(pipeline.augment(photos, digests(40), view=0, seed=3), photos)


def test_strength_zero_only_flips_half(photos):
    plain = pipeline.augment(photos, digests(40), view=1, seed=0, strength=0, flip=False)
    assert np.array_equal(plain, photos)
    drawn = pipeline.augment(photos, digests(40), view=1, seed=0, strength=0)
    same = [np.array_equal(a, b) for a, b in zip(drawn, photos, strict=True)]
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(drawn, photos, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert 10 < sum(mirrored) < 30


def test_views_move_and_recolour_mildly_and_have_no_black_border(photos):
    drawn = pipeline.augment(photos, digests(40), view=1, seed=0, flip=False)
    assert 5 < difference(drawn, photos) < 60
    white = np.full((200, 64, 64, 3), 230, np.uint8)
    views = pipeline.augment(white, digests(200), view=1, seed=0)
    assert views.min() > 150
    spread = views.reshape(200, -1)
    assert (spread.max(axis=1) - spread.min(axis=1)).max() <= 3
    assert np.ptp(spread.mean(axis=1)) > 20


def test_rotation_is_about_the_centre_and_within_its_range():
    spot = np.zeros((100, 65, 65, 3), np.uint8)
    spot[:, 30:35, 30:35] = 255
    views = pipeline.augment(spot, digests(100), view=1, seed=0).astype(float).sum(axis=3)
    views -= views.min(axis=(1, 2), keepdims=True)
    position = np.arange(65)
    mass = views.sum(axis=(1, 2))
    y = (views.sum(axis=2) * position).sum(axis=1) / mass - 32
    x = (views.sum(axis=1) * position).sum(axis=1) / mass - 32
    reach = 65 * pipeline.SHIFT * np.exp(pipeline.ZOOM) + 1
    assert max(np.abs(x).max(), np.abs(y).max()) < reach
    assert abs(x.mean()) < 1
    assert abs(y.mean()) < 1
    assert x.std() > 1


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (3, 8, 8, 3), (2, 40, 20, 3)])
def test_any_shape_can_be_augmented(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    drawn = pipeline.augment(pixels, digests(shape[0]), view=4, seed=2, strength=3)
    assert drawn.shape == shape
    assert drawn.dtype == np.uint8


def test_augment_refuses_what_does_not_fit(photos):
    with pytest.raises(UsageError, match="digest"):
        pipeline.augment(photos, digests(3), view=1, seed=0)
    with pytest.raises(UsageError, match="strength"):
        pipeline.augment(photos, digests(40), view=1, seed=0, strength=9)


@pytest.mark.parametrize("workers", [1, 2])
def test_threads_stop_at_the_first_error(workers):
    done = []

    def work(i: int) -> None:
        if i == 40:
            raise KeyboardInterrupt
        done.append(hashlib.sha256(bytes(100_000)))

    with pytest.raises(KeyboardInterrupt):
        pipeline.in_threads(work, 20_000, workers)
    assert len(done) < 10_000


def test_reading_images_imports_neither_tensorflow_nor_keras():
    code = (
        "import sys, keras_transfer.datasets; "
        "assert not {'tensorflow', 'keras', 'tensorflow_datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def fuzz(count: int, seed: int) -> tuple[int, float]:
    """Decodes mutated images. Returns how many were still images, and the longest time taken."""
    random = np.random.default_rng(seed)
    small = [zoo.encode(zoo.photo(seed=1, side=48), kind) for kind in pipeline.FORMATS]
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
            pixels = pipeline.examine(bytes(data), 64).pixels
        except ImageError:
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


def outcomes(files: list[bytes]) -> list[np.ndarray | tuple[str, str]]:
    found: list[np.ndarray | tuple[str, str]] = []
    for data in files:
        try:
            found.append(pipeline.decode_image(data, 96))
        except ImageError as error:
            found.append((error.kind, error.message))
    return found


def assert_jpegs_are_decoded_as_pillow_does(files: list[bytes], monkeypatch) -> int:
    """Returns how many of them were not left to Pillow."""
    direct = pipeline._plain_jpeg
    taken = []

    def counting(*given):
        pixels = direct(*given)
        taken.append(pixels is not None)
        return pixels

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "_plain_jpeg", counting)
        found = outcomes(files)
        patched.setattr(pipeline, "_plain_jpeg", lambda *given: None)
        expected = outcomes(files)
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other)
        np.testing.assert_array_equal(one, other)
    return sum(taken)


def test_every_kind_of_jpeg_is_decoded_as_pillow_does(odd, monkeypatch):
    files = []
    for side in (17, 96, 223, 400, 449, 900, 1801):
        photo = zoo.photo(side=side)
        for options in ({}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}):
            for sampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"):
                files.append(zoo.encode(photo, "JPEG", subsampling=sampling, **options))
        files += [zoo.encode(photo.convert("L"), "JPEG"), zoo.encode(photo, "JPEG", keep_rgb=True)]
        files.append(zoo.encode(photo, "MPO", save_all=True, append_images=[photo]))
    assert assert_jpegs_are_decoded_as_pillow_does(files, monkeypatch) == len(files)
    left = [odd["cmyk.jpg"], odd["misnamed.jpg"]]
    assert assert_jpegs_are_decoded_as_pillow_does(left, monkeypatch) == 0


@pytest.mark.filterwarnings("ignore")
def test_damaged_jpegs_are_judged_as_pillow_does(monkeypatch):
    random = np.random.default_rng(0)
    files = []
    for seed in range(400):
        data = bytearray(zoo.encode(zoo.photo(seed=seed % 9, side=80), "JPEG"))
        if seed % 4 == 0:
            del data[random.integers(2, len(data)) :]
        for _ in range(random.integers(0, 4)):
            data[random.integers(len(data))] = random.integers(256)
        files.append(bytes(data))
    assert 50 < assert_jpegs_are_decoded_as_pillow_does(files, monkeypatch) < 350
