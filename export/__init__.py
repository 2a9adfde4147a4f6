import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime, which several modules import, would report it
