"""Prefect flows: when and how the pipeline runs. DVC decides what is stale.

A flow run uses the code of its own workspace, not an installed package.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
