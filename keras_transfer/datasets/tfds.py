"""Sets of TensorFlow Datasets, by name or from a prepared folder."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_transfer.base.errors import DataError, closest
from keras_transfer.base.types import Finding
from keras_transfer.datasets.arrays import Spool
from keras_transfer.datasets.sources import SPLIT_NAMES, Item, Listing

TIMEOUT = 5.0  # seconds to wait for a download's host


def tfds_source(name: str) -> Listing:
    """``tfds:NAME[:CONFIG]``, downloaded and prepared in TFDS's own folder when need be.

    Raises:
        DataError: no such set, no way to download it, or no images with one label each.
    """
    tfds = _tfds(name)
    wanted = name.removeprefix("tfds:").replace(":", "/")
    try:
        builder = tfds.builder(wanted)
    except tfds.core.registered.DatasetNotFoundError:
        near = closest(wanted, tfds.list_builders(with_community_datasets=False))
        raise DataError(
            f"TensorFlow Datasets has no set {wanted!r}.{near}", remedy="Check the name."
        ) from None
    except (ValueError, ImportError, AssertionError) as error:
        raise DataError(
            f"{name} cannot be opened: {str(error).splitlines()[0]}",
            remedy="Check the name after the colon, and the packages that the set needs.",
        ) from None
    if not Path(builder.data_dir).exists():
        _prepare(builder, name)
    return _read(builder, name)


def _tfds(name: str) -> Any:
    try:
        import tensorflow_datasets
    except ImportError:
        raise DataError(
            f"{name} needs the package tensorflow-datasets, and that needs TensorFlow.",
            remedy="pip install tensorflow tensorflow-datasets, or give a folder of images.",
        ) from None
    return tensorflow_datasets


def prepared_source(folder: Path, name: str) -> Listing:
    """A folder that TFDS prepared: the one with ``dataset_info.json`` in it."""
    tfds = _tfds(name)
    try:
        builder = tfds.builder_from_directory(str(folder))
    except Exception as error:
        raise DataError(
            f"{folder} is no prepared TFDS set: {str(error).splitlines()[0]}",
            remedy="Prepare it again with its builder.",
        ) from None
    return _read(builder, name)


def _prepare(builder: Any, name: str) -> None:
    """Downloads a set, once it is known that its hosts answer."""
    remedy = (
        f"Prepare it where there is a network (tfds build {builder.name}) and copy its folder to "
        f"{builder.data_dir}, or give DATA as a folder of images."
    )
    hosts = {urllib.parse.urlsplit(url).hostname for url in builder.url_infos}
    for host in sorted(filter(None, hosts)):
        if urllib.request.getproxies():
            break
        try:
            socket.create_connection((host, 443), timeout=TIMEOUT).close()
        except OSError as error:
            raise DataError(
                f"{name} has to be downloaded, and {host} cannot be reached: {error}", remedy=remedy
            ) from None
    try:
        with _quiet():
            builder.download_and_prepare()
    except Exception as error:
        raise DataError(
            f"{name} cannot be prepared: {str(error).splitlines()[0]}", remedy=remedy
        ) from None


def _read(builder: Any, name: str) -> Listing:
    """Copies the encoded images of a prepared set, in their fixed order, into a spool."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    image_key, label_key = builder.info.supervised_keys or (
        _only(features, tfds.features.Image, "image", name),
        _only(features, tfds.features.ClassLabel, "label", name),
    )
    if not (
        isinstance(features[image_key], tfds.features.Image)
        and isinstance(features[label_key], tfds.features.ClassLabel)
    ):
        raise DataError(f"{name} does not map an image to a class.", remedy="Choose another set.")
    findings = []
    items: list[Item] = []
    spool = Spool()
    decoders = {image_key: tfds.decode.SkipDecoding()}
    for split_name in sorted(builder.info.splits):
        split = SPLIT_NAMES.get(split_name)
        if split is None:
            reason = f"the split {split_name!r} is for neither training nor testing"
            findings.append(Finding(split_name, "other_split", reason, "left out"))
            continue
        with _quiet():
            rows = builder.as_dataset(split=split_name, decoders=decoders, shuffle_files=False)
        for i, row in enumerate(rows.as_numpy_iterator()):
            if row[label_key] < 0:  # TFDS's mark of an unlabelled example
                reason = "an example without a label"
                findings.append(Finding(f"{split_name}/{i}", "unlabelled", reason, "left out"))
                continue
            label = features[label_key].int2str(int(row[label_key]))
            path = f"{split}/{label}/{i:06d}"
            spool.add(path, row[image_key])
            items.append(Item(path, label, split))
    items.sort(key=lambda item: item.path)
    identity = f"{name} {builder.data_dir}"
    names = tuple(features[label_key].names)
    return Listing(name, identity, items, spool.read, findings, class_names=names)


def _only(features: Any, kind: type, what: str, name: str) -> str:
    keys = [key for key, feature in features.items() if isinstance(feature, kind)]
    if len(keys) != 1:
        raise DataError(
            f"{name} has {len(keys)} features of the kind {what}; exactly one is needed.",
            remedy="Choose a set for image classification.",
        )
    return keys[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS prints progress bars and logs; ours are the only ones that a user should see."""
    level = logging.getLogger("absl").level
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.getLogger("absl").setLevel(level)
