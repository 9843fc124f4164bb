"""Pretrained backbones: what there is, building one, its blocks, cutting and unfreezing it."""

# ruff: noqa: F401

from keras_transfer.backbones.blocks import block_map, depth_of, rate_groups, unfreeze
from keras_transfer.backbones.construction import build, register
from keras_transfer.backbones.graph import split
from keras_transfer.backbones.prices import price_table, prices, render_listing, render_price_table
from keras_transfer.backbones.registry import listing, names, spec
