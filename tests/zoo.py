"""Makes a folder of every kind of bad or odd file that people have among their images.

``build`` writes two classes of good pictures (crops of scikit-learn's two sample photos) with the
zoo strewn among them, and says of each odd file what must become of it.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

IMAGE = frozenset({"image"})
DAMAGED = frozenset({"truncated", "unreadable", "not_an_image", "bomb"})
HEIC = "truncated" if importlib.util.find_spec("pillow_heif") else "needs_package"
"""What half a HEIC photo is found to be."""


def photo(name: str = "flower.jpg", side: int = 128, seed: int = 0) -> Image.Image:
    """A crop of a real photo, different for each seed."""
    whole = _sample(name)
    random = np.random.default_rng(seed)
    top = int(random.integers(0, whole.shape[0] - 220))
    left = int(random.integers(0, whole.shape[1] - 220))
    return Image.fromarray(whole[top : top + 220, left : left + 220]).resize((side, side))


@functools.cache
def _sample(name: str) -> np.ndarray:
    from sklearn.datasets import load_sample_image

    return load_sample_image(name)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, color: int, raw: bytes, *more: bytes) -> bytes:
    """A PNG written by hand, for what Pillow cannot write."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def odd_images() -> dict[str, bytes]:
    """Unusual files that are images all the same, by name."""
    base = photo(seed=100)
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    frames = [photo(seed=seed) for seed in (101, 102, 103)]
    deep = np.asarray(base.convert("L")).astype(np.uint16) * 257
    rgb16 = np.asarray(base).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in rgb16)
    alpha = base.copy()
    alpha.putalpha(Image.radial_gradient("L").resize(base.size))
    palette = alpha.quantize(32)
    raw = b"".join(b"\0" + bytes(row) for row in np.asarray(base).reshape(128, -1))
    return {
        "trailing.jpg": encode(photo(seed=104), "JPEG") + b"and then some" * 100,
        "progressive.jpg": encode(photo(seed=105), "JPEG", progressive=True),
        "grey.jpg": encode(photo(seed=106).convert("L"), "JPEG"),
        "cmyk.jpg": encode(photo(seed=107).convert("CMYK"), "JPEG"),
        "rotated.jpg": encode(photo(seed=108), "JPEG", exif=exif),
        "profile.jpg": encode(photo(seed=109), "JPEG", icc_profile=profile),
        "interlaced.png": interlaced(np.asarray(photo(seed=110))),
        "one-bit.png": encode(photo(seed=111).convert("1"), "PNG"),
        "grey-alpha.png": encode(photo(seed=112).convert("LA"), "PNG"),
        "sixteen-bit.png": encode(Image.fromarray(deep), "PNG"),
        "sixteen-bit-rgb.png": png(128, 128, 16, 2, rows),
        "alpha.png": encode(alpha, "PNG"),
        "palette-alpha.png": encode(palette, "PNG"),
        "keyed.png": png(128, 128, 8, 2, raw, chunk(b"tRNS", struct.pack(">HHH", 0, 0, 0))),
        "animated.webp": encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "animated.gif": encode(frames[1], "GIF", save_all=True, append_images=frames[2:]),
        "animated.png": encode(frames[2], "PNG", save_all=True, append_images=frames[:1]),
        "pages.tif": encode(photo(seed=113), "TIFF", save_all=True, append_images=frames),
        "float.tif": encode(
            Image.fromarray(np.asarray(base.convert("L")) / np.float32(255)), "TIFF"
        ),
        "lossless.webp": encode(photo(seed=114), "WEBP", lossless=True),
        "bitmap.bmp": encode(photo(seed=115), "BMP"),
        "pixmap.ppm": encode(photo(seed=116), "PPM"),
        "modern.avif": encode(photo(seed=117), "AVIF"),
        "misnamed.jpg": encode(photo(seed=118), "PNG"),
        "no-suffix": encode(photo(seed=119), "JPEG"),
        "UPPER.JPG": encode(photo(seed=120), "JPEG"),
        "panorama.jpg": encode(photo(seed=121).resize((3000, 60)), "JPEG"),
        "new\nline.png": encode(photo(seed=122), "PNG"),
        "\N{SMILING FACE WITH SUNGLASSES} caf\N{LATIN SMALL LETTER E WITH ACUTE}.png": encode(
            photo(seed=123), "PNG"
        ),
        "n" * 251 + ".png": encode(photo(seed=124), "PNG"),
    }


def interlaced(pixels: np.ndarray) -> bytes:
    """An Adam7 PNG of uint8 RGB ``[h, w, 3]``, which Pillow reads but does not write."""
    height, width = pixels.shape[:2]
    raw = b""
    starts_and_steps = ("0088", "0488", "4084", "0244", "2042", "0122", "1021")
    for top, left, down, right in (map(int, digits) for digits in starts_and_steps):
        for row in pixels[top::down, left::right]:
            raw += b"\0" + row.tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def scan_bomb() -> bytes:
    """A progressive JPEG whose last scan comes a thousand times."""
    data = encode(photo(seed=206), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 1000 + data[-2:]


def bad_files() -> dict[str, tuple[bytes, frozenset[str]]]:
    """Files that are no images, or damaged ones, and the findings that each may give."""
    jpeg, flat = encode(photo(seed=200), "JPEG"), encode(photo(seed=201), "PNG")
    gif, webp = encode(photo(seed=202), "GIF"), encode(photo(seed=203), "WEBP")
    tiff = encode(photo(seed=204), "TIFF", compression="tiff_lzw")
    at = flat.index(b"IDAT") + 40
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 5_000_000, zip=True)
    made: dict[str, tuple[bytes, frozenset[str]]] = {
        "empty.jpg": (b"", frozenset({"empty"})),
        "wrong-crc.png": (flat[:at] + bytes([flat[at] ^ 255]) + flat[at + 1 :], DAMAGED),
        "text.png": (b"To be done: scan the picture.\n" * 20, frozenset({"not_an_image"})),
        "login.jpg": (b"<!DOCTYPE html><html>Please log in", frozenset({"not_an_image"})),
        "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", frozenset({"not_an_image"})),
        "photo.heic": (b"\0\0\0\x18ftypheic" + bytes(200), frozenset({HEIC})),
        "half.avif": (encode(photo(seed=207), "AVIF")[:300], frozenset({"truncated"})),
        "paper.jpg": (b"%PDF-1.7\n" + bytes(300), frozenset({"not_an_image"})),
        "script.jpg": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nquit\n",
            frozenset({"not_an_image"}),
        ),
        "zeros.png": (bytes(4096), frozenset({"not_an_image"})),
        "bomb.png": (png(60_000, 60_000, 8, 0, bytes(1000)), frozenset({"bomb"})),
        "small-bomb.png": (png(10_000, 10_000, 8, 0, bytes(1000)), frozenset({"bomb"})),
        "scan-bomb.jpg": (scan_bomb(), frozenset({"bomb"})),
        "text-bomb.png": (encode(photo(seed=205), "PNG", pnginfo=text), DAMAGED | IMAGE),
        "one-pixel.png": (encode(Image.new("RGB", (1, 1)), "PNG"), frozenset({"too_small"})),
        "thread.png": (encode(Image.new("RGB", (500, 2)), "PNG"), frozenset({"too_small"})),
        "half.gif": (gif[: len(gif) // 2], DAMAGED),
        "half.webp": (webp[: len(webp) // 2], DAMAGED),
        "half.tif": (tiff[: len(tiff) // 2], DAMAGED),
        "magic.bmp": (b"BM", DAMAGED),
    }
    for tenth in range(1, 10):
        made[f"cut-{tenth}.jpg"] = (jpeg[: len(jpeg) * tenth // 10], DAMAGED)
        made[f"cut-{tenth}.png"] = (flat[: len(flat) * tenth // 10], DAMAGED)
    return made


def build(root: Path, good: int = 12) -> dict[str, frozenset[str]]:
    """Fills ``root`` with the classes ``china`` and ``flower``, and with the zoo.

    Returns:
        For each odd file, relative to ``root``, what it may become: ``image`` or kinds of finding.
    """
    expected: dict[str, frozenset[str]] = {}
    for label in ("china", "flower"):
        (root / label).mkdir(parents=True)
        for seed in range(good):
            picture = photo(f"{label}.jpg", seed=seed)
            (root / label / f"good-{seed:02d}.jpg").write_bytes(encode(picture, "JPEG"))
    home = root / "flower"
    for name, data in odd_images().items():
        (home / name).write_bytes(data)
        expected[f"flower/{name}"] = IMAGE
    for name, (data, outcome) in bad_files().items():
        (home / name).write_bytes(data)
        expected[f"flower/{name}"] = outcome
    expected |= _special_files(home)
    copy = encode(photo(seed=300), "PNG")
    for name in ("flower/twice-1.png", "flower/twice-2.png"):
        (root / name).write_bytes(copy)
        expected[name] = IMAGE
    (root / "flower/twice-smaller.jpg").write_bytes(
        encode(photo(seed=300).resize((100, 100)), "JPEG")
    )
    expected["flower/twice-smaller.jpg"] = IMAGE
    disputed = encode(photo(seed=301), "PNG")
    for name in ("flower/disputed.png", "china/disputed.png"):
        (root / name).write_bytes(disputed)
        expected[name] = frozenset({"conflicting_labels"})
    (root / "flower/.DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (root / "flower/notes.txt").write_text("the red ones are from the garden")
    (root / "loose.jpg").write_bytes(encode(photo(seed=302), "JPEG"))
    (root / "nothing here").mkdir()
    expected["flower/.DS_Store"] = frozenset({"hidden"})
    expected["flower/notes.txt"] = frozenset({"other_file"})
    expected["loose.jpg"] = frozenset({"unlabelled"})
    expected["nothing here"] = frozenset({"empty_class"})
    return expected


def _special_files(home: Path) -> dict[str, frozenset[str]]:
    """Things in a file system that are not regular files, and names that are not text."""
    expected: dict[str, frozenset[str]] = {}
    unusable = frozenset({"not_a_file", "unreadable"})
    os.mkfifo(home / "pipe.jpg")
    (home / "folder.jpg").mkdir()
    (home / "dangling.jpg").symlink_to("nowhere.jpg")
    (home / "looping.jpg").symlink_to("looping.jpg")
    (home / "round").symlink_to(home.parent)
    (home / "link.jpg").symlink_to("good-00.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        try:  # a socket's whole path may not be longer than 107 bytes
            os.chdir(home)
            server.bind("socket.jpg")
        finally:
            os.chdir(here)
    secret = home / "secret.jpg"
    secret.write_bytes(encode(photo(seed=303), "JPEG"))
    secret.chmod(0)
    with open(home / "huge.jpg", "wb") as stream:
        stream.truncate(300 * 2**20)  # sparse: takes no room
    with open(os.fsencode(home) + b"/not-utf8-\xff\xfe.jpg", "wb") as stream:
        stream.write(encode(photo(seed=304), "JPEG"))
    for name in ("pipe.jpg", "dangling.jpg", "looping.jpg", "socket.jpg"):
        expected[f"flower/{name}"] = unusable
    expected["flower/folder.jpg"] = frozenset({"empty_folder"})
    expected["flower/round"] = frozenset({"link"})
    expected["flower/link.jpg"] = IMAGE
    expected["flower/secret.jpg"] = IMAGE if os.geteuid() == 0 else unusable
    expected["flower/huge.jpg"] = frozenset({"bomb"})
    expected["flower/not-utf8-\\xff\\xfe.jpg"] = IMAGE
    return expected


def fill(root: Path, counts: dict[str, int], pictures: list[bytes], start: int = 0) -> Path:
    """Class folders with so many different pictures each."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            (root / folder / f"{start:03d}.jpg").write_bytes(pictures[start])
            start += 1
    return root


def noise(count: int, side: int = 16, seed: int = 0) -> np.ndarray:
    """Images without any likeness: uint8 ``[count, side, side, 3]``."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((side, side))) for one in coarse])
