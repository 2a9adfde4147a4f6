"""Parses and builds ONNX files in a process of `tests.plugins.rtx`; prints what came of each as JSON.

Arguments: a JSON list of {"path", "profile": {input: [min, opt, max]} | null}, then the plugin library or nothing. An
engine is built where there is a profile.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import tensorrt as trt

from plugins import loader


class Log(trt.ILogger):
    """Keeps warnings and errors."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if severity <= trt.ILogger.WARNING:
            self.lines.append(message)


def outcome(path: str, profile: dict[str, list[list[int]]] | None, log: Log) -> dict[str, Any]:
    log.lines.clear()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(path)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    result = {
        "parsed": parsed,
        "plugins": [layer.name for layer in layers if layer.type == trt.LayerType.PLUGIN_V3],
        "outputs": {
            network.get_output(i).name: [list(network.get_output(i).shape), network.get_output(i).dtype.name]
            for i in range(network.num_outputs)
        },
        "engine": _build(builder, network, profile) if parsed and profile is not None else None,
    }
    return result | {"log": "\n".join(log.lines)}


def _build(builder: trt.Builder, network: trt.INetworkDefinition, profile: dict[str, list[list[int]]]) -> int | None:
    """Size of the engine; None where the builder refused."""
    config = builder.create_builder_config()
    shapes = builder.create_optimization_profile()
    for name, (least, usual, most) in profile.items():
        shapes.set_shape(name, least, usual, most)
    config.add_optimization_profile(shapes)
    engine = builder.build_serialized_network(network, config)
    return None if engine is None else int(engine.nbytes)


def main() -> None:
    cases, library = json.loads(sys.argv[1]), sys.argv[2:]
    log = Log()
    trt.Builder(log)  # the first logger becomes the process's own
    if library:
        os.environ["MASKLINE_PLUGIN_LIBRARY"] = library[0]
        loader.register(trt)
    print(json.dumps([outcome(case["path"], case["profile"], log) for case in cases]))


if __name__ == "__main__":
    main()
