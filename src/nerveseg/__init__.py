"""Nerve segmentation in ultrasound frames.

Importing this package turns off the telemetry of the libraries it uses, and lets torch's threads sleep while they wait,
before any of them is imported.
"""

import os
import sys

for _name, _value in {
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "OMP_WAIT_POLICY": "passive",  # or they take the cores from what they wait for: docs/adr/0039
}.items():
    os.environ.setdefault(_name, _value)

# OpenVINO has no such variable; if its telemetry package cannot be imported, it uses a stub.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
