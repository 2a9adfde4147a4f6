"""Stands in for `tensorrt` where there is no GPU: NVIDIA's RTX builder and parser, which need none.

On the path only of processes that tests start with `tests.plugins.rtx.environment`. Configurations build for compute
capability 8.9, since there is no device to ask.
"""

import tensorrt_rtx as _rtx
from tensorrt_rtx import *  # noqa: F403

__version__ = "11.1.0"  # of the headers that RTX shares


class Builder(_rtx.Builder):
    def create_builder_config(self) -> _rtx.IBuilderConfig:
        config = super().create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(_rtx.ComputeCapability.SM89, 0)
        return config
