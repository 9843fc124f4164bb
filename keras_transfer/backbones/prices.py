"""What a training step costs at each unfreeze depth, and tables to read it from.

With T the forward cost of the whole backbone and R that of the part that trains, a step costs
about T + 2 R, a backward pass being twice a forward one. With the frozen part's output cached it
costs 3 R.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer.backbones.construction import build
from keras_transfer.backbones.naming import constant
from keras_transfer.backbones.registry import names, spec
from keras_transfer.base.types import Backbone, Block

if TYPE_CHECKING:
    from rich.table import Table


def price_table(name: str, image_size: int | tuple[int, int] | None = None) -> list[dict[str, Any]]:
    """The price of one step for one image at each unfreeze depth of a backbone.

    Args:
        name: the backbone's name.
        image_size: height and width in pixels; default the network's own.

    Returns:
        One row a depth, from 0 (the head alone) to the number of blocks (everything): ``depth``;
        ``block``, the lowest that trains; its ``parameters``, ``macs`` and ``output_shapes``;
        ``trainable_parameters`` of the backbone (without BatchNormalization, which stays frozen);
        ``cut`` and ``cut_bytes``, the layers below which everything can be cached and what an
        image takes there (float16; at depth 0 the pooled features, and the example itself
        where everything trains);
        ``uncached_macs`` and ``cached_macs`` of a step; and ``speedup``, their ratio, None at
        depth 0, where a cached step costs next to nothing.

    Raises:
        UsageError: the name is unknown or the size is not one that the network takes.
    """
    return prices(build(name, image_size=image_size, weights="none"))


def prices(backbone: Backbone) -> list[dict[str, Any]]:
    """``price_table`` for a backbone that is built already."""
    blocks = backbone.blocks
    layers = {layer.name: layer for layer in backbone.model.layers}
    total = sum(block.macs for block in blocks)
    # What an image takes where the frozen part ends: its features, a map, or the pixels themselves.
    kept = [2 * int(backbone.model.output_shape[-1])]
    kept += [block.cut_bytes for block in reversed(blocks[:-1])]
    pixels, dtype = backbone.model.input_shape[1:], str(backbone.model.input.dtype)
    kept += [math.prod(pixels) * np.dtype(dtype).itemsize]
    rows: list[dict[str, Any]] = []
    trained = parameters = 0
    for depth in range(len(blocks) + 1):
        block = blocks[-depth] if depth else Block("", (), 0, 0, (), ())  # the head alone
        trained += block.macs
        parameters += sum(_learnable(layers[name]) for name in block.layers if name in layers)
        rows.append(
            {
                "depth": depth,
                "block": block.name,
                "parameters": block.parameters,
                "macs": block.macs,
                "output_shapes": [list(shape) for shape in block.output_shapes],
                "trainable_parameters": parameters,
                "cut": list(blocks[-depth - 1].cut) if depth < len(blocks) else [],
                "cut_bytes": kept[depth],
                "uncached_macs": total + 2 * trained,
                "cached_macs": 3 * trained,
                "speedup": round((total + 2 * trained) / (3 * trained), 2) if trained else None,
            }
        )
    return rows


def _learnable(layer: Any) -> int:
    """How many parameters a layer trains once it is open; its own flag is left as it is."""
    import keras

    if constant(layer) or isinstance(layer, keras.layers.BatchNormalization):
        return 0
    opened = layer.trainable
    layer.trainable = True
    count = sum(math.prod(weight.shape) for weight in layer.trainable_weights)
    layer.trainable = opened
    return count


def render_listing() -> "Table":
    """The registry as a table for the terminal. Imports no Keras."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("backbone", "px", "M params", "top-1 %", "weights", "int8"):
        number = heading in ("px", "M params", "top-1 %")
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    table.add_column("when to choose it")
    safety = {True: "safe", False: "lossy", None: "?"}
    for row in map(spec, names()):
        size, top1 = f"{row.parameters / 1e6:.1f}", f"{row.top1:.1f}" if row.top1 else ""
        sources = ", ".join(row.weights)
        table.add_row(
            row.name, str(row.size), size, top1, sources, safety[row.int8_safe], row.advice
        )
    return table


def render_price_table(name: str, image_size: int | tuple[int, int] | None = None) -> "Table":
    """The price of a step at each depth as a table for the terminal, top block first."""
    from rich.table import Table

    backbone = build(name, image_size=image_size, weights="none")
    total = sum(block.macs for block in backbone.blocks) / 1e6
    table = Table(
        box=None,
        header_style="bold",
        pad_edge=False,
        title=f"{backbone.spec.name} at {backbone.size}: "
        f"{backbone.model.count_params():,} parameters, {total:,.0f} million multiply-adds",
        caption="Output, parameters and MMACs (million multiply-adds) are the block's own. Cache "
        "is what an image takes below it, in float16. A step is that of one image, without and "
        "with that cache.",
        title_justify="left",
        caption_justify="left",
    )
    for heading in (
        *("unfreeze", "down to", "output", "parameters", "MMACs"),
        *("cache, KiB", "step, MMACs", "cached", "faster"),
    ):
        table.add_column(heading, justify="left" if heading == "down to" else "right")
    for row in prices(backbone):
        table.add_row(
            str(row["depth"]),
            row["block"] or "head alone",
            " + ".join("x".join(map(str, shape)) for shape in row["output_shapes"]),
            f"{row['parameters']:,}",
            f"{row['macs'] / 1e6:,.1f}",
            f"{row['cut_bytes'] / 1024:,.0f}",
            f"{row['uncached_macs'] / 1e6:,.1f}",
            f"{row['cached_macs'] / 1e6:,.1f}",
            f"{row['speedup']:.2f}x" if row["speedup"] else "",
        )
    return table
