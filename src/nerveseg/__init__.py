"""Nerve segmentation in ultrasound frames: the pipeline's package.

Importing it turns off the telemetry of the libraries underneath, before any of them is imported.
"""

import os
import sys

for _name, _value in {
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NO_ALBUMENTATIONS_UPDATE": "1",
}.items():
    os.environ.setdefault(_name, _value)

# OpenVINO has no such variable: without this package, which it counts its imports with, it uses a stub.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
