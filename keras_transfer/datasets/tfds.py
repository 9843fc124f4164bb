"""Sets of TensorFlow Datasets, by name or from a prepared folder."""

from __future__ import annotations

import contextlib
import logging
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_transfer.base.errors import DataError, closest
from keras_transfer.base.quiet import quiet_stdio
from keras_transfer.base.types import Finding
from keras_transfer.datasets.sources import LEFT_OUT, SPLIT_NAMES, Item, Source, Stretches

TIMEOUT = 5.0  # seconds to wait for a download's host


def tfds_source(name: str, folder: Path | None = None) -> Source:
    """``tfds:NAME[:CONFIG]``, downloaded and prepared in TFDS's own folder when need be.

    Args:
        name: what the user called it.
        folder: one that TFDS prepared, the one with ``dataset_info.json`` in it.

    Raises:
        DataError: no such set, no way to download it, or no images or texts with one label each.
    """
    remedy = "pip install tensorflow tensorflow-datasets, or give a folder or a table."
    with _reported(f"{name} needs the packages tensorflow-datasets and tensorflow", remedy):
        import tensorflow_datasets as tfds
    if folder is not None:
        with _reported(f"{folder} is no prepared TFDS set", "Prepare it again with its builder."):
            builder = tfds.builder_from_directory(str(folder))
        return _read(tfds, builder, name)
    wanted = name.removeprefix("tfds:").replace(":", "/")
    remedy = "Check the name after the colon, and the packages that the set needs."
    with _reported(f"{name} cannot be opened", remedy):
        try:
            builder = tfds.builder(wanted)
        except tfds.core.registered.DatasetNotFoundError:
            near = closest(wanted, tfds.list_builders(with_community_datasets=False))
            raise DataError(
                f"TensorFlow Datasets has no set {wanted!r}.{near}", remedy="Check the name."
            ) from None
    if not Path(builder.data_dir).exists():
        _prepare(builder, name)
    return _read(tfds, builder, name)


@contextlib.contextmanager
def _reported(what: str, remedy: str) -> Iterator[None]:
    """Builders are anybody's code: what they raise becomes an error of ours, in one line.

    They also print progress bars and log; ours are the only ones that a user should see.
    """
    level = logging.getLogger("absl").level
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        with quiet_stdio():
            yield
    except DataError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{what}: {reason}", remedy=remedy) from None
    finally:
        logging.getLogger("absl").setLevel(level)


def _prepare(builder: Any, name: str) -> None:
    """Downloads a set, once it is known that its hosts answer."""
    remedy = (
        f"Prepare it where there is a network (tfds build {builder.name}) and copy its folder to "
        f"{builder.data_dir}, or give DATA as a folder or a table."
    )
    hosts = {urllib.parse.urlsplit(url).hostname for url in builder.url_infos}
    for host in sorted(filter(None, hosts)) if not urllib.request.getproxies() else ():
        with _reported(f"{name} has to be downloaded, and {host} cannot be reached", remedy):
            socket.create_connection((host, 443), timeout=TIMEOUT).close()
    with _reported(f"{name} cannot be prepared", remedy):
        builder.download_and_prepare()


def _read(tfds: Any, builder: Any, name: str) -> Source:
    """Copies the encoded images of a prepared set, or its texts, in their fixed order, into a file.

    Where the set does not say what maps to what, texts are taken only if there are no images.
    """
    features, of = builder.info.features, tfds.features
    remedy = "Choose a set for the classification of images or texts."

    def keys_of(kind: type) -> list[str]:
        return [key for key in features if isinstance(features[key], kind)]

    with _reported(f"{name} maps more than one thing to another", remedy):
        keys = builder.info.supervised_keys or [
            *(keys_of(of.Image) or keys_of(of.Text)), *keys_of(of.ClassLabel)
        ]  # fmt: skip
        held = [features[key] for key in keys]
    kinds = [type(feature).__name__ for feature in held]
    wanted = ((of.Image, of.Text), of.ClassLabel)
    if len(held) != 2 or not all(map(isinstance, held, wanted)):
        problem = f"{name} maps {' to '.join(kinds)}; one Image or Text, and one ClassLabel, are "
        raise DataError(f"{problem}needed.", remedy=remedy)
    example_key, label_key = keys
    classes = features[label_key]
    findings = []
    items: list[Item] = []
    stretches = Stretches()
    for split_name in sorted(builder.info.splits):
        split = SPLIT_NAMES.get(split_name)
        if split is None:
            reason = f"the split {split_name!r} is for neither training nor testing"
            findings.append(Finding(split_name, "other_split", reason, LEFT_OUT))
            continue
        decoders = {key: tfds.decode.SkipDecoding() for key in keys_of(of.Image)}
        with quiet_stdio():
            rows = builder.as_dataset(split=split_name, decoders=decoders, shuffle_files=False)
        for i, row in enumerate(rows.as_numpy_iterator()):
            if row[label_key] < 0:  # TFDS's mark of an unlabelled example
                reason = "an example without a label"
                findings.append(Finding(f"{split_name}/{i}", "unlabelled", reason, LEFT_OUT))
                continue
            label = classes.int2str(int(row[label_key]))
            path = f"{split}/{label}/{i:06d}"
            stretches.append(path, row[example_key])
            items.append(Item(path, label, split))
    items.sort(key=lambda item: item.path)
    known = tuple(classes.names)
    identity = f"{name} {builder.data_dir}"
    kind = "text" if isinstance(held[0], of.Text) else "image"
    return Source(name, items, stretches.read, identity, findings, None, known, kind)
