"""What was found in weights, for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table

from export.weights import Imported


def print_weights(imported: Imported, console: Console) -> None:
    """What the weights are."""
    config = imported.model.config
    backbone, heads = config.backbone, config.heads
    table = Table(title=str(imported.path), show_header=False, title_justify="left")
    containers = {"torch": "torch archive", "pickle": "pickle of arrays", "hdf5": "HDF5 (Keras)"}
    normed = "with BatchNorm" if config.fpn.norm else "with biases"
    rows = {
        "family": config.family,
        "file": f"{containers[imported.container]}, {imported.tensors} tensors",
        "backbone": f"ResNet-{backbone.depth}, stages of {backbone.stage_widths}, BatchNorm eps {backbone.bn_eps:g}",
        "pyramid": f"{config.fpn.channels} channels, {normed}",
        "anchors a location": f"{len(config.rpn.cells[0])}",
        "box head": f"{len(heads.box_conv_widths)} convolutions, {len(heads.box_fc_widths)} fully connected",
        "mask head": f"{len(heads.mask_conv_widths)} convolutions",
        "parameters": f"{sum(p.numel() for p in imported.model.parameters()):,}",
        "classes": f"{config.num_classes - 1}: {', '.join(config.classes[1:])}",
        "picture": f"shortest edge {config.input.min_size}, longest at most {config.input.max_size}",
        "detections": f"at most {config.detection.max_detections}, scores above {config.detection.score_threshold}",
        "masks": f"{config.mask_size} x {config.mask_size}, pasted as {config.mask_paste} does",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def print_settings(imported: Imported, console: Console) -> None:
    """What the weights do not hold, and where it was taken from."""
    if imported.model.config.family == "native":
        return
    table = Table(*(Column(title, overflow="fold") for title in ("What the weights do not tell", "value", "from")))
    for setting in imported.settings:
        table.add_row(setting.name, str(setting.value), setting.origin)
    console.print(table)
    if imported.unused:
        console.print(f"Not used of the configuration: {', '.join(imported.unused)}.", markup=False)
    for remark in imported.remarks:
        console.print(remark, markup=False, highlight=False)
