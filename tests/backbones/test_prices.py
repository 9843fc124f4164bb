"""Costs agree with published figures, and the bounds follow from them."""

from __future__ import annotations

import io
import json

import pytest
import rich.console

from keras_transfer import backbones
from keras_transfer.base.types import Backbone

# Multiply-adds of one image with the 1,000-class top, from the networks' papers.
PUBLISHED = {
    "EfficientNetB0": 0.39e9,  # Tan and Le 2019, table 2
    "InceptionV3": 5.7e9,  # Bianco et al. 2018
    "MobileNet": 569e6,  # Howard et al. 2017, table 4
    "MobileNetV2": 300e6,  # Sandler et al. 2018, table 4
    "ResNet50": 3.8e9,  # He et al. 2016, table 1
}
# Speed-up of a step and KiB an image in the cache, where the cut is at a block's output.
BOUNDS = {
    "ResNet50": {"conv5_block2": (6.55, 196), "conv4_block6": (2.42, 392)},
    "MobileNetV2": {"block_15": (2.98, 15)},
    "EfficientNetB0": {"block6d": (3.25, 18)},
}


@pytest.fixture(scope="module", params=PUBLISHED)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return backbones.build(request.param, weights="none")


def test_multiply_adds_agree_with_the_papers(backbone: Backbone) -> None:
    counted = sum(block.macs for block in backbone.blocks)
    top = backbone.model.output_shape[-1] * 1000
    assert counted + top == pytest.approx(PUBLISHED[backbone.spec.name], rel=0.05)


def test_prices_of_a_step(backbone: Backbone) -> None:
    rows = backbones.prices(backbone)
    blocks = backbone.blocks
    total = sum(block.macs for block in blocks)
    assert rows[0]["uncached_macs"] == total
    assert (rows[0]["cached_macs"], rows[0]["speedup"]) == (0, None)
    assert rows[-1]["uncached_macs"] == rows[-1]["cached_macs"] == 3 * total
    assert rows[0]["cut_bytes"] == 2 * backbone.model.output_shape[-1]  # pooled
    assert rows[-1]["cut"] == []
    assert rows[-1]["cut_bytes"] == backbone.spec.size**2 * 3
    for depth, row in enumerate(rows[1:-1], start=1):
        trained = sum(block.macs for block in blocks[len(blocks) - depth :])
        assert row["block"] == blocks[-depth].name
        assert row["uncached_macs"] == total + 2 * trained
        assert row["cached_macs"] == 3 * trained
        assert row["cut"] == list(blocks[-depth - 1].cut)
    for name, (speedup, kibibytes) in BOUNDS.get(backbone.spec.name, {}).items():
        depth = len(blocks) - [block.name for block in blocks].index(name) - 1
        assert rows[depth]["speedup"] == pytest.approx(speedup, abs=0.011)
        assert rows[depth]["cut_bytes"] // 1024 == kibibytes


def test_pricing_leaves_the_backbone_as_it_is() -> None:
    backbone = backbones.build("MobileNetV3Small", image_size=64, weights="none")
    expected = backbones.prices(backbone)
    backbones.unfreeze(backbone.model, 2, backbone.blocks)
    before = [weight.path for weight in backbone.model.trainable_weights]
    assert backbones.prices(backbone) == expected
    assert [weight.path for weight in backbone.model.trainable_weights] == before


def test_tables_for_people_and_for_programs() -> None:
    rows = backbones.price_table("MobileNetV3Small", 64)
    assert json.loads(json.dumps(rows)) == rows
    console = rich.console.Console(width=110, record=True, file=io.StringIO())
    console.print(backbones.render_price_table("MobileNetV3Small", 64))
    console.print(backbones.render_listing())
    text = console.export_text()
    assert "expanded_conv_10" in text
    assert "head alone" in text
    assert "MobileNetV3Small at 64 x 64 px: 939,120 parameters" in text
    for name in backbones.names():
        assert name in text
