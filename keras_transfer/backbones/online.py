"""ImageNet weights from Keras's own download, which fails within seconds where there is none."""

from __future__ import annotations

import contextlib
import importlib
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from keras_transfer.backbones.weight_files import Weights
from keras_transfer.base.errors import WeightsError
from keras_transfer.base.types import BackboneSpec

HOST = "storage.googleapis.com"  # where Keras keeps the weights of its applications
PROBE_SECONDS = 4.0
SILENCE_SECONDS = 15.0


def imagenet_weights(row: BackboneSpec) -> Weights:
    """Has Keras download a network's ImageNet weights, or read them from its own cache.

    Args:
        row: the backbone.

    Returns:
        The arrays, by layer name.

    Raises:
        WeightsError: Keras has none for this backbone, or the download fails. Without a
            connection that takes ``PROBE_SECONDS``; one that falls silent is given up after
            ``SILENCE_SECONDS``.
    """
    if "imagenet" not in row.weights:
        raise WeightsError(
            f"Keras has no ImageNet weights for {row.name}.",
            remedy="Use --weights offline: its ImageNet weights come in a package.",
        )
    module, function = row.constructor.split(":")
    constructor = getattr(importlib.import_module(module), function)
    size = (row.image_size, row.image_size, 3)
    try:
        # Keras reports its progress on standard output, which belongs to the command's result.
        with _impatient_network(), contextlib.redirect_stdout(sys.stderr):
            donor = constructor(include_top=False, weights="imagenet", input_shape=size)
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise WeightsError(
            f"The ImageNet weights of {row.name} cannot be downloaded from {HOST}: {error}",
            remedy=(
                "Without a network, use --weights offline (EfficientNetLite0, Lite1 and Lite2), "
                f"or --weights PATH with a copy of the _notop.h5 file of {row.name}."
            ),
        ) from error
    return Weights(f"The ImageNet weights of {row.name}", dict(layer_arrays(donor)))


def layer_arrays(model: Any) -> Iterator[tuple[str, list[Any]]]:
    """The weights of a model's layers by name, nested models opened up."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from layer_arrays(layer)
        elif layer.weights:
            yield layer.name, layer.get_weights()


@contextlib.contextmanager
def _impatient_network() -> Iterator[None]:
    """Bounds every wait on the network; without a connection, downloads fail at once."""
    patience = socket.getdefaulttimeout()
    opener = getattr(urllib.request, "_opener", None)
    socket.setdefaulttimeout(SILENCE_SECONDS)
    if not _reachable():
        urllib.request.install_opener(_NoConnection())  # type: ignore[arg-type]
    try:
        yield
    finally:
        socket.setdefaulttimeout(patience)
        urllib.request.install_opener(opener)


class _NoConnection:
    """Stands in for the network where there is none: the resolver alone may take a minute."""

    def open(self, *_: object) -> None:
        raise urllib.error.URLError("no connection")


def _reachable() -> bool:
    """Whether a connection to the host opens in time; behind a proxy, the proxy decides."""
    if urllib.request.getproxies().get("https"):
        return True
    opened = threading.Event()

    def probe() -> None:
        with contextlib.suppress(OSError):
            address = socket.getaddrinfo(HOST, 443, type=socket.SOCK_STREAM)[0]
            with socket.socket(*address[:3]) as connection:
                connection.settimeout(PROBE_SECONDS)
                connection.connect(address[4])
                opened.set()

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return opened.is_set()
